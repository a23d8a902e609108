"""The seam between Longseal and the places that hold images: a registry, or image layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An OCI content descriptor (image-spec, descriptor.md), as far as Longseal reads it.

    Artifact type and annotations are hints of whoever wrote them, never proof.

    :param platform: ``os/architecture`` or ``os/architecture/variant``, of an image in an index
    """

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or index as found: its untouched bytes, and what they are called.

    :param digest: SHA-256 of ``data``, checked by whoever made this object
    :param media_type: from the document itself, else from the answer's Content-Type
    """

    digest: str
    media_type: str
    data: bytes


class Source(Protocol):
    """What is copied from: the part of :class:`Registry` that finds and reads."""

    @property
    def name(self) -> str:
        """The name that the settings give it."""

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """The manifest or index under a tag or digest."""

    def resolve(self, repository: str, tag: str) -> str | None:
        """The digest that ``tag`` points to, without fetching the manifest where possible."""

    def blob(self, repository: str, digest: str, limit: int) -> bytes:
        """A blob, whole and hashed; more than ``limit`` bytes is a MalformedError."""

    def open_blob(self, repository: str, digest: str, start: int = 0) -> BinaryIO:
        """A blob as a stream, from the byte ``start`` on; the reader checks its digest."""


class Registry(Source, Protocol):
    """Reading and writing one place that holds images.

    Everything returned by digest has been hashed and matches. Absent is None, an empty tuple or
    False; "could not look" (401, 403, 429, 5xx, truncated, unreadable) is always an exception:
    :class:`~longseal.errors.RegistryError` where waiting may help, else a permanent error.
    """

    def repositories(self) -> Iterator[str]:
        """Every repository that the place lists and the settings' patterns take, sorted."""

    def tags(self, repository: str) -> tuple[str, ...]:
        """Every tag of ``repository``, all pages, sorted; empty where the repository is absent."""

    def referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...] | None:
        """All pages of the referrers API (distribution-spec 1.1); None where there is none."""

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the blob is there."""

    def put_blob(self, repository: str, digest: str, size: int, data: BinaryIO) -> bool:
        """Store a blob; the far end checks the digest. What can seek is taken up after a cut.

        :returns: whether its bytes were sent: it may be there, or in a neighbouring repository
        """

    def put_manifest(self, repository: str, manifest: Manifest, tag: str | None = None) -> None:
        """Store a manifest under its digest, and under ``tag`` where one is given."""

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete a manifest by digest; one that is gone already is no error.

        :raises RefusedError: the place does not delete (405)
        """
