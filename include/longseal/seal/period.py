"""What a seal covers: a month, a supplement to one, a release; or nothing, to renew the others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from longseal.errors import RefusedError

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])(?:\.([1-9]\d{0,3}))?")
_RENEWAL = re.compile(r"r-renewal-\d{4}-\d{2}-\d{2}")
_RELEASE = re.compile(r"r-[a-z0-9.-]{1,64}")

NOTHING: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The end of a renewal: no evidence is as old."""

FORMS: Final = "YYYY-MM, YYYY-MM.N for a supplement, or r-NAME for a release"


@dataclass(frozen=True, slots=True)
class Period:
    """A period by its name.

    :param end: evidence signed before this moment is covered; None: all so far
    """

    name: str
    end: datetime | None

    @property
    def renewal(self) -> bool:
        """Whether it covers nothing, and only renews."""
        return self.end == NOTHING

    @classmethod
    def of_renewal(cls, now: datetime) -> Period:
        """The out-of-turn renewal of this day."""
        return cls(f"r-renewal-{now:%Y-%m-%d}", NOTHING)

    @classmethod
    def parse(cls, name: str, now: datetime) -> Period:
        """The period called ``name``. Months are UTC and half-open.

        :raises RefusedError: not the name of a period, or its month is not over at ``now``
        """
        if match := _MONTH.fullmatch(name):
            year, month = int(match[1]), int(match[2])
            if year == 0:
                raise RefusedError("there is no year 0000")
            if (year, month) >= (now.year, now.month):
                raise RefusedError(
                    f"the month {year:04}-{month:02} is not over: seal it then, or name a release"
                    " (r-NAME) for all so far"
                )
            return cls(name, datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC))
        if _RENEWAL.fullmatch(name):
            return cls(name, NOTHING)
        if _RELEASE.fullmatch(name):
            return cls(name, None)
        raise RefusedError(f"expected a period as {FORMS}, found {name[:80]!r}")
