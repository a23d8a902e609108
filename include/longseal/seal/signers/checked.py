"""What stands between any signer and what is published: count, check, pin."""

from __future__ import annotations

from dataclasses import dataclass

from longseal.errors import SignerError, VerificationError
from longseal.seal.keys import fingerprint, supported, verify_signature
from longseal.seal.signers.interface import PublicKey, Signer


@dataclass(slots=True)
class CountingSigner:
    """A signer that counts its key operations, also those that fail: a ledger needs them all."""

    signer: Signer
    operations: int = 0

    @property
    def public_key(self) -> PublicKey:
        return self.signer.public_key

    @property
    def warning(self) -> str | None:
        return self.signer.warning

    def sign(self, message: bytes) -> bytes:
        self.operations += 1
        return self.signer.sign(message)


def sign_checked(signer: Signer, message: bytes, pinned: str) -> bytes:
    """One key operation, by the pinned key only, with its result verified before it is used.

    :param pinned: fingerprint of the key that must sign
    :raises SignerError: the signer holds another key (nothing is signed), or its signature does
        not hold
    :raises RetryableError: the token or service did not answer
    """
    key = supported(signer.public_key, "the signer's key")
    if fingerprint(key) != pinned:
        raise SignerError(f"expected key {pinned[:80]}, the signer holds {fingerprint(key)}")
    signature = signer.sign(message)
    try:
        verify_signature(key, signature, message)
    except VerificationError as err:
        raise SignerError(
            f"the signer returned a signature that its own public key {fingerprint(key)} refuses: "
            "private and public object of the token are not one pair, or the mechanism is another"
        ) from err
    return signature
