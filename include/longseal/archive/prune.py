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
from longseal.archive.document import (
    PLAN_LIFE,
    Document,
    Item,
    Place,
    attachment_of,
    require_version,
)
from longseal.archive.due import due
from longseal.archive.holds import Hold, Holds, holding
from longseal.archive.leaf import Leaf
from longseal.archive.plan import (
    begun_key,
    burial_folder,
    closed,
    closed_key,
    note_once,
    require_none_cut_off,
)
from longseal.archive.plan import plan as plan
from longseal.archive.readback import read_back, retain
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
from longseal.seal.organisation import signed_as
from longseal.seal.published import predicate_type
from longseal.seal.statement import Statement, Subject
from longseal.workspace import Workspace

WORKERS: Final = 8
"""Images of which attachments are deleted at once."""


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
    document = Document.signed(workspace, digest)
    items, versions = document.items, document.versions
    disposing = document.action == DISPOSE
    burial = Ceremony(workspace, burial_folder(digest))
    operations = 0
    if closed(workspace, digest):
        raise RefusedError("the plan was carried out, and nothing could be deleted: make it again")
    if not burial.finished:
        rows = {} if disposing else _rows(workspace, items)
        if not burial.claimed:
            if workspace.archive.stat(begun_key(digest)) is None:
                require_none_cut_off(workspace)
                _require_current(workspace, document)
                if approver is None:
                    approver = _policy(workspace, document)
            late = document.expired(workspace.now())
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
                retain(workspace, found.packs)
                begun = _begin(workspace, digest, items, approver, answered)
                _mark(workspace, rows, items, digest)
                gone, refused = _delete(workspace, items, begun, rows, late)
            if refused:
                workspace.note("prune.refused", {"plan": digest, "why": dict(refused)})
            if not gone:
                _close(workspace, digest, rows)
                why = next(iter(refused), "it is held, or was gone before")
                raise RefusedError(f"nothing of the plan was deleted: {why}; make it again")
            statement = _deletion(workspace, document, begun, gone, leaves)
        else:
            statement = burial.statement()
        operations = burial.run(statement).operations
    deletion = digest_of(burial.bundle())
    gone = _buried(burial)
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
    under: dict[str | None, list[int]] = {deletion: [], None: []}
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


def _policy(workspace: Workspace, document: Document) -> str:
    """The signed policy that approves a plan, as an approver."""
    if document.action == DISPOSE:
        raise RefusedError("no policy approves a disposal: somebody has to")
    return require_approved(workspace, document.items).approver


def _require_current(workspace: Workspace, document: Document) -> None:
    """Check that the plan is young, and that all of it is still due as it says."""
    if document.expired(workspace.now()):
        raise RefusedError(f"the plan is older than {PLAN_LIFE.days} days: make it again")
    if document.action == DISPOSE:
        now = set(disposable(workspace).items)
    else:
        repositories = {item.repository for item in document.items}
        now = set(due(workspace, document.before, repositories).items)
    changed = [item for item in document.items if item not in now]
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
        place = attachment_of(row)
        if place in wanted:
            found[place].append(row)
    return found


@contextmanager
def _alarm(workspace: Workspace, digest: str) -> Iterator[None]:
    try:
        yield
    except VerificationError as err:
        workspace.note("prune.alarm", {"plan": digest, "reason": str(err)[:2000]})
        raise


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
        removal = removals[name]
        gone: dict[Item, Manifest | None] = {}
        for item in members:
            if item.place in begun.missing:
                continue
            found = removal.registry.manifest(repository, item.manifest)
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
    document: Document,
    begun: Begun,
    gone: Sequence[Item],
    leaves: Mapping[str, Leaf],
) -> bytes:
    source = {"from": "archive"} if document.action == DISPOSE else {}
    tombstones = b"".join(
        canonical_json(
            {
                **item.to_json(),
                **source,
                "bundles": sorted(leaves[one].sha256 for one in item.leaves),
                "versions": [document.versions[pack] for pack in item.packs],
                "plan": document.digest,
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
            "plan": document.digest,
            "approver": begun.approver,
            "deleted": len(gone),
            "kept": len(document.items) - len(gone),
            **signed_as(workspace),
        },
    ).format()


def _buried(deletion: Ceremony) -> list[Item]:
    """What a finished deletion statement has tombstones for."""
    lines = deletion.document().splitlines()
    return [Item.from_json(parse_object(line, "a tombstone")) for line in lines]


def _put_back(workspace: Workspace, deletion: str) -> set[Place]:
    """What was restored since it went: the catalog has it as being there, and that stays."""
    return {
        place[:4]
        for place, lines in restored(workspace).items()
        if any(line["deletion"] == deletion for line in lines)
    }
