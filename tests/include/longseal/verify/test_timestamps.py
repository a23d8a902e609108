import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import rfc3161_client.verify
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, decode_timestamp_response
from tests.doubles.timestamp_authority import Mode, TimestampAuthorityDouble

from longseal.seal.timestamps import http_post
from longseal.verify.timestamps import TokenVerifier, _signed_by

MESSAGE = b"a signature"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimestampAuthorityDouble]:
    with TimestampAuthorityDouble(tmp_path_factory.mktemp("authority") / "tsa") as double:
        yield double


def stamped(
    authority: TimestampAuthorityDouble,
    message: bytes = MESSAGE,
    mode: Mode = "honest",
    with_certificate: bool = False,
) -> bytes:
    request = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256)
    request = request.nonce(nonce=False).cert_request(cert_request=with_certificate)
    authority.mode = mode
    try:
        return http_post(authority.url, request.build().as_bytes())
    finally:
        authority.mode = "honest"


def accepts(verifier: TokenVerifier, token: bytes, message: bytes = MESSAGE) -> bool:
    return verifier.accepts(decode_timestamp_response(token), message)


@pytest.fixture
def proven(authority: TimestampAuthorityDouble) -> TokenVerifier:
    """A verifier that has seen a token of its authority."""
    verifier = TokenVerifier(authority.chain)
    assert accepts(verifier, stamped(authority))
    return verifier


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The tokens that went to OpenSSL."""
    tokens: list[bytes] = []
    verify = rfc3161_client.verify._rust_verify.pkcs7_verify

    def noting(token: bytes, *rest: object) -> None:
        tokens.append(token)
        verify(token, *rest)

    monkeypatch.setattr(rfc3161_client.verify._rust_verify, "pkcs7_verify", noting)
    return tokens


def test_the_chain_is_checked_once(authority: TimestampAuthorityDouble, asked: list[bytes]) -> None:
    verifier = TokenVerifier(authority.chain)
    for message in (b"one", b"two", b"three"):
        assert accepts(verifier, stamped(authority, message), message)
    assert len(asked) == 1


def test_a_token_over_other_bytes_is_not_accepted(
    proven: TokenVerifier, authority: TimestampAuthorityDouble
) -> None:
    assert not accepts(proven, stamped(authority), b"another signature")


def test_a_token_by_another_key_is_not_accepted(
    proven: TokenVerifier, authority: TimestampAuthorityDouble
) -> None:
    token = stamped(authority, mode="other-key")
    assert not _signed_by(authority.chain[0], decode_timestamp_response(token).time_stamp_token())
    assert not accepts(proven, token)


def test_the_token_of_another_authority_is_not_accepted(
    proven: TokenVerifier, tmp_path: Path
) -> None:
    with TimestampAuthorityDouble(tmp_path / "other", "other") as other:
        assert not accepts(proven, stamped(other))


def test_a_token_that_brings_certificates_goes_to_openssl(
    proven: TokenVerifier, authority: TimestampAuthorityDouble, asked: list[bytes]
) -> None:
    assert accepts(proven, stamped(authority, with_certificate=True))
    assert len(asked) == 1


def test_a_token_from_outside_the_chains_validity_goes_to_openssl_which_refuses_it(
    tmp_path: Path,
) -> None:
    day = timedelta(days=1)
    with TimestampAuthorityDouble(tmp_path / "old", age=3 * day, life=day) as old:
        verifier = TokenVerifier(old.chain)
        verifier._proven = True
        assert not accepts(verifier, stamped(old))


def test_a_token_alone_never_proves_a_chain(authority: TimestampAuthorityDouble) -> None:
    with_stranger = TokenVerifier((authority.chain[0], authority.chain[0]))
    for _ in range(2):
        assert not accepts(with_stranger, stamped(authority))


def test_whatever_byte_is_changed_openssl_would_accept_what_is_accepted(
    proven: TokenVerifier, authority: TimestampAuthorityDouble
) -> None:
    token = bytearray(stamped(authority))
    chance = random.Random(4)
    outcomes = set()
    for place in range(len(token)):
        changed = bytearray(token)
        changed[place] ^= 1 << chance.randrange(8)
        try:
            response = decode_timestamp_response(bytes(changed))
        except ValueError:
            continue
        accepted = proven.accepts(response, MESSAGE)
        outcomes.add(accepted)
        if accepted:
            assert TokenVerifier(authority.chain).accepts(response, MESSAGE), place
    assert False in outcomes
