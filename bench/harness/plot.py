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
"""


def svg(table):
    """The whole picture, from scenario → figures of each proxy."""
    colours = _colours(table)
    parts, y = [], LEGEND
    for scenario, rows in table.items():
        group, y = _group(scenario, rows, colours, y)
        parts += group
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img"'
        ' aria-label="CPU time a request, by scenario and proxy">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{y}" fill="#ffffff"/>',
        _text(16, 24, "CPU µs a request or message (bytes a connection for idle ones): shorter is better", "title"),
        *_legend(colours),
        *parts,
        "</svg>",
        "",
    ])


def _colours(table):
    names = dict.fromkeys(row.proxy for rows in table.values() for row in rows)
    spare = iter(CANDIDATES)
    return {name: COLOURS.get(name) or next(spare, "#e8702a") for name in names}


def _legend(colours):
    parts, x = [], 16
    for name, colour in colours.items():
        parts += [f'<rect x="{x}" y="36" width="12" height="12" rx="2" fill="{colour}"/>', _text(x + 18, 47, label(name))]
        x += 18 + 8 * len(label(name)) + 20
    return parts


def _group(scenario, rows, colours, y):
    # Each scenario has its own scale: 20 µs and 500 µs on one axis would show neither.
    longest = max((row.cost for row in rows), default=0) or 1
    available = WIDTH - LEFT - 150
    middle = y + len(rows) * BAR / 2
    bar = f"bar: {scenario.bar:g} bytes" if scenario.is_idle else f"bar: {scenario.bar:g} × better peer"
    parts = [_text(16, middle - 3, scenario.title), _text(16, middle + 13, bar, "small")]
    for row in rows:
        length = max(row.cost, 0) / longest * available
        parts += [
            f'<rect x="{LEFT}" y="{y + 1}" width="{length:.1f}" height="{BAR - 3}" rx="2" fill="{colours[row.proxy]}"/>',
            _text(LEFT + length + 6, y + 13, _figure(scenario, row), "small"),
        ]
        y += BAR
    return parts, y + GAP


def _figure(scenario, row):
    cost = f"{row.cost:,.0f} bytes" if scenario.is_idle else f"{row.cost:.1f} µs"
    ratio = f"  ({row.ratio.middle:.2f} ×)" if row.met is not None and row.ratio and not scenario.is_idle else ""
    return cost + ratio


def _text(x, y, words, kind=None):
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(words)}</text>'
