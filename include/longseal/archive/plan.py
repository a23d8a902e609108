"""The plan of a prune: a signed document of exactly what would go, why, and where each copy is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longseal.archive.document import PLAN, Document, Item, plan_folder
from longseal.archive.due import Due, capped, due
from longseal.archive.holds import Holds
from longseal.archive.pack import pack_key
from longseal.canonical import canonical_json, hex_of, timestamp
from longseal.errors import RefusedError, VerificationError
from longseal.registry.removal import Removal
from longseal.seal.ceremony import BUNDLE, Ceremony
from longseal.seal.organisation import signed_as
from longseal.seal.published import predicate_type
from longseal.seal.statement import Statement, Subject
from longseal.workspace import Workspace


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
    folder, attempt = plan_folder(content), 1
    while (ceremony := Ceremony(workspace, f"{folder}/{attempt}")).claimed:
        data = ceremony.document()
        document = Document.parse(data)
        if not document.expired(workspace.now()) and not spent(workspace, document.digest):
            break
        attempt += 1
    else:
        data = canonical_json(
            {
                **content,
                "createdAt": timestamp(workspace.now()),
                "before": before and timestamp(before),
                "stopped": dict(stopped),
                "copies": _copies(workspace, items),
            }
        )
        document = Document.parse(data)
        workspace.keep(data)
    statement = Statement(
        (Subject.of(data, PLAN),),
        predicate_type(workspace, "prune-plan"),
        {
            "items": len(items),
            **signed_as(workspace),
        },
    )
    operations = ceremony.run(statement.format()).operations
    note_once(
        workspace,
        "prune.planned",
        {"plan": document.digest, "items": len(items)},
        document.created_at,
    )
    return Plan(document.digest, tuple(items), dict(stopped), operations)


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
        ends = {f"{folder}/{BUNDLE}", f"{folder}/closed.json"}
        if name == "begun.json" and keys.isdisjoint(ends):
            yield folder.rpartition("/")[2]


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
