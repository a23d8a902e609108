"""Leaves as the seals have them: what the catalog says of them counts for nothing here."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from longseal.archive.leaf import Leaf
from longseal.seal.ceremony import check_bundle
from longseal.seal.published import read_lines, read_seal
from longseal.seal.tree import leaf_hash
from longseal.workspace import Workspace

LISTS: Final = ("rejected.jsonl", "ignored.jsonl", "unknown.jsonl")


class Sealed(NamedTuple):
    """A leaf, and the seal that has it."""

    leaf: Leaf
    seal: int


def sealed_leaves(
    workspace: Workspace, wanted: Collection[str], sequences: Iterable[int]
) -> dict[str, Sealed]:
    """Those of ``wanted`` (RFC 6962 hashes, hex) that these seals have, in tree or lists.

    :raises VerificationError: one of the seals does not hold
    """
    found: dict[str, Sealed] = {}
    for sequence in sequences:
        seal = read_seal(workspace, sequence)
        check_bundle(workspace, seal.bundle, "seal")
        files = seal.files()
        named = [*seal.files("leaves/").values(), *(files[name] for name in LISTS)]
        for line in read_lines(workspace, named):
            if (hashed := leaf_hash(line).hex()) in wanted:
                found[hashed] = Sealed(Leaf.parse(line), sequence)
    return found
