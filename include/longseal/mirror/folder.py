"""Files in a folder that came from somewhere: read bounded and never through links, written whole
or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from longseal.errors import ArchiveError, MalformedError, VerificationError

TEMPORARY = ".longseal-"
"""How the names of files begin that are not whole yet, here and in image layouts."""


def read_file(root: Path, name: str, limit: int) -> bytes:
    """A file below ``root``.

    :raises VerificationError: it is not there
    :raises MalformedError: it is no plain file, too large, or reached through a link
    """
    path = Path(os.path.realpath(root)) / name
    try:
        if os.path.realpath(path) != str(path):
            raise MalformedError(f"{name}: a link: refused")
        # Opening a pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as err:
        raise VerificationError(f"{name} cannot be read: {err.strerror}") from err
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise MalformedError(f"{name} is no file of at most {limit} bytes")
        return file.read()


def file_digest(path: Path) -> str | None:
    """The digest of a plain file; None where there is none, or a link is in its place."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return None


def write_file(path: Path, data: bytes) -> bool:
    """Write a file whole or not at all; one that has these bytes is left alone.

    :returns: whether it was written
    :raises ArchiveError: it could not be
    """
    try:
        if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
            return False
    except OSError as err:
        raise ArchiveError(f"{path} cannot be read: {err.strerror}") from err
    write_chunks(path, [data])
    return True


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """:func:`written` for bytes that come one after the other."""
    with written(path) as file:
        for chunk in chunks:
            file.write(chunk)


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file that appears whole, flushed to disk, or not at all.

    :raises ArchiveError: it could not be written
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as err:
        raise ArchiveError(f"{path} cannot be written: {err.strerror}") from err


class Chunks(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            found = next(self._chunks, None)
            if found is None:
                return 0
            # Cut without a copy: most readers ask for little at a time.
            self._left = memoryview(found)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
