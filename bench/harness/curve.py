"""Owns the plot of CPU time by the number of clients: a panel for each pattern, a line for each proxy.

It must not know how figures came about.
"""

from .plot import WIDTH, colours_of, legend, picture, text
from .scenarios import CURVE

LEFT, TOP, TALL, PANEL = 16, 84, 240, 340


def svg(table):
    """The whole picture, from scenario → pattern → figures of each proxy; of the scenarios that the curve has."""
    points = {scenario: patterns for scenario, patterns in table.items() if scenario.key in CURVE}
    points = dict(sorted(points.items(), key=lambda item: item[0].clients))
    colours = colours_of(points)
    height = TOP + TALL + 46
    parts = []
    for number, pattern in enumerate(dict.fromkeys(key for patterns in points.values() for key in patterns)):
        rows = {scenario.clients: patterns[pattern] for scenario, patterns in points.items() if pattern in patterns}
        parts += _panel(rows, LEFT + number * (WIDTH // 2), pattern, colours)
    title = "CPU µs a request of a known client, by the number of clients at once: lower is better"
    return picture(height, "CPU time a request, by the number of clients", title, [*legend(colours), *parts])


def _panel(rows, left, pattern, colours):
    """`rows` has the figures of each proxy by the number of clients. Each step of the axis is four times as many."""
    bottom, right = TOP + TALL, left + PANEL
    most = max((row.cost for group in rows.values() for row in group), default=1) or 1
    counts = list(rows)

    def place(count, cost):
        share = counts.index(count) / max(len(counts) - 1, 1)
        return left + 50 + share * (right - left - 70), bottom - cost / most * (TALL - 20)

    parts = [
        text(left, TOP - 8, f"pattern: {pattern}"),
        f'<path class="axis" fill="none" d="M{left + 40},{TOP + 4} V{bottom} H{right}"/>',
        text(left, TOP + 24, f"{most:,.0f}", "small"), text(left + 26, bottom + 4, "0", "small"),
    ]
    parts += [text(place(count, 0)[0] - 4, bottom + 18, str(count), "small") for count in counts]
    for proxy, colour in colours.items():
        line = [place(count, row.cost) for count, group in rows.items() for row in group if row.proxy == proxy]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
    return parts
