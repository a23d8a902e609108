"""What a site should have: the images of its repositories, with the evidence for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from longseal.canonical import canonical_json, parse_object
from longseal.catalog.models import Evidence, Image
from longseal.patterns import ANYTHING, matches, matches_any
from longseal.registry.copy import chosen
from longseal.registry.memory import Memory
from longseal.registry.model import is_tag
from longseal.settings import EVERYTHING, RegistrySiteSettings, SiteSettings
from longseal.workspace import Workspace

MAX_PLAN_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shipment:
    """One image on its way to a site.

    :param tags: what the source calls it
    :param referrers: manifests that travel with it: verified attestations, image statements
    :param platforms: patterns of what travels of an index
    """

    registry: str
    repository: str
    image: str
    tags: tuple[str, ...]
    referrers: tuple[str, ...]
    platforms: tuple[str, ...] = ANYTHING

    @property
    def name(self) -> str:
        """As reports name it."""
        return f"{self.repository}@{self.image}"

    def to_json(self) -> dict[str, Any]:
        """For an XCom."""
        return {
            "registry": self.registry,
            "repository": self.repository,
            "image": self.image,
            "tags": list(self.tags),
            "referrers": list(self.referrers),
            "platforms": list(self.platforms),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Shipment:
        """The inverse of :meth:`to_json`."""
        return cls(
            value["registry"],
            value["repository"],
            value["image"],
            tuple(value["tags"]),
            tuple(value["referrers"]),
            tuple(value["platforms"]),
        )


@dataclass(slots=True)
class Plan:
    """What travels to a site, and what does not.

    :param withheld: images whose evidence does not allow it, with why
    :param part: of what the site should have, only what was asked for: no inventory says so little
    """

    shipments: list[Shipment] = field(default_factory=list)
    withheld: dict[str, str] = field(default_factory=dict)
    part: bool = False

    def without(self, refused: Mapping[str, str]) -> Plan:
        """The plan as it turned out: images that were not sent are withheld."""
        return Plan(
            [one for one in self.shipments if one.name not in refused],
            self.withheld | dict(refused),
            self.part,
        )

    def keep(self, workspace: Workspace) -> str:
        """Archive the plan, so that tasks can name it by its digest."""
        return workspace.keep(
            canonical_json(
                {
                    "shipments": [one.to_json() for one in self.shipments],
                    "withheld": self.withheld,
                    "part": self.part,
                }
            )
        )

    @classmethod
    def kept(cls, workspace: Workspace, digest: str) -> Plan:
        """The plan that :meth:`keep` archived under ``digest``."""
        value = parse_object(workspace.kept(digest), "a mirror plan", MAX_PLAN_BYTES)
        shipments = [Shipment.from_json(one) for one in value["shipments"]]
        return cls(shipments, value["withheld"], value["part"])


def plan(
    workspace: Workspace,
    site: SiteSettings,
    repository: str | None = None,
    image: str | None = None,
) -> Plan:
    """Plan what ``site`` should have, from what was harvested and verified.

    :param repository: pattern of the only repositories to plan for; None for all of the site's
    :param image: digest of the only image to plan for
    :raises RegistryError: the tags of a repository cannot be listed
    """
    found = Plan(part=repository is not None or image is not None)
    repositories: dict[tuple[str, str], _Repository] = {}
    statements: dict[tuple[str, str, str], list[str]] = {}
    for one in workspace.catalog.image_statements():
        statements.setdefault((one.source, one.repository, one.image), []).append(one.manifest)
    sources = {chosen.name for chosen in workspace.settings.registries}
    for row in workspace.catalog.images():
        if row.source not in sources or not matches_any(site.repositories, row.repository):
            continue
        if not matches(repository or "**", row.repository) or image not in (None, row.digest):
            continue
        place = (row.source, row.repository)
        if place not in repositories:
            repositories[place] = _Repository.read(workspace, site, *place)
        if not repositories[place].gives(row.digest):
            continue
        evidence = workspace.catalog.evidence(
            source=row.source, repository=row.repository, image=row.digest
        )
        reason = _withheld(row, evidence)
        if reason is not None:
            found.withheld[f"{row.repository}@{row.digest}"] = reason
            continue
        there = _there(row)
        manifests = {
            attached.manifest
            for attached in evidence
            # What was pruned comes from the archive.
            if _travels(attached) and (attached.manifest in there or attached.tombstone is not None)
        }
        manifests.update(statements.get((*place, row.digest), ()))
        found.shipments.append(
            Shipment(
                *place,
                row.digest,
                tuple(repositories[place].tags.get(row.digest, ())),
                tuple(sorted(manifests)),
                _platforms(site),
            )
        )
    return found


def _withheld(image: Image, evidence: list[Evidence]) -> str | None:
    if image.state == "vanished":
        return "evidence of it has vanished from the registry: look into that first"
    if image.state == "unknown":
        return "its attestations could not all be looked for: harvest again"
    if not any(row.verdict == "verified" for row in evidence):
        return "no attestation of it is verified"
    return None


def _there(image: Image) -> set[str]:
    """What the last search found; cosign's older tags leave earlier manifests behind."""
    record = parse_object(image.record.encode(), "a completeness record")
    return set(record["found"])


def _travels(row: Evidence) -> bool:
    return row.verdict in ("verified", "ignored") and not row.in_index


@dataclass(frozen=True, slots=True)
class _Repository:
    """What a site is to have of one repository.

    :param tags: by digest, those that the site takes
    :param taken: digests of what has such a tag, and of all below it; None for everything
    :param left: digests that indexes list for other platforms
    """

    tags: Mapping[str, list[str]]
    taken: frozenset[str] | None
    left: frozenset[str]

    def gives(self, digest: str) -> bool:
        return digest not in self.left and (self.taken is None or digest in self.taken)

    @classmethod
    def read(
        cls, workspace: Workspace, site: SiteSettings, source: str, repository: str
    ) -> _Repository:
        registry = workspace.registry(source)
        tags: dict[str, list[str]] = {}
        for tag in registry.tags(repository):
            if is_tag(tag) and not tag.startswith("sha256-") and site.tags.takes(tag):
                digest = registry.resolve(repository, tag)
                if digest is not None:
                    tags.setdefault(digest, []).append(tag)
        platforms = _platforms(site)
        if site.tags == EVERYTHING and platforms == ANYTHING:
            return cls(tags, None, frozenset())
        memory = Memory(workspace.catalog, registry, [repository], workspace.now())
        below = {digest: memory.below(repository, digest) for digest in tags}
        taken = frozenset(chain(*below.values()))
        left: set[str] = set()
        indexes = {one for found in below.values() for one in found if found[one].children}
        for digest in indexes if platforms != ANYTHING else ():
            manifest = registry.manifest(repository, digest)
            if manifest is not None:
                left.update(one.digest for one in chosen(manifest, ANYTHING))
                left.difference_update(one.digest for one in chosen(manifest, platforms))
        return cls(tags, None if site.tags == EVERYTHING else taken, frozenset(left))


def _platforms(site: SiteSettings) -> tuple[str, ...]:
    return site.platforms if isinstance(site, RegistrySiteSettings) else ANYTHING
