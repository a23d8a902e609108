"""Encrypting parts for the way, with age (age-encryption.org/v1): only the site can read them.

Needs the extra ``age``. What it hides is no proof of anything: whoever knows the site's recipient
can encrypt to it, and the inventory's signature still decides.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from longseal.errors import MalformedError, RefusedError, SettingsError, VerificationError
from longseal.mirror.folder import Chunks


def new_identity() -> tuple[str, str]:
    """A key pair: the identity, which is secret, and its recipient ``age1…``."""
    identity = _age().x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def recipient_of(identity: str) -> str:
    """The recipient of an identity."""
    return str(_identity(identity).to_public())


def encrypt(chunks: Iterator[bytes], to: BinaryIO, recipients: Sequence[str]) -> None:
    """Encrypt a stream; its memory does not grow with it.

    :raises RefusedError: a recipient that is none
    """
    age = _age()
    try:
        found = [age.x25519.Recipient.from_str(one) for one in recipients]
    except age.RecipientError as err:
        raise RefusedError("expected an age recipient, age1…") from err
    age.encrypt_io(io.BufferedReader(Chunks(chunks)), to, found)


def decrypt(file: Path, to: Path, identity: str) -> None:
    """Decrypt a file into another.

    :raises VerificationError: it is encrypted to others, or was changed
    """
    age = _age()
    try:
        with file.open("rb") as encrypted, to.open("wb") as plain:
            age.decrypt_io(encrypted, plain, [_identity(identity)])
    except (age.DecryptError, OSError) as err:
        to.unlink(missing_ok=True)
        why = err.strerror if isinstance(err, OSError) and err.errno else str(err)
        raise VerificationError(f"{file.name} cannot be decrypted: {why}") from err


def _identity(text: str) -> Any:
    try:
        return _age().x25519.Identity.from_str(text.strip())
    except _age().IdentityError:
        # Not chained: what the parser says may quote from it.
        raise MalformedError("the site's age identity is none") from None


def _age() -> Any:
    try:
        import pyrage
    except ImportError as err:
        raise SettingsError(
            "age", "encrypted volumes need the extra: pip install 'longseal[age]'"
        ) from err
    return pyrage
