"""Reading back: what is to go is whole in the archive, sealed, locked as promised, and due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from longseal.archive.document import Item
from longseal.archive.interface import Stored
from longseal.archive.leaf import Leaf
from longseal.archive.pack import load_by_leaf, pack_key, pack_label
from longseal.archive.retention import class_of
from longseal.archive.sealed import sealed_leaves
from longseal.archive.tombstones import place_of_leaf
from longseal.canonical import timestamp
from longseal.errors import VerificationError
from longseal.settings import Duration
from longseal.workspace import Workspace

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
        for hashed, evidence in load_by_leaf(workspace.archive, digest).items():
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
    if place_of_leaf(leaf)[:4] != item.place:
        raise VerificationError(f"the plan mistakes {item.manifest} for {leaf.manifest}")
    keep = class_of(workspace.settings.retention, leaf).keep
    if keep.after(leaf.signed_at) > workspace.now():
        raise VerificationError(
            f"{item.manifest} of {item.image} was signed at {timestamp(leaf.signed_at)} and is not"
            " past its retention: somebody wrote into the catalog; rebuild it"
        )


def retain(workspace: Workspace, packs: Mapping[str, Stored]) -> None:
    """Lock packs for :data:`ONLY_COPY`: a lock may have ended by now, or be about to, and the
    registry's copies go."""
    until = ONLY_COPY.after(workspace.now())
    for pack, stored in packs.items():
        if stored.retain_until is None or stored.retain_until < until:
            workspace.archive.retain(pack_key(pack), until)
