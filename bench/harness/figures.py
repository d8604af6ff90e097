"""Owns the arithmetic: medians over rounds, ratios within a round, and whether a bar is met. Pure."""

from dataclasses import dataclass
from statistics import median


@dataclass
class Ratio:
    """A proxy's cost over the better peer's, computed round by round."""

    middle: float
    low: float
    high: float


@dataclass
class Figures:
    """What one proxy did in one scenario; `None` where a figure makes no sense or has no peer."""

    proxy: str
    cost: float  # CPU µs a request; bytes a connection for idle ones
    ratio: Ratio | None
    errors: int
    first_error: str | None
    requests_per_second: float
    p50_us: float
    p99_us: float
    p50_ratio: Ratio | None  # to nginx
    p99_ratio: Ratio | None
    busy: float
    bar: float | None  # that it is held to
    met: bool | None

    def latencies(self, scenario):
        """The latencies that are held to a bar: name, ratio to nginx, bar, and whether it is met."""
        held = [("p50", self.p50_ratio, scenario.p50_bar), ("p99", self.p99_ratio, scenario.p99_bar)]
        return [(name, ratio, bar, self.errors == 0 and ratio.middle <= bar) for name, ratio, bar in held if ratio and bar]


def summarise(scenario, records, bars):
    """One `Figures` for each proxy, in the order of the records; `bars` has those that are held to one, and to which."""
    names = list(dict.fromkeys(record["proxy"] for record in records))
    return [_figures(scenario, name, records, bars.get(name)) for name in names]


def _figures(scenario, name, records, bar):
    key = "idle_bytes" if scenario.is_idle else "cpu_us"
    own = [record for record in records if record["proxy"] == name]

    def middle(figure):
        return median(record.get(figure, 0) for record in own)

    ratio = _ratio(key, own, records, scenario.baseline)
    cost = middle(key)
    errors = sum(record["errors"] for record in own)
    held = cost if scenario.is_idle else ratio and ratio.middle
    return Figures(
        proxy=name,
        cost=cost,
        ratio=ratio,
        errors=errors,
        first_error=next((record["first_error"] for record in own if record["first_error"]), None),
        requests_per_second=middle("requests_per_second"),
        p50_us=middle("p50_us"),
        p99_us=middle("p99_us"),
        p50_ratio=_ratio("p50_us", own, records, ("nginx",)),
        p99_ratio=_ratio("p99_us", own, records, ("nginx",)),
        busy=middle("busy"),
        bar=bar,
        met=errors == 0 and held <= bar if bar is not None and held is not None else None,
    )


def _ratio(key, own, records, baseline):
    peers = {}
    for record in records:
        if record["proxy"] in baseline:
            number = record["round"]
            peers[number] = min(record.get(key, 0), peers.get(number, record.get(key, 0)))
    ratios = [record.get(key, 0) / peers[record["round"]] for record in own if peers.get(record["round"])]
    return Ratio(median(ratios), min(ratios), max(ratios)) if ratios else None
