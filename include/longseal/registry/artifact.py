"""Files by name as an OCI artifact: a manifest whose layers carry their names, so that ``oras
pull`` writes the folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from longseal.canonical import canonical_json, digest_of
from longseal.registry.attach import EMPTY, described
from longseal.registry.interface import Manifest, Registry
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST

TITLE: Final = "org.opencontainers.image.title"


@dataclass(frozen=True, slots=True)
class File:
    """One layer; ``size`` in bytes."""

    name: str
    digest: str
    size: int
    media_type: str


def artifact_manifest(
    artifact_type: str, files: Sequence[File], annotations: Mapping[str, str] | None = None
) -> Manifest:
    """The same bytes for the same files, in their order."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": described(EMPTY_CONFIG, EMPTY),
        "layers": [
            {
                "mediaType": one.media_type,
                "digest": one.digest,
                "size": one.size,
                "annotations": {TITLE: one.name},
            }
            for one in files
        ],
    }
    if annotations is not None:
        document["annotations"] = dict(annotations)
    data = canonical_json(document)
    return Manifest(digest_of(data), OCI_MANIFEST, data)


def put_artifact(
    registry: Registry,
    repository: str,
    tag: str,
    manifest: Manifest,
    files: Sequence[File],
    read: Callable[[str], bytes],
) -> int:
    """Store what is missing, the tagged manifest last.

    :param read: the bytes of a file by its name; asked only for what is missing
    :returns: how many blobs and manifests were written
    :raises RegistryError: the registry did not take it
    """
    written = 1
    if not registry.has_blob(repository, digest_of(EMPTY)):
        registry.put_blob(repository, digest_of(EMPTY), len(EMPTY), io.BytesIO(EMPTY))
        written += 1
    for one in files:
        if not registry.has_blob(repository, one.digest):
            registry.put_blob(repository, one.digest, one.size, io.BytesIO(read(one.name)))
            written += 1
    registry.put_manifest(repository, manifest, tag)
    return written
