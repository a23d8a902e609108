"""A volume cut into parts that fit a medium, a file system or a one-way link.

The parts, put together, are one plain tar archive: ``cat PART… | tar x`` gives the volume without
Longseal. The same volume gives the same bytes, so a part that was lost is cut again alone. The kit
comes first. Nothing in ``parts.json`` is proof: the inventory is.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from longseal.canonical import canonical_json, digest_of, is_digest, parse_object
from longseal.errors import ArchiveError, MalformedError, RefusedError, VerificationError
from longseal.mirror.delivery import IMAGES, SITE
from longseal.mirror.encryption import decrypt, encrypt
from longseal.mirror.folder import (
    TEMPORARY,
    Chunks,
    file_digest,
    read_file,
    write_chunks,
    write_file,
    written,
)
from longseal.mirror.inventory import MAX_BYTES, Inventory
from longseal.mirror.kit import INVENTORY, INVENTORY_BUNDLE
from longseal.verify.report import Report

PARTS: Final = "parts.json"
SIZE: Final = 4095 * 1024 * 1024
"""Bytes of a part: FAT32 takes no file of 4 GiB."""

MIN_SIZE: Final = 4096
MAX_PARTS: Final = 10_000
MAX_MEMBERS: Final = 2_000_000

_CHUNK: Final = 1024 * 1024
_BLOCK: Final = tarfile.BLOCKSIZE
_MAX_NAME: Final = 1024
_PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}\.tar\.\d{4}(\.age)?")
_PIECE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_LIMIT: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """:param size: in bytes, as it is carried
    :param plain: digest of what an encrypted one hides; None where it is not encrypted
    """

    name: str
    size: int
    digest: str
    plain: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the list has it."""
        hidden = {} if self.plain is None else {"plain": self.plain}
        return {"name": self.name, "size": self.size, "digest": self.digest, **hidden}


@dataclass(frozen=True, slots=True)
class Cut:
    """The list of parts, ``parts.json``.

    :param inventory: digest of the signed bundle of the volume's inventory
    """

    site: str
    sequence: int
    inventory: str
    parts: tuple[Part, ...]

    def format(self) -> bytes:
        """RFC 8785 JSON."""
        return canonical_json(
            {
                "site": self.site,
                "sequence": self.sequence,
                "inventory": self.inventory,
                "parts": [one.to_json() for one in self.parts],
            }
        )

    @classmethod
    def read(cls, folder: Path) -> Cut:
        """The list in a folder of parts.

        :raises VerificationError: there is none
        """
        found = parse_object(read_file(folder, PARTS, _LIMIT), PARTS, _LIMIT)
        try:
            parts = tuple(
                Part(one["name"], one["size"], one["digest"], one.get("plain"))
                for one in found["parts"]
            )
            sound = all(
                _PART.fullmatch(one.name)
                and type(one.size) is int
                and one.size > 0
                and is_digest(one.digest)
                for one in parts
            )
            cut = cls(str(found["site"]), int(found["sequence"]), str(found["inventory"]), parts)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise MalformedError(f"{PARTS} is no list of parts") from err
        if not sound or not 1 <= len(parts) <= MAX_PARTS or len({*parts}) != len(parts):
            raise MalformedError(f"{PARTS} is no list of 1 to {MAX_PARTS} parts")
        return cut


def cut(
    volume: Path, to: Path, size: int = SIZE, recipients: Sequence[str] = ()
) -> tuple[Cut, int]:
    """Cut a volume; a part that is there with the right bytes is left alone.

    :param volume: as the mirror wrote it, complete
    :param to: a folder; made where it is not there
    :param size: most bytes of a part
    :param recipients: of age, to whom the parts are encrypted; none: they are not
    :returns: the list, and how many parts were written
    :raises ArchiveError: a part cannot be written
    """
    if size < MIN_SIZE:
        raise RefusedError(f"a part has at least {MIN_SIZE} bytes")
    inventory = Inventory.parse(read_file(volume, f"{SITE}/{INVENTORY}", MAX_BYTES))
    bundle = digest_of(read_file(volume, f"{SITE}/{INVENTORY_BUNDLE}", MAX_BYTES))
    members = list(_members(volume))
    total = sum(len(header) + _padded(length) for header, _, length in members) + 2 * _BLOCK
    count = -(-total // size)
    if count > MAX_PARTS:
        raise RefusedError(f"{count} parts are more than {MAX_PARTS}: choose a larger size")
    known = _known(to)
    parts, fresh = [], 0
    for number in range(count):
        name = f"{inventory.site}-{inventory.sequence:06}.tar.{number:04}"
        name += ".age" if recipients else ""
        start, stop = number * size, min((number + 1) * size, total)
        path = to / name
        found = file_digest(path)
        plain = None if found is None else _hashed(_slice(members, start, stop))
        before = known.get(name)
        if not recipients:
            whole = found is not None and found == plain
        else:
            # Encrypted anew it would have other bytes.
            whole = before is not None and (before.plain, before.digest) == (plain, found)
        if not whole:
            plain = _write(path, _slice(members, start, stop), recipients)
            found = file_digest(path) if recipients else plain
            fresh += 1
        if found is None:
            raise ArchiveError(f"{path} cannot be read again")
        parts.append(Part(name, path.stat().st_size, found, plain if recipients else None))
        if recipients:
            _list(to, inventory, bundle, parts)
    return _list(to, inventory, bundle, parts), fresh


def _list(to: Path, inventory: Inventory, bundle: str, parts: Sequence[Part]) -> Cut:
    """Write the list; of encrypted parts after each, so that a cut that is killed goes on."""
    found = Cut(inventory.site, inventory.sequence, bundle, tuple(parts))
    write_file(to / PARTS, found.format())
    return found


def _known(to: Path) -> dict[str, Part]:
    try:
        return {one.name: one for one in Cut.read(to).parts}
    except (VerificationError, MalformedError):
        return {}


def _write(path: Path, chunks: Iterator[bytes], recipients: Sequence[str]) -> str:
    """:returns: digest of what was written, before it was encrypted"""
    hasher = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in chunks:
            hasher.update(chunk)
            yield chunk

    with written(path) as file:
        if recipients:
            encrypt(hashed(), file, recipients)
        else:
            file.writelines(hashed())
    return f"sha256:{hasher.hexdigest()}"


def check(report: Report, folder: Path) -> Cut | None:
    """Check each part on its own, so that a bad one is named and only it is brought again.

    :returns: None where the list is unreadable
    """
    found: list[Cut] = []

    def listed() -> str:
        found.append(Cut.read(folder))
        return f"{len(found[0].parts)} parts of volume {found[0].sequence} for {found[0].site}"

    if not report.attempt(PARTS, listed):
        return None
    by_digest = {one.digest: one.name for one in found[0].parts}
    for part in found[0].parts:

        def whole(part: Part = part) -> str:
            digest = file_digest(folder / part.name)
            if digest is None:
                raise VerificationError("it is not here: bring it again")
            if digest != part.digest:
                other = by_digest.get(digest)
                what = f"it has the bytes of {other}" if other else f"it has other bytes ({digest})"
                raise VerificationError(f"{what}: bring it again")
            return f"{part.size} bytes"

        report.attempt(part.name, whole)
    return found[0]


def unpack(folder: Path, to: Path, identity: str | None = None) -> None:
    """Put the parts together, below ``to``; only plain files, and never outside it.

    :param identity: of age, for encrypted parts
    :raises MalformedError: a member that no volume has
    :raises ArchiveError: a file cannot be written
    """
    parts = Cut.read(folder).parts
    stream = io.BufferedReader(Chunks(_joined(folder, parts, to, identity)), _CHUNK)
    for _ in range(MAX_MEMBERS):
        header = _header(stream)
        if header is None:
            return
        name, size = header
        write_chunks(to / name, _exactly(stream, size, name))
        stream.read(_padded(size) - size)
    raise MalformedError(f"the parts hold more than {MAX_MEMBERS} files")


# -- writing -------------------------------------------------------------------------------------

_Member = tuple[bytes, Path, int]


def _members(volume: Path) -> Iterator[_Member]:
    """Headers, files and their sizes; the kit first, the inventory at its head."""
    first = [f"{SITE}/{INVENTORY}", f"{SITE}/{INVENTORY_BUNDLE}"]
    names = [
        path.relative_to(volume).as_posix()
        for top in (SITE, IMAGES)
        for path in sorted((volume / top).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]
    for name in [*first, *(one for one in names if one not in first)]:
        info = tarfile.TarInfo(name)
        info.size = (volume / name).stat().st_size
        yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"), volume / name, info.size


def _slice(members: list[_Member], start: int, stop: int) -> Iterator[bytes]:
    """The archive's bytes from ``start`` to ``stop``."""
    at = 0
    for header, path, size in members:
        end = at + len(header) + _padded(size)
        if end > start and at < stop:
            yield from _cut(at, header, start, stop)
            yield from _file(at + len(header), path, size, start, stop)
            filled = at + len(header) + size
            yield from _cut(filled, bytes(end - filled), start, stop)
        at = end
    yield from _cut(at, bytes(2 * _BLOCK), start, stop)


def _cut(at: int, data: bytes, start: int, stop: int) -> Iterator[bytes]:
    piece = data[max(start - at, 0) : max(stop - at, 0)]
    if piece:
        yield piece


def _file(at: int, path: Path, size: int, start: int, stop: int) -> Iterator[bytes]:
    begin, end = max(start - at, 0), min(stop - at, size)
    if begin >= end:
        return
    try:
        with path.open("rb") as file:
            file.seek(begin)
            left = end - begin
            while left and (chunk := file.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk
    except OSError as err:
        raise ArchiveError(f"{path} cannot be read: {err.strerror}") from err
    if left:
        raise ArchiveError(f"{path} was cut off while it was read: cut the volume again")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _hashed(chunks: Iterator[bytes]) -> str:
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


# -- reading -------------------------------------------------------------------------------------


def _header(stream: BinaryIO) -> tuple[str, int] | None:
    """The next file's name and size; None at the end. Only what :func:`_members` writes is read."""
    info = _info(stream)
    if info is None:
        return None
    name = info.name
    if info.type == tarfile.GNUTYPE_LONGNAME:
        if not 0 < info.size <= _MAX_NAME:
            raise MalformedError(f"a name of {info.size} bytes")
        name = stream.read(_padded(info.size))[: info.size].rstrip(b"\0").decode("utf-8", "replace")
        info = _info(stream)
    if info is None or info.type != tarfile.REGTYPE or info.size < 0:
        raise MalformedError(f"{name[:80]!a} is no plain file: a link, device or folder is refused")
    pieces = name.split("/")
    if pieces[0] not in (SITE, IMAGES) or len(pieces) < 2 or len(pieces) > 32:
        raise MalformedError(f"a volume has no file {name[:80]!a}")
    if any(".." in piece or not _PIECE.fullmatch(piece) for piece in pieces):
        raise MalformedError(f"a volume has no file {name[:80]!a}")
    return name, info.size


def _info(stream: BinaryIO) -> tarfile.TarInfo | None:
    block = stream.read(_BLOCK)
    if block == bytes(_BLOCK):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as err:
        raise MalformedError(f"the parts are no archive of a volume: {err}") from err


def _exactly(stream: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    left = size
    while left:
        chunk = stream.read(min(_CHUNK, left))
        if not chunk:
            raise MalformedError(f"the parts end in the middle of {name}")
        left -= len(chunk)
        yield chunk


def _joined(
    folder: Path, parts: Sequence[Part], work: Path, identity: str | None
) -> Iterator[bytes]:
    """The parts, one after the other."""
    for part in parts:
        path = folder / part.name
        with _opened(path) if part.plain is None else _decrypted(path, work, identity) as file:
            while chunk := file.read(_CHUNK):
                yield chunk


def _decrypted(path: Path, work: Path, identity: str | None) -> BinaryIO:
    if identity is None:
        raise VerificationError(f"{path.name} is encrypted, and the site has no age identity")
    plain = work / f"{TEMPORARY}part"
    plain.parent.mkdir(parents=True, exist_ok=True)
    decrypt(path, plain, identity)
    found = _opened(plain)
    plain.unlink()
    return found


def _opened(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as err:
        raise VerificationError(f"{path.name}: {err.strerror}") from err
