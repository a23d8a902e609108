"""Cosign's older attachments as Sigstore bundles.

Before it wrote bundles, cosign kept certificate, log promise and timestamp in the annotations of an
OCI layer (cosign, ``pkg/oci/static/signature.go``). The bundle made here is for verification alone:
what is kept is the manifest and the layer as found, from which it can be made again at any time.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from longseal.canonical import MAX_JSON_BYTES, is_digest, parse_object, sha256_hex
from longseal.errors import MalformedError
from longseal.verify.statement import IMAGE_SIGNATURE, Statement

SIGNATURE: Final = "dev.cosignproject.cosign/signature"
CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
BUNDLE: Final = "dev.sigstore.cosign/bundle"
TIMESTAMP: Final = "dev.sigstore.cosign/rfc3161timestamp"

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle+json;version=0.1"
"""The bundle version that may have a log's promise without its inclusion proof."""

_SIMPLE_SIGNING: Final = "cosign container image signature"


def attestation(layer: bytes, annotations: Mapping[str, str]) -> bytes:
    """The bundle of a ``.att`` layer, a DSSE envelope.

    :raises MalformedError: the layer or an annotation is not what it claims to be
    """
    return _bundle(annotations, {"dsseEnvelope": parse_object(layer, "the envelope")})


def signature(layer: bytes, annotations: Mapping[str, str]) -> bytes:
    """The bundle of a ``.sig`` layer: a signature, in an annotation, over the layer's bytes.

    :raises MalformedError: there is no signature, or an annotation is not what it claims to be
    """
    if SIGNATURE not in annotations:
        raise MalformedError(f"the layer has no annotation {SIGNATURE}")
    digest = base64.b64encode(bytes.fromhex(sha256_hex(layer))).decode()
    return _bundle(
        annotations,
        {
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": digest},
                "signature": annotations[SIGNATURE],
            }
        },
    )


def simple_signing(payload: bytes) -> Statement:
    """What cosign's older image signatures sign, as the statement that newer ones sign.

    :raises MalformedError: it is no such payload (containers/image, atomic-signature.md)
    """
    critical = parse_object(payload, "the signed payload").get("critical")
    image = critical.get("image") if isinstance(critical, dict) else None
    digest = image.get("docker-manifest-digest") if isinstance(image, dict) else None
    if not isinstance(critical, dict) or critical.get("type") != _SIMPLE_SIGNING:
        raise MalformedError("the signed payload is not cosign's for an image")
    if not isinstance(digest, str) or not is_digest(digest):
        raise MalformedError("the signed payload names no image by its sha256 digest")
    return Statement(IMAGE_SIGNATURE, (digest,))


def _bundle(annotations: Mapping[str, str], content: Mapping[str, Any]) -> bytes:
    material: dict[str, Any] = {}
    if certificate := annotations.get(CERTIFICATE):
        # The chain beside it adds nothing: what counts is the one in the trusted root.
        raw = base64.b64encode(_der_of(certificate)).decode()
        material["x509CertificateChain"] = {"certificates": [{"rawBytes": raw}]}
    else:
        material["publicKey"] = {}
    if promise := annotations.get(BUNDLE):
        material["tlogEntries"] = [_entry(_object(promise, BUNDLE))]
    if timestamp := annotations.get(TIMESTAMP):
        token = _text(_object(timestamp, TIMESTAMP), "SignedRFC3161Timestamp")
        material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": token}]}
    bundle = {"mediaType": MEDIA_TYPE, "verificationMaterial": material, **content}
    return json.dumps(bundle).encode()


def _entry(promise: dict[str, Any]) -> dict[str, Any]:
    """A log entry of Rekor v1, from ``{SignedEntryTimestamp, Payload}``."""
    payload = promise.get("Payload")
    if not isinstance(payload, dict):
        raise MalformedError(f"{BUNDLE} has no Payload")
    body = _text(payload, "body")
    entry = parse_object(_decoded(body, "the log entry's body"), "the log entry")
    return {
        "logIndex": str(_number(payload, "logIndex")),
        "logId": {"keyId": base64.b64encode(_hex(payload, "logID")).decode()},
        "kindVersion": {"kind": _text(entry, "kind"), "version": _text(entry, "apiVersion")},
        "integratedTime": str(_number(payload, "integratedTime")),
        "inclusionPromise": {"signedEntryTimestamp": _text(promise, "SignedEntryTimestamp")},
        "canonicalizedBody": body,
    }


def _der_of(pem: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError as err:
        raise MalformedError(f"{CERTIFICATE} is no PEM certificate: {str(err)[:200]}") from err


def _object(annotation: str, name: str) -> dict[str, Any]:
    return parse_object(annotation.encode("utf-8", "surrogatepass"), name)


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        raise MalformedError(f"expected a text {key}, found {type(found).__name__}")
    return found


def _number(value: Mapping[str, Any], key: str) -> int:
    found = value.get(key)
    if type(found) is not int or not 0 <= found < 2**63:
        raise MalformedError(f"expected a whole number {key}, found {str(found)[:40]!a}")
    return found


def _hex(value: Mapping[str, Any], key: str) -> bytes:
    try:
        return bytes.fromhex(_text(value, key))
    except ValueError as err:
        raise MalformedError(f"{key} is not hexadecimal") from err


def _decoded(text: str, what: str) -> bytes:
    if len(text) > MAX_JSON_BYTES * 4 // 3 + 4:
        raise MalformedError(f"{what} is larger than {MAX_JSON_BYTES} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as err:
        raise MalformedError(f"{what} is not base64") from err
