"""A Sigstore bundle, taken apart once and never judged here.

Both verifiers read this one object, so that they cannot see two bundles in the same bytes
(protobuf-specs, ``sigstore_bundle.proto``, as JSON: zero may be left out, and whole numbers of 64
bits may stand as numbers or as text).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from longseal.canonical import parse_object
from longseal.errors import MalformedError, UnsupportedError

MAX_TIMESTAMPS: Final = 32
"""Most timestamps that sigstore-go and sigstore-python read in one bundle."""

MAX_ENTRIES: Final = 32
MAX_HASHES: Final = 64

_FAMILY: Final = "application/vnd.dev.sigstore.bundle"
_VERSIONS: Final = {
    "application/vnd.dev.sigstore.bundle+json;version=0.1": "0.1",
    "application/vnd.dev.sigstore.bundle+json;version=0.2": "0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.3": "0.3",
    "application/vnd.dev.sigstore.bundle.v0.3+json": "0.3",
}
_ALGORITHMS: Final = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope."""

    payload: bytes
    payload_type: str
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A signature over bytes that are not in the bundle.

    :param algorithm: of ``digest``, as in an OCI digest; None where the bundle names no digest
    """

    signature: bytes
    algorithm: str | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """That an entry is in the log: RFC 6962 §2.1.1, under a checkpoint where there is one."""

    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a transparency log.

    :param integrated: the time in the log's promise, in seconds since 1970; 0 where there is none
    :param document: the entry's own JSON
    """

    log_id: bytes
    index: int
    kind: str
    version: str
    integrated: int
    promise: bytes | None
    proof: Proof | None
    body: bytes
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's parts; nothing in it was checked.

    :param version: ``0.1``, ``0.2`` or ``0.3``
    :param certificate: the signer's; None where it names a key instead
    :param timestamps: RFC 3161 responses, in DER
    :param document: the JSON that all of it was read from
    """

    version: str
    content: Envelope | MessageSignature
    certificate: x509.Certificate | None
    entries: tuple[Entry, ...]
    timestamps: tuple[bytes, ...]
    document: dict[str, Any]

    @property
    def signature(self) -> bytes:
        """The signature's bytes, which timestamps are over."""
        if isinstance(self.content, Envelope):
            return self.content.signatures[0]
        return self.content.signature


def parse_bundle(data: bytes) -> Bundle:
    """Take a bundle apart.

    :raises MalformedError: it is not what it claims to be, or of a version that does not exist
    :raises UnsupportedError: no bundle at all, or with fields that are not known
    """
    document = parse_object(data, "the bundle")
    version = _VERSIONS.get(str(document.get("mediaType", "")))
    if "mediaType" not in document:
        raise MalformedError("a Sigstore bundle has a mediaType; this has none")
    if version is None:
        text = (
            f"not a Sigstore bundle of version 0.1, 0.2 or 0.3: {str(document['mediaType'])[:80]}"
        )
        if not str(document["mediaType"]).startswith(_FAMILY):
            raise UnsupportedError(text)
        raise MalformedError(f"{text}; a newer Longseal judges again what it reads more of")
    _only(
        document,
        "the bundle",
        "mediaType",
        "verificationMaterial",
        "dsseEnvelope",
        "messageSignature",
    )
    material = _object(document, "verificationMaterial")
    _only(
        material,
        "verificationMaterial",
        "publicKey",
        "x509CertificateChain",
        "certificate",
        "tlogEntries",
        "timestampVerificationData",
    )
    return Bundle(
        version=version,
        content=_content(document),
        certificate=_certificate(material, version),
        entries=tuple(_entry(one) for one in _list(material, "tlogEntries", MAX_ENTRIES)),
        timestamps=_timestamps(material),
        document=document,
    )


def _content(document: dict[str, Any]) -> Envelope | MessageSignature:
    if ("dsseEnvelope" in document) == ("messageSignature" in document):
        raise MalformedError("a bundle has a dsseEnvelope or a messageSignature, one of the two")
    if "dsseEnvelope" in document:
        envelope = _object(document, "dsseEnvelope")
        _only(envelope, "dsseEnvelope", "payload", "payloadType", "signatures")
        signatures = []
        for item in _list(envelope, "signatures", MAX_ENTRIES):
            one = _is_object(item, "signatures")
            _only(one, "a signature", "sig", "keyid")
            signatures.append(_bytes(one, "sig"))
        return Envelope(
            _bytes(envelope, "payload"), _text(envelope, "payloadType"), tuple(signatures)
        )
    message = _object(document, "messageSignature")
    _only(message, "messageSignature", "messageDigest", "signature")
    algorithm, digest = None, b""
    if message.get("messageDigest") is not None:
        named = _object(message, "messageDigest")
        _only(named, "messageDigest", "algorithm", "digest")
        algorithm = _ALGORITHMS.get(str(named.get("algorithm")))
        if algorithm is None:
            raise UnsupportedError("the message's digest is of an unsupported algorithm")
        digest = _bytes(named, "digest")
    return MessageSignature(_bytes(message, "signature"), algorithm, digest)


def _certificate(material: dict[str, Any], version: str) -> x509.Certificate | None:
    ways = {"publicKey", "x509CertificateChain", "certificate"} & material.keys()
    if len(ways) != 1:
        raise MalformedError("a bundle names its signer by exactly one of certificate and key")
    if "publicKey" in ways:
        _only(_object(material, "publicKey"), "publicKey", "hint")
        return None
    if "certificate" in ways:
        certificate = _object(material, "certificate")
    else:
        if version == "0.3":
            raise MalformedError("a bundle of version 0.3 has a certificate, and no chain")
        chain = _list(_object(material, "x509CertificateChain"), "certificates", MAX_ENTRIES)
        if not chain:
            raise MalformedError("the bundle's certificate chain is empty")
        certificate = _is_object(chain[0], "certificates")
    _only(certificate, "the certificate", "rawBytes")
    try:
        return x509.load_der_x509_certificate(_bytes(certificate, "rawBytes"))
    except ValueError as err:
        raise MalformedError(f"the certificate cannot be read: {str(err)[:200]}") from err


def _entry(item: object) -> Entry:
    entry = _is_object(item, "tlogEntries")
    _only(
        entry,
        "a log entry",
        "logIndex",
        "logId",
        "kindVersion",
        "integratedTime",
        "inclusionPromise",
        "inclusionProof",
        "canonicalizedBody",
    )
    named, promise, proof = _object(entry, "kindVersion"), None, None
    index = _number(entry, "logIndex")
    integrated = _number(entry, "integratedTime") if "integratedTime" in entry else 0
    if entry.get("inclusionPromise") is not None:
        promise = _bytes(_object(entry, "inclusionPromise"), "signedEntryTimestamp")
    if entry.get("inclusionProof") is not None:
        proof = _proof(_object(entry, "inclusionProof"))
    return Entry(
        log_id=_bytes(_object(entry, "logId"), "keyId"),
        index=index,
        kind=_text(named, "kind"),
        version=_text(named, "version"),
        integrated=integrated,
        promise=promise,
        proof=proof,
        body=_bytes(entry, "canonicalizedBody"),
        document=entry,
    )


def _proof(proof: dict[str, Any]) -> Proof:
    _only(proof, "an inclusion proof", "logIndex", "rootHash", "treeSize", "hashes", "checkpoint")
    index, size = _number(proof, "logIndex"), _number(proof, "treeSize")
    if index >= size:
        raise MalformedError(f"an inclusion proof of entry {index} in a tree of {size}")
    proof["hashes"] = _list(proof, "hashes", MAX_HASHES)
    _bytes(proof, "rootHash")
    checkpoint = None
    if proof.get("checkpoint") is not None:
        checkpoint = _checkpoint(_object(proof, "checkpoint"))
    return Proof(checkpoint)


def _checkpoint(checkpoint: dict[str, Any]) -> str:
    """A checkpoint without the signatures that are none: one of a witness spoils nothing.

    C2SP signed-note: lines of a dash, a name, and four bytes and a signature in base64.
    """
    text = _text(checkpoint, "envelope")
    head, gap, lines = text.partition("\n\n")
    kept = [line for line in lines.split("\n") if not line or _is_signature(line)]
    text = head + gap + "\n".join(kept)
    checkpoint["envelope"] = text
    return text


def _is_signature(line: str) -> bool:
    try:
        dash, _, signature = line.split(" ")
        return dash == "\u2014" and len(base64.b64decode(signature, validate=True)) > 4
    except ValueError:
        return False


def _timestamps(material: dict[str, Any]) -> tuple[bytes, ...]:
    if material.get("timestampVerificationData") is None:
        return ()
    data = _object(material, "timestampVerificationData")
    _only(data, "timestampVerificationData", "rfc3161Timestamps")
    tokens = _list(data, "rfc3161Timestamps", MAX_TIMESTAMPS)
    return tuple(
        _bytes(_is_object(token, "rfc3161Timestamps"), "signedTimestamp") for token in tokens
    )


def _only(value: dict[str, Any], what: str, *known: str) -> None:
    if unknown := value.keys() - set(known):
        raise UnsupportedError(f"{what} has the unknown field {min(unknown)[:40]!a}")


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    return _is_object(value.get(key), key)


def _is_object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} of a bundle is an object, not {type(value).__name__}")
    return value


def _list(value: dict[str, Any], key: str, most: int) -> list[Any]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise MalformedError(f"{key} of a bundle is a list, not {type(found).__name__}")
    if len(found) > most:
        raise MalformedError(f"{key} of a bundle has {most} items at most, found {len(found)}")
    return found


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        raise MalformedError(f"{key} of a bundle is text, not {type(found).__name__}")
    return found


def _number(value: dict[str, Any], key: str) -> int:
    """A whole number, written back as text: the one form that sigstore-python reads."""
    found = value.get(key, "0")
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) <= 20:
        number = int(found)
    elif type(found) is int:
        number = found
    else:
        raise MalformedError(f"{key} of a bundle is no whole number")
    if not 0 <= number < 2**63:
        raise MalformedError(f"{key} of a bundle is out of range")
    value[key] = str(number)
    return number


def _bytes(value: dict[str, Any], key: str) -> bytes:
    """Bytes in base64, written back without what sigstore-python would skip or misread."""
    text = _text(value, key)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    try:
        plain = text.replace("-", "+").replace("_", "/")
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as err:
        raise MalformedError(f"{key} of a bundle is not base64") from err
    value[key] = base64.b64encode(data).decode()
    return data
