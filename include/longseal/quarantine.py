"""Quarantine: stored evidence that is not accepted, with the reason; none is ever dropped.

Nothing leaves by somebody's word. What was held back for want of a rule, or under another trusted
root, is released when judging it again under what is in force now accepts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from longseal import judgement
from longseal.canonical import is_digest, parse_object, timestamp
from longseal.catalog.models import Evidence
from longseal.errors import RefusedError
from longseal.patterns import matches_any
from longseal.workspace import Workspace

HELD: Final = ("rejected", "suspect", "unknown")
"""``rejected``: refused; ``suspect``: it did not hold when it was about to be sealed; ``unknown``:
nothing here can judge it."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which of it: whatever is None takes everything.

    :param reason: the slug of a reason
    :param repository: a pattern where ``*`` stops at ``/`` and ``**`` crosses it
    :param image: a digest
    :param digest: of the bundle, the image, the manifest or the leaf
    """

    reason: str | None = None
    repository: str | None = None
    image: str | None = None
    digest: str | None = None

    def takes(self, row: Evidence) -> bool:
        """Whether ``row`` is meant."""
        named = (row.bundle, row.image, row.manifest, f"sha256:{row.leaf_hash}")
        return (
            (self.reason is None or slug(row) == self.reason)
            and (self.repository is None or matches_any((self.repository,), row.repository))
            and (self.image is None or row.image == self.image)
            and (self.digest is None or self.digest in named)
        )


def slug(row: Evidence) -> str:
    """What held evidence is counted by; ``suspect`` where only a recheck refused it."""
    if row.verdict == "suspect":
        return "suspect"
    return (row.reason or "none").partition(":")[0]


def held(workspace: Workspace, wanted: Filter = Filter()) -> Iterator[Evidence]:
    """Held evidence, by registry, repository, image and attachment.

    :raises RefusedError: the filter names something that is no digest
    """
    for digest in (wanted.image, wanted.digest):
        if digest is not None and not is_digest(digest):
            raise RefusedError(f"expected a digest sha256:…, found {digest[:80]!r}")
    return (row for row in workspace.catalog.held(HELD) if wanted.takes(row))


def counts(rows: Iterable[Evidence]) -> dict[str, int]:
    """How much is held, by reason, the most first."""
    return dict(Counter(map(slug, rows)).most_common())


def listed(row: Evidence) -> dict[str, Any]:
    """One line of a list."""
    return {
        "bundle": row.bundle,
        "registry": row.source,
        "repository": row.repository,
        "image": row.image,
        "manifest": row.manifest,
        "verdict": row.verdict,
        "reason": row.reason,
        "predicate_type": row.predicate_type,
        "identity": row.identity,
        "issuer": row.issuer,
        "collected_at": timestamp(row.collected_at),
    }


def shown(row: Evidence) -> dict[str, Any]:
    """All that is known of one piece, with its leaf and where its bytes are."""
    leaf: Mapping[str, Any] = parse_object(row.leaf.encode(), "a leaf")
    return {
        **listed(row),
        "leaf": leaf,
        "leaf_hash": row.leaf_hash,
        "pack": row.pack,
        "seal": row.seal,
        "tombstone": row.tombstone,
    }


def release(workspace: Workspace, wanted: Filter = Filter()) -> dict[str, Any]:
    """Judge held evidence again, and release what is accepted now.

    :returns: how much was ``judged`` and ``released``, what is ``held`` on by reason, and each
        piece that was released
    """
    rows = list(held(workspace, wanted))
    outcomes = judgement.release(workspace, rows)
    released = {*outcomes.accepted, *outcomes.restored}
    still = {row.id for row in rows} - released
    if released:
        workspace.note(
            "quarantine.released",
            {
                "released": len(released),
                "packs": outcomes.packs,
                "judged": outcomes.judged,
            },
        )
    return {
        "judged": outcomes.judged,
        "released": len(released),
        "held": counts(row for row in workspace.catalog.held(HELD) if row.id in still),
        "missing": outcomes.missing,
        "evidence": [one for one in outcomes.changes if one["to"]["verdict"] in judgement.ACCEPTED],
    }
