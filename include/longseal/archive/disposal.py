"""Disposal: what is past the last of its dates leaves the archive; off unless set.

A pack goes whole or not at all: once every leaf in it is past its class's ``dispose``, is sealed,
has a tombstone in its registry and is not held, and the store's lock has ended. The plan, its
approval and its tombstones are those of a prune (:mod:`longseal.archive.prune`); a policy never
approves one. What stays is the proof that it was there: the leaf in its seal, and the tombstone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from longseal.archive.document import Item, Place, require_version
from longseal.archive.due import Due, attached, capped
from longseal.archive.holds import Holds, holding
from longseal.archive.leaf import Leaf
from longseal.archive.pack import index_key, label_key, load_by_leaf, pack_key
from longseal.archive.plan import Plan, require_none_cut_off, sign
from longseal.archive.retention import class_of
from longseal.archive.sealed import sealed_leaves
from longseal.archive.tombstones import buried, place_of_leaf
from longseal.canonical import timestamp
from longseal.catalog import models
from longseal.errors import RefusedError, RestoreInProgress, VerificationError
from longseal.seal.published import published
from longseal.settings import RetentionSettings
from longseal.workspace import Workspace

DISPOSE: Final = "dispose"
"""The ``action`` of such a plan."""


def plan_disposal(workspace: Workspace, max_share: int | None = None) -> Plan | None:
    """Plan what may leave the archive; None where nothing may, and then nothing is signed.

    :param max_share: in place of ``retention.max_share``, for this once
    :raises RefusedError: disposal is not set, a cap stops all of it, or a prune was cut off
    :raises VerificationError: a pack is not in the archive as it was, or a seal does not hold
    """
    if not _is_set(workspace.settings.retention):
        raise RefusedError("retention.dispose is set for no class: nothing is ever disposed of")
    require_none_cut_off(workspace)
    Holds(workspace).secure()
    found = disposable(workspace)
    items = capped(workspace, found, max_share)
    # A pack goes whole: what a cap keeps of it keeps all of it.
    left_out = {item.packs for item in found.items} - {item.packs for item in items}
    items = [item for item in items if item.packs not in left_out]
    return sign(workspace, items, found.stopped, action=DISPOSE) if items else None


def disposable(workspace: Workspace) -> Due:
    """The evidence of each pack of which all may go, an item for each attachment and pack."""
    found, now = Due(), workspace.now()
    if not _is_set(workspace.settings.retention):
        return found
    found.attached = attached(workspace.catalog.placed())
    packs = dict(_unlocked(workspace, found, now))
    wanted = {one for leaves in packs.values() for one in leaves}
    sequences = [seal.sequence for seal in published(workspace)] if wanted else []
    sealed = sealed_leaves(workspace, wanted, sequences)
    gone = buried(workspace) if wanted else {}
    holds = Holds(workspace).in_force()
    for pack, leaves in packs.items():
        items: dict[Place, list[str]] = defaultdict(list)
        reason = None
        for hashed, leaf in leaves.items():
            place = place_of_leaf(leaf)
            items[place[:4]].append(hashed)
            if holding(holds, [Held.of(leaf)]) is not None:
                reason = "held"
            elif not _past(workspace.settings.retention, leaf, now):
                reason = reason or "its pack is due in part only"
            elif hashed not in sealed:
                reason = reason or "not sealed"
            elif place not in gone:
                reason = reason or "still in its registry"
        if reason is not None:
            if any(_past(workspace.settings.retention, leaf, now) for leaf in leaves.values()):
                found.stopped[reason] += len(items)
            continue
        for attachment, hashes in items.items():
            rules = {_rule(workspace.settings.retention, leaves[one]) for one in hashes}
            found.items.append(
                Item(
                    *attachment,
                    packs=(pack,),
                    seals=tuple(sorted({sealed[one].seal for one in hashes})),
                    leaves=tuple(sorted(hashes)),
                    rules=tuple(sorted(rules)),
                )
            )
    most = workspace.settings.retention.max_count
    if len(found.items) > most:
        raise RefusedError(
            f"retention.max_count: {len(found.items)} attachments are due for disposal, {most} is"
            " the most: is a setting wrong?"
        )
    found.items.sort(key=lambda item: (item.packs, item.place))
    return found


def read_last(
    workspace: Workspace, items: Sequence[Item], versions: Mapping[str, str | None]
) -> dict[str, Leaf]:
    """Read every pack of a plan whole, for the last time: it holds what the plan says and no more.

    A pack that is not there is passed over: a run that was killed deleted it.

    :returns: the leaves of the plan, from the seals that will go on proving them
    :raises VerificationError: a pack or a leaf is not what the plan says
    :raises RestoreInProgress: a pack lies in a cold class
    """
    for pack, members in _by_pack(items).items():
        stored = workspace.archive.stat(pack_key(pack))
        if stored is None:
            continue
        require_version(pack, stored, versions)
        planned = {one for item in members for one in item.leaves}
        if load_by_leaf(workspace.archive, pack).keys() != planned:
            raise VerificationError(f"the pack {pack} has other leaves than the plan says")
    wanted = {one for item in items for one in item.leaves}
    sequences = sorted({seal for item in items for seal in item.seals})
    sealed = sealed_leaves(workspace, wanted, sequences)
    for item in items:
        for one in item.leaves:
            if one not in sealed or place_of_leaf(sealed[one].leaf)[:4] != item.place:
                raise VerificationError(f"{item.manifest} of {item.image} is not sealed as it was")
            if not _past(workspace.settings.retention, sealed[one].leaf, workspace.now()):
                raise VerificationError(f"{item.manifest} of {item.image} is not past disposal")
    return {hashed: one.leaf for hashed, one in sealed.items()}


def dispose(
    workspace: Workspace, items: Sequence[Item], leaves: Mapping[str, Leaf], late: bool
) -> tuple[list[Item], dict[str, int]]:
    """Delete the packs of a plan that was begun.

    :param leaves: as :func:`read_last` gave them
    :param late: nothing more may be deleted
    :returns: what is gone, also by a run that was killed; and why packs stayed, by how many items
    """
    register, gone = Holds(workspace), list[Item]()
    stayed = defaultdict[str, int](int)
    for pack, members in _by_pack(items).items():
        there = workspace.archive.stat(pack_key(pack)) is not None
        held = [Held.of(leaves[one]) for item in members for one in item.leaves]
        if there and (late or holding(register.in_force(), held) is not None):
            continue
        try:
            workspace.archive.dispose(pack_key(pack), workspace.now())
        except RefusedError as err:
            stayed[str(err)[:500]] += len(members)
            continue
        gone += members
        for key in (index_key(pack), label_key(pack)):
            # One that is locked for longer says nothing without its pack.
            with suppress(RefusedError):
                workspace.archive.dispose(key, workspace.now())
    return gone, stayed


def _by_pack(items: Sequence[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item.packs[0]].append(item)
    return found


@dataclass(frozen=True, slots=True)
class Held:
    """As much of a leaf as a hold asks for."""

    image: str
    repository: str
    bundle: str
    manifest: str
    signed_at: datetime

    @classmethod
    def of(cls, leaf: Leaf) -> Held:
        """What a hold would be on."""
        return cls(
            leaf.image, leaf.repository, f"sha256:{leaf.sha256}", leaf.manifest, leaf.signed_at
        )


def _unlocked(
    workspace: Workspace, found: Due, now: datetime
) -> Iterator[tuple[str, Mapping[str, Leaf]]]:
    """Packs past the date that was promised, with their leaves, read whole."""
    for pack in workspace.catalog.every(models.Pack):
        if pack.state != "stored" or pack.retain_until > now:
            continue
        stored = workspace.archive.stat(pack_key(pack.digest))
        if stored is None:
            raise VerificationError(f"the pack {pack.digest} is not in the archive: alarm")
        if stored.retain_until is not None and stored.retain_until > now:
            found.stopped[f"locked until {timestamp(stored.retain_until)}"] += pack.members
            continue
        try:
            read = load_by_leaf(workspace.archive, pack.digest)
        except RestoreInProgress:
            found.stopped["in a cold class: a copy was asked for"] += pack.members
        else:
            yield pack.digest, {hashed: one.leaf for hashed, one in read.items()}


def _past(retention: RetentionSettings, leaf: Leaf, now: datetime) -> bool:
    dispose = class_of(retention, leaf).dispose
    return dispose is not None and dispose.after(leaf.collected_at) <= now


def _rule(retention: RetentionSettings, leaf: Leaf) -> str:
    kept = class_of(retention, leaf)
    return f"{kept.name}: dispose after {kept.dispose}"


def _is_set(retention: RetentionSettings) -> bool:
    return any((retention.dispose, *(one.dispose for one in retention.classes)))
