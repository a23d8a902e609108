"""Until when seals stand, by forecasts over authorities made here; and renewal in time."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from tests.doubles.stamper import Stamper
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal

from longseal import cli
from longseal.audit.audit import audit
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
from longseal.seal.reseal import Reseal
from longseal.seal.timestamps import Authority, Token
from longseal.verify.report import State

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


def one_seal(sequence: int, day: int, ends: Sequence[int], key: KeyEntry = KEY) -> Renewable:
    """Stamped on a day by authorities that end on others."""
    at = START + day * DAY
    tokens = tuple(Token(authority(end), b"", at, 1) for end in ends)
    return Renewable(sequence, f"r-{sequence}", tokens, key)


def test_a_seal_stands_until_its_quorum_does_not() -> None:
    one = one_seal(1, 0, [100, 300, 200])
    for quorum, days in ((1, 300), (2, 200), (3, 100)):
        [found] = forecast([one], quorum)
        assert found.end.at == START + days * DAY
        assert f"tsa.example/{days} ends" in found.end.what


def test_a_later_seal_carries_the_earlier_ones_to_its_own_end() -> None:
    seals = [one_seal(1, 0, [100]), one_seal(2, 50, [400]), one_seal(3, 60, [300])]
    found = forecast(seals, 1)
    assert [one.end.at for one in found] == [START + 300 * DAY] * 3
    assert [one.renewed_by for one in found] == [(3,), (3,), ()]


def test_a_path_goes_by_the_last_seal_that_came_in_time() -> None:
    seals = [
        one_seal(1, 0, [100]),
        one_seal(2, 50, [300]),
        one_seal(3, 90, [300]),
        one_seal(4, 200, [900]),
    ]
    assert [one.sequence for one in path(seals, seals[0], 1)] == [3, 4]
    assert [one.sequence for one in path(seals, seals[2], 1)] == [4]


def test_a_seal_that_came_too_late_leaves_a_gap_that_is_said() -> None:
    seals = [one_seal(1, 0, [100]), one_seal(2, 101, [900])]
    first, second = forecast(seals, 1)
    assert first.end.at == START + 100 * DAY
    assert "no seal renewed it before" in first.end.what
    assert first.renewed_by == (2,)
    assert second.end.at == START + 900 * DAY


def test_a_seal_that_was_made_outside_its_key_s_window_carries_nothing() -> None:
    revoked = KeyEntry(KEY.key, START, START + 40 * DAY, "compromised")
    seals = [one_seal(1, 0, [100]), one_seal(2, 50, [900], revoked), one_seal(3, 60, [300])]
    assert [one.sequence for one in path(seals, seals[0], 1)] == [3]
    assert path(seals[:2], seals[0], 1) == []


def test_a_seal_of_which_nothing_holds_is_due() -> None:
    [found] = forecast([one_seal(1, 0, [])], 1)
    assert found.due(START)


def test_the_planned_end_of_the_key_that_signs_is_the_end_of_renewals() -> None:
    planned = KeyEntry(KEY.key, START, START + 120 * DAY)
    [found] = forecast([one_seal(1, 0, [900], planned)], 1)
    assert found.end.at == START + 120 * DAY
    retired = KeyEntry(KEY.key, START, START + 120 * DAY, "retired")
    [found] = forecast([one_seal(1, 0, [900], retired)], 1)
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
    [found] = forecast([one_seal(1, 0, [99_999], entry)], 1)
    assert found.end.at.year == year


def test_a_long_certificate_does_not_make_a_weak_key_strong() -> None:
    assert authority_end(authority(99_999)).at.year == 2036


def test_the_warning_comes_ninety_days_ahead() -> None:
    found = forecast([one_seal(1, 0, [100]), one_seal(2, 5, [100])], 1)
    assert "all 2 seals stand until 2026-04-11" in require_time(found, START + 9 * DAY)
    with pytest.raises(VerificationError, match=r"2 seals are due .*--renew"):
        require_time(found, START + 10 * DAY)
    assert require_time([], START) == "nothing is sealed yet"


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[TimestampAuthorityDouble]:
    """An authority that ends in eighty days."""
    with TimestampAuthorityDouble(tmp_path / "brief", "brief", life=81 * DAY) as double:
        yield double


@pytest.fixture
def ending(harvested: Installation, brief: TimestampAuthorityDouble) -> Installation:
    """A hundred attestations, sealed under that authority."""
    harvested.write(timestamps=[brief.listed()])
    seal(harvested.workspace(), "r-one")
    return harvested


def ask(
    capsys: pytest.CaptureFixture[str], installation: Installation, *what: str
) -> tuple[int, Any]:
    """The command's exit code and document."""
    capsys.readouterr()
    code = cli.main([*what, "--config", str(installation.config), "--json"])
    return code, json.loads(capsys.readouterr().out or "null")


def test_what_ends_soon_is_due_and_a_renewal_under_another_authority_carries_it_on(
    ending: Installation, brief: TimestampAuthorityDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = ask(capsys, ending, "reseal", "--forecast")
    assert (code, document["due"]) == (1, 1)
    assert "brief" in document["seals"][0]["then"]
    code, document = ask(capsys, ending, "audit")
    assert code == 1
    assert [one["check"] for one in document["checks"] if one["result"] == "failed"] == ["renewal"]

    ending.write(timestamps=[brief.listed(retired=True), ending.authority.listed()])
    code, document = ask(capsys, ending, "reseal", "--renew")
    assert (code, document["due"], document["size"], document["key_operations"]) == (0, 0, 0, 1)
    code, document = ask(capsys, ending, "reseal", "--forecast")
    assert (code, [one["renewed_by"] for one in document["seals"]]) == (0, [[2], []])
    assert ask(capsys, ending, "audit")[0] == 0
    assert ask(capsys, ending, "reseal", "--renew")[1]["key_operations"] == 0


def test_a_renewal_under_the_authority_that_ends_helps_nothing_and_says_so(
    ending: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = ask(capsys, ending, "reseal", "--renew")
    assert (code, document["due"]) == (1, 2)


def test_a_renewal_takes_no_evidence(
    harvested: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = harvested.workspace()
    assert Reseal(workspace, "r-renewal-2026-11-24").freeze()["size"] == 0
    assert sum(1 for _ in workspace.catalog.unsealed(None)) == 100


def test_there_is_nothing_to_renew_before_the_first_seal(
    harvested: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(capsys, harvested, "reseal", "--renew")[0] == 2
    assert ask(capsys, harvested, "reseal", "--forecast") == (0, {"due": 0, "seals": []})


def test_whoever_writes_other_authorities_beside_a_seal_convinces_no_audit(
    harvested: Installation, brief: TimestampAuthorityDouble
) -> None:
    """The file is no subject of the seal: only the settings say which authorities count."""
    harvested.write(timestamps=[brief.listed()])
    seal(harvested.workspace(), "r-one")
    assert said(harvested, "seal 1") is State.PASSED
    harvested.write()
    assert said(harvested, "seal 1") is State.FAILED


@pytest.mark.parametrize("name", ["renewal.sha512", "renewal.tokens.json"])
def test_a_key_free_list_that_was_changed_or_is_missing_is_found(
    name: str, harvested: Installation
) -> None:
    seal(harvested.workspace(), "r-one")
    path = harvested.folder / "archive" / "seals" / "000001" / name
    kept = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(kept.replace(b"1", b"2", 1))
    assert said(harvested, "lists") is State.FAILED
    path.unlink()
    report = str(audit(harvested.workspace(), 0).to_json())
    assert "longseal reseal --period r-one finishes it" in report
    seal(harvested.workspace(), "r-one")
    assert said(harvested, "lists") is State.PASSED


def said(installation: Installation, name: str) -> State:
    """How one check of the audit ended."""
    checks = audit(installation.workspace(), 0).checks
    return next(one.state for one in checks if one.name == name)
