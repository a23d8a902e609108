"""Clearance: what hangs on an image is verified before any of it leaves, and is found even where
its registry no longer has it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from longseal.archive.leaf import Leaf
from longseal.archive.pack import load_evidence
from longseal.archive.restore import archived, older_config
from longseal.canonical import MAX_JSON_BYTES, digest_of, is_digest, parse_object
from longseal.catalog.models import Evidence
from longseal.errors import RegistryError
from longseal.mirror.plan import Shipment
from longseal.registry.attach import EMPTY
from longseal.registry.interface import Manifest, Source
from longseal.registry.model import OCI_MANIFEST, parse_manifest
from longseal.verify.engine import Outcome
from longseal.verify.pool import Case, VerifierPool
from longseal.workspace import Workspace


class Outbound:
    """A registry as the source of one image; what was pruned there comes from the archive.

    What was read to be verified is kept, and sent as it was then.

    :param rows: the image's evidence
    """

    def __init__(self, workspace: Workspace, registry: Source, rows: Sequence[Evidence]) -> None:
        self._workspace = workspace
        self._registry = registry
        self._pruned = [row for row in rows if row.tombstone is not None]
        self._archived: dict[str, bytes] | None = None
        self._manifests: dict[str, Manifest] = {}
        self._blobs: dict[str, bytes] = {digest_of(EMPTY): EMPTY}

    @property
    def name(self) -> str:
        """The registry's."""
        return self._registry.name

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        """See :class:`~longseal.registry.interface.Source`."""
        if reference in self._manifests:
            return self._manifests[reference]
        found = self._registry.manifest(repository, reference)
        if found is None and is_digest(reference):
            found = self._archived_manifest(reference)
        if found is not None and is_digest(reference):
            self._manifests[reference] = found
        return found

    def resolve(self, repository: str, tag: str) -> str | None:
        """See :class:`~longseal.registry.interface.Source`."""
        return self._registry.resolve(repository, tag)

    def blob(self, repository: str, digest: str, limit: int) -> bytes:
        """See :class:`~longseal.registry.interface.Source`."""
        if digest not in self._blobs:
            data = self._archived_blob(digest)
            if data is None:
                data = self._registry.blob(repository, digest, limit)
            self._blobs[digest] = data
        return self._blobs[digest]

    def open_blob(self, repository: str, digest: str, start: int = 0) -> BinaryIO:
        """See :class:`~longseal.registry.interface.Source`."""
        data = self._blobs.get(digest) or self._archived_blob(digest)
        if data is None:
            return self._registry.open_blob(repository, digest, start)
        return io.BytesIO(data[start:])

    def _archived_blob(self, digest: str) -> bytes | None:
        if all(row.bundle != digest for row in self._pruned):
            return None
        return self._from_archive().get(digest)

    def _archived_manifest(self, digest: str) -> Manifest | None:
        if all(row.manifest != digest for row in self._pruned):
            return None
        data = self._from_archive().get(digest)
        if data is None:
            raise RegistryError(f"{digest} was pruned, and no pack of the catalog has it")
        media_type = parse_object(data, "a manifest").get("mediaType") or OCI_MANIFEST
        self._blobs |= older_config(parse_manifest(data, media_type))
        return Manifest(digest, media_type, data)

    def _from_archive(self) -> dict[str, bytes]:
        if self._archived is None:
            self._archived = archived(self._workspace, self._pruned)
        return self._archived


def objection(
    workspace: Workspace,
    verifiers: VerifierPool,
    outbound: Outbound,
    shipment: Shipment,
    rows: Sequence[Evidence],
) -> str | None:
    """Why an image may not leave; None where it may.

    Every attestation that travels and was found good is verified again, from the bytes that are to
    be sent, under the trusted root and the policy in force.

    :raises RegistryError: they cannot be read
    """
    judged = [
        row for row in rows if row.verdict == "verified" and row.manifest in shipment.referrers
    ]
    if not judged:
        return "no attestation of it is verified"
    cases = list(_cases(workspace, outbound, judged))
    for row, found in zip(judged, verifiers.submit(cases).result(), strict=True):
        if found.outcome is not Outcome.VERIFIED:
            said = "could not be checked" if found.outcome is Outcome.UNKNOWN else "does not verify"
            return f"{row.manifest} {said} under the policy in force: {found.reason}"
    return None


def _cases(workspace: Workspace, outbound: Outbound, rows: Sequence[Evidence]) -> Iterator[Case]:
    for row in rows:
        manifest = outbound.manifest(row.repository, row.manifest)
        if manifest is None:
            raise RegistryError(f"{row.repository}: {row.manifest} is not there")
        material: tuple[bytes, ...] = ()
        if Leaf.parse(row.leaf.encode()).material:
            material = load_evidence(workspace.archive, row.pack, row.leaf).material
        yield Case(
            outbound.blob(row.repository, row.bundle, MAX_JSON_BYTES),
            row.image,
            row.repository,
            row.collected_at,
            manifest.data,
            material=material,
        )
