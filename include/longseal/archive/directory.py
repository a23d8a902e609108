"""The archive in a directory: one read-only file an object.

An object appears whole or not at all: it is written under a name beginning with a dot, flushed to
the disk, and then linked to its own name, which fails where that name is taken. A directory cannot
enforce a retain-until date: it is kept beside the object, in ``.<name>.retain``, as a promise that
whoever administers the disk can break. Leave ``.tmp-*`` of a crash alone or remove it: nothing
reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from longseal.archive.interface import Stored, Trial
from longseal.archive.keys import check_disposable, check_key, check_prefix, is_key
from longseal.canonical import parse_timestamp, sha256_hex, timestamp
from longseal.errors import ArchiveError, ConflictError, MalformedError, RefusedError, SettingsError


class DirectoryArchive:
    """Write-once storage below ``root``, on a file system with hard links.

    Safe for several threads and processes at once.

    :raises SettingsError: ``root`` is not a directory. It is never made here: a disk that is not
        mounted must not look like an empty archive.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        if not root.is_dir():
            raise SettingsError(
                "archive.path", f"expected a directory, found none at {root}: make or mount it"
            )

    def check(self) -> None:
        """Write, link and remove a file.

        :raises SettingsError: when the directory does not allow that
        """
        try:
            with _temporary(self._root, b"") as written:
                linked = f"{written}-link"
                os.link(written, linked)
                Path(linked).unlink()
        except OSError as err:
            raise SettingsError(
                "archive.path", f"cannot write and link files in {self._root}: {err.strerror}"
            ) from err

    def put(
        self,
        key: str,
        data: bytes,
        retain_until: datetime | None = None,
        cold_days: int | None = None,
    ) -> Stored:
        """See :class:`~longseal.archive.interface.Archive`; a later date extends, none shortens."""
        path, digest = self._path(key), sha256_hex(data)
        try:
            self._make(path.parent)
            fresh = not path.exists() and _create(path, data, retain_until)
            if not fresh:
                found = self.stat(key)
                if found is None or found.sha256 != digest:
                    raise ConflictError(
                        f"{key} is in the archive with other bytes than the {len(data)} with "
                        f"SHA-256 {digest}: nothing was written"
                    )
                _promise(path, retain_until)
            # Also where another writer made the link: it may not be on the disk yet.
            _flush(path.parent)
            return Stored(key, len(data), digest, None, _promised(path), fresh)
        except NotADirectoryError as err:
            raise ConflictError(f"{key}: a part of the name is the name of an object") from err
        except OSError as err:
            raise ArchiveError(f"could not write {key} to the archive: {err.strerror}") from err

    def get(self, key: str, limit: int | None = None) -> bytes:
        """See :class:`~longseal.archive.interface.Archive`."""
        try:
            with self._path(key).open("rb") as file:
                data = file.read(-1 if limit is None else limit + 1)
        except OSError as err:
            raise ArchiveError(f"could not read {key} from the archive: {err.strerror}") from err
        if limit is not None and len(data) > limit:
            raise MalformedError(f"{key} has more than the {limit} bytes allowed")
        return data

    def stat(self, key: str) -> Stored | None:
        """See :class:`~longseal.archive.interface.Archive`; the file is read whole and hashed."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return Stored(key, file.tell(), digest, None, _promised(path))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as err:
            self._require_root(err)
            return None
        except OSError as err:
            raise ArchiveError(f"could not read {key} from the archive: {err.strerror}") from err

    def retain(self, key: str, until: datetime) -> Stored:
        """See :class:`~longseal.archive.interface.Archive`."""
        found = self.stat(key)
        if found is None:
            raise ArchiveError(f"{key} is not in the archive: nothing is retained")
        path = self._path(key)
        try:
            _promise(path, until)
            _flush(path.parent)
        except OSError as err:
            raise ArchiveError(f"could not retain {key}: {err.strerror}") from err
        return replace(found, retain_until=_promised(path))

    def hold(self, key: str, held: bool) -> None:
        """See :class:`~longseal.archive.interface.Archive`; a directory holds nothing."""
        check_key(key)

    def dispose(self, key: str, now: datetime) -> None:
        """See :class:`~longseal.archive.interface.Archive`; the promised date must be past."""
        path = self._path(check_disposable(key))
        try:
            until = _promised(path)
            if until is not None and until > now:
                raise RefusedError(f"{key} is promised until {timestamp(until)}: it stays")
            path.unlink(missing_ok=True)
            _promise_of(path).unlink(missing_ok=True)
            if path.parent.is_dir():
                _flush(path.parent)
        except OSError as err:
            raise ArchiveError(f"could not delete {key}: {err.strerror}") from err

    def keys(self, prefix: str) -> Iterator[str]:
        """See :class:`~longseal.archive.interface.Archive`."""
        folder, _, start = check_prefix(prefix).rpartition("/")
        return self._keys(f"{folder}/" if folder else "", start)

    def trials(self) -> Iterator[Trial]:
        """See :class:`~longseal.archive.interface.Archive`."""
        self.check()
        yield Trial("overwrite", True, "a name that is taken is not linked again")
        nobody = "whoever administers the disk can"
        yield Trial("checksum", False, "no file system compares what it stores with a digest")
        yield Trial("lock", False, f"{nobody} delete a file before its date")
        yield Trial("shorten", False, f"{nobody} bring a date forward")
        yield Trial("hold", False, f"{nobody} delete what is held")

    def _keys(self, folder: str, start: str = "") -> Iterator[str]:
        try:
            with os.scandir(self._root / folder) as entries:
                # With the slash in the name, folders sort as their keys do: "a-b" before "a/b".
                names = sorted(
                    f"{entry.name}/" if entry.is_dir() else entry.name
                    for entry in entries
                    if entry.name.startswith(start) and is_key(folder + entry.name)
                )
        except (FileNotFoundError, NotADirectoryError) as err:
            self._require_root(err)
            return
        except OSError as err:
            raise ArchiveError(f"could not list {folder} in the archive: {err.strerror}") from err
        for name in names:
            if name.endswith("/"):
                yield from self._keys(folder + name)
            else:
                yield folder + name

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _require_root(self, err: OSError) -> None:
        if not self._root.is_dir():
            raise ArchiveError(f"the archive {self._root} is gone: mount it again") from err

    def _make(self, folder: Path) -> None:
        if folder == self._root or folder.is_dir():
            return
        self._make(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        _flush(folder.parent)


def _create(path: Path, data: bytes, retain_until: datetime | None) -> bool:
    with _temporary(path.parent, data) as written:
        _promise(path, retain_until)
        try:
            os.link(written, path)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def _temporary(folder: Path, data: bytes) -> Iterator[str]:
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        yield name
    finally:
        Path(name).unlink()


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _promise(path: Path, until: datetime | None) -> None:
    if until is None or until <= (_promised(path) or until.min.replace(tzinfo=UTC)):
        return
    # Lines are only ever appended and the latest date counts: no race can shorten a promise.
    with _promise_of(path).open("ab", buffering=0) as file:
        file.write(f"{timestamp(until)}\n".encode())
        os.fsync(file.fileno())


def _promised(path: Path) -> datetime | None:
    try:
        lines = _promise_of(path).read_text().splitlines()
    except FileNotFoundError:
        return None
    try:
        return max(map(parse_timestamp, lines), default=None)
    except MalformedError as err:
        raise ArchiveError(f"{_promise_of(path)} is damaged, restore its dates: {err}") from err


def _promise_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.retain")
