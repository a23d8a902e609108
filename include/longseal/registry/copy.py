"""Copying images between places that hold images: blobs, then manifests from the leaves up, then
the tag. A copy that was cut off shows nothing half done, and goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from longseal.canonical import hex_of
from longseal.errors import MalformedError, RegistryError
from longseal.patterns import ANYTHING, matches_any
from longseal.registry.discovery import MAX_CHILDREN, MAX_DEPTH
from longseal.registry.interface import Descriptor, Manifest, Registry, Source
from longseal.registry.model import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    is_index,
    parse_index,
    parse_manifest,
)

WORKERS: Final = 4
ATTEMPTS: Final = 4
"""How often a blob is opened at one place of it before the source is given up."""

_READ: Final = 256 * 1024
"""Bytes read at a time: what breaks off with them is read again."""

REFERENCE: Final = "vnd.docker.reference.digest"
"""Annotation of what BuildKit lists beside an image: the image's digest."""

_FOREIGN: Final = ("nondistributable", ".foreign.")


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did.

    :param blobs_sent: blobs and manifests written to the target
    :param bytes_sent: their bytes
    :param already_there: blobs and manifests that the target had
    """

    blobs_sent: int = 0
    bytes_sent: int = 0
    already_there: int = 0

    def __add__(self, other: Copied) -> Copied:
        return Copied(
            self.blobs_sent + other.blobs_sent,
            self.bytes_sent + other.bytes_sent,
            self.already_there + other.already_there,
        )


def copy_blob(
    source: Source,
    target: Registry,
    repository: str,
    target_repository: str,
    blob: Descriptor,
) -> Copied:
    """Stream one blob, hashed on the way; nothing is read or sent that the target has.

    :raises RegistryError: the source has other bytes, or either side failed
    """
    with _Checked(source, repository, blob) as stream:
        sent = target.put_blob(target_repository, blob.digest, blob.size, cast(BinaryIO, stream))
    return Copied(1, blob.size) if sent else Copied(already_there=1)


def copy_manifest_tree(
    source: Source,
    target: Registry,
    repository: str,
    target_repository: str,
    digest: str,
    tag: str | None = None,
    workers: int = WORKERS,
    platforms: Sequence[str] = ANYTHING,
) -> Copied:
    """Copy a manifest or index with all below it; referrers are not below it.

    :param tag: what the target calls it, set last
    :param workers: blobs under way at a time
    :param platforms: patterns of the platforms that are copied of an index
    :raises RegistryError: something listed is not there, or either side failed
    :raises MalformedError: deeper or wider than discovery would go
    """
    manifests = _tree(source, repository, digest, platforms)
    blobs = {blob.digest: blob for manifest in manifests for blob in _blobs(manifest)}
    pool = ThreadPoolExecutor(workers, "longseal-copy")
    try:
        results: Iterable[Copied] = pool.map(
            lambda blob: copy_blob(source, target, repository, target_repository, blob),
            blobs.values(),
        )
        copied = sum(results, Copied())
    finally:
        pool.shutdown(cancel_futures=True)
    for manifest in reversed(manifests):
        last = tag if manifest.digest == digest else None
        copied += _copy_manifest(target, target_repository, manifest, last)
    return copied


def is_whole(
    place: Registry, repository: str, digest: str, platforms: Sequence[str] = ANYTHING
) -> bool:
    """Whether a manifest or index is there with all below it; manifests are read and hashed."""
    try:
        manifests = _tree(place, repository, digest, platforms)
    except RegistryError:
        return False
    return all(
        place.has_blob(repository, blob.digest)
        for manifest in manifests
        for blob in _blobs(manifest)
    )


def _copy_manifest(
    target: Registry, repository: str, manifest: Manifest, tag: str | None
) -> Copied:
    present = target.manifest(repository, manifest.digest) is not None
    if present and (tag is None or target.resolve(repository, tag) == manifest.digest):
        return Copied(already_there=1)
    target.put_manifest(repository, manifest, tag)
    return Copied(already_there=1) if present else Copied(1, len(manifest.data))


def _tree(source: Source, repository: str, digest: str, platforms: Sequence[str]) -> list[Manifest]:
    """The manifest and all below it; each after every manifest that lists it."""
    found: dict[str, Manifest] = {}
    level = [digest]
    for _ in range(MAX_DEPTH + 1):
        below: list[str] = []
        if len(found.keys() | set(level)) > MAX_CHILDREN:
            raise MalformedError(f"{digest} has more than {MAX_CHILDREN} manifests in it")
        for wanted in dict.fromkeys(level):
            manifest = found.pop(wanted, None) or source.manifest(repository, wanted)
            if manifest is None:
                raise RegistryError(f"{repository}: {wanted} is not there")
            found[wanted] = manifest
            below += [child.digest for child in chosen(manifest, platforms)]
        if not below:
            return list(found.values())
        level = below
    raise MalformedError(f"{digest} nests indexes deeper than {MAX_DEPTH} levels")


def chosen(manifest: Manifest, platforms: Sequence[str]) -> list[Descriptor]:
    """The manifests that an index lists, as far as they are of ``platforms``.

    What BuildKit put beside an image goes where the image goes.
    """
    if not is_index(manifest.media_type):
        return []
    listed = [
        item
        for item in parse_index(manifest.data, manifest.media_type)
        if item.media_type in MANIFEST_TYPES | INDEX_TYPES
    ]
    if tuple(platforms) == ANYTHING:
        return listed
    left = {
        item.digest
        for item in listed
        if item.platform is not None
        and REFERENCE not in item.annotations
        # A pattern of two parts takes every variant.
        and not matches_any(platforms, item.platform)
        and not matches_any(platforms, "/".join(item.platform.split("/")[:2]))
    }
    return [
        item
        for item in listed
        if item.digest not in left and item.annotations.get(REFERENCE) not in left
    ]


def _blobs(manifest: Manifest) -> Iterator[Descriptor]:
    if is_index(manifest.media_type):
        for item in parse_index(manifest.data, manifest.media_type):
            if item.media_type not in MANIFEST_TYPES | INDEX_TYPES:
                yield item
        return
    parsed = parse_manifest(manifest.data, manifest.media_type)
    for blob in (parsed.config, *parsed.layers):
        # Foreign layers are on their maker's servers, and no registry need have them.
        if blob is not None and not any(part in blob.media_type for part in _FOREIGN):
            yield blob


class _Checked(io.RawIOBase):
    """A blob that breaks off before its last bytes when they are not what was promised.

    It is opened when first read, and again where the source breaks off on the way.
    """

    def __init__(self, source: Source, repository: str, blob: Descriptor) -> None:
        self._source = source
        self._repository = repository
        self._blob = blob
        self._stream: BinaryIO | None = None
        self._at = 0
        self._hash = hashlib.sha256()
        self._hashed = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            offset += self._blob.size
        if offset != self._at:
            self._leave()
            self._at = offset
        return offset

    def read(self, count: int = -1, /) -> bytes:
        """Some bytes, at most ``count``; none at the end. Nothing is copied on the way."""
        wanted = _READ if count < 0 else min(count, _READ)
        data = self._read(min(wanted, self._blob.size - self._at))
        # Bytes that are read again, after a cut, were hashed; the far end hashes what it gets.
        self._hash.update(data[max(self._hashed - self._at, 0) :])
        self._at += len(data)
        self._hashed = max(self._hashed, self._at)
        ended = self._hashed == self._blob.size or not data
        if ended and (
            self._hashed != self._blob.size or self._hash.hexdigest() != hex_of(self._blob.digest)
        ):
            raise RegistryError(
                f"expected {self._blob.size} bytes of {self._blob.digest}, got {self._hashed} of "
                f"sha256:{self._hash.hexdigest()}"
            )
        return data

    def close(self) -> None:
        self._leave()
        super().close()

    def _read(self, count: int) -> bytes:
        for attempt in range(ATTEMPTS):
            if count <= 0:
                return b""
            if self._stream is None:
                self._stream = self._source.open_blob(self._repository, self._blob.digest, self._at)
            try:
                data = self._stream.read(count)
            except RegistryError:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                if data or attempt == ATTEMPTS - 1:
                    return data
            self._leave()
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
