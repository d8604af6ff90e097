"""Owns the picture: one group of bars for each scenario, one colour for each proxy, every bar labelled with its figure.

It is an SVG that follows the reader's light or dark scheme. It must not know how figures came about.
"""

from xml.sax.saxutils import escape

from .report import label

WIDTH, LEFT, BAR, GAP, LEGEND = 760, 190, 18, 16, 62
# Distinct on white and on dark backgrounds, and for readers who confuse red and green.
COLOURS = {"haproxy": "#0099cc", "nginx": "#2ca58d", "relay": "#9097a1"}
CANDIDATES = ["#e8702a", "#c2439a", "#d6a100", "#7a5cd6"]
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.small { font-size: 12px; fill: #57606a; }
.title { font-size: 15px; font-weight: 600; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .small { fill: #9aa5b1; } .ground { fill: #0d1117; } }
.axis { stroke: #9097a1; }
"""


def svg(table):
    """The whole picture, from scenario → pattern → figures of each proxy."""
    colours = colours_of(table)
    parts, y = [], LEGEND
    for scenario, patterns in table.items():
        for pattern, rows in patterns.items():
            group, y = _group(scenario, pattern if len(scenario.patterns) > 1 else "", rows, colours, y)
            parts += group
    title = "CPU µs a request or message (bytes a connection for idle ones): shorter is better"
    return picture(y, "CPU time a request, by scenario and proxy", title, [*legend(colours), *parts])


def picture(height, label, title, parts):
    """A picture of these parts below a title; `label` says what it shows to those who do not see it."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img"'
        f' aria-label="{label}">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text(16, 24, title, "title"), *parts, "</svg>", "",
    ])


PANEL, TALL = 330, 230
WAYS = {
    "balancer": "#e8702a", "secondary": "#c2439a", "all": "#d6a100",
    "Tomcat BackupManager": "#2ca58d", "Tomcat DeltaManager": "#0099cc",
}


def footprints(found):
    """Two panels with a line for each way to keep sessions: bytes a session, and messages a save."""
    height = TALL + 152
    parts = _panel(found, 16, "bytes a session, on all servers and in Linchpin", lambda one: one.bytes)
    parts += _panel(found, 16 + WIDTH // 2, "messages a save", lambda one: one.messages)
    for number, (way, colour) in enumerate(WAYS.items()):
        x, y = 16 + number % 3 * 240, TALL + 108 + number // 3 * 22
        parts += [_line([(x, y - 4), (x + 22, y - 4)], colour, way), text(x + 30, y, _way(way))]
    title = "A session of 2 KiB that changes, by the number of servers: lower is better"
    return picture(height, "Bytes a session and messages a save, by number of servers", title, parts)


def _way(way):
    return way if way.startswith("Tomcat") else f"Linchpin, hold = {way}"


def _panel(found, left, title, value):
    top, bottom, right = 80, 80 + TALL - 20, left + PANEL - 20
    servers = sorted({one.servers for one in found})
    most = max(map(value, found)) or 1

    def place(one):
        share = (one.servers - servers[0]) / max(servers[-1] - servers[0], 1)
        return left + 50 + share * (right - left - 60), bottom - value(one) / most * (bottom - top)

    parts = [
        text(left, 58, title),
        f'<path class="axis" fill="none" d="M{left + 40},{top} V{bottom} H{right}"/>',
        text(left, top + 4, f"{most:,.0f}", "small"), text(left + 26, bottom + 4, "0", "small"),
    ]
    for count in servers:
        x = left + 46 + (count - servers[0]) / max(servers[-1] - servers[0], 1) * (right - left - 60)
        parts.append(text(x, bottom + 18, str(count), "small"))
    for way, colour in WAYS.items():
        own = sorted((one for one in found if one.way == way), key=lambda one: one.servers)
        if own:
            parts.append(_line([place(one) for one in own], colour, way))
    return parts


def _line(points, colour, way):
    # Dashes tell the lines apart where they lie on one another.
    dash = ' stroke-dasharray="7 5"' if way.startswith("Tomcat") else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>'


def colours_of(table):
    """A colour for each proxy."""
    names = dict.fromkeys(row.proxy for patterns in table.values() for rows in patterns.values() for row in rows)
    spare = iter(CANDIDATES)
    return {name: COLOURS.get(name) or next(spare, "#e8702a") for name in names}


def legend(colours):
    """The names of the proxies and their colours."""
    parts, x = [], 16
    for name, colour in colours.items():
        parts += [f'<rect x="{x}" y="36" width="12" height="12" rx="2" fill="{colour}"/>', text(x + 18, 47, label(name))]
        x += 18 + 8 * len(label(name)) + 20
    return parts


def _group(scenario, pattern, rows, colours, y):
    # Each scenario has its own scale: 20 µs and 500 µs on one axis would show neither.
    longest = max((row.cost for row in rows), default=0) or 1
    available = WIDTH - LEFT - 150
    middle = y + len(rows) * BAR / 2
    bar = f"bar {scenario.bar:,.0f} bytes" if scenario.is_idle else scenario.bar and f"bar {scenario.bar:g} ×"
    words = ", ".join(filter(None, [pattern, bar]))
    parts = [text(16, middle - 3, scenario.title), text(16, middle + 13, words, "small")]
    for row in rows:
        length = max(row.cost, 0) / longest * available
        parts += [
            f'<rect x="{LEFT}" y="{y + 1}" width="{length:.1f}" height="{BAR - 3}" rx="2" fill="{colours[row.proxy]}"/>',
            text(LEFT + length + 6, y + 13, _figure(scenario, row), "small"),
        ]
        y += BAR
    return parts, y + GAP


def _figure(scenario, row):
    cost = f"{row.cost:,.0f} bytes" if scenario.is_idle else f"{row.cost:.1f} µs"
    ratio = f"  ({row.ratio.middle:.2f} ×)" if row.met is not None and row.ratio and not scenario.is_idle else ""
    return cost + ratio


def text(x, y, words, kind=None):
    """Words at a place."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(words)}</text>'
