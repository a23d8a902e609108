"""What the next seal covers: every leaf that no earlier one does, listed by the catalog, and borne
out by the packs.

One pass over the catalog in the order of the leaves, and one over the packs: memory holds a hash
for each leaf, what is told apart by it, one shard and one pack, and never the leaves themselves.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from datetime import datetime
from typing import Final

from longseal.archive.leaf import Leaf
from longseal.archive.pack import load_pack
from longseal.archive.records import Place
from longseal.errors import VerificationError
from longseal.seal.statement import Subject
from longseal.seal.tree import Frontier512, Tree, leaf_hash
from longseal.verify.engine import Outcome
from longseal.workspace import Workspace

SHARD_LINES: Final = 65_536
"""Leaves in one shard: a complete level-2 subtree, and below cosign's 128 MiB for an artifact."""


class Contents:
    """The leaves of the next seal, archived as the files that it speaks of.

    :param before: what was signed earlier than this; None for all so far
    :raises VerificationError: the catalog lists a leaf, or a verdict, that is in no pack
    """

    def __init__(self, workspace: Workspace, before: datetime | None) -> None:
        self._workspace = workspace
        self.subjects: list[Subject] = []
        """The shards, in order, and a list of the leaves of each other verdict."""
        self.counts = Counter({name.value: 0 for name in Outcome})
        """Leaves by verdict."""
        self.images: set[Place] = set()
        self.unknown: set[str] = set()
        """Digests of images with evidence that could not be judged."""
        self.policies: set[str] = set()
        self.trusts: set[str] = set()
        self.registries: Counter[str] = Counter()
        self.rejects: Counter[str] = Counter()
        """Rejected leaves by the slug of the reason."""
        self.tree512 = Frontier512()
        hashes = bytearray()
        self._require_packed(*self._list(before, hashes))
        self.tree = Tree.of([bytes(hashes)])

    def _list(
        self, before: datetime | None, hashes: bytearray
    ) -> tuple[dict[bytes, str], set[str]]:
        """Archive the leaves in their order, by what the catalog says.

        :returns: the verdict of each leaf, by its hash, and the packs that should bear it out
        """
        verdicts: dict[bytes, str] = {}
        packs: set[str] = set()
        shard = bytearray()
        lists: defaultdict[str, bytearray] = defaultdict(bytearray)
        last = b""
        verified = Outcome.VERIFIED.value
        for leaf, verdict, pack in self._workspace.catalog.unsealed(before):
            packs.add(pack)
            line = leaf.encode()
            if line == last:
                continue
            if line < last:
                raise VerificationError("the catalog's database does not sort leaves by bytes")
            last, hashed = line, leaf_hash(line)
            verdicts[hashed] = sys.intern(verdict)
            self.counts[verdict] += 1
            if verdict == verified:
                hashes += hashed
                self.tree512.append_line(line)
                shard += line
                shard += b"\n"
                if self.counts[verdict] % SHARD_LINES == 0:
                    self._keep_shard(shard)
                    shard.clear()
            else:
                lists[verdict] += line + b"\n"
        if shard:
            self._keep_shard(shard)
        for name in list(Outcome)[1:]:
            self._keep(f"{name}.jsonl", bytes(lists[name]))
        return verdicts, packs

    def _keep_shard(self, lines: bytearray) -> None:
        self._keep(f"leaves/{len(self.subjects):04}.jsonl", bytes(lines))

    def _keep(self, name: str, data: bytes) -> None:
        self._workspace.keep(data)
        self.subjects.append(Subject.of(data, name))

    def _require_packed(self, verdicts: dict[bytes, str], packs: set[str]) -> None:
        """A row that was only written into the catalog is in no pack, and is not sealed."""
        for digest in sorted(packs):
            for item in load_pack(self._workspace.archive, digest):
                hashed = leaf_hash(item.leaf.line())
                if verdicts.get(hashed) == item.leaf.verdict:
                    del verdicts[hashed]
                    self._note(item.leaf)
        if verdicts:
            raise VerificationError(
                f"the catalog lists {len(verdicts)} leaves that are in no pack, the first with the"
                f" hash {min(verdicts).hex()}: somebody wrote into it; rebuild it"
            )

    def _note(self, leaf: Leaf) -> None:
        self.images.add((leaf.registry, leaf.repository, leaf.image))
        self.policies.add(leaf.policy)
        self.trusts.add(leaf.trust)
        self.registries[leaf.registry] += 1
        if leaf.verdict == Outcome.UNKNOWN.value:
            self.unknown.add(leaf.image)
        if leaf.verdict == Outcome.REJECTED.value and leaf.reason:
            self.rejects[leaf.reason.partition(":")[0]] += 1
