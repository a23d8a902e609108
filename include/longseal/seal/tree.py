"""Merkle tree over the leaves of a seal: RFC 6962 section 2.1 (the same in RFC 9162), SHA-256.

A tree of a million leaves is kept as 64 MB of hashes, one string of bytes a level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from longseal.errors import MalformedError, VerificationError

HASH_SIZE: Final = 32

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(line: bytes) -> bytes:
    """The tree's hash of one leaf.

    :param line: the leaf's bytes, without the newline that ends it in its shard
    """
    return hashlib.sha256(_LEAF + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The tree's hash of two subtrees."""
    return hashlib.sha256(_NODE + left + right).digest()


@dataclass(frozen=True, slots=True)
class Tree:
    """A built tree.

    :param levels: from the leaves up, the hashes of each level end to end. A node without a
        sibling stands again on the level above, which gives the splits of RFC 6962.
    """

    levels: tuple[bytes, ...]

    @classmethod
    def of(cls, leaf_hashes: Iterable[bytes]) -> Tree:
        """Build the tree over hashes made by :func:`leaf_hash`, in their order."""
        level = b"".join(leaf_hashes)
        if len(level) % HASH_SIZE:
            raise MalformedError(f"leaf hashes have {HASH_SIZE} bytes each")
        levels = [level]
        while len(level) > HASH_SIZE:
            level = _parents(level)
            levels.append(level)
        return cls(tuple(levels))

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return len(self.levels[0]) // HASH_SIZE

    def leaf_hashes(self) -> Iterator[bytes]:
        """The hashes of the leaves, in order."""
        leaves = self.levels[0]
        return (leaves[at : at + HASH_SIZE] for at in range(0, len(leaves), HASH_SIZE))

    @property
    def root(self) -> bytes:
        """The tree's head; of an empty tree, the hash of nothing."""
        return self.levels[-1] or hashlib.sha256().digest()

    def proof(self, index: int) -> tuple[bytes, ...]:
        """The inclusion proof of the leaf at ``index``, from its sibling upwards.

        :raises MalformedError: there is no such leaf
        """
        if not 0 <= index < self.size:
            raise MalformedError(f"a tree of {self.size} leaves has no leaf {index}")
        path = []
        for level in self.levels[:-1]:
            start = (index ^ 1) * HASH_SIZE
            if sibling := level[start : start + HASH_SIZE]:
                path.append(sibling)
            index >>= 1
        return tuple(path)


class Frontier:
    """A tree that only grows at its end: what of it decides every later root.

    :param size: leaves so far
    :param hashes: roots of the complete subtrees that they fill, the largest first; one for each
        one in the binary number ``size``
    :raises MalformedError: they do not fit each other
    """

    hash_size = HASH_SIZE

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)
        if size < 0 or len(self.hashes) != size.bit_count():
            raise MalformedError(f"a tree of {size} leaves has other complete subtrees")
        if any(len(each) != self.hash_size for each in self.hashes):
            raise MalformedError(f"hashes have {self.hash_size} bytes each")

    def digest(self, data: bytes) -> bytes:
        """The hash function."""
        return hashlib.sha256(data).digest()

    def append(self, leaf: bytes) -> None:
        """Add one leaf, by its hash."""
        node, size = leaf, self.size
        while size & 1:
            node = self.digest(_NODE + self.hashes.pop() + node)
            size >>= 1
        self.hashes.append(node)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The tree's head; of an empty tree, the hash of nothing."""
        if not self.hashes:
            return self.digest(b"")
        *left, root = self.hashes
        for node in reversed(left):
            root = self.digest(_NODE + node + root)
        return root


class Frontier512(Frontier):
    """The same with SHA-512: what a seal says beside its tree, for the day that SHA-256 falls.

    RFC 6962 leaves the hash function open. Of a tree of a million leaves it keeps twenty hashes.
    """

    hash_size = 64

    def digest(self, data: bytes) -> bytes:
        """The hash function."""
        return hashlib.sha512(data).digest()

    def append_line(self, line: bytes) -> None:
        """Add one leaf, by its line."""
        self.append(self.digest(_LEAF + line))


def _parents(level: bytes) -> bytes:
    sha256 = hashlib.sha256
    pair = 2 * HASH_SIZE
    whole = len(level) - len(level) % pair
    nodes = [sha256(_NODE + level[at : at + pair]).digest() for at in range(0, whole, pair)]
    return b"".join(nodes) + level[whole:]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that ``leaf`` stands at ``index`` in the tree of ``size`` leaves with this ``root``.

    The algorithm of RFC 9162 section 2.1.3.2.

    :param leaf: the leaf's hash, by :func:`leaf_hash`
    :raises VerificationError: it does not, or the proof is not of this shape
    """
    if not 0 <= index < size:
        raise VerificationError(f"a tree of {size} leaves has no leaf {index}")
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if len(sibling) != HASH_SIZE:
            raise VerificationError(f"a proof's hash has {len(sibling)} bytes, not {HASH_SIZE}")
        if last == 0:
            raise VerificationError("the inclusion proof is longer than the tree is high")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise VerificationError("the inclusion proof is shorter than the tree is high")
    if computed != root:
        raise VerificationError(
            f"leaf {index} is not in the tree of {size}: its proof leads to {computed.hex()}, "
            f"the root is {root.hex()}"
        )
