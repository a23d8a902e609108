"""Prune: what is past retention leaves the registries, once it is provably safe in the archive.

:func:`plan` makes a signed document of exactly what would go; somebody approves it; :func:`execute`
reads every archived copy back whole in the same run, deletes what the plan names and nothing else,
and leaves a tombstone for each under one signed deletion statement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from threading import Lock
from typing import Any, Final

from longseal.archive.approval import PREFIX, require_approved
from longseal.archive.disposal import DISPOSE, disposable, dispose, read_last
from longseal.archive.holds import Hold, Holds, holding
from longseal.archive.interface import Stored
from longseal.archive.leaf import Leaf
from longseal.archive.pack import load_pack, pack_key, pack_label
from longseal.archive.plan import (
    PLAN_LIFE,
    Item,
    Place,
    action_of,
    begun_key,
    burial_folder,
    closed,
    closed_key,
    document_of,
    due,
    expired,
    note_once,
    planned_versions,
    read_plan,
    require_none_cut_off,
    require_signed,
    require_version,
)
from longseal.archive.plan import plan as plan
from longseal.archive.retention import class_of
from longseal.archive.sealed import sealed_leaves
from longseal.archive.tombstones import restored
from longseal.canonical import (
    canonical_json,
    digest_of,
    parse_object,
    parse_timestamp,
    timestamp,
)
from longseal.errors import ConflictError, RefusedError, VerificationError
from longseal.registry.interface import Manifest
from longseal.registry.removal import Removal
from longseal.seal.ceremony import Ceremony
from longseal.seal.organisation import organisation_key
from longseal.seal.published import predicate_type
from longseal.seal.statement import Statement, Subject
from longseal.seal.tree import leaf_hash
from longseal.settings import Duration
from longseal.workspace import Workspace

WORKERS: Final = 8
"""Images of which attachments are deleted at once."""

ONLY_COPY: Final = Duration(1, "year")
"""For how long at least the archive's copy is locked once it is the only one."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What the archive gave back.

    :param leaves: by leaf hash
    :param packs: what is stored, by the pack's digest
    """

    leaves: Mapping[str, Leaf]
    packs: Mapping[str, Stored]


@dataclass(frozen=True, slots=True)
class Begun:
    """A plan that is being carried out.

    :param missing: what was gone before the first deletion: an alarm, and none of our doing
    """

    approver: str
    approved_at: datetime
    at: datetime
    missing: frozenset[Place]


def execute(
    workspace: Workspace, digest: str, approver: str | None, answered: datetime | None = None
) -> dict[str, Any]:
    """Carry out an approved plan: read back, delete, bury. May be killed and run again.

    What is held, or no longer as it was planned, stays. A run that was begun and is taken up when
    its plan is too old deletes nothing more, and buries what is gone.

    :param digest: of the plan's document, as approved
    :param approver: who approved it; None where the signed policy is to
    :param answered: when that was; None for now
    :raises RefusedError: the plan is not signed by the organisation's key, too old, was made for
        another state of the world, or no policy approves it; nothing is deleted then
    :raises VerificationError: an archived copy is not what it must be; nothing is deleted then
    """
    if approver is not None and approver.startswith(PREFIX):
        raise RefusedError(f"nobody is called {approver[:80]!r}: leave a policy's approval to it")
    document = workspace.kept(digest)
    require_signed(workspace, document)
    items, before = read_plan(document)
    disposing = action_of(document) == DISPOSE
    burial = Ceremony(workspace, burial_folder(digest))
    operations = 0
    if closed(workspace, digest):
        raise RefusedError("the plan was carried out, and nothing could be deleted: make it again")
    if not burial.finished:
        rows = {} if disposing else _rows(workspace, items)
        if not burial.claimed:
            if workspace.archive.stat(begun_key(digest)) is None:
                require_none_cut_off(workspace)
                _require_current(workspace, document, items, before)
                if approver is None:
                    approver = _policy(workspace, document, items)
            late, versions = expired(workspace, document), planned_versions(document)
            leaves: Mapping[str, Leaf]
            refused: Mapping[str, int]
            # What cannot be read back is not begun: the catalog goes on to miss what vanishes.
            if disposing:
                with _alarm(workspace, digest):
                    leaves = read_last(workspace, items, versions)
                begun = _begin(workspace, digest, (), approver, answered)
                gone, refused = dispose(workspace, items, leaves, late)
            else:
                with _alarm(workspace, digest):
                    found = read_back(workspace, items)
                    for pack, stored in found.packs.items():
                        require_version(pack, stored, versions)
                leaves = found.leaves
                _retain(workspace, found.packs)
                begun = _begin(workspace, digest, items, approver, answered)
                _mark(workspace, rows, items, digest)
                gone, refused = _delete(workspace, items, begun, rows, late)
            if refused:
                workspace.note("prune.refused", {"plan": digest, "why": dict(refused)})
            if not gone:
                _close(workspace, digest, rows)
                why = next(iter(refused), "it is held, or was gone before")
                raise RefusedError(f"nothing of the plan was deleted: {why}; make it again")
            statement = _deletion(workspace, document, begun, items, gone, leaves, versions)
        else:
            statement = burial.statement()
        operations = burial.run(statement).operations
    deletion = digest_of(burial.bundle())
    gone = _buried(workspace, burial)
    said = Statement.parse(burial.statement()).predicate
    details = {name: said[name] for name in ("plan", "approver", "deleted", "kept")}
    begun_at = _begun(workspace, digest).at
    note_once(workspace, "prune.deleted", {**details, "deletion": deletion}, begun_at)
    if disposing:
        workspace.catalog.dispose({pack for item in gone for pack in item.packs})
    else:
        _bury(workspace, digest, deletion, items, gone)
    return {
        "plan": digest,
        "deleted": len(gone),
        "kept": len(items) - len(gone),
        "deletion": deletion,
        "key_operations": operations,
    }


def _bury(
    workspace: Workspace,
    digest: str,
    deletion: str,
    items: Sequence[Item],
    gone: Sequence[Item],
) -> None:
    """Have the catalog know what went, and that the rest is still there."""
    rows = _rows(workspace, items)
    back = _put_back(workspace, deletion)
    places = {item.place: item for item in gone if item.place not in back}
    under = {deletion: [], None: []}  # type: dict[str | None, list[int]]
    for place, members in rows.items():
        leaves = set(places[place].leaves) if place in places else set()
        for row in members:
            if row.leaf_hash in leaves and row.tombstone in (None, digest):
                under[deletion].append(row.id)
            elif row.tombstone == digest:
                under[None].append(row.id)
    for tombstone, ids in under.items():
        workspace.catalog.bury(ids, tombstone)


def _begin(
    workspace: Workspace,
    digest: str,
    items: Sequence[Item],
    approver: str | None,
    answered: datetime | None,
) -> Begun:
    """Note that the plan is being carried out, unless it is."""
    key = begun_key(digest)
    if workspace.archive.stat(key) is None:

        def gone(item: Item) -> bool:
            registry = workspace.registry(item.registry)
            return registry.manifest(item.repository, item.manifest) is None

        with ThreadPoolExecutor(WORKERS) as pool:
            missing = [
                item.place
                for item, is_gone in zip(items, pool.map(gone, items), strict=True)
                if is_gone
            ]
        begun = {
            "plan": digest,
            "approver": approver,
            "approvedAt": timestamp(answered or workspace.now()),
            "at": timestamp(workspace.now()),
            "missing": sorted(map(list, missing)),
        }
        with suppress(ConflictError):
            workspace.store(key, canonical_json(begun))
    found = _begun(workspace, digest)
    details = {
        "plan": digest,
        "approver": found.approver,
        "approvedAt": timestamp(found.approved_at),
        "at": timestamp(found.at),
        "missing": len(found.missing),
    }
    note_once(workspace, "prune.begun", details, found.at)
    return found


def _begun(workspace: Workspace, digest: str) -> Begun:
    key = begun_key(digest)
    found = parse_object(workspace.archive.get(key), key)
    return Begun(
        found["approver"],
        parse_timestamp(found["approvedAt"]),
        parse_timestamp(found["at"]),
        frozenset((a, b, c, d) for a, b, c, d in found["missing"]),
    )


def _policy(workspace: Workspace, document: bytes, items: Sequence[Item]) -> str:
    """The signed policy that approves a plan, as an approver."""
    if action_of(document) == DISPOSE:
        raise RefusedError("no policy approves a disposal: somebody has to")
    return require_approved(workspace, items).approver


def _require_current(
    workspace: Workspace, document: bytes, items: Sequence[Item], before: datetime | None
) -> None:
    """Check that the plan is young, and that all of it is still due as it says."""
    if expired(workspace, document):
        raise RefusedError(f"the plan is older than {PLAN_LIFE.days} days: make it again")
    if action_of(document) == DISPOSE:
        now = set(disposable(workspace).items)
    else:
        now = set(due(workspace, before, {item.repository for item in items}).items)
    changed = [item for item in items if item not in now]
    if changed:
        first = changed[0]
        raise RefusedError(
            f"{len(changed)} attachments of the plan are no longer due as it says, the first"
            f" {first.manifest} of {first.repository}@{first.image}: make it again"
        )


def _mark(
    workspace: Workspace, rows: Mapping[Place, Sequence[Any]], items: Iterable[Item], digest: str
) -> None:
    """Have the catalog know before anything goes: no harvest takes it for vanished meanwhile."""
    going = {item.place: set(item.leaves) for item in items}
    workspace.catalog.bury(
        [
            row.id
            for place, members in rows.items()
            for row in members
            if row.leaf_hash in going[place] and row.tombstone is None
        ],
        digest,
    )


def _close(workspace: Workspace, digest: str, rows: Mapping[Place, Sequence[Any]]) -> None:
    """Nothing went: the catalog forgets the plan, and another may be made."""
    marked = [row.id for place in rows.values() for row in place if row.tombstone in (None, digest)]
    workspace.catalog.bury(marked, None)
    workspace.store(closed_key(digest), canonical_json({"plan": digest}))


def _rows(workspace: Workspace, items: Sequence[Item]) -> dict[Place, list[Any]]:
    """The catalog's rows of each item's attachment."""
    wanted = {item.place for item in items}
    found: dict[Place, list[Any]] = {place: [] for place in wanted}
    for row in workspace.catalog.placed({item.repository for item in items}):
        place = (row.source, row.repository, row.image, row.manifest)
        if place in wanted:
            found[place].append(row)
    return found


# -- reading back --------------------------------------------------------------------------------


@contextmanager
def _alarm(workspace: Workspace, digest: str) -> Iterator[None]:
    try:
        yield
    except VerificationError as err:
        workspace.note("prune.alarm", {"plan": digest, "reason": str(err)[:2000]})
        raise


def _retain(workspace: Workspace, packs: Mapping[str, Stored]) -> None:
    """A lock may have ended by now, or be about to, and the registry's copies go."""
    until = ONLY_COPY.after(workspace.now())
    for pack, stored in packs.items():
        if stored.retain_until is None or stored.retain_until < until:
            workspace.archive.retain(pack_key(pack), until)


def read_back(workspace: Workspace, items: Sequence[Item]) -> ReadBack:
    """Read every archived copy back whole, once a pack, and find it in its seal.

    :raises VerificationError: a copy is missing, changed, not past its retention, or locked for
        less time than promised
    """
    leaves: dict[str, Leaf] = {}
    packs: dict[str, Stored] = {}
    wanted = {one for item in items for one in item.leaves}
    for digest in sorted({pack for item in items for pack in item.packs}):
        stored = workspace.archive.stat(pack_key(digest))
        if stored is None:
            raise VerificationError(f"the pack {digest} is not in the archive: sound the alarm")
        # The label was archived with the pack; the catalog is no authority.
        label = pack_label(workspace.archive, digest)
        promised = workspace.catalog.pack(digest).retain_until
        if label is not None:
            promised = max(promised, label.retain_until)
        if stored.retain_until is None or stored.retain_until < promised:
            raise VerificationError(
                f"the pack {digest} is kept until {stored.retain_until}, promised was {promised}"
            )
        packs[digest] = stored
        for evidence in load_pack(workspace.archive, digest):
            hashed = leaf_hash(evidence.leaf.line()).hex()
            if hashed in wanted:
                leaves[hashed] = evidence.leaf
    sequences = sorted({seal for item in items for seal in item.seals})
    sealed = sealed_leaves(workspace, wanted, sequences)
    for item in items:
        for one in item.leaves:
            if one not in leaves or one not in sealed:
                where = "archived" if one in sealed else "sealed"
                raise VerificationError(f"{item.manifest} of {item.image} is not {where}")
            _require_due(workspace, item, leaves[one])
    return ReadBack(leaves, packs)


def _require_due(workspace: Workspace, item: Item, leaf: Leaf) -> None:
    """The catalog said so; the sealed leaf is what counts."""
    if (leaf.registry, leaf.repository, leaf.image, leaf.manifest) != item.place:
        raise VerificationError(f"the plan mistakes {item.manifest} for {leaf.manifest}")
    keep = class_of(workspace.settings.retention, leaf).keep
    if keep.after(leaf.signed_at) > workspace.now():
        raise VerificationError(
            f"{item.manifest} of {item.image} was signed at {timestamp(leaf.signed_at)} and is not"
            " past its retention: somebody wrote into the catalog; rebuild it"
        )


# -- deleting ------------------------------------------------------------------------------------


def _delete(
    workspace: Workspace,
    items: Sequence[Item],
    begun: Begun,
    rows: Mapping[Place, Sequence[Any]],
    late: bool,
) -> tuple[list[Item], Counter[str]]:
    """Delete all that nothing holds; of one image, one after the other.

    :param late: nothing more may be deleted
    :returns: what is gone, also by a run that was killed before it could say so; and why others
        were refused, by how many
    """
    register, lock = Holds(workspace), Lock()
    removals = {
        name: Removal(workspace.registry(name)) for name in {item.registry for item in items}
    }
    refused: Counter[str] = Counter()
    statement = predicate_type(workspace, "image")

    def in_force() -> tuple[Hold, ...]:
        with lock:
            return register.in_force()

    def refuse(err: RefusedError, count: int = 1) -> None:
        with lock:
            refused[str(err)[:500]] += count

    def of_image(members: Sequence[Item]) -> list[Item]:
        name, repository, image = members[0].place[:3]
        registry, removal = workspace.registry(name), removals[name]
        gone: dict[Item, Manifest | None] = {}
        for item in members:
            if item.place in begun.missing:
                continue
            found = registry.manifest(repository, item.manifest)
            if found is not None:
                going = [row for row in rows[item.place] if row.leaf_hash in item.leaves]
                if late or holding(in_force(), going) is not None:
                    continue
                try:
                    if statement.encode() in found.data:
                        raise RefusedError(f"{item.manifest} has an image statement: it stays")
                    removal.remove(repository, image, found, item.layers)
                except RefusedError as err:
                    refuse(err)
                    continue
            gone[item] = found
        # An index that names what is gone is read and written once for all of its image.
        whole = {item.manifest: found for item, found in gone.items() if not item.layers}
        try:
            if whole:
                removal.mend(repository, image, whole)
        except RefusedError as err:
            back = {item for item, found in gone.items() if found is not None and not item.layers}
            refuse(err, len(back))
            return [item for item in gone if item not in back]
        return list(gone)

    ordered = sorted(items, key=lambda item: item.place)
    images = [list(group) for _, group in groupby(ordered, key=lambda item: item.place[:3])]
    with ThreadPoolExecutor(WORKERS) as pool:
        return [item for gone in pool.map(of_image, images) for item in gone], refused


# -- burying -------------------------------------------------------------------------------------


def _deletion(
    workspace: Workspace,
    document: bytes,
    begun: Begun,
    items: Sequence[Item],
    gone: Sequence[Item],
    leaves: Mapping[str, Leaf],
    versions: Mapping[str, str | None],
) -> bytes:
    digest = digest_of(document)
    source = {"from": "archive"} if action_of(document) == DISPOSE else {}
    tombstones = b"".join(
        canonical_json(
            {
                **item.to_json(),
                **source,
                "bundles": sorted(leaves[one].sha256 for one in item.leaves),
                "versions": [versions[pack] for pack in item.packs],
                "plan": digest,
                "approver": begun.approver,
                "run": workspace.actor,
                "deletedAt": timestamp(begun.at),
            }
        )
        + b"\n"
        for item in gone
    )
    workspace.keep(tombstones)
    return Statement(
        (Subject.of(tombstones, "tombstones.jsonl"),),
        predicate_type(workspace, "deletion"),
        {
            "plan": digest,
            "approver": begun.approver,
            "deleted": len(gone),
            "kept": len(items) - len(gone),
            "keyid": organisation_key(workspace).keyid,
            "quorum": workspace.settings.timestamp_quorum,
        },
    ).format()


def _buried(workspace: Workspace, deletion: Ceremony) -> list[Item]:
    """What a finished deletion statement has tombstones for."""
    lines = document_of(workspace, deletion).splitlines()
    return [Item.from_json(parse_object(line, "a tombstone")) for line in lines]


def _put_back(workspace: Workspace, deletion: str) -> set[Place]:
    """What was restored since it went: the catalog has it as being there, and that stays."""
    return {
        place[:4]
        for place, lines in restored(workspace).items()
        if any(line["deletion"] == deletion for line in lines)
    }
