"""Recheck: what is about to be sealed is verified again, pack by pack, also ahead of the seal.

What was rechecked ahead leaves a receipt in the archive. Its name is a code that only those can
compute who know the signing workers' secret, so whoever can write into the catalog, or into the
archive, cannot put one there; and it is of one pack, under one trusted root and policy, by one
version of each verifier, so it never vouches for anything else.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from longseal import judgement
from longseal.archive.pack import Evidence, load_pack
from longseal.batches import divided
from longseal.canonical import canonical_json
from longseal.trust import vouched
from longseal.verify.engine import Outcome
from longseal.verify.pool import VerifierPool
from longseal.workspace import Workspace


class Recheck:
    """Judges what packs hold by what this worker's settings bear out, and never by what a leaf
    names: a root or policy that was revoked or changed meanwhile is no authority, nor is one that
    somebody archived. A context manager, since the judging processes are its own.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._secret = workspace.recheck_secret
        self._pool = VerifierPool(
            vouched(workspace), workspace.policy, workspace.settings.harvest_workers
        )

    def failed(self, pack: str, evidence: Sequence[Evidence]) -> dict[bytes, str]:
        """The lines of verified ``evidence`` that do not hold, with why.

        :param pack: the digest of the pack that it was read from; with a receipt, all of it holds
        """
        if self.done(pack):
            return {}
        return {
            item.leaf.line(): found
            for item, again in judgement.judged(self._pool, evidence)
            if (found := judgement.difference(item.leaf, again))
        }

    def done(self, pack: str) -> bool:
        """Whether a signing worker has found that all verified evidence of this pack holds."""
        archive = self._workspace.archive
        return self._secret is not None and archive.stat(self._receipt(pack)[0]) is not None

    def note(self, pack: str) -> None:
        """Write the receipt that all verified evidence of this pack holds."""
        self._workspace.store(*self._receipt(pack))

    def _receipt(self, pack: str) -> tuple[str, bytes]:
        assert self._secret is not None
        said = canonical_json(
            {
                "pack": pack,
                "policy": self._pool.policy_digest,
                "software": self._pool.software,
                "trust": self._pool.trust_digest,
            }
        )
        return f"rechecks/packs/{hmac.digest(self._secret, said, 'sha256').hex()}.json", said

    def __enter__(self) -> Recheck:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.__exit__(kind, error, trace)


@dataclass(slots=True)
class Ahead:
    """How a recheck ahead of the seal went.

    :param known: packs that have their receipt already
    :param failed: by leaf line, why it does not hold; its pack gets no receipt, and the recheck of
        the seal sets it aside
    """

    rechecked: int = 0
    packs: int = 0
    known: int = 0
    failed: dict[bytes, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {
            "rechecked": self.rechecked,
            "packs": self.packs,
            "known": self.known,
            "failed": len(self.failed),
        }


def plan_recheck(workspace: Workspace, size: int = 8) -> list[Sequence[str]]:
    """The packs that no seal covers yet, ``size`` in a batch, or more where that makes too many.

    :returns: nothing where the settings name no secret for the receipts
    """
    if workspace.recheck_secret is None:
        return []
    return divided(workspace.catalog.unsealed_packs(), size)


def recheck_ahead(workspace: Workspace, packs: Iterable[str] | None = None) -> Ahead | None:
    """Verify again what no seal covers yet, so that little is left at the month's end.

    A killed run goes on behind the last pack that it finished.

    :param packs: some of them; None for all
    :returns: None where the settings name no secret for the receipts
    """
    if workspace.recheck_secret is None:
        return None
    found = Ahead()
    with Recheck(workspace) as recheck:
        for digest in workspace.catalog.unsealed_packs() if packs is None else packs:
            if recheck.done(digest):
                found.known += 1
                continue
            evidence = [
                item
                for item in load_pack(workspace.archive, digest)
                if item.leaf.verdict == Outcome.VERIFIED.value
            ]
            failed = recheck.failed(digest, evidence)
            found.rechecked += len(evidence)
            found.packs += 1
            found.failed |= failed
            if not failed:
                recheck.note(digest)
    return found
