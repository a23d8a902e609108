"""What stands between any signer and what is published: budget, count, check, pin."""

from __future__ import annotations

from dataclasses import dataclass

from longseal.errors import RefusedError, SignerError, VerificationError
from longseal.seal.keys import fingerprint, supported, verify_signature
from longseal.seal.signers.interface import PublicKey, Signer


@dataclass(slots=True)
class Budget:
    """The key operations that one run may take: whatever goes round in circles ends here."""

    limit: int
    taken: int = 0

    def require(self, operations: int) -> None:
        """Refuse ``operations`` more where they are too many; none is taken yet.

        :raises RefusedError: with the setting that allows more
        """
        total = self.taken + operations
        if total > self.limit:
            raise RefusedError(
                f"signer.max_operations: {self.limit} key operations are allowed in a run, and "
                f"this one needs {total}; nothing more is signed. Find out why, or raise it"
            )

    def take(self) -> None:
        """Take one.

        :raises RefusedError: none is left
        """
        self.require(1)
        self.taken += 1


@dataclass(slots=True)
class CountingSigner:
    """A signer that counts its key operations, also those that fail: a ledger needs them all.

    :param budget: what all signers of a run share; None where nothing limits them
    """

    signer: Signer
    budget: Budget | None = None
    operations: int = 0

    @property
    def public_key(self) -> PublicKey:
        return self.signer.public_key

    @property
    def warning(self) -> str | None:
        return self.signer.warning

    def sign(self, message: bytes) -> bytes:
        if self.budget:
            self.budget.take()
        self.operations += 1
        return self.signer.sign(message)


def sign_checked(signer: Signer, message: bytes, pinned: str) -> bytes:
    """One key operation, by the pinned key only, with its result verified before it is used.

    :param pinned: fingerprint of the key that must sign
    :raises SignerError: the signer holds another key (nothing is signed), or its signature does
        not hold
    :raises RefusedError: the run's budget is spent; nothing is signed
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
            "private and public half are not one pair, or the mechanism is another"
        ) from err
    return signature
