"""Intake: evidence that hangs in no registry, from the files of a CI run or from standard input.

It is judged, packed and sealed like what harvest finds, under the name of the repository that it is
said to be for. Files are a stranger's: no link is followed, no pipe is waited for, and a file that
is no evidence, or past the limits, ends in a reason while the others are taken in.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from longseal.canonical import digest_of, is_digest, parse_object
from longseal.errors import LongsealError, MalformedError, RefusedError
from longseal.harvest import Collector, Found, Harvested, judging
from longseal.registry.model import check_repository
from longseal.settings import INTAKE
from longseal.verify.documents import Piece, evidence_in
from longseal.verify.engine import Outcome
from longseal.verify.formats import intake_manifest, readings
from longseal.verify.policy import Reason
from longseal.verify.statement import Statement
from longseal.workspace import Workspace

MAX_DEPTH: Final = 64
"""Folders within folders."""

_SLICE: Final = 512
"""Pieces of evidence looked up together."""


def intake(
    workspace: Workspace,
    source: Path | BinaryIO,
    repository: str,
    artifact: str | None = None,
) -> Harvested:
    """Take in the evidence in a file, in all files of a folder, or in a stream.

    :param repository: whose evidence it is: the policy's rules are for repositories
    :param artifact: ``sha256:`` digest that the evidence must speak of; None: every image that its
        own statement names by such a digest, and where that names none, the evidence itself
    :raises MalformedError: not a repository's name, or not a digest
    :raises RefusedError: there is no such file or folder, or it is a pipe or a device
    :raises RetryableError: the archive did not take what was found
    """
    check_repository(repository)
    if artifact is not None and not is_digest(artifact):
        raise MalformedError(f"expected a digest sha256:…, found {artifact[:80]!a}")
    with judging(workspace) as pool:
        run = _Intake(workspace, Collector(workspace, INTAKE, pool), repository, artifact)
        run.take(source)
        return run.result


class _Intake:
    def __init__(
        self, workspace: Workspace, collector: Collector, repository: str, artifact: str | None
    ) -> None:
        self._workspace = workspace
        self._collector = collector
        self._repository = repository
        self._artifact = artifact
        self._seen: set[tuple[str, str]] = set()
        self.result = collector.result

    def take(self, source: Path | BinaryIO) -> None:
        self._collector.collect(self._unknown(self._found(source)))
        self._collector.note()

    def _found(self, source: Path | BinaryIO) -> Iterator[Found]:
        for name, file in self._files(source):
            with file:
                try:
                    for piece in evidence_in(file):
                        yield from self._filed(piece)
                except (OSError, MalformedError) as err:
                    self._pass_over(name, str(err))

    def _filed(self, piece: Piece) -> Iterator[Found]:
        """One piece for each image that it is filed under."""
        manifest = intake_manifest(piece.data, piece.format)
        settled = None
        images: tuple[str, ...] = ()
        if piece.format == "unreadable":
            settled = (Outcome.REJECTED, Reason("malformed", piece.reason))
        elif self._artifact is None:
            images = _images(piece.data, manifest)
        for image in images or (self._artifact or digest_of(piece.data),):
            key = (image, digest_of(manifest))
            if key not in self._seen:
                self._seen.add(key)
                yield Found(self._repository, image, manifest, piece.data, settled)

    def _unknown(self, found: Iterator[Found]) -> Iterator[Found]:
        catalog = self._workspace.catalog
        while part := list(islice(found, _SLICE)):
            images = {one.image for one in part}
            known = catalog.known_manifests(INTAKE, self._repository, images)
            for one in part:
                tally = self.result.of(one.image)
                tally.found += 1
                if digest_of(one.manifest) in known.get(one.image, ()):
                    tally.known += 1
                else:
                    yield one

    def _files(self, source: Path | BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
        if not isinstance(source, Path):
            yield "-", source
        elif source.is_dir():
            yield from self._below(source)
        else:
            try:
                yield source.name, _opened(str(source))
            except OSError as err:
                raise RefusedError(f"{source} cannot be read: {err.strerror}") from err
            except MalformedError as err:
                raise RefusedError(f"{source}: {err}; give - to read from a pipe") from err

    def _below(self, root: Path) -> Iterator[tuple[str, BinaryIO]]:
        walk = os.fwalk(root, onerror=lambda err: self._pass_over(err.filename, err.strerror))
        for folder, folders, files, descriptor in walk:
            relative = os.path.relpath(folder, root)
            if relative.count(os.sep) >= MAX_DEPTH:
                self._pass_over(relative, f"folders deeper than {MAX_DEPTH} are not read")
                folders.clear()
            folders.sort()
            links = [name for name in folders if _is_link(name, descriptor)]
            for name in sorted(files + links):
                path = str(Path(relative, name))
                try:
                    yield path, _opened(name, os.O_NOFOLLOW, descriptor)
                except OSError as err:
                    self._pass_over(path, err.strerror)
                except MalformedError as err:
                    self._pass_over(path, str(err))

    def _pass_over(self, name: Any, reason: str | None) -> None:
        shown = ascii(os.path.normpath(name))[1:-1]
        self.result.unreachable[f"{INTAKE}:{shown}"] = reason or "cannot be read"


def _images(payload: bytes, manifest: bytes) -> tuple[str, ...]:
    """The ``sha256:`` digests that evidence says it speaks of, before anybody has judged it."""
    try:
        bundle = parse_object(readings(payload, manifest)[0].bundle, "the bundle")
        subjects = _subjects(bundle)
    except LongsealError:
        return ()
    return tuple(one for one in subjects if is_digest(one))


def _subjects(bundle: dict[str, Any]) -> tuple[str, ...]:
    for content, parts in (
        ("dsseEnvelope", ("payload",)),
        ("messageSignature", ("messageDigest", "digest")),
    ):
        value: Any = bundle.get(content)
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str):
            try:
                data = base64.b64decode(value, validate=True)
            except ValueError as err:
                raise MalformedError("not base64") from err
            return Statement.parse(data).subjects if len(parts) == 1 else (f"sha256:{data.hex()}",)
    return ()


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _opened(name: str, flags: int = 0, folder: int | None = None) -> BinaryIO:
    """A plain file, opened for reading.

    :raises MalformedError: it is a link, a pipe or a device
    """
    try:
        # Opening a pipe would wait for a writer for ever.
        wanted = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags
        descriptor = os.open(name, wanted, dir_fd=folder)
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise MalformedError("a link: not followed") from err
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MalformedError("expected a plain file")
    return os.fdopen(descriptor, "rb")
