import hashlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from longseal.errors import MalformedError, UnsupportedError, VerificationError
from longseal.seal.keys import (
    KeyEntry,
    KeySet,
    fingerprint,
    keyid,
    load_public_pem,
    load_spki,
    public_pem,
    spki,
    verify_signature,
)

P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
ED = ed25519.Ed25519PrivateKey.generate().public_key()
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
UNTIL = datetime(2027, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def pem(key) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_key_id_is_what_openssl_computes(tmp_path: Path) -> None:
    (tmp_path / "org.pub").write_text(public_pem(P256))
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", tmp_path / "org.pub", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    assert keyid(P256) == hashlib.sha256(der).hexdigest()
    assert fingerprint(P256) == "sha256:" + keyid(P256)


@pytest.mark.parametrize(
    "key",
    [P256, ED, ec.generate_private_key(ec.SECP384R1()).public_key()],
    ids=["p256", "ed25519", "p384"],
)
def test_a_key_is_read_back_as_itself(key) -> None:
    assert load_public_pem(public_pem(key).encode(), "org.pub") == key
    assert load_spki(spki(key), "org.pub") == key


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (ec.generate_private_key(ec.SECP521R1()).public_key(), "a key on secp521r1"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "a key on secp256k1"),
        (rsa.generate_private_key(65537, 1024).public_key(), "RSA of 1024 bits"),
        (dsa.generate_private_key(1024).public_key(), "DSAPublicKey"),
    ],
)
def test_keys_that_cosign_does_not_verify_are_named(key, found: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"org\.pub: expected P-256.*found {found}"):
        load_public_pem(pem(key), "org.pub")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"x" * 100_000,
    ],
)
def test_what_is_no_public_key_is_named(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"^org\.pub"):
        load_public_pem(data, "org.pub")
    with pytest.raises(MalformedError, match=r"^org\.pub"):
        load_spki(data, "org.pub")


def test_a_p384_signature_is_over_sha256_as_cosign_checks_it() -> None:
    from cryptography.hazmat.primitives import hashes

    key = ec.generate_private_key(ec.SECP384R1())
    verify_signature(key.public_key(), key.sign(b"m", ec.ECDSA(hashes.SHA256())), b"m")
    with pytest.raises(VerificationError):
        verify_signature(key.public_key(), key.sign(b"m", ec.ECDSA(hashes.SHA384())), b"m")


@pytest.mark.parametrize("key", [P256, ED])
def test_garbage_is_no_signature(key) -> None:
    for signature in (b"", b"x", bytes(64), bytes(1000)):
        with pytest.raises(VerificationError, match="was not made by key sha256:"):
            verify_signature(key, signature, b"m")


def test_a_window_is_half_open() -> None:
    keys = KeySet((KeyEntry(P256, SINCE, UNTIL, "retired"),))
    assert keys.key_for(keyid(P256), SINCE) == P256
    assert keys.key_for(keyid(P256), UNTIL - SECOND) == P256
    for at in (SINCE - SECOND, UNTIL):
        with pytest.raises(VerificationError, match=r"\(retired\) counts from 2026-01-01"):
            keys.key_for(keyid(P256), at)


def test_an_active_key_has_no_end() -> None:
    keys = KeySet((KeyEntry(P256, SINCE),))
    assert keys.key_for(keyid(P256), UNTIL + timedelta(days=10_000)) == P256


def test_a_key_outside_the_set_is_refused() -> None:
    with pytest.raises(VerificationError, match="not in the organisation's key set"):
        KeySet((KeyEntry(P256, SINCE),)).key_for(keyid(ED), SINCE)


def test_a_key_set_is_read_back_as_itself() -> None:
    keys = KeySet(
        (KeyEntry(P256, SINCE, UNTIL, "retired"), KeyEntry(ED, UNTIL)), 2, fingerprint(ED)
    )
    assert KeySet.parse(keys.format()) == keys
    assert KeySet(keys.keys[::-1], 2, keys.recovery).format() == keys.format()
    entry = json.loads(keys.format())["keys"][0]
    assert entry == {
        "keyid": keyid(P256),
        "spki": public_pem(P256),
        "from": "2026-01-01T00:00:00Z",
        "until": "2027-01-01T00:00:00Z",
        "status": "retired",
    }


def test_a_key_stands_in_a_set_once() -> None:
    with pytest.raises(MalformedError, match="twice"):
        KeySet((KeyEntry(P256, SINCE), KeyEntry(P256, UNTIL)))


@pytest.mark.parametrize("status", ["retired", "compromised"])
def test_a_key_that_no_longer_signs_says_until_when_it_did(status) -> None:
    with pytest.raises(MalformedError, match="say until when"):
        KeyEntry(P256, SINCE, None, status)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(MalformedError, match="ends before it begins"):
        KeyEntry(P256, UNTIL, SINCE, "retired")


@pytest.mark.parametrize(
    "change",
    [
        {"keyid": "0" * 64},
        {"keyid": 1},
        {"spki": "no key"},
        {"spki": None},
        {"from": "2026-01-01"},
        {"from": None},
        {"until": 5},
        {"status": "revoked"},
        {"status": []},
        {"use": "all"},
    ],
)
def test_an_entry_that_is_not_understood_is_refused(change: dict) -> None:
    document = json.loads(KeySet((KeyEntry(P256, SINCE),)).format())
    document["keys"][0] |= change
    with pytest.raises(MalformedError):
        KeySet.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": True},
        {"version": "1"},
        {"keys": []},
        {"keys": {}},
        {"keys": [1]},
        {"keys": [{}] * 65},
        {"recovery": 1},
        {"more": 1},
    ],
)
def test_a_key_set_that_is_not_understood_is_refused(change: dict) -> None:
    document = json.loads(KeySet((KeyEntry(P256, SINCE),)).format()) | change
    with pytest.raises(MalformedError):
        KeySet.parse(json.dumps(document).encode())
