"""Prune: what is past retention leaves the registries, once it is provably safe in the archive.

:func:`plan` makes a signed document of exactly what would go; somebody approves it; :func:`execute`
reads every archived copy back whole in the same run, deletes what the plan names and nothing else,
and leaves a tombstone for each under one signed deletion statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from longseal.archive.holds import Holds, holding
from longseal.archive.leaf import Leaf
from longseal.archive.pack import load_pack, pack_key
from longseal.archive.records import Record, newest_records
from longseal.archive.retention import evidence_class
from longseal.canonical import (
    canonical_json,
    digest_of,
    hex_of,
    parse_object,
    parse_timestamp,
    timestamp,
)
from longseal.catalog.models import Evidence
from longseal.errors import RefusedError, VerificationError
from longseal.registry.attach import detach
from longseal.seal.ceremony import Ceremony, check_bundle
from longseal.seal.organisation import organisation_key
from longseal.seal.published import predicate_type, read_lines, read_seal
from longseal.seal.statement import Statement, Subject
from longseal.seal.tree import leaf_hash
from longseal.workspace import Workspace

PLAN_LIFE: Final = timedelta(days=7)
"""How long a plan may be carried out; the world changes."""

MAX_PLAN_BYTES: Final = 64 * 1024 * 1024

_LISTS: Final = ("rejected.jsonl", "ignored.jsonl", "unknown.jsonl")


@dataclass(frozen=True, slots=True)
class Item:
    """One attachment that would go, with where each of its pieces of evidence is kept.

    :param leaves: RFC 6962 hashes, hex, of the leaves of all evidence in the attachment
    """

    registry: str
    repository: str
    image: str
    manifest: str
    packs: tuple[str, ...]
    seals: tuple[int, ...]
    leaves: tuple[str, ...]

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
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A signed plan.

    :param digest: of its document, which is what somebody approves
    :param key_operations: that this run took for it
    """

    digest: str
    items: tuple[Item, ...]
    key_operations: int


def plan(workspace: Workspace) -> Plan | None:
    """Plan what is past retention; None where nothing is, and then nothing is signed.

    A plan with the same items that is still young is given again.
    """
    Holds(workspace).secure()
    items = _due(workspace)
    if not items:
        return None
    content = {"items": [item.to_json() for item in items]}
    folder = f"prunes/{hex_of(digest_of(canonical_json(content)))}"
    attempt = 1
    while (ceremony := Ceremony(workspace, f"{folder}/{attempt}")).claimed:
        document = _document(workspace, ceremony)
        if not _expired(workspace, document):
            break
        attempt += 1
    else:
        document = canonical_json({**content, "createdAt": timestamp(workspace.now())})
        workspace.keep(document)
    statement = Statement(
        (Subject.of(document, "plan.json"),),
        predicate_type(workspace, "prune-plan"),
        {"items": len(items), "keyid": organisation_key(workspace).keyid},
    )
    operations = ceremony.run(statement.format()).operations
    if operations:
        workspace.note("prune.planned", {"plan": digest_of(document), "items": len(items)})
    return Plan(digest_of(document), tuple(items), operations)


def _document(workspace: Workspace, ceremony: Ceremony) -> bytes:
    subject = Statement.parse(ceremony.statement()).subjects[0]
    return workspace.kept(f"sha256:{subject.digest['sha256']}")


def _expired(workspace: Workspace, document: bytes) -> bool:
    made = parse_object(document, "a prune plan", MAX_PLAN_BYTES)["createdAt"]
    return workspace.now() > parse_timestamp(made) + PLAN_LIFE


def _due(workspace: Workspace) -> list[Item]:
    now, retention = workspace.now(), workspace.settings.retention
    holds = Holds(workspace).in_force()
    rows = workspace.catalog.prunable(now)
    images = {(row.source, row.repository, row.image) for row in rows}
    records = newest_records(workspace.archive, images)
    groups: dict[tuple[str, str, str, str], list[Evidence]] = {}
    for row in rows:
        leaf = Leaf.parse(row.leaf.encode())
        due = evidence_class(retention, leaf).keep.after(leaf.signed_at) <= now
        if (
            due
            and not row.in_index
            and _looked_for(records.get((row.source, row.repository, row.image)))
        ):
            key = (row.source, row.repository, row.image, row.manifest)
            groups.setdefault(key, []).append(row)
    return [
        Item(
            *key,
            packs=tuple(sorted({row.pack for row in members})),
            seals=tuple(sorted({row.seal for row in members if row.seal is not None})),
            leaves=tuple(sorted(row.leaf_hash for row in members)),
        )
        for key, members in sorted(groups.items())
        if len(members) == _evidence_in(workspace, key) and holding(holds, members) is None
    ]


def _looked_for(record: Record | None) -> bool:
    """Unknown is never "nothing else there", and vanished evidence is an alarm: both block.

    Evidence that was taken in from files hangs on nothing that anybody looked for.
    """
    return record is not None and not record.alarming


def _evidence_in(workspace: Workspace, key: tuple[str, str, str, str]) -> int:
    """An attachment goes whole or not at all: all evidence in it must be due."""
    source, repository, image, manifest = key
    return len(
        workspace.catalog.evidence(
            source=source, repository=repository, image=image, manifest=manifest
        )
    )


def execute(workspace: Workspace, digest: str, approver: str) -> dict[str, Any]:
    """Carry out an approved plan: read back, delete, bury. May be killed and run again.

    :param digest: of the plan's document, as approved
    :param approver: who approved it
    :raises RefusedError: the plan is not signed by the organisation's key, or too old
    :raises VerificationError: an archived copy is not what it must be; nothing is deleted then
    """
    document = workspace.kept(digest)
    _require_signed(workspace, document)
    items = [
        Item.from_json(value)
        for value in parse_object(document, "a prune plan", MAX_PLAN_BYTES)["items"]
    ]
    buried = Ceremony(workspace, f"deletions/{hex_of(digest)}")
    if not buried.finished:
        if _expired(workspace, document):
            raise RefusedError(f"the plan is older than {PLAN_LIFE.days} days: make it again")
        leaves = read_back(workspace, items)
        gone = _delete(workspace, items)
        kept = len(items) - len(gone)
        if not gone:
            raise RefusedError(f"legal holds stop all {kept} deletions of the plan: plan again")
        tombstones = _tombstones(workspace, gone, leaves, digest, approver)
        workspace.keep(tombstones)
        statement = Statement(
            (Subject.of(tombstones, "tombstones.jsonl"),),
            predicate_type(workspace, "deletion"),
            {
                "plan": digest,
                "approver": approver,
                "deleted": len(gone),
                "kept": kept,
                "keyid": organisation_key(workspace).keyid,
            },
        )
        finished = buried.run(statement.format())
        operations = finished.operations
        workspace.note(
            "prune.deleted",
            {"plan": digest, "approver": approver, "deletion": finished.digest}
            | {"deleted": len(gone), "kept": kept},
        )
    else:
        operations = 0
    deletion = digest_of(buried.bundle())
    gone = _buried(workspace, buried)
    rows = [row for item in gone for row in _rows(workspace, item)]
    workspace.catalog.bury([row.id for row in rows if row.tombstone is None], deletion)
    return {
        "plan": digest,
        "deleted": len(gone),
        "kept": len(items) - len(gone),
        "deletion": deletion,
        "key_operations": operations,
    }


def _require_signed(workspace: Workspace, document: bytes) -> None:
    content = {"items": parse_object(document, "a prune plan", MAX_PLAN_BYTES)["items"]}
    folder = f"prunes/{hex_of(digest_of(canonical_json(content)))}/"
    for key in workspace.archive.keys(folder):
        if not key.endswith("/bundle.sigstore.json"):
            continue
        ceremony = Ceremony(workspace, key.rpartition("/")[0])
        if _document(workspace, ceremony) == document:
            check_bundle(workspace, ceremony.bundle())
            return
    raise RefusedError(f"the plan {digest_of(document)} is not signed: plan first")


def read_back(workspace: Workspace, items: Sequence[Item]) -> dict[str, Leaf]:
    """Read every archived copy back whole, once a pack, and find it in its seal.

    :returns: the leaf of each leaf hash
    :raises VerificationError: a copy is missing, changed, or locked for less time than promised
    """
    leaves: dict[str, Leaf] = {}
    for digest in sorted({pack for item in items for pack in item.packs}):
        stored = workspace.archive.stat(pack_key(digest))
        if stored is None:
            raise VerificationError(f"the pack {digest} is not in the archive: sound the alarm")
        promised = workspace.catalog.pack(digest).retain_until
        if stored.retain_until is None or stored.retain_until < promised:
            raise VerificationError(
                f"the pack {digest} is kept until {stored.retain_until}, promised was {promised}"
            )
        for evidence in load_pack(workspace.archive, digest):
            leaves[leaf_hash(evidence.leaf.line()).hex()] = evidence.leaf
    sealed: set[str] = set()
    for sequence in sorted({seal for item in items for seal in item.seals}):
        seal = read_seal(workspace, sequence)
        check_bundle(workspace, seal.bundle)
        files = seal.files()
        named = [*seal.files("leaves/").values(), *(files[name] for name in _LISTS)]
        sealed.update(leaf_hash(line).hex() for line in read_lines(workspace, named))
    for item in items:
        for wanted in item.leaves:
            if wanted not in leaves or wanted not in sealed:
                where = "archived" if wanted in sealed else "sealed"
                raise VerificationError(f"{item.manifest} of {item.image} is not {where}")
            leaf = leaves[wanted]
            if (leaf.manifest, leaf.image) != (item.manifest, item.image):
                raise VerificationError(f"the plan mistakes {item.manifest} for {leaf.manifest}")
    return leaves


def _delete(workspace: Workspace, items: Iterable[Item]) -> list[Item]:
    """Delete all that nothing holds.

    :returns: what is gone, also by a run that was killed before it could say so
    """
    holds = Holds(workspace)
    gone = []
    for item in items:
        registry = workspace.registry(item.registry)
        held = holding(holds.in_force(), _rows(workspace, item))
        if held is None or registry.manifest(item.repository, item.manifest) is None:
            detach(registry, item.repository, item.image, item.manifest)
            gone.append(item)
    return gone


def _buried(workspace: Workspace, deletion: Ceremony) -> list[Item]:
    """What a finished deletion statement has tombstones for."""
    lines = _document(workspace, deletion).splitlines()
    return [Item.from_json(parse_object(line, "a tombstone")) for line in lines]


def _tombstones(
    workspace: Workspace,
    items: Iterable[Item],
    leaves: Mapping[str, Leaf],
    plan_digest: str,
    approver: str,
) -> bytes:
    at = timestamp(workspace.now())
    return b"".join(
        canonical_json(
            {
                **item.to_json(),
                "bundles": sorted(leaves[one].sha256 for one in item.leaves),
                "plan": plan_digest,
                "approver": approver,
                "deletedAt": at,
            }
        )
        + b"\n"
        for item in items
    )


def _rows(workspace: Workspace, item: Item) -> list[Evidence]:
    return workspace.catalog.evidence(
        source=item.registry,
        repository=item.repository,
        image=item.image,
        manifest=item.manifest,
    )
