"""Rekor v2 (rekor-tiles): log a seal's signature, and check that it was logged.

A v2 log has no signed entry timestamp and no time: an entry says that a signature was made public,
the RFC 3161 timestamps say when.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from longseal.canonical import canonical_json, parse_object
from longseal.errors import LogError, MalformedError, UnsupportedError, VerificationError
from longseal.seal.checkpoint import key_id, verify_checkpoint
from longseal.seal.http import post
from longseal.seal.keys import spki
from longseal.seal.signers.interface import PublicKey
from longseal.seal.tree import leaf_hash, verify_inclusion

TIMEOUT: Final = 30.0
"""Seconds; a v2 log answers only once a checkpoint covers the entry."""

MAX_ANSWER_BYTES: Final = 256 * 1024
_MAX_HASHES: Final = 64
_VERSION: Final = {"kind": "hashedrekord", "version": "0.0.2"}


def key_details(key: PublicKey) -> str:
    """The name that Sigstore's protobuf gives this kind of key with its hash.

    :raises UnsupportedError: a hashed entry cannot be verified with such a key
    """
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return "PKIX_ECDSA_P256_SHA_256"
        case rsa.RSAPublicKey() if key.key_size in (2048, 3072, 4096):
            return f"PKIX_RSA_PKCS1V15_{key.key_size}_SHA256"
        case ed25519.Ed25519PublicKey():
            found = "Ed25519, which signs messages and no digests"
        case _:
            found = f"{type(key).__name__} of {key.key_size} bits"
    raise UnsupportedError(
        f"Rekor takes digests signed by P-256 or RSA of 2048, 3072 or 4096 bits; found {found}"
    )


def log_entry(url: str, digest: bytes, signature: bytes, public_key: PublicKey) -> dict[str, Any]:
    """Have a signature logged.

    :param digest: SHA-256 of the signed message; of a seal, of its DSSE encoding
    :returns: the entry as the log answered, less its null fields: it goes into the bundle once
        :func:`verify_entry` accepts it
    :raises UnsupportedError: the log cannot take this kind of key
    :raises LogError: no answer, or an unreadable one
    """
    request = {
        "hashedRekordRequestV002": {
            "digest": _encode(digest),
            "signature": _signature(signature, public_key),
        }
    }
    answer = post(
        f"{url.rstrip('/')}/api/v2/log/entries",
        canonical_json(request),
        "application/json",
        timeout=TIMEOUT,
        limit=MAX_ANSWER_BYTES,
        error=LogError,
    )
    try:
        entry = parse_object(answer, "log entry", limit=MAX_ANSWER_BYTES)
    except MalformedError as err:
        raise LogError(f"{url} answered unreadably: {err}") from err
    return {name: value for name, value in entry.items() if value is not None}


def verify_entry(
    entry: Mapping[str, Any],
    digest: bytes,
    signature: bytes,
    public_key: PublicKey,
    log_public_key: PublicKey,
    origin: str,
) -> None:
    """Check that a log includes this signature of this digest by this key.

    :param log_public_key: the key that signs the log's checkpoints
    :param origin: the first line of its checkpoints

    :raises MalformedError: not a log entry
    :raises VerificationError: another log's, another signature's, or not included
    """
    if entry.get("kindVersion") != _VERSION:
        raise VerificationError("the log entry is not a hashedrekord 0.0.2")
    if _bytes(_object(entry, "logId"), "keyId") != key_id(origin, log_public_key):
        raise VerificationError(f"the log entry is of another log than {origin}")
    body = _bytes(entry, "canonicalizedBody")
    if parse_object(body, "log entry body", limit=MAX_ANSWER_BYTES) != _body(
        digest, signature, public_key
    ):
        raise VerificationError("the log entry is of another signature")
    proof = _object(entry, "inclusionProof")
    hashes = proof.get("hashes", [])
    if not isinstance(hashes, list) or len(hashes) > _MAX_HASHES:
        raise MalformedError(f"log entry: hashes is a list of {_MAX_HASHES} at most")
    note = _object(proof, "checkpoint").get("envelope")
    if not isinstance(note, str):
        raise MalformedError("log entry: the checkpoint's envelope is text")
    checkpoint = verify_checkpoint(_utf8(note), origin, log_public_key)
    index, size, root = (
        _number(proof, "logIndex"),
        _number(proof, "treeSize"),
        proof.get("rootHash"),
    )
    if (size, root) != (checkpoint.size, _encode(checkpoint.root)):
        raise VerificationError("the inclusion proof is of another tree than the checkpoint")
    if _number(entry, "logIndex") != index:
        raise VerificationError("the log entry gives two indexes")
    path = [_decode(each, "hashes") for each in hashes]
    verify_inclusion(leaf_hash(body), index, size, path, checkpoint.root)


def _signature(signature: bytes, public_key: PublicKey) -> dict[str, Any]:
    return {
        "content": _encode(signature),
        "verifier": {
            "keyDetails": key_details(public_key),
            "publicKey": {"rawBytes": _encode(spki(public_key))},
        },
    }


def _body(digest: bytes, signature: bytes, public_key: PublicKey) -> dict[str, Any]:
    return {
        "apiVersion": _VERSION["version"],
        "kind": _VERSION["kind"],
        "spec": {
            "hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": _encode(digest)},
                "signature": _signature(signature, public_key),
            }
        },
    }


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise MalformedError(f"log entry: {name} is an object")
    return found


def _number(value: Mapping[str, Any], name: str) -> int:
    """A protobuf uint64, which JSON spells as text; a log leaves a zero out."""
    found = value.get(name, "0")
    if not isinstance(found, str) or not found.isascii() or not found.isdigit() or len(found) > 19:
        raise MalformedError(f"log entry: {name} is a decimal number in a string")
    return int(found)


def _bytes(value: Mapping[str, Any], name: str) -> bytes:
    return _decode(value.get(name), name)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(value: object, name: str) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise MalformedError(f"log entry: {name} is base64 text")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as err:
        raise MalformedError("log entry: the checkpoint is not valid Unicode") from err
