"""``seal-trusted-root.json``: a Sigstore trusted root with a seal's own authorities and log only.

It lies beside the seal so that cosign can check its timestamps. It proves nothing by itself: a
verifier compares the roots' fingerprints with those that it was given another way.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from longseal.canonical import canonical_json, parse_object, timestamp
from longseal.errors import MalformedError, UnsupportedError
from longseal.seal.checkpoint import key_id
from longseal.seal.keys import load_spki, spki
from longseal.seal.signers.interface import PublicKey
from longseal.seal.timestamps import MAX_CHAIN, Authority, order_chain

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
MAX_AUTHORITIES: Final = 32
MAX_BYTES: Final = 1024 * 1024

# A log's key has no window of its own in the settings; Sigstore's format asks for a start.
_BEGINNING: Final = "1970-01-01T00:00:00Z"


class Log(NamedTuple):
    """A Rekor v2 log: where it is, the key of its checkpoints, and their first line."""

    url: str
    public_key: PublicKey
    origin: str


def format_trusted_root(
    authorities: Sequence[Authority], log: tuple[str, PublicKey, str] | None = None
) -> bytes:
    """The file's bytes: RFC 8785 JSON.

    :param log: a :class:`Log`, where the seal has an entry in one
    :raises UnsupportedError: Sigstore has no name for the log's kind of key
    """
    return canonical_json(
        {
            "mediaType": MEDIA_TYPE,
            "tlogs": [] if log is None else [_log(Log(*log))],
            "certificateAuthorities": [],
            "ctlogs": [],
            "timestampAuthorities": [_authority(each) for each in authorities],
        }
    )


def parse_trusted_root(data: bytes) -> tuple[tuple[Authority, ...], Log | None]:
    """The authorities and the log of a file that :func:`format_trusted_root` wrote.

    :raises MalformedError: another kind of file, or a trusted root with more in it
    """
    what = "seal trusted root"
    document = parse_object(data, what, limit=MAX_BYTES)
    if document.get("mediaType") != MEDIA_TYPE:
        raise MalformedError(f"{what}: expected mediaType {MEDIA_TYPE}")
    if document.get("certificateAuthorities") or document.get("ctlogs"):
        raise MalformedError(f"{what}: a seal needs no certificate authority and no CT log")
    authorities = _list(document, "timestampAuthorities", MAX_AUTHORITIES)
    logs = _list(document, "tlogs", 1)
    return (
        tuple(_parse_authority(each) for each in authorities),
        _parse_log(logs[0]) if logs else None,
    )


def _authority(authority: Authority) -> dict[str, Any]:
    return {
        "subject": {
            "organization": _attribute(authority.leaf, NameOID.ORGANIZATION_NAME),
            "commonName": _attribute(authority.leaf, NameOID.COMMON_NAME),
        },
        "uri": authority.url,
        "certChain": {
            "certificates": [
                {"rawBytes": _encode(each.public_bytes(Encoding.DER))}
                for each in authority.certificates
            ]
        },
        "validFor": {
            "start": timestamp(authority.valid_from),
            "end": timestamp(authority.valid_until),
        },
    }


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""


def _log(log: Log) -> dict[str, Any]:
    return {
        # Verifiers take the origin of the checkpoints from the log's address.
        "baseUrl": f"https://{log.origin}",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _encode(spki(log.public_key)),
            "keyDetails": _details(log.public_key),
            "validFor": {"start": _BEGINNING},
        },
        "logId": {"keyId": _encode(key_id(log.origin, log.public_key))},
    }


def _details(key: PublicKey) -> str:
    match key:
        case ed25519.Ed25519PublicKey():
            return "PKIX_ED25519"
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return "PKIX_ECDSA_P256_SHA_256"
    raise UnsupportedError("expected a log's key: Ed25519 or P-256")


def _parse_authority(value: dict[str, Any]) -> Authority:
    chain = value.get("certChain")
    if not isinstance(chain, dict) or not isinstance(value.get("uri"), str):
        raise MalformedError("seal trusted root: an authority has a uri and a certChain")
    certificates = []
    for each in _list(chain, "certificates", MAX_CHAIN):
        try:
            certificates.append(x509.load_der_x509_certificate(_decode(each)))
        except ValueError as err:
            raise MalformedError("seal trusted root: a certificate cannot be read") from err
    return Authority(value["uri"], order_chain(certificates, "seal trusted root"))


def _parse_log(value: dict[str, Any]) -> Log:
    what = "seal trusted root"
    url, key = value.get("baseUrl"), value.get("publicKey")
    if not isinstance(url, str) or not url.startswith("https://") or not isinstance(key, dict):
        raise MalformedError(f"{what}: a log has a baseUrl https://<origin> and a publicKey")
    return Log(url, load_spki(_decode(key), what), url.removeprefix("https://"))


def _list(value: dict[str, Any], name: str, most: int) -> list[dict[str, Any]]:
    found = value.get(name, [])
    if not isinstance(found, list) or len(found) > most:
        raise MalformedError(f"seal trusted root: {name} is a list of {most} at most")
    if not all(isinstance(each, dict) for each in found):
        raise MalformedError(f"seal trusted root: {name} holds objects")
    return found


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(value: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(value.get("rawBytes", ""), validate=True)
    except (binascii.Error, ValueError, TypeError) as err:
        raise MalformedError("seal trusted root: rawBytes is base64 text") from err
