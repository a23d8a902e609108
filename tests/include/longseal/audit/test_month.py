"""The audit's finding of a month that is not sealed in time."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from longseal.audit.audit import _month
from longseal.errors import VerificationError

DUE = datetime(2026, 12, 6, tzinfo=UTC)
OCTOBER: Any = SimpleNamespace(period="2026-10")
NOVEMBER: Any = SimpleNamespace(period="2026-11")
RELEASE: Any = SimpleNamespace(period="r-one")


def test_a_month_that_is_not_sealed_by_its_fifth_day_is_a_finding() -> None:
    assert _month([OCTOBER], DUE - timedelta(seconds=1)).startswith("2026-11 has until 2026-12-06")
    for now in (DUE, DUE + timedelta(days=20)):
        with pytest.raises(VerificationError, match="2026-11 is not sealed"):
            _month([OCTOBER], now)
    assert _month([OCTOBER, NOVEMBER], DUE) == "2026-11 is sealed"


def test_a_supplement_or_a_release_stands_in_for_no_month() -> None:
    supplement: Any = SimpleNamespace(period="2026-11.1")
    with pytest.raises(VerificationError, match="2026-11 is not sealed"):
        _month([OCTOBER, supplement, RELEASE], DUE)


def test_who_seals_releases_alone_misses_no_month() -> None:
    assert _month([], DUE) == _month([RELEASE], DUE) == "no month was ever sealed here"


def test_the_month_before_january_is_december() -> None:
    with pytest.raises(VerificationError, match="2026-12 is not sealed"):
        _month([OCTOBER], datetime(2027, 1, 6, tzinfo=UTC))
