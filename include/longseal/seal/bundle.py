"""Sigstore bundles (v0.3) that carry a signature by a long-lived key: seals and image statements.

The form is narrower than the protobuf's: one spelling of everything, so that the same parts give
the same bytes, and cosign and Longseal cannot read one file in two ways.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from longseal.canonical import canonical_json, parse_object
from longseal.errors import MalformedError, VerificationError
from longseal.seal.keys import fingerprint, spki, verify_signature
from longseal.seal.signers.interface import PublicKey
from longseal.seal.statement import PAYLOAD_TYPE, pae

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

MAX_TIMESTAMPS: Final = 32
"""Most timestamps that sigstore-go reads in one bundle."""

MAX_BUNDLE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeyBundle:
    """A bundle's parts; nothing in it was checked.

    :param payload: the statement's bytes
    :param signature: over the DSSE message of payload type and payload
    :param hint: base64 of the SHA-256 of the signing key's SPKI
    :param timestamps: RFC 3161 responses, in DER, over the signature's bytes
    :param tlog_entry: the Rekor entry of the signature, as its JSON reads
    """

    payload: bytes
    signature: bytes
    hint: str
    timestamps: tuple[bytes, ...] = ()
    tlog_entry: Mapping[str, Any] | None = None
    payload_type: str = PAYLOAD_TYPE

    @property
    def message(self) -> bytes:
        """The bytes that were signed."""
        return pae(self.payload_type, self.payload)


def key_hint(key: PublicKey) -> str:
    """How a bundle names the key that signed it."""
    return base64.b64encode(hashlib.sha256(spki(key)).digest()).decode()


def format_key_bundle(
    payload: bytes,
    signature: bytes,
    public_key: PublicKey,
    timestamps: Sequence[bytes] = (),
    tlog_entry: Mapping[str, Any] | None = None,
) -> bytes:
    """The bundle file: RFC 8785 JSON without a newline.

    :param payload: a statement's bytes, which are kept as they are
    :raises MalformedError: more timestamps than stock verifiers read
    """
    if len(timestamps) > MAX_TIMESTAMPS:
        raise MalformedError(f"a bundle carries {MAX_TIMESTAMPS} timestamps at most")
    material: dict[str, Any] = {"publicKey": {"hint": key_hint(public_key)}}
    if timestamps:
        tokens = [{"signedTimestamp": _encode(each)} for each in timestamps]
        material["timestampVerificationData"] = {"rfc3161Timestamps": tokens}
    if tlog_entry is not None:
        material["tlogEntries"] = [dict(tlog_entry)]
    return canonical_json(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": _encode(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": _encode(signature)}],
            },
        }
    )


def parse_key_bundle(data: bytes) -> KeyBundle:
    """Take a bundle apart, without judging it.

    :raises MalformedError: not a bundle of the form that :func:`format_key_bundle` writes
    """
    bundle = parse_object(data, "bundle", limit=MAX_BUNDLE_BYTES)
    _keys(bundle, "bundle", "mediaType", "verificationMaterial", "dsseEnvelope")
    if bundle["mediaType"] != MEDIA_TYPE:
        raise MalformedError(f"bundle: expected mediaType {MEDIA_TYPE}")
    material = _object(bundle["verificationMaterial"], "verificationMaterial")
    if "publicKey" not in material:
        raise MalformedError(
            "bundle: expected verificationMaterial.publicKey; a bundle with a certificate was not "
            "signed by the organisation's key"
        )
    optional = material.keys() & {"timestampVerificationData", "tlogEntries"}
    _keys(material, "verificationMaterial", "publicKey", *optional)
    public_key = _object(material["publicKey"], "publicKey")
    _keys(public_key, "publicKey", "hint")
    envelope = _object(bundle["dsseEnvelope"], "dsseEnvelope")
    _keys(envelope, "dsseEnvelope", "payload", "payloadType", "signatures")
    signatures = _list(envelope["signatures"], "signatures", most=1)
    if len(signatures) != 1:
        raise MalformedError("bundle: expected exactly one signature, found none")
    signature = _object(signatures[0], "signature")
    _keys(signature, "signature", "sig")
    return KeyBundle(
        payload=_decode(envelope["payload"], "payload"),
        payload_type=_text(envelope["payloadType"], "payloadType"),
        signature=_decode(signature["sig"], "sig"),
        hint=_text(public_key["hint"], "hint"),
        timestamps=_timestamps(material.get("timestampVerificationData")),
        tlog_entry=_tlog_entry(material.get("tlogEntries")),
    )


def verify_key_bundle(bundle: KeyBundle, public_key: PublicKey) -> bytes:
    """Check the bundle's signature against a key that came from elsewhere.

    Timestamps and log entry are for :mod:`longseal.seal.timestamps` and :mod:`longseal.seal.rekor`.

    :returns: the statement's bytes
    :raises VerificationError: other payload type, other key, or not its signature
    """
    if bundle.payload_type != PAYLOAD_TYPE:
        raise VerificationError(
            f"expected payloadType {PAYLOAD_TYPE}, found {bundle.payload_type[:80]!r}"
        )
    if bundle.hint != key_hint(public_key):
        raise VerificationError(
            f"the bundle names key {bundle.hint[:80]!r}, not {fingerprint(public_key)}"
        )
    verify_signature(public_key, bundle.signature, bundle.message)
    return bundle.payload


def _timestamps(value: object) -> tuple[bytes, ...]:
    if value is None:
        return ()
    data = _object(value, "timestampVerificationData")
    _keys(data, "timestampVerificationData", "rfc3161Timestamps")
    tokens = []
    for each in _list(data["rfc3161Timestamps"], "rfc3161Timestamps", most=MAX_TIMESTAMPS):
        token = _object(each, "rfc3161Timestamps")
        _keys(token, "rfc3161Timestamps", "signedTimestamp")
        tokens.append(_decode(token["signedTimestamp"], "signedTimestamp"))
    return tuple(tokens)


def _tlog_entry(value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    entries = _list(value, "tlogEntries", most=1)
    return _object(entries[0], "tlogEntries") if entries else None


def _keys(value: dict[str, Any], what: str, *expected: str) -> None:
    if value.keys() != set(expected):
        found = sorted(key[:40] for key in value)[:20]
        raise MalformedError(f"bundle: {what} has {sorted(expected)}, found {found}")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"bundle: {what} is an object, not {type(value).__name__}")
    return value


def _list(value: object, what: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError(f"bundle: {what} is a list, not {type(value).__name__}")
    if len(value) > most:
        raise MalformedError(f"bundle: {what} has {most} items at most, found {len(value)}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise MalformedError(f"bundle: {what} is text, not {type(value).__name__}")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(value: object, what: str) -> bytes:
    text = _text(value, what)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise MalformedError(f"bundle: {what} is not base64") from err
    if not data or _encode(data) != text:
        raise MalformedError(f"bundle: {what} is empty, or base64 in a second spelling")
    return data
