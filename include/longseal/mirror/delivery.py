"""Bringing images and their evidence to a site: a registry, or a volume that is carried there.

Blobs go first, then manifests, then the lists of referrers, and tags last, so that nothing is
visible before all that it needs is there; a delivery that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from longseal.archive.restore import older_suffix
from longseal.canonical import digest_of
from longseal.errors import LongsealError, RefusedError, RegistryError, SettingsError
from longseal.mirror.clearance import Outbound, objection
from longseal.mirror.folder import write_file
from longseal.mirror.kit import KIT_REPOSITORY, KIT_TYPE, Kit
from longseal.mirror.plan import Shipment
from longseal.patterns import ANYTHING
from longseal.registry.artifact import File, artifact_manifest, put_artifact
from longseal.registry.attach import list_in_fallback
from longseal.registry.copy import Copied, copy_manifest_tree, is_whole
from longseal.registry.discovery import LEGACY
from longseal.registry.interface import Manifest, Registry, Source
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import (
    fallback_tag,
    is_index,
    parse_index,
    parse_manifest,
    parse_subject,
)
from longseal.settings import RegistrySiteSettings, SiteSettings
from longseal.verify.pool import VerifierPool
from longseal.workspace import Workspace

WORKERS: Final = 8
"""Images under way at once."""

MAX_LOST: Final = 16
"""Images in a row that do not arrive before the others are left to the next run."""

IMAGES: Final = "images"
"""The folder of a volume that holds one OCI image layout a repository."""

SITE: Final = "site"
"""The folder of a volume that holds the kit."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Delivered:
    """What a delivery did.

    :param failed: images that did not arrive, with why; the next run tries them again
    :param wanting: images that the site did not have whole
    :param refused: images that were not sent, since what hangs on them does not verify, with why
    """

    images: int = 0
    copied: Copied = field(default_factory=Copied)
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    wanting: list[str] = field(default_factory=list)

    def add(self, other: Delivered) -> None:
        """Count another batch in."""
        self.images += other.images
        self.copied += other.copied
        self.failed |= other.failed
        self.refused |= other.refused
        self.wanting += other.wanting

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {
            "images": self.images,
            **asdict(self.copied),
            "failed": self.failed,
            "refused": self.refused,
            "wanting": self.wanting,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Delivered:
        """The inverse of :meth:`to_json`."""
        copied = Copied(value["blobs_sent"], value["bytes_sent"], value["already_there"])
        return cls(
            value["images"],
            copied,
            dict(value["failed"]),
            dict(value["refused"]),
            list(value["wanting"]),
        )


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


def deliver(
    workspace: Workspace,
    site: SiteSettings,
    shipments: Sequence[Shipment],
    dry_run: bool = False,
) -> Delivered:
    """Bring ``shipments`` to ``site``; what the site has is not sent.

    What hangs on an image is verified before anything of it leaves.

    :param dry_run: only find out what the site lacks; it counts as ``wanting``
    :raises RegistryError: the site does not answer
    """
    target = target_of(workspace, site)
    done = Delivered()
    wanting = []
    if shipments:
        # Asked by one thread: a site that is down is given up at once.
        complete(target, shipments[0])
    with ThreadPoolExecutor(WORKERS) as pool:
        looks = pool.map(partial(_attempted, partial(complete, target)), shipments)
        for shipment, found in zip(shipments, looks, strict=True):
            if isinstance(found, str):
                done.failed[shipment.name] = found
            elif found:
                done.images += 1
                done.copied += Copied(already_there=1 + len(shipment.referrers))
            else:
                wanting.append(shipment)
    done.wanting = [shipment.name for shipment in wanting]
    if wanting and not dry_run:
        done.add(_send(workspace, target, wanting))
    return done


def _send(workspace: Workspace, target: Registry, shipments: Sequence[Shipment]) -> Delivered:
    # Opened here, once each: the threads below share them.
    sources = {one.registry: workspace.registry(one.registry) for one in shipments}
    done = Delivered()
    lost = 0

    def send(shipment: Shipment) -> Delivered:
        if lost >= MAX_LOST:
            raise RegistryError(f"not tried: {lost} images before it did not arrive either")
        rows = workspace.catalog.evidence(
            source=shipment.registry, repository=shipment.repository, image=shipment.image
        )
        outbound = Outbound(workspace, sources[shipment.registry], rows)
        reason = objection(workspace, verifiers, outbound, shipment, rows)
        if reason is not None:
            return Delivered(refused={shipment.name: reason})
        return Delivered(1, ship(outbound, target, shipment))

    workers = workspace.settings.harvest_workers
    with (
        VerifierPool(workspace.trusted_root, workspace.policy, workers) as verifiers,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        for shipment, sent in zip(
            shipments, pool.map(partial(_attempted, send), shipments), strict=True
        ):
            if isinstance(sent, str):
                done.failed[shipment.name] = sent
                lost += 1
            else:
                done.add(sent)
                lost = 0
    return done


def _attempted(do: Callable[[Shipment], _T], shipment: Shipment) -> _T | str:
    """What became of a shipment, or why nothing did: it is one image's failure, not the site's."""
    try:
        return do(shipment)
    except LongsealError as err:
        return str(err)


def complete(target: Registry, shipment: Shipment, deep: bool = False) -> bool:
    """Whether the site has an image with all that hangs on it, under all its tags.

    Manifests are stored after what they need, so their presence tells.

    :param deep: do not go by that: read every manifest, and ask for every blob
    :raises RegistryError: the site could not be asked
    """
    repository, image = shipment.repository, shipment.image
    if isinstance(target, LayoutRegistry):
        # To look costs nothing here, and a file may have been lost.
        deep = True
    if target.manifest(repository, image) is None:
        return False
    if deep and not all(
        is_whole(target, repository, digest, shipment.platforms)
        for digest in (image, *shipment.referrers)
    ):
        return False
    if any(target.resolve(repository, tag) != image for tag in shipment.tags):
        return False
    missing = set(shipment.referrers)
    missing -= _listed(target, repository, image, missing)
    for suffix in LEGACY if missing else ():
        missing.discard(target.resolve(repository, fallback_tag(image) + suffix) or "")
    return not missing


def _listed(target: Registry, repository: str, image: str, wanted: set[str]) -> set[str]:
    """What the site says hangs on an image, as far as it is wanted."""
    found = {item.digest for item in target.referrers(repository, image) or ()}
    if wanted <= found and not isinstance(target, LayoutRegistry):
        return found
    index = target.manifest(repository, fallback_tag(image))
    named: set[str] = set()
    if index is not None and index.digest != image and is_index(index.media_type):
        named = {item.digest for item in parse_index(index.data, index.media_type)}
    # A layout lists referrers by itself, and regctl reads only the fallback tag there.
    return found & named if isinstance(target, LayoutRegistry) else found | named


def ship(source: Source, target: Registry, shipment: Shipment) -> Copied:
    """Bring one image with what hangs on it: blobs, manifests, what lists them, and tags last.

    :raises RegistryError: something is not there, or either side failed
    :raises RefusedError: the target does not take it
    """
    repository = shipment.repository
    copied = Copied()
    for digest in (shipment.image, *shipment.referrers):
        try:
            copied += copy_manifest_tree(
                source,
                target,
                repository,
                repository,
                digest,
                workers=1,
                platforms=shipment.platforms,
            )
        except RefusedError as err:
            if shipment.platforms == ANYTHING:
                raise
            raise RefusedError(
                f"{err}; a registry that wants every image of an index cannot have some platforms"
            ) from err
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
        _tag_older(source, target, shipment, [one for one in manifests if one not in listed])
    return copied + put_tags(target, shipment)


def put_tags(target: Registry, shipment: Shipment) -> Copied:
    """Give an image that is there its tags."""
    repository, copied = shipment.repository, Copied()
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


def _tag_older(
    source: Source, target: Registry, shipment: Shipment, manifests: Sequence[Manifest]
) -> None:
    """Cosign's older attachments have no subject: whoever looks for them looks for their tags.

    Where a tag is no longer at the source, what had it says so itself.
    """
    base, repository = fallback_tag(shipment.image), shipment.repository
    by_digest = {one.digest: one for one in manifests}
    tags: dict[str, Manifest] = {}
    for one in manifests:
        suffix = older_suffix(parse_manifest(one.data, one.media_type))
        if suffix is not None:
            tags[base + suffix] = one
    for suffix in LEGACY if manifests else ():
        digest = source.resolve(repository, base + suffix)
        if digest in by_digest:
            tags[base + suffix] = by_digest[digest]
    for tag, manifest in tags.items():
        if target.resolve(repository, tag) != manifest.digest:
            target.put_manifest(repository, manifest, tag)


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
    return sum(write_file(site.path / SITE / name, data) for name, data in kit.files.items())


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
