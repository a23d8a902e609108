"""Attaching a document to an image as an OCI 1.1 referrer, and taking it away again.

Where the registry does not list the referrer itself, the fallback tag of distribution-spec 1.1
("referrers tag schema") does. That tag is read, changed and written with no lock between clients:
what was written is read again, and written again where somebody else won.
"""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from longseal.canonical import canonical_json, digest_of, parse_object
from longseal.errors import RefusedError, RegistryError
from longseal.registry.interface import Descriptor, Manifest, Registry
from longseal.registry.model import (
    EMPTY_CONFIG,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    fallback_tag,
    is_index,
    parse_index,
    parse_manifest,
)

EMPTY: Final = b"{}"
ATTEMPTS: Final = 8
_PAUSE: Final = 0.05

Entries = list[dict[str, Any]]


def attachment_manifest(
    subject: Descriptor, artifact_type: str, layer_bytes: bytes, annotations: Mapping[str, str]
) -> Manifest:
    """The referrer manifest: one layer, the empty config, the same bytes for the same input."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": described(EMPTY_CONFIG, EMPTY),
        "layers": [described(artifact_type, layer_bytes)],
        "subject": {
            "mediaType": subject.media_type,
            "digest": subject.digest,
            "size": subject.size,
        },
        "annotations": dict(annotations),
    }
    data = canonical_json(document)
    return Manifest(digest_of(data), OCI_MANIFEST, data)


def attach(
    registry: Registry,
    repository: str,
    subject: Descriptor,
    artifact_type: str,
    layer_bytes: bytes,
    annotations: Mapping[str, str],
) -> str:
    """Attach ``layer_bytes`` to ``subject``; doing so again writes nothing.

    :returns: the referrer manifest's digest
    :raises RefusedError: the registry would not store it, or something else has the fallback tag
    :raises RegistryError: it could not be stored, or others kept changing the fallback tag
    """
    manifest = attachment_manifest(subject, artifact_type, layer_bytes, annotations)
    if registry.manifest(repository, manifest.digest) is None:
        for data in (EMPTY, layer_bytes):
            registry.put_blob(repository, digest_of(data), len(data), io.BytesIO(data))
        registry.put_manifest(repository, manifest)
    # Asking is surer than the OCI-Subject header: some send it and list nothing (sigstore-js#1183).
    listed = registry.referrers(repository, subject.digest)
    if listed is None or all(item.digest != manifest.digest for item in listed):
        list_in_fallback(registry, repository, subject.digest, [manifest])
    return manifest.digest


def list_in_fallback(
    registry: Registry, repository: str, subject_digest: str, manifests: Sequence[Manifest]
) -> None:
    """Name stored referrers in the fallback index of their subject, keeping all others there."""
    wanted = [_entry(manifest) for manifest in manifests]

    def add(entries: Entries) -> Entries:
        listed = {known.get("digest") for known in entries}
        return [*entries, *(entry for entry in wanted if entry["digest"] not in listed)]

    _change_fallback(registry, repository, subject_digest, add)


def _entry(manifest: Manifest) -> dict[str, Any]:
    parsed = parse_manifest(manifest.data, manifest.media_type)
    return {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.data),
        "artifactType": parsed.artifact_type or "",
        "annotations": dict(parsed.annotations),
    }


def detach(registry: Registry, repository: str, subject_digest: str, manifest_digest: str) -> None:
    """Delete a referrer manifest, then mend the fallback index where it names it.

    :raises RefusedError: the registry does not delete; nothing was changed
    """
    registry.delete_manifest(repository, manifest_digest)
    drop_from_fallback(registry, repository, subject_digest, {manifest_digest})


def drop_from_fallback(
    registry: Registry, repository: str, subject_digest: str, manifests: Collection[str]
) -> None:
    """Have the fallback index of a subject no longer name these referrers."""

    def drop(entries: Entries) -> Entries:
        return [known for known in entries if known.get("digest") not in manifests]

    _change_fallback(registry, repository, subject_digest, drop)


def _change_fallback(
    registry: Registry,
    repository: str,
    subject_digest: str,
    change: Callable[[Entries], Entries],
) -> None:
    tag = fallback_tag(subject_digest)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
        current = registry.manifest(repository, tag)
        document, entries = _read(current, subject_digest, tag)
        changed = change(entries)
        if changed == entries:
            return
        if not changed and current is not None:
            # The index named nothing else; without it the tag goes too.
            registry.delete_manifest(repository, current.digest)
            continue
        data = json.dumps({**document, "manifests": changed}, separators=(",", ":")).encode()
        registry.put_manifest(repository, Manifest(digest_of(data), OCI_INDEX, data), tag)
    current = registry.manifest(repository, tag)
    _, entries = _read(current, subject_digest, tag)
    if change(entries) != entries:
        raise RegistryError(f"{repository}: others keep changing the tag {tag}; try again later")


def _read(
    current: Manifest | None, subject_digest: str, tag: str
) -> tuple[dict[str, Any], Entries]:
    """The fallback index as a document, with all that others wrote into it."""
    # GitLab resolves the tag to the subject itself where there is no such tag.
    if current is None or current.digest == subject_digest:
        return {"schemaVersion": 2, "mediaType": OCI_INDEX}, []
    if not is_index(current.media_type):
        raise RefusedError(f"the tag {tag} names something that is no list of referrers")
    parse_index(current.data, current.media_type)
    document = parse_object(current.data, "index", MAX_MANIFEST_BYTES)
    return document, document.get("manifests") or []


def described(media_type: str, data: bytes) -> dict[str, Any]:
    """The OCI descriptor of some bytes."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
