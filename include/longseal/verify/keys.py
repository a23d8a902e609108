"""Keys that signatures are verified with: which kinds, and with which hash."""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from longseal.errors import UnsupportedError
from longseal.seal.keys import MIN_RSA_BITS, read_pem

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CURVES: Final[dict[str, tuple[str, ...]]] = {
    "secp256r1": ("sha256",),
    "secp384r1": ("sha384", "sha256"),
    "secp521r1": ("sha512", "sha256"),
}


def spki(key: Any) -> bytes:
    """A public key as a DER SubjectPublicKeyInfo (RFC 5280)."""
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def pem_of(key: bytes) -> str:
    """A DER SubjectPublicKeyInfo in PEM: the one spelling that policies have."""
    loaded = load_der_public_key(key)
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def load_key(pem: bytes, what: str) -> bytes:
    """The one public key in a PEM file, as a DER SubjectPublicKeyInfo.

    :param what: the file or setting it came from, for the message
    :raises MalformedError: no PEM public key
    :raises UnsupportedError: a key whose signatures are not verified here
    """
    key = read_pem(pem, what)
    hashes_of(key)
    return spki(key)


def hashes_of(key: object) -> tuple[str, ...]:
    """The hashes that signatures of ``key`` are made with, by Sigstore's algorithm registry.

    Older clients used SHA-256 with every curve. Ed25519 has none: it signs the message itself.

    :raises UnsupportedError: a key whose signatures are not verified here
    """
    match key:
        case ed25519.Ed25519PublicKey():
            return ()
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return _CURVES[key.curve.name]
        case rsa.RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return ("sha256",)
        case ec.EllipticCurvePublicKey():
            found = f"a key on {key.curve.name}"
        case rsa.RSAPublicKey():
            found = f"RSA of {key.key_size} bits"
        case _:
            found = type(key).__name__
    raise UnsupportedError(
        f"expected P-256, P-384, P-521, RSA of {MIN_RSA_BITS} bits or more, or Ed25519;"
        f" found {found}"
    )


def cosign_takes(key: bytes) -> bool:
    """Whether ``cosign --key`` verifies by this key; with larger curves it has their hash wrong."""
    found = load_der_public_key(key)
    return not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name == "secp256r1"


def signed_digest(key: Any, signature: bytes, digest: bytes, algorithm: str) -> bool:
    """Whether ``key`` (ECDSA in DER, or RSA PKCS #1 v1.5) made the signature of this digest."""
    prehashed = Prehashed(_HASHES[algorithm])
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PKCS1v15(), prehashed)
        else:
            key.verify(signature, digest, ec.ECDSA(prehashed))
    except InvalidSignature:
        return False
    return True


def signed_message(key: ed25519.Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether ``key`` made the signature of this message."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
