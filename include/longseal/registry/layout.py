"""A tree of OCI image layouts on disk, one layout a repository, as a place that holds images.

``root/<repository>/`` has ``oci-layout``, ``index.json`` and ``blobs/sha256/`` (image-spec 1.1,
image-layout.md). Whatever lies there came on a disk from somewhere: links, devices and names that
lead out of the root are refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from longseal.canonical import digest_of, hex_of, is_digest, parse_object
from longseal.errors import (
    LongsealError,
    MalformedError,
    PermanentError,
    RegistryError,
    UnsupportedError,
)
from longseal.patterns import matches_any
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    check_reference,
    check_repository,
    fallback_tag,
    is_tag,
    media_type_of,
    parse_descriptor,
    parse_index,
    parse_subject,
    subject_in_tag,
)

REF_NAME: Final = "org.opencontainers.image.ref.name"
MARKER: Final = b'{"imageLayoutVersion":"1.0.0"}'
MAX_INDEX_BYTES: Final = 64 * 1024 * 1024
MAX_ENTRIES: Final = 200_000
MAX_DEPTH: Final = 16
KEPT_REPOSITORIES: Final = 64
"""Repositories whose index is kept in mind: twice as many as a harvest asks for at once."""

_CHUNK: Final = 1024 * 1024
_KIND: Final = "dev.cosignproject.cosign/"
_SAVED: Final = {"sigs": ".sig", "atts": ".att"}


@dataclass(frozen=True, slots=True)
class _Index:
    """One state of an ``index.json``."""

    stamp: tuple[int, int, int]
    entries: tuple[Descriptor, ...]
    tags: dict[str, Descriptor]
    declared: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Attached:
    """Whose attachments the entries of one index are.

    :param unreadable: entries whose subject could not be read, with why
    """

    index: _Index
    by_subject: dict[str, tuple[Descriptor, ...]]
    unreadable: tuple[tuple[Descriptor, LongsealError], ...]
    owners: dict[str, set[str]]


@dataclass(slots=True)
class _Known:
    """What was read of a repository: the newest state, and subjects, which never change."""

    index: _Index
    subjects: dict[str, str | None] = field(default_factory=dict)
    attached: _Attached | None = None


class LayoutRegistry:
    """:class:`~longseal.registry.interface.Registry` over a folder; thread-safe.

    Tags are the layout's ``org.opencontainers.image.ref.name`` annotations, bare or after the last
    colon. Referrers are the entries of ``index.json`` whose manifest has the subject; the fallback
    tags that tools write into layouts are tags like any other.

    :param root: the folder; made on the first write
    """

    def __init__(self, name: str, root: Path, patterns: Sequence[str] = ("**",)) -> None:
        self._name = name
        self._root = Path(os.path.realpath(root))
        self._patterns = tuple(patterns)
        self._known: dict[str, _Known] = {}

    @property
    def name(self) -> str:
        return self._name

    def repositories(self) -> Iterator[str]:
        found = []
        for folder, children, files in os.walk(self._root, onerror=_raise):
            relative = os.path.relpath(folder, self._root)
            if "oci-layout" in files and relative != ".":
                children.clear()
                name = check_repository(relative.replace(os.sep, "/"))
                if matches_any(self._patterns, name):
                    found.append(name)
            elif relative.count(os.sep) >= MAX_DEPTH:
                children.clear()
        yield from sorted(found)

    def tags(self, repository: str) -> tuple[str, ...]:
        index = self._index(repository)
        return tuple(sorted(index.tags)) if index else ()

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        digest = self.resolve(repository, check_reference(reference))
        if digest is None:
            return None
        try:
            data = self.blob(repository, digest, MAX_MANIFEST_BYTES)
        except _Absent:
            if digest == reference:
                return None
            raise
        index = self._index(repository)
        declared = index.declared.get(digest) if index else None
        return Manifest(digest, media_type_of(data, declared), data)

    def resolve(self, repository: str, tag: str) -> str | None:
        if is_digest(tag):
            return tag
        index = self._index(repository)
        found = index.tags.get(tag) if index else None
        return found.digest if found else None

    def referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        """Never None: a layout answers by itself.

        An entry that cannot be read may have any subject, unless the layout itself says whose it
        is: then the answer for other images is whole without it.
        """
        hex_of(digest)
        index = self._index(repository)
        if index is None:
            return ()
        attached = self._attached(repository, index)
        while attached.unreadable and (newer := self._index(repository)) is not index:
            # Somebody deleted meanwhile what the older index lists.
            if newer is None:
                return ()
            index, attached = newer, self._attached(repository, newer)
        for entry, why in attached.unreadable:
            # A manifest has one subject only: what tags say of it is not another image's.
            owners = attached.owners.get(entry.digest)
            if owners is None or digest in owners:
                raise why
        return attached.by_subject.get(digest, ())

    def _attached(self, repository: str, index: _Index) -> _Attached:
        """The attachments of every image, looked up once for each state of ``index.json``."""
        known = self._known.setdefault(repository, _Known(index))
        if known.attached is not None and known.attached.index is index:
            return known.attached
        found: dict[str, dict[str, Descriptor]] = {}
        unreadable = []
        for entry in index.entries:
            try:
                subject = self._subject(repository, known.subjects, entry.digest)
            except LongsealError as err:
                # Of Docker's own kinds, none has a subject.
                if entry.media_type not in (DOCKER_MANIFEST, DOCKER_LIST):
                    unreadable.append((entry, err))
                continue
            if subject is not None:
                found.setdefault(subject, {})[entry.digest] = entry
        attached = _Attached(
            index,
            {subject: tuple(entries.values()) for subject, entries in found.items()},
            tuple(unreadable),
            self._named(repository, index) if unreadable else {},
        )
        known.attached = attached
        return attached

    def _named(self, repository: str, index: _Index) -> dict[str, set[str]]:
        """By manifest, whose attachment fallback tags and cosign's older tags say that it is."""
        named: dict[str, set[str]] = {}
        for tag, entry in index.tags.items():
            subject = subject_in_tag(tag)
            if subject is None:
                continue
            named.setdefault(entry.digest, set()).add(subject)
            if tag == fallback_tag(subject):
                try:
                    data = self.blob(repository, entry.digest, MAX_MANIFEST_BYTES)
                    listed = parse_index(data, entry.media_type)
                except LongsealError:
                    continue
                for item in listed:
                    named.setdefault(item.digest, set()).add(subject)
        return named

    def blob(self, repository: str, digest: str, limit: int) -> bytes:
        with self._open(self._blob_path(repository, digest)) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise MalformedError(f"{repository}: {digest} has more than {limit} bytes")
        if digest_of(data) != digest:
            raise RegistryError(
                f"{repository}: the file of {digest} has bytes of {digest_of(data)}"
            )
        return data

    def open_blob(self, repository: str, digest: str, start: int = 0) -> BinaryIO:
        file = self._open(self._blob_path(repository, digest))
        file.seek(start)
        return file

    def has_blob(self, repository: str, digest: str) -> bool:
        try:
            self._open(self._blob_path(repository, digest)).close()
        except _Absent:
            return False
        return True

    def put_blob(self, repository: str, digest: str, size: int, data: BinaryIO) -> bool:
        if self.has_blob(repository, digest):
            return False
        self._prepare(repository)
        path = self._blob_path(repository, digest)
        with self._written(path) as file:
            hashed = hashlib.sha256()
            total = 0
            while chunk := data.read(_CHUNK):
                hashed.update(chunk)
                total += len(chunk)
                if total > size:
                    break
                file.write(chunk)
            if total != size or hashed.hexdigest() != hex_of(digest):
                raise RegistryError(
                    f"{repository}: expected {size} bytes of {digest}, "
                    f"got {total} of sha256:{hashed.hexdigest()}"
                )
        return True

    def put_manifest(self, repository: str, manifest: Manifest, tag: str | None = None) -> None:
        """See the interface. ``index.json`` lists what has a tag and what has a subject."""
        if tag is not None and not is_tag(tag):
            raise MalformedError(f"not a tag: {tag[:80]!a}")
        if digest_of(manifest.data) != manifest.digest:
            raise MalformedError(f"the manifest's bytes are not of {manifest.digest}")
        size = len(manifest.data)
        self.put_blob(repository, manifest.digest, size, io.BytesIO(manifest.data))
        if tag is None and parse_subject(manifest.data) is None:
            return
        entry: dict[str, Any] = {
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": size,
        }
        if tag is not None:
            entry["annotations"] = {REF_NAME: tag}
        with self._locked(repository) as entries:
            for known in entries:
                listed = known.get("digest") == manifest.digest
                if listed and (tag is None or _tag_of(known) == tag):
                    return
            if tag is not None:
                entries[:] = [known for known in entries if _tag_of(known) != tag]
            entries.append(entry)

    def delete_manifest(self, repository: str, digest: str) -> None:
        path = self._blob_path(repository, digest)
        if self._index(repository) is None:
            return
        with self._locked(repository) as entries:
            entries[:] = [known for known in entries if known.get("digest") != digest]
        try:
            self._inside(path).unlink(missing_ok=True)
        except OSError as err:
            raise RegistryError(f"{repository}: cannot delete {digest}: {err}") from err

    def forget(self, repository: str, digest: str) -> bool:
        """Take a manifest out of ``index.json``; its file stays, for an index that lists it.

        :returns: whether it was there
        """
        hex_of(digest)
        index = self._index(repository)
        if index is None or all(entry.digest != digest for entry in index.entries):
            return False
        with self._locked(repository) as entries:
            entries[:] = [known for known in entries if known.get("digest") != digest]
        return True

    def _index(self, repository: str) -> _Index | None:
        """The parsed ``index.json``, read again only when the file has changed."""
        path = self._path(repository, "index.json")
        try:
            status = self._inside(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(self._path(repository, "oci-layout")):
                raise MalformedError(f"{repository}: an image layout without index.json") from None
            return None
        except OSError as err:
            raise RegistryError(f"{repository}: cannot read index.json: {err}") from err
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._known.get(repository)
        if known is not None and known.index.stamp == stamp:
            return known.index
        self._check_marker(repository)
        entries = tuple(parse_descriptor(entry) for entry in self._entries(repository))
        named = [(_tag_in(entry.annotations.get(REF_NAME)), entry) for entry in entries]
        index = _Index(
            stamp,
            entries,
            _saved(entries) | {tag: entry for tag, entry in named if tag is not None},
            {entry.digest: entry.media_type for entry in entries},
        )
        self._remember(repository, index)
        return index

    def _remember(self, repository: str, index: _Index) -> None:
        """Keep it in mind, and forget what was read longest ago: a run passes by many."""
        before = self._known.pop(repository, None)
        self._known[repository] = _Known(index, before.subjects if before else {})
        while len(self._known) > KEPT_REPOSITORIES:
            # Another thread may have forgotten the same one.
            self._known.pop(next(iter(self._known)), None)

    def _entries(self, repository: str) -> list[dict[str, Any]]:
        with self._open(self._path(repository, "index.json")) as file:
            data = file.read(MAX_INDEX_BYTES + 1)
        document = parse_object(data, f"{repository}/index.json", MAX_INDEX_BYTES)
        entries = document.get("manifests", "missing")
        if entries is None:
            entries = []  # Go encodes an empty list as null
        if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
            raise MalformedError(f"{repository}/index.json: no list of at most {MAX_ENTRIES}")
        if not all(isinstance(entry, dict) for entry in entries):
            raise MalformedError(f"{repository}/index.json: a descriptor is an object")
        return entries

    def _check_marker(self, repository: str) -> None:
        with self._open(self._path(repository, "oci-layout")) as file:
            marker = parse_object(file.read(4096), f"{repository}/oci-layout", 4095)
        version = marker.get("imageLayoutVersion")
        if version != "1.0.0":
            raise UnsupportedError(f"{repository}: image layout version {str(version)[:40]!a}")

    def _subject(self, repository: str, subjects: dict[str, str | None], digest: str) -> str | None:
        """The subject of a manifest, which never changes and so is looked up once."""
        if digest not in subjects:
            try:
                data = self.blob(repository, digest, MAX_MANIFEST_BYTES)
            except _Absent as err:
                raise RegistryError(
                    f"{repository}: index.json lists {digest}: no such file"
                ) from err
            try:
                subject = parse_subject(data)
            except PermanentError:
                # These are its very bytes: it names no subject that anybody could read.
                subject = None
            subjects[digest] = subject.digest if subject else None
        return subjects[digest]

    def _path(self, repository: str, *parts: str) -> Path:
        return self._root.joinpath(*check_repository(repository).split("/"), *parts)

    def _blob_path(self, repository: str, digest: str) -> Path:
        return self._path(repository, "blobs", "sha256", hex_of(digest))

    def _inside(self, path: Path) -> Path:
        if os.path.realpath(path) != str(path):
            raise MalformedError(f"{path.relative_to(self._root)}: a link: refused")
        return path

    def _open(self, path: Path) -> BinaryIO:
        shown = path.relative_to(self._root)
        try:
            # Opening a pipe would wait for a writer for ever.
            descriptor = os.open(
                self._inside(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            )
        except (FileNotFoundError, NotADirectoryError) as err:
            raise _Absent(f"{self._name}: there is no {shown}") from err
        except OSError as err:
            if err.errno == errno.ELOOP:
                raise MalformedError(f"{shown}: a link: refused") from err
            raise RegistryError(f"{self._name}: cannot read {shown}: {err.strerror}") from err
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise MalformedError(f"{shown}: expected a plain file")
        return os.fdopen(descriptor, "rb")

    def _prepare(self, repository: str) -> None:
        """Make the layout where there is none yet; ``oci-layout`` comes last."""
        if self._path(repository, "oci-layout").exists():
            return
        folder = self._path(repository, "blobs", "sha256")
        try:
            self._inside(folder).mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise RegistryError(f"{self._name}: cannot make {repository}: {err.strerror}") from err
        with self._alone(repository):
            for part, data in (("index.json", _index_bytes([])), ("oci-layout", MARKER)):
                path = self._path(repository, part)
                if not path.exists():
                    with self._written(path) as file:
                        file.write(data)

    @contextmanager
    def _written(self, path: Path) -> Iterator[BinaryIO]:
        """A file that appears under ``path`` whole and flushed to disk, or not at all."""
        temporary = self._inside(path).with_name(f".longseal-{secrets.token_hex(8)}")
        try:
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            with _folder(path.parent) as folder:
                os.fsync(folder)
        except OSError as err:
            shown = path.relative_to(self._root)
            raise RegistryError(f"{self._name}: cannot write {shown}: {err.strerror}") from err

    @contextmanager
    def _locked(self, repository: str) -> Iterator[list[dict[str, Any]]]:
        """The entries of ``index.json`` to be changed."""
        self._prepare(repository)
        with self._alone(repository):
            entries = self._entries(repository)
            before = json.dumps(entries)
            yield entries
            if json.dumps(entries) != before:
                with self._written(self._path(repository, "index.json")) as file:
                    file.write(_index_bytes(entries))

    @contextmanager
    def _alone(self, repository: str) -> Iterator[None]:
        """Keep other threads and processes out of the layout; leaves no lock file on a volume."""
        with _folder(self._path(repository)) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield


class _Absent(RegistryError):
    """The file is not there."""


def _index_bytes(entries: list[dict[str, Any]]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(document, separators=(",", ":")).encode()


def _tag_in(name: object) -> str | None:
    """The tag in a ref name: ``v1``, or the end of ``host/repository:v1``."""
    if not isinstance(name, str):
        return None
    tag = name.rpartition(":")[2]
    return tag if is_tag(tag) else None


def _saved(entries: Sequence[Descriptor]) -> dict[str, Descriptor]:
    """The older tags of a layout that ``cosign save`` wrote: it notes kinds in their place."""
    kinds = [(entry.annotations.get("kind", "").removeprefix(_KIND), entry) for entry in entries]
    images = [entry for kind, entry in kinds if kind in ("image", "imageIndex")]
    if len(images) != 1:
        return {}
    base = fallback_tag(images[0].digest)
    return {base + _SAVED[kind]: entry for kind, entry in kinds if kind in _SAVED}


def _tag_of(entry: dict[str, Any]) -> str | None:
    annotations = entry.get("annotations")
    return _tag_in(annotations.get(REF_NAME)) if isinstance(annotations, dict) else None


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _raise(err: OSError) -> None:
    if not isinstance(err, FileNotFoundError):
        raise RegistryError(f"cannot list the layouts: {err.strerror}") from err
