"""Bringing images and their evidence to a site: a registry, or a volume that is carried there.

Blobs go first, then manifests, then the lists of referrers, and tags last, so that nothing is
visible before all that it needs is there; a delivery that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from longseal.canonical import digest_of
from longseal.errors import RegistryError, SettingsError
from longseal.mirror.folder import write_file
from longseal.mirror.kit import KIT_REPOSITORY, KIT_TYPE, Kit
from longseal.mirror.plan import Shipment
from longseal.registry.artifact import File, artifact_manifest, put_artifact
from longseal.registry.attach import list_in_fallback
from longseal.registry.copy import Copied, copy_manifest_tree
from longseal.registry.discovery import LEGACY
from longseal.registry.interface import Manifest, Registry
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import fallback_tag, parse_subject
from longseal.settings import RegistrySiteSettings, SiteSettings
from longseal.workspace import Workspace

WORKERS: Final = 8
"""Images under way at once."""

IMAGES: Final = "images"
"""The folder of a volume that holds one OCI image layout a repository."""


@dataclass(slots=True)
class Delivered:
    """What a delivery did.

    :param failed: images that did not arrive, with why; the next run tries them again
    """

    images: int = 0
    copied: Copied = field(default_factory=Copied)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: Delivered) -> None:
        """Count another batch in."""
        self.images += other.images
        self.copied += other.copied
        self.failed |= other.failed

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {
            "images": self.images,
            "blobs_sent": self.copied.blobs_sent,
            "bytes_sent": self.copied.bytes_sent,
            "already_there": self.copied.already_there,
            "failed": self.failed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Delivered:
        """The inverse of :meth:`to_json`."""
        copied = Copied(value["blobs_sent"], value["bytes_sent"], value["already_there"])
        return cls(value["images"], copied, dict(value["failed"]))


def target_of(workspace: Workspace, site: SiteSettings) -> Registry:
    """Where the images of a site go.

    :raises SettingsError: the folder of a volume is not there: it may not be mounted
    """
    if isinstance(site, RegistrySiteSettings):
        return workspace.site_registry(site)
    if not site.path.is_dir():
        raise SettingsError(
            "sites.path", f"{site.path} is no folder: mount or make the volume of {site.name} first"
        )
    return LayoutRegistry(site.name, site.path / IMAGES)


def deliver(workspace: Workspace, site: SiteSettings, shipments: Sequence[Shipment]) -> Delivered:
    """Bring ``shipments`` to ``site``; what the site has is not sent."""
    target = target_of(workspace, site)
    # Opened here, once each: the threads below share them.
    sources = {one.registry: workspace.registry(one.registry) for one in shipments}
    done = Delivered()
    with ThreadPoolExecutor(WORKERS) as pool:

        def attempt(shipment: Shipment) -> Copied | str:
            try:
                return ship(sources[shipment.registry], target, shipment)
            except RegistryError as err:
                return str(err)

        for shipment, result in zip(shipments, pool.map(attempt, shipments), strict=True):
            if isinstance(result, str):
                done.failed[f"{shipment.repository}@{shipment.image}"] = result
            else:
                done.images += 1
                done.copied += result
    return done


def ship(source: Registry, target: Registry, shipment: Shipment) -> Copied:
    """Bring one image with what hangs on it, and set its tags last.

    :raises RegistryError: something is not there, or either side failed
    """
    repository = shipment.repository
    copied = Copied()
    for digest in (shipment.image, *shipment.referrers):
        copied += copy_manifest_tree(source, target, repository, repository, digest, workers=1)
        if isinstance(target, LayoutRegistry) and digest != shipment.image:
            _require_listed(target, shipment, digest)
    known: set[str] = set()
    # A layout lists referrers by itself, and regctl reads only the fallback tag there.
    if not isinstance(target, LayoutRegistry):
        known = {item.digest for item in target.referrers(repository, shipment.image) or ()}
    unlisted = [digest for digest in shipment.referrers if digest not in known]
    if unlisted:
        manifests = [_arrived(target, repository, digest) for digest in unlisted]
        listed = [one for one in manifests if parse_subject(one.data) is not None]
        if listed:
            list_in_fallback(target, repository, shipment.image, listed)
        if len(listed) < len(manifests):
            _tag_older(source, target, shipment)
    for tag in shipment.tags:
        if target.resolve(repository, tag) != shipment.image:
            manifest = _arrived(target, repository, shipment.image)
            target.put_manifest(repository, manifest, tag)
            copied += Copied(1, len(manifest.data))
    return copied


def _require_listed(target: LayoutRegistry, shipment: Shipment, digest: str) -> None:
    """A kill may have come between a referrer's file and its line in ``index.json``."""
    known = target.referrers(shipment.repository, shipment.image)
    if all(item.digest != digest for item in known):
        manifest = _arrived(target, shipment.repository, digest)
        target.put_manifest(shipment.repository, manifest)


def _tag_older(source: Registry, target: Registry, shipment: Shipment) -> None:
    """Cosign's older attachments have no subject: whoever looks for them looks for their tags."""
    for suffix in LEGACY:
        tag = fallback_tag(shipment.image) + suffix
        digest = source.resolve(shipment.repository, tag)
        there = target.resolve(shipment.repository, tag)
        if digest is not None and digest in shipment.referrers and digest != there:
            manifest = _arrived(target, shipment.repository, digest)
            target.put_manifest(shipment.repository, manifest, tag)


def _arrived(target: Registry, repository: str, digest: str) -> Manifest:
    manifest = target.manifest(repository, digest)
    if manifest is None:
        raise RegistryError(f"{repository}: {digest} did not stay at {target.name}")
    return manifest


def put_kit(workspace: Workspace, site: SiteSettings, kit: Kit) -> int:
    """Bring the site's kit; files that are there already are left alone.

    :returns: how many files were written
    """
    if isinstance(site, RegistrySiteSettings):
        return push_kit(workspace.site_registry(site), kit.files)
    return sum(write_file(site.path / "site" / name, data) for name, data in kit.files.items())


def push_kit(target: Registry, kit: Mapping[str, bytes]) -> int:
    """Store a kit's files, by name, as one artifact.

    :returns: how many blobs and manifests were written
    """
    files = [
        File(name, digest_of(data), len(data), "application/octet-stream")
        for name, data in kit.items()
    ]
    manifest = artifact_manifest(KIT_TYPE, files)
    if target.resolve(KIT_REPOSITORY, "latest") == manifest.digest:
        return 0
    return put_artifact(target, KIT_REPOSITORY, "latest", manifest, files, kit.__getitem__)
