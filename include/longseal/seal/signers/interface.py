"""The seam between Longseal and the organisation's key."""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class Signer(Protocol):
    """One key that signs. A backend never decides what is signed, and never sees more than it."""

    @property
    def public_key(self) -> PublicKey:
        """The public half, read from the token, service or file itself."""

    @property
    def warning(self) -> str | None:
        """What must be said on every use (a key that is not for production); None where nothing."""

    def sign(self, message: bytes) -> bytes:
        """Sign ``message``: ECDSA P-256/SHA-256 in DER, RSA PKCS#1 v1.5/SHA-256, or Ed25519.

        One call is one key operation.

        :raises SignerError: the key is missing, ambiguous, or refused; never worth a retry
        :raises RetryableError: the token or service did not answer
        """
