import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.doubles.timestamp_authority import Mode, TimestampAuthorityDouble

from longseal.errors import MalformedError, SettingsError, TimestampError, VerificationError
from longseal.seal import timestamps
from longseal.seal.timestamps import (
    Authority,
    gather,
    request_token,
    verify_quorum,
    verify_token,
)

MESSAGE = b"a signature"


def now() -> datetime:
    return datetime.now(UTC)


def trusted(double: TimestampAuthorityDouble) -> Authority:
    return Authority.load(double.url, double.pem, "tsa.pem")


@pytest.fixture
def tsa(tmp_path: Path) -> Iterator[TimestampAuthorityDouble]:
    with TimestampAuthorityDouble(tmp_path / "tsa") as double:
        yield double


@pytest.fixture
def other(tmp_path: Path) -> Iterator[TimestampAuthorityDouble]:
    with TimestampAuthorityDouble(tmp_path / "other", "other") as double:
        yield double


def test_a_token_says_when_and_holds_in_openssl_too(
    tsa: TimestampAuthorityDouble, tmp_path: Path
) -> None:
    token = request_token(trusted(tsa), MESSAGE, now())
    assert abs(token.gen_time - now()) < timedelta(seconds=30)
    assert token.serial == 2
    again = verify_token(token.data, MESSAGE, trusted(tsa))
    assert (again.gen_time, again.serial) == (token.gen_time, token.serial)
    (tmp_path / "t.tsr").write_bytes(token.data)
    (tmp_path / "sig").write_bytes(MESSAGE)
    verify = ["openssl", "ts", "-verify", "-in", tmp_path / "t.tsr", "-data", tmp_path / "sig"]
    subprocess.run([*verify, "-CAfile", tsa.chain_path], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("down", TimestampError),
        ("silent", TimestampError),
        ("huge", TimestampError),
        ("redirect", TimestampError),
        ("garbage", MalformedError),
        ("trailing", MalformedError),
        ("unsorted", MalformedError),
        ("rejection", VerificationError),
        ("other-digest", VerificationError),
        ("other-key", VerificationError),
    ],
)
def test_an_authority_that_lies_or_fails_gives_no_token(
    tsa: TimestampAuthorityDouble, mode, error
) -> None:
    tsa.mode = mode
    with pytest.raises(error):
        request_token(trusted(tsa), MESSAGE, now())


def test_an_old_answer_is_refused_by_its_nonce(tsa: TimestampAuthorityDouble) -> None:
    request_token(trusted(tsa), MESSAGE, now())
    tsa.mode = "replay"
    with pytest.raises(VerificationError, match="Nonce mismatch"):
        request_token(trusted(tsa), MESSAGE, now())


@pytest.mark.parametrize("mode", ["slow", "endless"])
def test_an_authority_that_takes_too_long_is_given_up(
    tsa: TimestampAuthorityDouble, monkeypatch: pytest.MonkeyPatch, mode
) -> None:
    monkeypatch.setattr(timestamps, "TIMEOUT", 0.5)
    tsa.mode, tsa.delay = mode, 3
    begun = now()
    with pytest.raises(TimestampError):
        request_token(trusted(tsa), MESSAGE, begun)
    assert now() - begun < timedelta(seconds=2)


def test_nobody_there_is_worth_a_retry(tmp_path: Path) -> None:
    with TimestampAuthorityDouble(tmp_path / "gone") as double:
        authority = trusted(double)
    with pytest.raises(TimestampError, match="did not answer: ConnectionError"):
        request_token(authority, MESSAGE, now())


@pytest.mark.parametrize("minutes", [-11, 11])
def test_two_clocks_that_disagree_are_an_error(tsa: TimestampAuthorityDouble, minutes: int) -> None:
    with pytest.raises(VerificationError, match="correct whichever clock is wrong"):
        request_token(trusted(tsa), MESSAGE, now() + timedelta(minutes=minutes))


def test_an_expired_chain_stamps_nothing(tmp_path: Path) -> None:
    day = timedelta(days=1)
    with TimestampAuthorityDouble(tmp_path / "old", age=3 * day, life=day) as double:
        authority = trusted(double)
        assert authority.valid_until < now()
        with pytest.raises(VerificationError):
            request_token(authority, MESSAGE, now())


def test_a_root_that_had_ended_vouches_for_nothing(tmp_path: Path) -> None:
    day = timedelta(days=1)
    old = TimestampAuthorityDouble(tmp_path / "old", age=3 * day, root_life=day)
    with old as double, pytest.raises(VerificationError):
        request_token(trusted(double), MESSAGE, now())


def test_a_token_outlives_its_certificates(tmp_path: Path) -> None:
    life = timedelta(days=1, seconds=2)
    with TimestampAuthorityDouble(tmp_path / "brief", life=life) as double:
        authority = trusted(double)
        token = request_token(authority, MESSAGE, now())
        while now() <= authority.valid_until:
            time.sleep(0.1)
        assert verify_token(token.data, MESSAGE, authority).gen_time == token.gen_time


def test_another_authority_s_token_is_refused(
    tsa: TimestampAuthorityDouble, other: TimestampAuthorityDouble
) -> None:
    token = request_token(trusted(tsa), MESSAGE, now())
    with pytest.raises(VerificationError):
        verify_token(token.data, MESSAGE, trusted(other))


def test_no_byte_of_a_token_can_change(tsa: TimestampAuthorityDouble) -> None:
    authority = trusted(tsa)
    data = request_token(authority, MESSAGE, now()).data
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            token = verify_token(bytes(changed), MESSAGE, authority)
        except (MalformedError, VerificationError):
            continue
        # What is left open are bytes that nobody signs: the certificates sent along.
        assert token.gen_time == verify_token(data, MESSAGE, authority).gen_time


def test_a_token_too_large_is_not_parsed(tsa: TimestampAuthorityDouble) -> None:
    with pytest.raises(MalformedError, match="65536 bytes at most"):
        verify_token(bytes(70_000), MESSAGE, trusted(tsa))


def test_the_quorum_holds_without_the_one_that_is_down(
    tsa: TimestampAuthorityDouble, other: TimestampAuthorityDouble
) -> None:
    other.mode = "down"
    gathered = gather([trusted(other), trusted(tsa)], MESSAGE, 1, now())
    assert [each.authority.url for each in gathered.tokens] == [tsa.url]
    [(url, reason)] = gathered.failures
    assert url == other.url
    assert "answered 503" in reason


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("other-digest", "Mismatch between messages"),
        ("other-key", "does not hold"),
        ("rejection", "does not hold"),
        ("unsorted", "InvalidSetOrdering"),
        ("trailing", "ExtraData"),
        ("garbage", "expected an RFC 3161 response"),
        ("silent", "did not answer"),
        ("slow", "did not answer"),
        ("endless", "did not finish its answer"),
    ],
)
def test_the_quorum_holds_without_the_one_that_lies_or_is_slow(
    tsa: TimestampAuthorityDouble,
    other: TimestampAuthorityDouble,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    why: str,
) -> None:
    monkeypatch.setattr(timestamps, "TIMEOUT", 1.0)
    other.mode, other.delay = mode, 3
    gathered = gather([trusted(other), trusted(tsa)], MESSAGE, 1, now())
    assert [each.authority.url for each in gathered.tokens] == [tsa.url]
    assert why in gathered.failures[0].reason


def test_the_quorum_holds_without_the_one_whose_chain_has_ended(
    tsa: TimestampAuthorityDouble, tmp_path: Path
) -> None:
    day = timedelta(days=1)
    with TimestampAuthorityDouble(tmp_path / "old", age=3 * day, life=day) as old:
        gathered = gather([trusted(old), trusted(tsa)], MESSAGE, 1, now())
    assert [each.authority.url for each in gathered.tokens] == [tsa.url]
    assert [each.url for each in gathered.failures] == [old.url]


def test_too_few_good_answers_name_each_that_failed(
    tsa: TimestampAuthorityDouble, other: TimestampAuthorityDouble
) -> None:
    tsa.mode, other.mode = "garbage", "down"
    with pytest.raises(TimestampError, match="0 of 1 timestamps") as caught:
        gather([trusted(tsa), trusted(other)], MESSAGE, 1, now())
    assert tsa.url in str(caught.value)
    assert other.url in str(caught.value)


def test_all_are_asked_at_once(
    tsa: TimestampAuthorityDouble, other: TimestampAuthorityDouble
) -> None:
    for double in (tsa, other):
        double.mode, double.delay = "slow", 1
    begun = now()
    assert len(gather([trusted(tsa), trusted(other)], MESSAGE, 2, begun).tokens) == 2
    assert now() - begun < timedelta(seconds=1.9)


@pytest.mark.parametrize("quorum", [0, 2, 3])
def test_a_quorum_that_cannot_be_met_is_a_setting_to_correct(
    tsa: TimestampAuthorityDouble, quorum: int
) -> None:
    with pytest.raises(SettingsError, match="cannot be met"):
        gather([trusted(tsa)], MESSAGE, quorum, now())
    assert tsa.requests == 0


def test_one_authority_listed_twice_is_no_quorum_of_two(tsa: TimestampAuthorityDouble) -> None:
    with pytest.raises(SettingsError, match="counts once"):
        gather([trusted(tsa), trusted(tsa)], MESSAGE, 2, now())


def test_a_verifier_counts_authorities_and_not_tokens(
    tsa: TimestampAuthorityDouble, other: TimestampAuthorityDouble
) -> None:
    both = [trusted(tsa), trusted(other)]
    first, second = (request_token(trusted(tsa), MESSAGE, now()).data for _ in range(2))
    third = request_token(trusted(other), MESSAGE, now()).data
    assert len(verify_quorum([first, third], MESSAGE, both, 2)) == 2
    assert len(verify_quorum([b"junk", first], MESSAGE, both, 1)) == 1
    with pytest.raises(VerificationError, match="1 of 2 timestamps"):
        verify_quorum([first, second], MESSAGE, both, 2)
    with pytest.raises(VerificationError, match="1 of 2 timestamps"):
        verify_quorum([first, third], MESSAGE, [trusted(tsa), trusted(tsa)], 2)
    with pytest.raises(VerificationError, match="0 of 1 timestamps"):
        verify_quorum([], MESSAGE, both, 1)


def test_a_chain_is_put_in_order(tsa: TimestampAuthorityDouble) -> None:
    backwards = b"".join(each.public_bytes(Encoding.PEM) for each in tsa.chain[::-1])
    assert Authority.load(tsa.url, backwards, "tsa.pem").certificates == tsa.chain


def test_a_chain_with_a_hole_or_too_much_in_it_is_refused(
    tsa: TimestampAuthorityDouble, other: TimestampAuthorityDouble
) -> None:
    leaf, root = (each.public_bytes(Encoding.PEM) for each in tsa.chain)
    stranger = other.chain[1].public_bytes(Encoding.PEM)
    for pem, message in [
        (leaf, "is missing"),
        (leaf + stranger, "is missing"),
        (root, "exactly one certificate for timestamping"),
        (tsa.pem + other.pem, "exactly one certificate for timestamping"),
        (tsa.pem + stranger, "do not belong"),
        (leaf * 11, "1 to 10 certificates"),
        (b"", "expected PEM certificates"),
        (b"x" * 300_000, "too many"),
    ]:
        with pytest.raises(MalformedError, match=message):
            Authority.load(tsa.url, pem, "tsa.pem")
