"""Until when seals stand: pure forecasts, over authorities that are made for the purpose."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from tests.doubles.stamper import Stamper

from longseal.errors import VerificationError
from longseal.seal.keys import KeyEntry
from longseal.seal.renewal import (
    Renewable,
    authority_end,
    forecast,
    key_end,
    path,
    require_time,
)
from longseal.seal.timestamps import Authority, Token

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = KeyEntry(ec.generate_private_key(ec.SECP256R1()).public_key(), START)
_made: dict[int, Authority] = {}


def authority(days: int) -> Authority:
    """An authority whose certificates end so many days after the start."""
    if days not in _made:
        stamper = Stamper.new(f"ends {days}", START, days * DAY)
        _made[days] = Authority(f"https://tsa.example/{days}", stamper.chain)
    return _made[days]


def seal(sequence: int, day: int, ends: Sequence[int], key: KeyEntry = KEY) -> Renewable:
    """Stamped on a day by authorities that end on others."""
    at = START + day * DAY
    tokens = tuple(Token(authority(end), b"", at, 1) for end in ends)
    return Renewable(sequence, f"r-{sequence}", tokens, key)


def test_a_seal_stands_until_its_quorum_does_not() -> None:
    one = seal(1, 0, [100, 300, 200])
    for quorum, days in ((1, 300), (2, 200), (3, 100)):
        [found] = forecast([one], quorum)
        assert found.end.at == START + days * DAY
        assert f"tsa.example/{days} ends" in found.end.what


def test_a_later_seal_carries_the_earlier_ones_to_its_own_end() -> None:
    seals = [seal(1, 0, [100]), seal(2, 50, [400]), seal(3, 60, [300])]
    found = forecast(seals, 1)
    assert [one.end.at for one in found] == [START + 300 * DAY] * 3
    assert [one.renewed_by for one in found] == [(3,), (3,), ()]


def test_a_path_goes_by_the_last_seal_that_came_in_time() -> None:
    seals = [seal(1, 0, [100]), seal(2, 50, [300]), seal(3, 90, [300]), seal(4, 200, [900])]
    assert [one.sequence for one in path(seals, seals[0], 1)] == [3, 4]
    assert [one.sequence for one in path(seals, seals[2], 1)] == [4]


def test_a_seal_that_came_too_late_leaves_a_gap_that_is_said() -> None:
    seals = [seal(1, 0, [100]), seal(2, 101, [900])]
    first, second = forecast(seals, 1)
    assert first.end.at == START + 100 * DAY
    assert "no seal renewed it before" in first.end.what
    assert first.renewed_by == (2,)
    assert second.end.at == START + 900 * DAY


def test_a_seal_that_was_made_outside_its_key_s_window_carries_nothing() -> None:
    revoked = KeyEntry(KEY.key, START, START + 40 * DAY, "compromised")
    seals = [seal(1, 0, [100]), seal(2, 50, [900], revoked), seal(3, 60, [300])]
    assert [one.sequence for one in path(seals, seals[0], 1)] == [3]
    assert path(seals[:2], seals[0], 1) == []


def test_a_seal_of_which_nothing_holds_is_due() -> None:
    [found] = forecast([seal(1, 0, [])], 1)
    assert found.due(START)


def test_the_planned_end_of_the_key_that_signs_is_the_end_of_renewals() -> None:
    planned = KeyEntry(KEY.key, START, START + 120 * DAY)
    [found] = forecast([seal(1, 0, [900], planned)], 1)
    assert found.end.at == START + 120 * DAY
    retired = KeyEntry(KEY.key, START, START + 120 * DAY, "retired")
    [found] = forecast([seal(1, 0, [900], retired)], 1)
    assert found.end.at == START + 900 * DAY


@pytest.mark.parametrize(
    ("key", "year"),
    [
        (ec.generate_private_key(ec.SECP256R1()), 2036),
        (ed25519.Ed25519PrivateKey.generate(), 2036),
        (rsa.generate_private_key(65537, 3072), 2036),
        (rsa.generate_private_key(65537, 2048), 2031),
        (ec.generate_private_key(ec.SECP192R1()), 2014),
        (dsa.generate_private_key(2048), 2014),
    ],
)
def test_each_kind_of_key_has_an_end(key: ec.EllipticCurvePrivateKey, year: int) -> None:
    assert key_end(key.public_key(), "it").at.year == year
    entry = KeyEntry(key.public_key(), START)
    [found] = forecast([seal(1, 0, [99_999], entry)], 1)
    assert found.end.at.year == year


def test_a_long_certificate_does_not_make_a_weak_key_strong() -> None:
    assert authority_end(authority(99_999)).at.year == 2036


def test_the_warning_comes_ninety_days_ahead() -> None:
    found = forecast([seal(1, 0, [100]), seal(2, 5, [100])], 1)
    assert "all 2 seals stand until 2026-04-11" in require_time(found, START + 9 * DAY)
    with pytest.raises(VerificationError, match=r"2 seals are due .*--renew"):
        require_time(found, START + 10 * DAY)
    assert require_time([], START) == "nothing is sealed yet"
