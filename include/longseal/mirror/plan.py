"""What a site should have: the images of its repositories, with the evidence for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from longseal.canonical import canonical_json, parse_object
from longseal.catalog.models import Evidence, Image
from longseal.patterns import matches_any
from longseal.registry.model import is_tag
from longseal.settings import SiteSettings
from longseal.workspace import Workspace

MAX_PLAN_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shipment:
    """One image on its way to a site.

    :param tags: what the source calls it
    :param referrers: manifests that travel with it: verified attestations, image statements
    """

    registry: str
    repository: str
    image: str
    tags: tuple[str, ...]
    referrers: tuple[str, ...]

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
        )


@dataclass(slots=True)
class Plan:
    """What travels to a site, and what does not.

    :param withheld: images whose evidence does not allow it, with why
    """

    shipments: list[Shipment] = field(default_factory=list)
    withheld: dict[str, str] = field(default_factory=dict)

    def without(self, refused: Mapping[str, str]) -> Plan:
        """The plan as it turned out: images that were not sent are withheld."""
        return Plan(
            [one for one in self.shipments if one.name not in refused],
            self.withheld | dict(refused),
        )

    def keep(self, workspace: Workspace) -> str:
        """Archive the plan, so that tasks can name it by its digest."""
        return workspace.keep(
            canonical_json(
                {
                    "shipments": [one.to_json() for one in self.shipments],
                    "withheld": self.withheld,
                }
            )
        )

    @classmethod
    def kept(cls, workspace: Workspace, digest: str) -> Plan:
        """The plan that :meth:`keep` archived under ``digest``."""
        value = parse_object(workspace.kept(digest), "a mirror plan", MAX_PLAN_BYTES)
        return cls([Shipment.from_json(one) for one in value["shipments"]], value["withheld"])


def plan(workspace: Workspace, site: SiteSettings) -> Plan:
    """Plan what ``site`` should have, from what was harvested and verified.

    :raises RegistryError: the tags of a repository cannot be listed
    """
    found = Plan()
    tags: dict[tuple[str, str], dict[str, list[str]]] = {}
    statements: dict[tuple[str, str, str], list[str]] = {}
    for row in workspace.catalog.image_statements():
        statements.setdefault((row.source, row.repository, row.image), []).append(row.manifest)
    sources = {chosen.name for chosen in workspace.settings.registries}
    for image in workspace.catalog.images():
        if image.source not in sources or not matches_any(site.repositories, image.repository):
            continue
        evidence = workspace.catalog.evidence(
            source=image.source, repository=image.repository, image=image.digest
        )
        reason = _withheld(image, evidence)
        if reason is not None:
            found.withheld[f"{image.repository}@{image.digest}"] = reason
            continue
        place = (image.source, image.repository)
        if place not in tags:
            tags[place] = _tags(workspace, *place)
        there = _there(image)
        manifests = {
            row.manifest
            for row in evidence
            # What was pruned comes from the archive.
            if _travels(row) and (row.manifest in there or row.tombstone is not None)
        }
        manifests.update(statements.get((*place, image.digest), ()))
        found.shipments.append(
            Shipment(
                *place,
                image.digest,
                tuple(tags[place].get(image.digest, ())),
                tuple(sorted(manifests)),
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


def _tags(workspace: Workspace, source: str, repository: str) -> dict[str, list[str]]:
    registry = workspace.registry(source)
    found: dict[str, list[str]] = {}
    for tag in registry.tags(repository):
        if is_tag(tag) and not tag.startswith("sha256-"):
            digest = registry.resolve(repository, tag)
            if digest is not None:
                found.setdefault(digest, []).append(tag)
    return found
