"""What was measured, and the one table of it all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Run = Callable[[], Mapping[str, float]]
"""One turn: the seconds that it took, by the name of what was timed."""

HEADER = ("", "measured", "min-max", "ratio", "min-max", "demanded")


@dataclass(frozen=True, slots=True)
class Series:
    """One contender's items a second, turn by turn, and the least ratio to it that is demanded."""

    name: str
    rates: tuple[float, ...]
    demanded: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Longseal and its peers at the same work, by turns."""

    title: str
    ours: Series
    peers: tuple[Series, ...]

    def ratios(self, peer: Series) -> list[float]:
        """Ours to theirs, turn by turn: the two of a turn met the same load."""
        return [mine / other for mine, other in zip(self.ours.rates, peer.rates, strict=True)]

    def rows(self) -> list[Sequence[str]]:
        """For the table: medians, their ranges, the ratio of ours to each, the one demanded."""
        rows: list[Sequence[str]] = [(f"{self.title}, a second",)]
        rows.append((f"  {self.ours.name}", *_shown(self.ours.rates, 0)))
        for peer in self.peers:
            demanded = f">= {peer.demanded:.1f}" if peer.demanded else ""
            ratios = _shown(self.ratios(peer), 2)
            rows.append((f"  {peer.name}", *_shown(peer.rates, 0), *ratios, demanded))
        return rows

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


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that stands for itself, and the most that it may be."""

    name: str
    value: float
    limit: float | None = None
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers of one kind of work."""

    title: str
    figures: tuple[Figure, ...]

    def rows(self) -> list[Sequence[str]]:
        """For the table."""
        return [
            (self.title,),
            *(
                (
                    f"  {one.name}",
                    f"{one.value:.{one.digits}f}",
                    *("", "", ""),
                    "" if one.limit is None else f"<= {one.limit:.{one.digits}f}",
                )
                for one in self.figures
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        """Every number, and the most that it may be."""
        return {
            "title": self.title,
            "figures": [
                {"name": one.name, "value": round(one.value, 3), "limit": one.limit}
                for one in self.figures
            ],
        }


Result = Comparison | Figures


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


def table(results: Sequence[Result]) -> str:
    """One table of all."""
    rows = [HEADER, *(row for result in results for row in result.rows())]
    padded = [(*row, *[""] * (len(HEADER) - len(row))) for row in rows]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in padded
    )


def _shown(values: Sequence[float], digits: int) -> tuple[str, str]:
    return f"{median(values):.{digits}f}", f"{min(values):.{digits}f}-{max(values):.{digits}f}"


def _spread(values: Sequence[float]) -> dict[str, Any]:
    numbers = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 2) for name, value in numbers.items()}
