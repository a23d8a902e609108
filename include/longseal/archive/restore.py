"""Restore: pruned attestations come back to their image, byte for byte, from the archive.

The tombstone stays where it is; a line of a restoration follows it, and the ledger has it as well.
From then on the attestation counts as being there: it is looked for, and pruned again by a later
plan unless a legal hold covers it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from longseal.archive.document import attachment_of
from longseal.archive.pack import load_pack
from longseal.archive.tombstones import note_restored, tombstones
from longseal.canonical import digest_of, hex_of, parse_object, timestamp
from longseal.catalog.models import Evidence
from longseal.errors import RefusedError, RegistryError, VerificationError
from longseal.registry.attach import EMPTY, list_in_fallback
from longseal.registry.attachment import classify
from longseal.registry.interface import Manifest, Registry
from longseal.registry.model import (
    OCI_MANIFEST,
    ImageManifest,
    fallback_tag,
    parse_manifest,
    parse_subject,
)
from longseal.workspace import Workspace

_TAGS: Final = {"dsse": ".att", "simplesigning": ".sig"}
_BEGINNING: Final = "0001-01-01T00:00:00Z"


def restore(
    workspace: Workspace, digest: str, registry: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Put back what was pruned and ``digest`` names. May be killed and run again.

    :param digest: of an image, of an attestation, or of the manifest that carries it
    :param registry: the registry by its name in the settings; None for all that had it
    :param dry_run: read the archive and ask the registry, and write nothing
    :raises RefusedError: nothing of it was pruned
    :raises VerificationError: an archived copy is not what it must be
    """
    rows = [
        row
        for row in workspace.catalog.about(digest)
        if row.tombstone is not None and registry in (None, row.source)
    ]
    # What a prune that is under way has marked is not gone yet, or not all of it.
    named = {str(row.tombstone) for row in rows}
    finished = {one.deletion for one in tombstones(workspace, named)}
    rows = [row for row in rows if row.tombstone in finished]
    if not rows:
        where = f" from {registry}" if registry else ""
        raise RefusedError(f"nothing that {digest} names was pruned{where}")
    found = archived(workspace, rows)
    back: list[Evidence] = []
    failed: dict[str, str] = {}
    for (source, repository, image, manifest), group in groupby(
        sorted(rows, key=attachment_of), key=attachment_of
    ):
        members = list(group)
        try:
            put_back(workspace.registry(source), image, members, found, dry_run)
        except (RefusedError, RegistryError) as err:
            failed[f"{source}/{repository}@{image} {manifest}"] = str(err)
        else:
            back += members
    if back and not dry_run:
        _note(workspace, back)
    return {
        "would_restore" if dry_run else "restored": sorted({row.manifest for row in back}),
        "evidence": len(back),
        "failed": failed,
    }


def archived(workspace: Workspace, rows: Sequence[Evidence]) -> dict[str, bytes]:
    """By digest, the manifests and the layers of ``rows`` that the packs have."""
    found: dict[str, bytes] = {}
    leaves = {row.leaf for row in rows}
    for pack in sorted({row.pack for row in rows}):
        for item in load_pack(workspace.archive, pack):
            if item.leaf.line().decode() in leaves:
                found[item.leaf.manifest] = item.manifest
                found[f"sha256:{item.leaf.sha256}"] = item.payload
    return found


def put_back(
    registry: Registry,
    image: str,
    rows: Sequence[Evidence],
    found: Mapping[str, bytes],
    dry_run: bool = False,
) -> None:
    """Write one attachment back; what is there already is left alone.

    :param rows: of its evidence
    :param found: by digest, its manifest and its layers
    :param dry_run: find out whether it could be written
    :raises RefusedError: the image is gone, the tag has others, or a blob is nowhere to be had
    """
    repository, digest = rows[0].repository, rows[0].manifest
    data = found.get(digest)
    if data is None:
        raise VerificationError(f"no pack that the catalog names has the manifest {digest}")
    if registry.manifest(repository, image) is None:
        raise RefusedError(f"{repository}@{image} is no longer in {registry.name}: push it first")
    media_type = parse_object(data, "a manifest").get("mediaType") or OCI_MANIFEST
    manifest = Manifest(digest, media_type, data)
    parsed = parse_manifest(data, media_type)
    blobs = {**found, digest_of(EMPTY): EMPTY, **older_config(parsed)}
    wanted = [one.digest for one in (parsed.config, *parsed.layers) if one is not None]
    absent = [one for one in wanted if not registry.has_blob(repository, one)]
    if lost := [one for one in absent if one not in blobs]:
        raise RefusedError(
            f"{digest} needs {', '.join(lost)}, which {registry.name} has not and the archive never"
            " had: they are no attestations. Nothing was written"
        )
    tag = None
    if parse_subject(data) is None:
        tag = _free_tag(registry, repository, image, manifest, parsed)
    if dry_run:
        return
    for one in absent:
        registry.put_blob(repository, one, len(blobs[one]), io.BytesIO(blobs[one]))
    if tag is not None:
        registry.put_manifest(repository, manifest, tag)
        return
    registry.put_manifest(repository, manifest)
    listed = registry.referrers(repository, image)
    if listed is None or all(one.digest != digest for one in listed):
        list_in_fallback(registry, repository, image, [manifest])


def _free_tag(
    registry: Registry, repository: str, image: str, manifest: Manifest, parsed: ImageManifest
) -> str:
    """Cosign's older attachments have no subject: whoever looks for them looks for their tags."""
    suffix = older_suffix(parsed)
    if suffix is None:
        raise RefusedError(f"{manifest.digest} has no subject, and no layer says whose tag it had")
    tag = f"{fallback_tag(image)}{suffix}"
    there = registry.manifest(repository, tag)
    if there is not None and there.digest != manifest.digest:
        layers = {one.digest for one in parse_manifest(there.data, there.media_type).layers}
        if more := layers - {one.digest for one in parsed.layers}:
            raise RefusedError(
                f"the tag {tag} has {len(more)} layers that {manifest.digest} lacks: it stays as it"
                " is, and nothing was put back"
            )
    return tag


def older_suffix(parsed: ImageManifest) -> str | None:
    """Of the tag that one of cosign's older attachments has, as its layers tell."""
    suffixes = {_TAGS.get(classify(layer.media_type)) for layer in parsed.layers} - {None}
    return suffixes.pop() if len(suffixes) == 1 else None


def older_config(parsed: ImageManifest) -> dict[str, bytes]:
    """Cosign's older attachments have a configuration that follows from their layers."""
    layers = [one.digest for one in parsed.layers]
    document = {
        "architecture": "",
        "created": _BEGINNING,
        "history": [{"created": _BEGINNING}] * len(layers),
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": layers},
        "config": {},
    }
    data = json.dumps(document, separators=(",", ":")).encode()
    return {digest_of(data): data}


def _note(workspace: Workspace, rows: Sequence[Evidence]) -> None:
    at = timestamp(workspace.now())
    lines = []
    for (source, repository, image, manifest, deletion), group in groupby(
        sorted(rows, key=_buried), key=_buried
    ):
        lines.append(
            {
                "registry": source,
                "repository": repository,
                "image": image,
                "manifest": manifest,
                "bundles": sorted(hex_of(row.bundle) for row in group),
                "deletion": deletion,
                "restoredAt": at,
                "actor": workspace.actor,
            }
        )
    # The archive first: the catalog is made again from it.
    key = note_restored(workspace, lines)
    workspace.note("evidence.restored", {"restoration": key, "attachments": len(lines)})
    workspace.catalog.bury([row.id for row in rows], None)


def _buried(row: Evidence) -> tuple[str, str, str, str, str]:
    return (*attachment_of(row), str(row.tombstone))
