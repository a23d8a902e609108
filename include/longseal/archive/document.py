"""What a plan's document says: the items, and what was found of their archived copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from longseal.archive.interface import Stored
from longseal.canonical import (
    canonical_json,
    digest_of,
    hex_of,
    parse_object,
    parse_timestamp,
)
from longseal.errors import MalformedError, RefusedError, VerificationError
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.ceremony import BUNDLE, check_bundle
from longseal.seal.statement import Statement, Subject
from longseal.workspace import Workspace

PLAN_LIFE: Final = timedelta(days=7)
"""How long a plan may be carried out; the world changes."""

MAX_PLAN_BYTES: Final = 64 * 1024 * 1024

PLAN: Final = "plan.json"
"""What the signed statement calls it."""

Place = tuple[str, str, str, str]
"""Registry, repository, image and manifest."""


@dataclass(frozen=True, slots=True)
class Item:
    """One attachment that would go, with where each of its pieces of evidence is kept.

    :param leaves: RFC 6962 hashes, hex, of the leaves of all evidence that would go
    :param rules: the classes of retention by which it is due
    :param layers: of an older tag with more evidence in it, the layers that go alone; else empty
    """

    registry: str
    repository: str
    image: str
    manifest: str
    packs: tuple[str, ...]
    seals: tuple[int, ...]
    leaves: tuple[str, ...]
    rules: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """Where it is attached."""
        return self.registry, self.repository, self.image, self.manifest

    def to_json(self) -> dict[str, Any]:
        """For the plan's document."""
        return {
            "registry": self.registry,
            "repository": self.repository,
            "image": self.image,
            "manifest": self.manifest,
            "packs": list(self.packs),
            "seals": list(self.seals),
            "leaves": list(self.leaves),
            "rules": list(self.rules),
            "layers": list(self.layers),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Item:
        """The inverse of :meth:`to_json`."""
        return cls(
            value["registry"],
            value["repository"],
            value["image"],
            value["manifest"],
            tuple(value["packs"]),
            tuple(value["seals"]),
            tuple(value["leaves"]),
            tuple(value["rules"]),
            tuple(value["layers"]),
        )


def attachment_of(row: Any) -> Place:
    """Where the evidence of a row of the catalog is attached."""
    return row.source, row.repository, row.image, row.manifest


@dataclass(frozen=True, slots=True)
class Document:
    """A plan's document.

    :param digest: of its bytes
    :param action: what is done with the items; None where they leave their registries
    :param before: its cutoff
    :param versions: the version that the store had of each pack
    """

    digest: str
    items: tuple[Item, ...]
    action: str | None
    before: datetime | None
    created_at: datetime
    versions: Mapping[str, str | None]

    @classmethod
    def parse(cls, data: bytes) -> Document:
        """The document that ``data`` spells.

        :raises MalformedError: it is none
        """
        return cls._of(digest_of(data), parse_object(data, "a prune plan", MAX_PLAN_BYTES))

    @classmethod
    def signed(cls, workspace: Workspace, digest: str) -> Document:
        """The document with this digest, which the organisation's key signed.

        :raises RefusedError: it did not
        """
        data = workspace.kept(digest)
        found = parse_object(data, "a prune plan", MAX_PLAN_BYTES)
        content: dict[str, Any] = {
            name: found[name] for name in ("action", "items") if name in found
        }
        subject = Subject.of(data, PLAN)
        for key in workspace.archive.keys(f"{plan_folder(content)}/"):
            if not key.endswith(f"/{BUNDLE}"):
                continue
            bundle = workspace.archive.get(key)
            if subject in Statement.parse(parse_key_bundle(bundle).payload).subjects:
                check_bundle(workspace, bundle, "prune-plan")
                return cls._of(digest, found)
        raise RefusedError(f"the plan {digest} is not signed: plan first")

    @classmethod
    def _of(cls, digest: str, found: Mapping[str, Any]) -> Document:
        try:
            before = found["before"]
            return cls(
                digest,
                tuple(Item.from_json(value) for value in found["items"]),
                found.get("action"),
                before and parse_timestamp(before),
                parse_timestamp(found["createdAt"]),
                {copy["pack"]: copy["version"] for copy in found["copies"]},
            )
        except (KeyError, TypeError) as err:
            raise MalformedError(f"a prune plan lacks {err}") from err

    def expired(self, now: datetime) -> bool:
        """Whether it is too old to be begun."""
        return now > self.created_at + PLAN_LIFE


def plan_folder(content: Mapping[str, Any]) -> str:
    """Where the plans are kept that do this with these items."""
    return f"prunes/{hex_of(digest_of(canonical_json(content)))}"


def require_version(pack: str, stored: Stored, versions: Mapping[str, str | None]) -> None:
    """Check that the store has of a pack what it had when that was planned.

    :raises VerificationError: it has another version
    """
    if stored.version != versions[pack]:
        raise VerificationError(
            f"the pack {pack} was version {versions[pack]} when this was planned, and now another"
            f" one ({stored.version}) hides it: somebody wrote over it"
        )
