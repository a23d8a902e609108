from dataclasses import dataclass
from pathlib import Path

import pytest

from longseal.errors import RefusedError, RetryableError, SignerError
from longseal.seal.keys import fingerprint, verify_signature
from longseal.seal.signers.checked import Budget, CountingSigner, sign_checked
from longseal.seal.signers.file import FileSigner


@dataclass
class Faulty:
    """A token that answers with a signature over something else."""

    signer: FileSigner
    warning = None

    @property
    def public_key(self):
        return self.signer.public_key

    def sign(self, message: bytes) -> bytes:
        return self.signer.sign(message + b"!")


@dataclass
class Silent(Faulty):
    def sign(self, message: bytes) -> bytes:
        raise RetryableError("no answer")


def test_a_good_signature_comes_through(signer: FileSigner) -> None:
    counting = CountingSigner(signer)
    signature = sign_checked(counting, b"m", fingerprint(signer.public_key))
    verify_signature(signer.public_key, signature, b"m")
    assert counting.operations == 1
    assert counting.warning == signer.warning


def test_another_key_than_the_pinned_one_signs_nothing(signer: FileSigner, tmp_path: Path) -> None:
    pinned = fingerprint(FileSigner.create(tmp_path / "other").public_key)
    counting = CountingSigner(signer)
    with pytest.raises(SignerError, match=f"expected key {pinned}, the signer holds"):
        sign_checked(counting, b"m", pinned)
    assert counting.operations == 0


def test_a_signature_that_does_not_hold_never_leaves(signer: FileSigner) -> None:
    counting = CountingSigner(Faulty(signer))
    with pytest.raises(SignerError, match="its own public key"):
        sign_checked(counting, b"m", fingerprint(signer.public_key))
    assert counting.operations == 1


def test_an_operation_that_failed_is_counted(signer: FileSigner) -> None:
    counting = CountingSigner(Silent(signer))
    with pytest.raises(RetryableError):
        sign_checked(counting, b"m", fingerprint(signer.public_key))
    assert counting.operations == 1


def test_signers_that_share_a_budget_stop_before_the_operation_too_many(
    signer: FileSigner,
) -> None:
    budget = Budget(2)
    first, second = CountingSigner(signer, budget), CountingSigner(Silent(signer), budget)
    first.sign(b"m")
    with pytest.raises(RetryableError):
        second.sign(b"m")
    for spent in (first, second):
        with pytest.raises(RefusedError, match=r"^signer\.max_operations: 2 .* needs 3"):
            spent.sign(b"m")
    assert (first.operations, second.operations, budget.taken) == (1, 1, 2)


def test_more_operations_than_are_left_are_refused_before_the_first() -> None:
    budget = Budget(3, taken=1)
    budget.require(2)
    with pytest.raises(RefusedError, match="needs 4"):
        budget.require(3)
    assert budget.taken == 1
