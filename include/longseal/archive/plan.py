"""The plan of a prune: a signed document of exactly what would go, why, and where each copy is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from itertools import groupby
from typing import Any, Final

from longseal.archive.holds import Holds, holding
from longseal.archive.interface import Stored
from longseal.archive.pack import load_pack, pack_key
from longseal.archive.records import newest_records
from longseal.archive.retention import evidence_class
from longseal.canonical import (
    canonical_json,
    digest_of,
    hex_of,
    parse_object,
    parse_timestamp,
    timestamp,
)
from longseal.errors import MalformedError, RefusedError, UnsupportedError, VerificationError
from longseal.registry.model import parse_manifest
from longseal.registry.removal import Removal
from longseal.seal.ceremony import Ceremony, check_bundle
from longseal.seal.organisation import organisation_key
from longseal.seal.published import predicate_type
from longseal.seal.statement import Statement, Subject
from longseal.settings import RetentionClass
from longseal.workspace import Workspace

PLAN_LIFE: Final = timedelta(days=7)
"""How long a plan may be carried out; the world changes."""

MAX_PLAN_BYTES: Final = 64 * 1024 * 1024

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


@dataclass(frozen=True, slots=True)
class Plan:
    """A signed plan.

    :param digest: of its document, which is what somebody approves
    :param stopped: counts of attachments that are due and stay, by what stops them
    :param key_operations: that this run took for it
    """

    digest: str
    items: tuple[Item, ...]
    stopped: Mapping[str, int]
    key_operations: int


@dataclass(slots=True)
class Due:
    """What is due, and what of it stays.

    :param stopped: counts of attachments by what stops them
    """

    items: list[Item] = field(default_factory=list)
    stopped: Counter[str] = field(default_factory=Counter)
    attached: Counter[tuple[str, str]] = field(default_factory=Counter)


def plan(
    workspace: Workspace, before: datetime | None = None, max_share: int | None = None
) -> Plan | None:
    """Plan what is past retention; None where nothing is, and then nothing is signed.

    A plan with the same items that is still young is given again, unless it was carried out: then
    somebody put back what it took.

    :param before: only what was signed before; it never takes what its retention still keeps
    :param max_share: in place of ``retention.max_share``, for this once
    :raises RefusedError: ``before`` is in the future, a cap stops all of it, or a prune was cut off
    :raises VerificationError: a pack is not in the archive
    """
    if before is not None and before > workspace.now():
        raise RefusedError(f"the cutoff {timestamp(before)} is in the future: nothing is planned")
    require_none_cut_off(workspace)
    Holds(workspace).secure()
    found = due(workspace, before)
    items = _deletable(workspace, capped(workspace, found, max_share), found)
    return sign(workspace, items, found.stopped, before) if items else None


def require_none_cut_off(workspace: Workspace) -> None:
    """Check that every plan that was begun was also ended.

    :raises RefusedError: one was not
    """
    for key in _unfinished(workspace):
        raise RefusedError(
            f"a prune was cut off: finish it first (longseal prune --approve sha256:{key})"
        )


def sign(
    workspace: Workspace,
    items: Sequence[Item],
    stopped: Mapping[str, int],
    before: datetime | None = None,
    action: str | None = None,
) -> Plan:
    """Have the organisation's key sign a plan, unless one with the same items is still young.

    :param action: what is done with the items; None to delete them from their registries
    """
    content: dict[str, Any] = {"items": [item.to_json() for item in items]}
    if action is not None:
        content["action"] = action
    folder = f"prunes/{hex_of(digest_of(canonical_json(content)))}"
    attempt = 1
    while (ceremony := Ceremony(workspace, f"{folder}/{attempt}")).claimed:
        document = document_of(workspace, ceremony)
        if not expired(workspace, document) and not spent(workspace, digest_of(document)):
            break
        attempt += 1
    else:
        document = canonical_json(
            {
                **content,
                "createdAt": timestamp(workspace.now()),
                "before": before and timestamp(before),
                "stopped": dict(stopped),
                "copies": _copies(workspace, items),
            }
        )
        workspace.keep(document)
    statement = Statement(
        (Subject.of(document, "plan.json"),),
        predicate_type(workspace, "prune-plan"),
        {
            "items": len(items),
            "keyid": organisation_key(workspace).keyid,
            "quorum": workspace.settings.timestamp_quorum,
        },
    )
    operations = ceremony.run(statement.format()).operations
    note_once(
        workspace,
        "prune.planned",
        {"plan": digest_of(document), "items": len(items)},
        _made(document),
    )
    return Plan(digest_of(document), tuple(items), dict(stopped), operations)


def document_of(workspace: Workspace, ceremony: Ceremony) -> bytes:
    """The document that a ceremony's claimed statement is about."""
    subject = Statement.parse(ceremony.statement()).subjects[0]
    return workspace.kept(f"sha256:{subject.digest['sha256']}")


def read_plan(document: bytes) -> tuple[list[Item], datetime | None]:
    """The items of a plan's document, and its cutoff.

    :raises MalformedError: it is no such document
    """
    found = parse_object(document, "a prune plan", MAX_PLAN_BYTES)
    try:
        before = found["before"]
        return [Item.from_json(value) for value in found["items"]], before and parse_timestamp(
            before
        )
    except (KeyError, TypeError) as err:
        raise MalformedError(f"a prune plan lacks {err}") from err


def action_of(document: bytes) -> str | None:
    """What a plan does with its items; None where they leave their registries."""
    action: str | None = parse_object(document, "a prune plan", MAX_PLAN_BYTES).get("action")
    return action


def planned_versions(document: bytes) -> dict[str, str | None]:
    """The version that the store had of each pack of a plan."""
    copies = parse_object(document, "a prune plan", MAX_PLAN_BYTES)["copies"]
    return {copy["pack"]: copy["version"] for copy in copies}


def require_version(pack: str, stored: Stored, versions: Mapping[str, str | None]) -> None:
    """Check that the store has of a pack what it had when that was planned.

    :raises VerificationError: it has another version
    """
    if stored.version != versions[pack]:
        raise VerificationError(
            f"the pack {pack} was version {versions[pack]} when this was planned, and now another"
            f" one ({stored.version}) hides it: somebody wrote over it"
        )


def expired(workspace: Workspace, document: bytes) -> bool:
    """Whether a plan is too old to be begun."""
    return workspace.now() > _made(document) + PLAN_LIFE


def _made(document: bytes) -> datetime:
    return parse_timestamp(parse_object(document, "a prune plan", MAX_PLAN_BYTES)["createdAt"])


def require_signed(workspace: Workspace, document: bytes) -> None:
    """Check that the organisation's key signed this plan.

    :raises RefusedError: it did not
    """
    found = parse_object(document, "a prune plan", MAX_PLAN_BYTES)
    content = {name: found[name] for name in ("action", "items") if name in found}
    folder = f"prunes/{hex_of(digest_of(canonical_json(content)))}/"
    for key in workspace.archive.keys(folder):
        if not key.endswith("/bundle.sigstore.json"):
            continue
        ceremony = Ceremony(workspace, key.rpartition("/")[0])
        if document_of(workspace, ceremony) == document:
            check_bundle(workspace, ceremony.bundle())
            return
    raise RefusedError(f"the plan {digest_of(document)} is not signed: plan first")


def burial_folder(digest: str) -> str:
    """Where all is kept of carrying out the plan with this digest."""
    return f"deletions/{hex_of(digest)}"


def begun_key(digest: str) -> str:
    """Where it is noted that the plan with this digest is being carried out."""
    return f"{burial_folder(digest)}/begun.json"


def closed_key(digest: str) -> str:
    """Where it is noted that carrying out the plan came to nothing."""
    return f"{burial_folder(digest)}/closed.json"


def closed(workspace: Workspace, digest: str) -> bool:
    """Whether carrying out the plan with this digest came to nothing."""
    return workspace.archive.stat(closed_key(digest)) is not None


def spent(workspace: Workspace, digest: str) -> bool:
    """Whether the plan with this digest was carried out, to whatever end."""
    return closed(workspace, digest) or Ceremony(workspace, burial_folder(digest)).finished


def note_once(
    workspace: Workspace, action: str, details: Mapping[str, Any], since: datetime
) -> None:
    """Into the ledger, unless a run that was killed came as far.

    :param details: ``plan`` among them, which tells them from those of another
    :param since: when it was done at the earliest
    """
    for entry in workspace.ledger.newest_first():
        if entry.at < since:
            break
        if entry.action == action and entry.details.get("plan") == details["plan"]:
            return
    workspace.note(action, details)


def _unfinished(workspace: Workspace) -> Iterator[str]:
    keys = set(workspace.archive.keys("deletions/"))
    for key in sorted(keys):
        folder, _, name = key.rpartition("/")
        ends = {f"{folder}/bundle.sigstore.json", f"{folder}/closed.json"}
        if name == "begun.json" and keys.isdisjoint(ends):
            yield folder.rpartition("/")[2]


# -- what is due ---------------------------------------------------------------------------------


def due(
    workspace: Workspace,
    before: datetime | None = None,
    repositories: Collection[str] | None = None,
    own: str | None = None,
) -> Due:
    """What is past retention, sealed, archived, wholly looked for and not held.

    :param repositories: those asked for; None for all
    :param own: digest of the plan that is being carried out: what it has marked counts as there
    """
    found = Due()
    most = workspace.settings.retention.max_count
    candidates: list[Item] = []
    partial: list[Item] = []
    for item in _past_retention(workspace, found, before, repositories, own):
        (partial if item.layers else candidates).append(item)
        if len(candidates) + len(partial) > most:
            raise RefusedError(
                f"retention.max_count: more than {most} attachments are due: is a setting wrong?"
                " If not, raise it, or prune in steps (--before)"
            )
    candidates += _in_older_tags(workspace, partial, found)
    records = newest_records(
        workspace.archive, {(item.registry, item.repository, item.image) for item in candidates}
    )
    attached: dict[Any, set[str]] = {}
    for item in candidates:
        place = (item.registry, item.repository, item.image)
        record = records.get(place)
        # Unknown is never "nothing else there", and vanished evidence is an alarm: both block.
        # What was taken in from files hangs on nothing that anybody looked for.
        if record is None or record.alarming:
            found.stopped["not looked for" if record is None else record.state] += 1
            continue
        if place not in attached:
            attached[place] = set(json.loads(record.line)["found"])
        if item.manifest in attached[place]:
            found.items.append(item)
        else:
            found.stopped["no longer there"] += 1
    found.items.sort(key=lambda item: item.place)
    found.stopped = +found.stopped
    return found


def _past_retention(
    workspace: Workspace,
    found: Due,
    before: datetime | None,
    repositories: Collection[str] | None,
    own: str | None,
) -> Iterator[Item]:
    now, retention = workspace.now(), workspace.settings.retention
    holds = Holds(workspace).in_force()
    stored = set(workspace.catalog.packs())

    @cache
    def rule(repository: str, predicate: str | None, verdict: str) -> RetentionClass:
        return evidence_class(retention, repository, predicate, verdict)

    def past(row: Any) -> bool:
        return (
            row.seal is not None
            and row.verdict != "suspect"
            and row.pack in stored
            and not (row.reason or "").startswith("in-index:")
            and (before is None or row.signed_at < before)
            and rule(row.repository, row.predicate_type, row.verdict).keep.after(row.signed_at)
            <= now
        )

    def of_attachment(row: Any) -> Place:
        return row.source, row.repository, row.image, row.manifest

    for place, group in groupby(workspace.catalog.placed(repositories), key=of_attachment):
        rows = [row for row in group if row.tombstone is None or row.tombstone == own]
        if not rows:
            continue
        found.attached[place[:2]] += 1
        going = [row for row in rows if past(row)]
        if not going:
            continue
        free = [row for row in going if holding(holds, [row]) is None] if holds else going
        if len(free) < len(going):
            found.stopped["held"] += 1
        if not free:
            continue
        rules = {rule(row.repository, row.predicate_type, row.verdict) for row in free}
        yield Item(
            *place,
            packs=tuple(sorted({row.pack for row in free})),
            seals=tuple(sorted({row.seal for row in free})),
            leaves=tuple(sorted(row.leaf_hash for row in free)),
            rules=tuple(sorted(f"{one.name}: {one.keep.count} {one.keep.unit}s" for one in rules)),
            layers=tuple(sorted(row.bundle for row in free)) if len(free) < len(rows) else (),
        )


def _in_older_tags(workspace: Workspace, items: list[Item], found: Due) -> Iterator[Item]:
    """Of attachments of which a part is due, those of cosign's older tags: a tag can be rewritten,
    while the digest of a referrer is its name."""
    wanted = {item.packs[0] for item in items}
    subjectless: set[str] = set()
    for pack in sorted(wanted):
        manifests = {one.leaf.manifest: one.manifest for one in load_pack(workspace.archive, pack)}
        for digest, data in manifests.items():
            try:
                parsed = parse_manifest(data)
            except (MalformedError, UnsupportedError):
                continue
            if parsed.subject is None:
                subjectless.add(digest)
    for item in items:
        if item.manifest in subjectless:
            yield item
        else:
            found.stopped["due in part only"] += 1


def capped(workspace: Workspace, found: Due, max_share: int | None) -> list[Item]:
    """The items of the repositories that lose no more than they may."""
    most = workspace.settings.retention.max_share if max_share is None else max_share
    if not 1 <= most <= 100:
        raise RefusedError(f"a share is a number of percent from 1 to 100, found {most}")
    going = Counter((item.registry, item.repository) for item in found.items)
    over = {
        name: f"{many} of {found.attached[name]}"
        for name, many in going.items()
        if many * 100 > most * found.attached[name]
    }
    if over and len(over) == len(going):
        first, share = next(iter(sorted(over.items())))
        raise RefusedError(
            f"retention.max_share: {len(over)} repositories would lose more than {most} % of their"
            f" attachments, {first[0]}/{first[1]} {share}: is a setting wrong? If not, allow more"
            " for this once (--max-share)"
        )
    for name in over:
        found.stopped["over retention.max_share"] += going[name]
    return [item for item in found.items if (item.registry, item.repository) not in over]


def _deletable(workspace: Workspace, items: list[Item], found: Due) -> list[Item]:
    """The items of the repositories whose registry deletes at all: it is asked first."""
    refused: dict[tuple[str, str], str] = {}
    for name, repository in sorted({(item.registry, item.repository) for item in items}):
        try:
            Removal(workspace.registry(name)).check(repository)
        except RefusedError as err:
            refused[name, repository] = str(err)
    left = [item for item in items if (item.registry, item.repository) not in refused]
    if refused and not left:
        raise RefusedError(f"nothing can be deleted: {next(iter(refused.values()))}")
    if len(left) < len(items):
        found.stopped["the registry does not delete"] += len(items) - len(left)
    return left


def _copies(workspace: Workspace, items: Iterable[Item]) -> list[dict[str, Any]]:
    """What the archive says of each pack now; it is read back whole before anything goes."""
    copies = []
    for digest in sorted({pack for item in items for pack in item.packs}):
        stored = workspace.archive.stat(pack_key(digest))
        if stored is None or stored.sha256 != hex_of(digest):
            raise VerificationError(
                f"the pack {digest} is not in the archive as it was: sound the alarm"
            )
        copies.append(
            {
                "pack": digest,
                "size": stored.size,
                "version": stored.version,
                "retainUntil": stored.retain_until and timestamp(stored.retain_until),
            }
        )
    return copies
