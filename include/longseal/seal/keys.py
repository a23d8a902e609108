"""The organisation's public keys: names, files, signatures and the key set with its windows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from longseal.canonical import canonical_json, parse_object, parse_timestamp, timestamp
from longseal.errors import MalformedError, UnsupportedError, VerificationError
from longseal.seal.signers.interface import PublicKey

MIN_RSA_BITS: Final = 2048
MAX_PEM_BYTES: Final = 64 * 1024
MAX_KEYS: Final = 64

_EXPECTED: Final = "P-256, P-384, RSA of 2048 bits or more, or Ed25519"


def spki(key: PublicKey) -> bytes:
    """``key`` as a DER SubjectPublicKeyInfo (RFC 5280): the bytes that its names are made of."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def keyid(key: PublicKey) -> str:
    """The key's name in statements and key sets: SHA-256 of its SPKI, in hex."""
    return hashlib.sha256(spki(key)).hexdigest()


def fingerprint(key: PublicKey) -> str:
    """The key's name for people and settings: ``sha256:`` and the :func:`keyid`."""
    return f"sha256:{keyid(key)}"


def public_pem(key: PublicKey) -> str:
    """``key`` as PEM, as ``cosign --key`` and ``openssl`` read it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def load_public_pem(data: bytes, what: str) -> PublicKey:
    """The one public key in a PEM file.

    :param what: the file or setting it came from, for the message
    :raises MalformedError: no PEM public key
    :raises UnsupportedError: a key that stock verifiers of seals do not take
    """
    return supported(read_pem(data, what), what)


def read_pem(data: bytes, what: str) -> object:
    """:func:`load_public_pem` for keys of any kind."""
    if len(data) > MAX_PEM_BYTES:
        raise MalformedError(f"{what} has {len(data)} bytes, too many for a public key")
    try:
        return load_pem_public_key(data)
    except UnsupportedAlgorithm as err:
        raise UnsupportedError(
            f"{what}: expected {_EXPECTED}; this key is of no known kind"
        ) from err
    except ValueError as err:
        raise MalformedError(
            f"{what}: expected a PEM public key (-----BEGIN PUBLIC KEY-----), found something else"
        ) from err


def load_spki(data: bytes, what: str) -> PublicKey:
    """:func:`load_public_pem` for a DER SubjectPublicKeyInfo."""
    try:
        key = load_der_public_key(data)
    except UnsupportedAlgorithm as err:
        raise UnsupportedError(
            f"{what}: expected {_EXPECTED}; this key is of no known kind"
        ) from err
    except ValueError as err:
        raise MalformedError(f"{what}: expected a DER SubjectPublicKeyInfo") from err
    return supported(key, what)


def supported(key: object, what: str) -> PublicKey:
    """``key`` itself, where both Longseal and cosign verify its signatures.

    :raises UnsupportedError: they do not
    """
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return key
        case rsa.RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return key
        case ed25519.Ed25519PublicKey():
            return key
        case ec.EllipticCurvePublicKey():
            found = f"a key on {key.curve.name}"
        case rsa.RSAPublicKey():
            found = f"RSA of {key.key_size} bits"
        case _:
            found = type(key).__name__
    raise UnsupportedError(f"{what}: expected {_EXPECTED}; found {found}")


def verify_signature(key: PublicKey, signature: bytes, message: bytes) -> None:
    """Check ``signature``: ECDSA/SHA-256 in DER, RSA PKCS#1 v1.5/SHA-256, or Ed25519.

    :raises VerificationError: it is not the key's signature of ``message``
    """
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            case rsa.RSAPublicKey():
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            case ed25519.Ed25519PublicKey():
                key.verify(signature, message)
    except InvalidSignature as err:
        raise VerificationError(f"the signature was not made by key {fingerprint(key)}") from err


Status = Literal["active", "retired", "compromised"]


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key of the organisation and the time in which its signatures count.

    :param since: first moment of the window
    :param until: end of the window (not in it); None while the key is active and no end is set
    :param status: ``active`` may sign; ``retired`` and ``compromised`` may not, and have an end.
        What a trusted clock saw signed before that end holds for both.
    """

    key: PublicKey
    since: datetime
    until: datetime | None = None
    status: Status = "active"

    def __post_init__(self) -> None:
        if self.until is not None and self.until <= self.since:
            raise MalformedError(f"key {self.keyid}: its window ends before it begins")
        if self.until is None and self.status != "active":
            raise MalformedError(f"key {self.keyid} is {self.status}: say until when it counted")

    @property
    def keyid(self) -> str:
        return keyid(self.key)

    def covers(self, at: datetime) -> bool:
        """Whether a signature that a trusted clock puts at ``at`` counts."""
        return self.since <= at and (self.until is None or at < self.until)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys that the organisation signs with, has signed with, or no longer may sign with.

    :param version: grows by one with each change, so that an older set is seen to be older
    :param recovery: fingerprint of the offline key that may sign a new set alone
    """

    keys: tuple[KeyEntry, ...]
    version: int = 1
    recovery: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MAX_KEYS:
            raise MalformedError(f"a key set has 1 to {MAX_KEYS} keys, not {len(self.keys)}")
        if len({entry.keyid for entry in self.keys}) != len(self.keys):
            raise MalformedError("a key stands in the key set twice")

    def active(self, at: datetime) -> KeyEntry | None:
        """The key that signs at ``at``: of the active ones, the newest whose window has begun."""
        found = [each for each in self.keys if each.status == "active" and each.covers(at)]
        return max(found, key=lambda each: (each.since, each.keyid), default=None)

    def key_for(self, keyid: str, at: datetime) -> PublicKey:
        """The key named ``keyid``, for a signature that a trusted clock puts at ``at``.

        :raises VerificationError: the set has no such key, or ``at`` is outside its window
        """
        for entry in self.keys:
            if entry.keyid == keyid:
                if entry.covers(at):
                    return entry.key
                until = timestamp(entry.until) if entry.until else "now on"
                raise VerificationError(
                    f"key sha256:{keyid} ({entry.status}) counts from {timestamp(entry.since)} to "
                    f"{until}; the signature is of {timestamp(at)}"
                )
        raise VerificationError(f"key sha256:{keyid[:80]} is not in the organisation's key set")

    def format(self) -> bytes:
        """The set as RFC 8785 JSON, oldest key first."""
        entries = sorted(self.keys, key=lambda entry: (entry.since, entry.keyid))
        document: dict[str, Any] = {"keys": [_entry(each) for each in entries]}
        document["version"] = self.version
        if self.recovery is not None:
            document["recovery"] = self.recovery
        return canonical_json(document)

    @classmethod
    def parse(cls, data: bytes) -> KeySet:
        """The inverse of :meth:`format`.

        :raises MalformedError: not a key set, or an entry whose ``keyid`` is not its key's
        """
        what = "key set"
        document = parse_object(data, what, limit=1024 * 1024)
        _only(document, {"keys", "version"}, {"recovery"}, what)
        version, entries = document["version"], document["keys"]
        if type(version) is not int or version < 1 or not isinstance(entries, list):
            raise MalformedError(f"{what}: expected a version from 1 and a list of keys")
        if len(entries) > MAX_KEYS:
            raise MalformedError(f"a key set has 1 to {MAX_KEYS} keys, not {len(entries)}")
        recovery = document.get("recovery")
        if recovery is not None and not isinstance(recovery, str):
            raise MalformedError(f"{what}: recovery is a fingerprint sha256:<64 hex digits>")
        return cls(tuple(_parse_entry(each) for each in entries), version, recovery)


def _entry(entry: KeyEntry) -> dict[str, str | None]:
    return {
        "keyid": entry.keyid,
        "spki": public_pem(entry.key),
        "from": timestamp(entry.since),
        "until": timestamp(entry.until) if entry.until else None,
        "status": entry.status,
    }


def _parse_entry(value: object) -> KeyEntry:
    what = "key set entry"
    if not isinstance(value, dict):
        raise MalformedError(f"{what}: expected an object")
    _only(value, {"keyid", "spki", "from", "until", "status"}, set(), what)
    texts = [value[name] for name in ("keyid", "spki", "from", "status")]
    if not all(isinstance(each, str) for each in [*texts, value["until"] or ""]):
        raise MalformedError(f"{what}: keyid, spki, from, until and status are text")
    if value["status"] not in get_args(Status):
        raise MalformedError(f"{what}: status is one of {', '.join(get_args(Status))}")
    entry = KeyEntry(
        key=load_public_pem(value["spki"].encode(), what),
        since=parse_timestamp(value["from"]),
        until=parse_timestamp(value["until"]) if value["until"] is not None else None,
        status=value["status"],
    )
    if entry.keyid != value["keyid"]:
        raise MalformedError(f"{what}: keyid is not the SHA-256 of its key's SPKI, {entry.keyid}")
    return entry


def _only(value: dict[str, Any], needed: set[str], optional: Iterable[str], what: str) -> None:
    missing, unknown = needed - value.keys(), value.keys() - needed - set(optional)
    if missing or unknown:
        raise MalformedError(
            f"{what}: missing keys {sorted(missing)}, unknown keys {sorted(unknown)[:8]}"
        )
