"""Owns the texts and tables: one line per measurement, a table per scenario, and the page `RESULTS.md`.

The page names no machine: figures are to be compared within it, not with another's.
"""

from statistics import median

from .scenarios import PATTERNS

LABELS = {
    "linchpin": "Linchpin", "haproxy": "HAProxy", "nginx": "nginx", "relay": "raw TCP relay",
    "balancer": "`hold = \"balancer\"`", "secondary": "`hold = \"secondary\"`", "all": "`hold = \"all\"`",
}


def label(name):
    """A proxy's name as its makers write it."""
    return LABELS.get(name, name)


def progress(scenario, record):
    """One line for one measurement."""
    cost = f"{record['idle_bytes']:8.0f} bytes" if scenario.is_idle else f"{record['cpu_us']:8.1f} µs"
    cost = f"{cost}/{scenario.unit}"
    trouble = f"  {record['errors']} errors: {record['first_error']}" if record["errors"] else ""
    return f"  {scenario.key:11} round {record['round'] + 1}  {record['proxy']:12} {cost}{trouble}"


def text(scenario, pattern, rows):
    """The table of a scenario in one pattern for a terminal."""
    cells = [_header(scenario), *(_cells(scenario, row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    return "\n".join([f"\n{scenario.title} ({pattern.key}): {scenario.about}", *lines])


def markdown(about, table, foreign, footprints):
    """The whole page."""
    lines = [
        "# Linchpin beside its peers",
        "",
        "Written by `bench/run`; [README.md](README.md) says how to run and read it.",
        "",
        "![CPU time a request, by scenario and proxy](results.svg)",
        "",
        "![CPU time a request, by the number of clients](clients.svg)",
        "",
        *_method(about, foreign),
        "",
        *_summary(table),
    ]
    for scenario, patterns in table.items():
        if scenario.key == "copies":
            lines += ["", copies(about, scenario, patterns["together"], footprints)]
            continue
        lines += ["", f"## {scenario.title[0].upper()}{scenario.title[1:]}", "", f"{scenario.about}."]
        for pattern, rows in patterns.items():
            lines += ["", f"Pattern `{pattern}`:", ""] if len(scenario.patterns) > 1 else [""]
            lines += _table(_header(scenario), [_cells(scenario, row) for row in rows])
            lines += [f"\n{label(row.proxy)}: {row.errors} errors, the first: {row.first_error}" for row in rows if row.errors]
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- copies: begin; bench/run --scenario copies writes this -->", "<!-- copies: end -->"


def copies(about, scenario, rows, footprints):
    """The section on session copies, with its marks."""
    return "\n".join([
        BEGIN, "## Session copies", "",
        "What a session takes, for two to six servers, and what its copies cost a request.", "",
        "![Bytes a session and messages a save, by number of servers](../docs/img/session-copies.svg)", "",
        "Bytes a session, on all servers and in Linchpin together, for a session of 2 KiB. In brackets: of these, in Linchpin.", "",
        *_by_servers(footprints, _bytes), "",
        "Messages a save: what the servers receive from Linchpin, or from each other, when one session changes once.", "",
        *_by_servers(footprints, lambda found: f"{found.messages:.2f}"), "",
        "- Linchpin's servers are the origins of this comparison, which keep a session as plain bytes: resident memory, as it grows"
        " with 5000 sessions. Tomcat's are Java objects and bookkeeping: heap after a collection, as it grows with 1000. So"
        " compare how each grows with the number of servers, rather than the two with each other.",
        "- Tomcat sends each message on a connection of its own between two servers, and acknowledges it; its pings without"
        " any save are not counted.", "",
        f"CPU time a request: {scenario.about}. *No change*: copies are on, and nothing is saved. *2 KiB saved*: each request"
        f" changes its session. {about['rounds']} rounds of {about['seconds']:g} s, in turns; the ratio is within a round.", "",
        *_table(_header(scenario), [_cells(scenario, row) for row in rows]), END,
    ])


def replace_copies(page, section):
    """The page with this section in the place of the one that it has, or at its end."""
    before, begin, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    return before + ("" if begin else "\n") + section + after


def _by_servers(footprints, cell):
    servers = sorted({found.servers for found in footprints})
    ways = dict.fromkeys(found.way for found in footprints)
    at = {(found.way, found.servers): found for found in footprints}
    rows = [[label(way), *(cell(at[way, count]) for count in servers)] for way in ways]
    return _table(["", *(f"{count} servers" for count in servers)], rows)


def _bytes(found):
    return f"{found.bytes:,.0f}" + (f" ({found.in_linchpin:,.0f})" if found.in_linchpin else "")


def _method(about, foreign):
    versions = ", ".join(f"{label(name)} {version}".strip() for name, version in about["versions"].items())
    return [
        "## How it was measured",
        "",
        f"- Programs: {versions}. Their configurations, and Linchpin's, are in [peers/](peers/).",
        *(f"- Pattern `{pattern.key}`: {pattern.about}." for pattern in PATTERNS),
        "- Machine: a small virtual one with two noisy cores. The proxy has core 0, with one worker; clients and three"
        " origins share core 1; all traffic is loopback. Compare figures within this page, not across machines.",
        "- Every proxy writes its access log to a file, adds `X-Forwarded-For` and has its metrics on; the relay does"
        " none of it: it is the floor, except that a new client connection costs it a new origin connection too.",
        f"- Proxies take turns: {about['rounds']} rounds of {about['seconds']:g} s each, after a short warm-up. A figure is the"
        " median over rounds. A ratio is to the better of HAProxy and nginx *of the same round*; its median, lowest and"
        " highest are shown.",
        "- CPU is user + system time of all the processes of a proxy, by the kernel's process CPU clock (nanoseconds),"
        " divided by completed requests. Every response is checked: status, length, and that the client stayed with its"
        " origin.",
        f"- Idle memory is the growth of resident memory, {about['settle']:g} s after the last connection fell silent, of a"
        " fresh process; the kernel's socket buffers are not in it.",
        "- TLS: version 1.3, X25519, AES-128-GCM, an ECDSA certificate on P-256 and session tickets: what all have, and all that"
        " the clients offer. Linchpin prefers X25519MLKEM768 where a client does; these don't. Whether a handshake was resumed is"
        " checked for each.",
        *_learned(about),
        f"- Of the time on the proxy's core, a median of {median(foreign or [0]):.0%} went to others: the host, or other"
        " programs. Where *core busy* is well under 100 %, the clients on the other core were the limit of requests/s.",
    ]


def _learned(about):
    if not about.get("learned_bytes"):
        return []
    return [f"- A learned session takes {about['learned_bytes']:.0f} bytes of resident memory, as one of a million."]


def _summary(table):
    reached, keys = {}, list(dict.fromkeys(pattern for patterns in table.values() for pattern in patterns))
    for scenario, patterns in table.items():
        for pattern, rows in patterns.items():
            for row in rows:
                for what, bar, figure, met in _held(scenario, row):
                    cell = f"{figure}, {'met' if met else '**not met**'}"
                    reached.setdefault((what, label(row.proxy), bar), {})[pattern] = cell
    lines = [[*held, *(cells.get(key, "–") for key in keys)] for held, cells in reached.items()]
    return ["## The bar", "", *_table(["scenario", "build", "bar", *keys], lines)] if lines else []


def _held(scenario, row):
    """What a build is held to in a scenario: what it is, the bar, what it reached, and whether that is enough."""
    if row.met is not None and scenario.is_idle:
        yield scenario.title, f"≤ {row.bar:,.0f} bytes", f"{row.cost:,.0f} bytes", row.met
    elif row.met is not None:
        yield scenario.title, f"≤ {row.bar:g} ×", f"{row.ratio.middle:.2f} ×", row.met
    if row.proxy not in LABELS or row.proxy == "linchpin":
        for name, ratio, bar, met in row.latencies(scenario):
            yield f"{scenario.title}: {name}", f"≤ {bar:g} × nginx", f"{ratio.middle:.2f} ×", met


def _header(scenario):
    if scenario.is_idle:
        return ["proxy", f"bytes/{scenario.unit}", "ratio to the better peer", "bar"]
    # "no copies" takes no article.
    own = scenario.baseline[0]
    own = own if own.startswith("no ") else f"the {own}"
    ratio = f"ratio to {own}" if scenario.compares_itself else "ratio to the better peer"
    return ["proxy", f"CPU µs/{scenario.unit}", ratio, "bar", f"{scenario.unit}s/s", "p50 ms", "p99 ms", "core busy"]


def _cells(scenario, row):
    name = label(row.proxy) + (" (errors!)" if row.errors else "")
    ratio = f"{row.ratio.middle:.2f} ({row.ratio.low:.2f}–{row.ratio.high:.2f})" if row.ratio else "–"
    verdict = "–" if row.met is None else f"≤ {row.bar:g}: {'met' if row.met else 'not met'}"
    if scenario.is_idle:
        return [name, f"{row.cost:.0f}", ratio, verdict]
    return [
        name, f"{row.cost:.1f}", ratio, verdict, f"{row.requests_per_second:,.0f}",
        f"{row.p50_us / 1000:.2f}", f"{row.p99_us / 1000:.2f}", f"{row.busy:.0%}",
    ]


def _table(header, rows):
    return [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]
