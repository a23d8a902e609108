"""Rates of contenders that took turns, and the table of their ratios."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Run = Callable[[], Mapping[str, float]]
"""One turn: the seconds that it took, by the name of what was timed."""


@dataclass(frozen=True, slots=True)
class Series:
    """One contender's items a second, turn by turn, and the ratio to it that is demanded."""

    name: str
    rates: tuple[float, ...]
    demanded: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Longseal and its peers at the same work."""

    title: str
    ours: Series
    peers: tuple[Series, ...]

    def ratios(self, peer: Series) -> list[float]:
        """Ours to theirs, turn by turn: the two of a turn met the same load."""
        return [mine / other for mine, other in zip(self.ours.rates, peer.rates, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Every rate, and every ratio with what is demanded of it."""
        return {
            "title": self.title,
            "unit": "items a second",
            "longseal": {"name": self.ours.name, **_spread(self.ours.rates)},
            "peers": [
                {
                    "name": peer.name,
                    **_spread(peer.rates),
                    "ratio": _spread(self.ratios(peer)),
                    "demanded": peer.demanded,
                }
                for peer in self.peers
            ],
        }


def take_turns(runs: Sequence[Run], items: int, turns: int) -> dict[str, tuple[float, ...]]:
    """Items a second of each contender, `turns` times in a row; a first round is not counted."""
    rates: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for run in runs:
            for name, seconds in run().items():
                rates.setdefault(name, [])
                if turn:
                    rates[name].append(items / seconds)
    return {name: tuple(values) for name, values in rates.items()}


def table(comparisons: Sequence[Comparison]) -> str:
    """One table of all: medians, their ranges, the ratio of ours to each, the one demanded."""
    rows = [("", "median/s", "min-max", "ratio", "min-max", "demanded")]
    for comparison in comparisons:
        rows.append((comparison.title, *[""] * 5))
        rows.append((f"  {comparison.ours.name}", *_shown(comparison.ours.rates, 0), "", "", ""))
        for peer in comparison.peers:
            demanded = f"{peer.demanded:.1f}" if peer.demanded else ""
            ratios = _shown(comparison.ratios(peer), 2)
            rows.append((f"  {peer.name}", *_shown(peer.rates, 0), *ratios, demanded))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def _shown(values: Sequence[float], digits: int) -> tuple[str, str]:
    return f"{median(values):.{digits}f}", f"{min(values):.{digits}f}-{max(values):.{digits}f}"


def _spread(values: Sequence[float]) -> dict[str, Any]:
    numbers = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in numbers.items()}
