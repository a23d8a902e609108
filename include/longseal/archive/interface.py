"""The seam between Longseal and where evidence is kept for years."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """What the archive knows of one object.

    :param key: name below the archive's root, with ``/`` between parts
    :param size: bytes
    :param sha256: hex digest of the content
    :param version: the store's version id, where it has versions
    :param retain_until: until when the store refuses deletion; None where nothing is promised
    :param fresh: True where this very call wrote the object
    :param cold: True where it has to be asked for, and waited for, before it can be read
    """

    key: str
    size: int
    sha256: str
    version: str | None = None
    retain_until: datetime | None = None
    fresh: bool = False
    cold: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying one rule on a store.

    :param rule: what was tried: ``overwrite``, ``checksum``, ``lock``, ``shorten``, ``hold``
        or ``cold``
    :param enforced: None where the trial shows nothing
    :param found: what the store did
    """

    rule: str
    enforced: bool | None
    found: str


class Archive(Protocol):
    """Write-once storage. Nothing is ever overwritten; names are checked on every call."""

    def put(
        self,
        key: str,
        data: bytes,
        retain_until: datetime | None = None,
        cold_days: int | None = None,
    ) -> Stored:
        """Store ``data`` under ``key`` unless the same bytes are there already.

        :param cold_days: after which the store may move it to its cold class, where it has one
        :raises ConflictError: other bytes have that name
        :raises ArchiveError: the store could not be reached or refused the write
        """

    def get(self, key: str, limit: int | None = None) -> bytes:
        """The bytes under ``key``, read whole.

        :param limit: most bytes accepted; more is a :class:`~longseal.errors.MalformedError`
        :raises ArchiveError: nothing is there, or it could not be read
        """

    def stat(self, key: str) -> Stored | None:
        """What is stored under ``key``; None where nothing is."""

    def retain(self, key: str, until: datetime) -> Stored:
        """Keep what is under ``key`` until then at least; an earlier date shortens nothing.

        :raises ArchiveError: nothing is there, or it could not be done
        """

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that begins with ``prefix``, sorted."""

    def trials(self) -> Iterator[Trial]:
        """Try what the store enforces, on objects of its own that are no part of the archive.

        :raises SettingsError: it cannot be written to at all
        """

    def hold(self, key: str, held: bool) -> None:
        """Put what is under ``key`` under legal hold, or release it, where the store can.

        A hold has no date: it keeps even what is past its retain-until date.
        """

    def dispose(self, key: str, now: datetime) -> None:
        """Delete a pack, its index or its label, every version of it; nothing there is no error.

        :raises RefusedError: it is no such key, or is locked or held
        """
