"""Judging stored evidence again, after a change of policy or trusted root.

Nothing is downloaded: packs hold all that a judgement needs. A verdict that comes out otherwise is
a new leaf that ``supersedes`` the one before, in a new pack; the catalog's row moves to it, and the
next seal covers it. What comes out as before keeps its leaf. Each row notes under what it was
judged last, so a second run has nothing to do, and a killed one goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from longseal.archive.leaf import Leaf
from longseal.archive.pack import Evidence, load_by_leaf, store_pack, write_pack
from longseal.archive.retention import class_of, cold_days, retain_until
from longseal.canonical import digest_of, sha256_hex
from longseal.catalog.models import Evidence as Row
from longseal.errors import MalformedError
from longseal.harvest import catalog_row, claim_row, regime, signer_of
from longseal.seal.tree import leaf_hash
from longseal.settings import Duration
from longseal.verify.engine import Judgement, Outcome
from longseal.verify.policy import Reason
from longseal.verify.pool import Case, VerifierPool
from longseal.workspace import Workspace

ACCEPTED: Final = (Outcome.VERIFIED.value, Outcome.IGNORED.value)

MAX_SHOWN: Final = 10_000
"""Most changes that are told one by one; all are counted."""

_CASES: Final = 32
"""Attestations handed to a verifying process at once."""


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of evidence whose verdict is another one now.

    :param row: its id in the catalog
    :param held: the verdict that the catalog had, which is ``suspect`` where a recheck refused it
    """

    row: int
    held: str
    before: Leaf
    after: Leaf

    def to_json(self) -> dict[str, Any]:
        """Which evidence, from what to what, and why."""
        shown = self.after if self.after.predicate_type else self.before
        return {
            "bundle": f"sha256:{self.before.sha256}",
            "registry": self.before.registry,
            "repository": self.before.repository,
            "image": self.before.image,
            "predicate_type": shown.predicate_type,
            "identity": shown.signer and shown.signer.identity,
            "issuer": shown.signer and shown.signer.issuer,
            "key": shown.signer and shown.signer.key,
            "from": {"verdict": self.held, "reason": self.before.reason},
            "to": {"verdict": self.after.verdict, "reason": self.after.reason},
        }


@dataclass(slots=True)
class Outcomes:
    """How judging again went; of a change no more is kept than is shown, for there may be many.

    :param counts: changes by what became of what, as ``verified to rejected``
    :param changes: the first :data:`MAX_SHOWN`, each as :meth:`Change.to_json` has it
    :param accepted: rows whose new leaf is verified or ignored
    :param restored: rows that were set aside and hold after all, with the leaf that they have
    :param missing: rows whose leaf is not in the pack that they name: nothing is known of them
    """

    judged: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    changes: list[dict[str, Any]] = field(default_factory=list)
    packs: list[str] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    restored: list[int] = field(default_factory=list)
    missing: int = 0

    def add(self, part: _Judged) -> None:
        """Count one pack in."""
        self.judged += part.count
        self.missing += part.missing
        self.counts.update(f"{one.held} to {one.after.verdict}" for one in part.changes)
        shown = part.changes[: MAX_SHOWN - len(self.changes)]
        self.changes += [one.to_json() for one in shown]
        self.accepted += [one.row for one in part.changes if one.after.verdict in ACCEPTED]

    def to_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "judged": self.judged,
            "changed": self.counts.total(),
            "counts": dict(sorted(self.counts.items())),
            "missing": self.missing,
            "packs": self.packs,
            "changes": self.changes,
        }


def judged(
    pool: VerifierPool, evidence: Sequence[Evidence]
) -> Iterator[tuple[Evidence, Judgement]]:
    """Judge each piece again as it was then, on every core."""
    parts = [evidence[at : at + _CASES] for at in range(0, len(evidence), _CASES)]
    futures = [pool.submit(map(Case.kept, part)) for part in parts]
    for part, future in zip(parts, futures, strict=True):
        yield from zip(part, future.result(), strict=True)


def difference(leaf: Leaf, judgement: Judgement) -> str | None:
    """How a second judgement differs from what the leaf says; None where it does not.

    Of a reason its slug counts: another wording, as after a rule for somebody else, is no change.
    """
    slug = judgement.reason and judgement.reason.slug
    said = leaf.reason and leaf.reason.partition(":")[0]
    if (leaf.verdict, said) != (judgement.outcome.value, slug):
        return f"it is {judgement.outcome}" + (f": {judgement.reason}" if slug else "")
    if judgement.outcome is not Outcome.VERIFIED:
        return None
    signed_at = judgement.signed_at and judgement.signed_at.replace(microsecond=0)
    pairs = {
        "identity": (leaf.signer and leaf.signer.identity, judgement.identity),
        "issuer": (leaf.signer and leaf.signer.issuer, judgement.issuer),
        "key": (leaf.signer and leaf.signer.key, judgement.key),
        "predicate type": (leaf.predicate_type, judgement.predicate_type),
        "subjects": (leaf.subject, judgement.subjects),
        "signing time": (leaf.signed_at, signed_at),
        "time source": (leaf.time_source, judgement.time_source),
    }
    return next(
        (
            f"its {name} is {found}, the leaf says {written}"
            for name, (written, found) in pairs.items()
            if written != found
        ),
        None,
    )


def successor(leaf: Leaf, judgement: Judgement, trust: str, policy: str) -> Leaf | None:
    """The leaf that takes the place of ``leaf`` after ``judgement``; None where it still holds."""
    if difference(leaf, judgement) is None:
        return None
    after = replace(
        leaf,
        trust=trust,
        policy=policy,
        engine=judgement.engine,
        supersedes=sha256_hex(leaf.line()),
        verdict=Outcome.REJECTED.value,
        reason="malformed",
        signer=None,
        predicate_type=None,
        subject=(),
        signed_at=leaf.collected_at,
        time_source="collection",
    )
    try:
        return replace(
            after,
            verdict=judgement.outcome.value,
            reason=None if judgement.reason is None else str(judgement.reason),
            signer=signer_of(judgement),
            predicate_type=judgement.predicate_type,
            subject=judgement.subjects,
            signed_at=judgement.signed_at or leaf.collected_at,
            time_source=judgement.time_source,
        )
    except MalformedError as err:
        reason = Reason("malformed", f"what it says cannot be written down: {err}")
        return replace(after, reason=str(reason))


def apply(workspace: Workspace) -> Outcomes:
    """Judge again what was last judged under another trusted root or policy than those in force.

    :raises RetryableError: the archive did not take what changed; what was done stays done
    """
    now = regime(digest_of(workspace.trusted_root), digest_of(workspace.policy))
    return _apply(workspace, workspace.catalog.packs_judged_otherwise(now), _judged_otherwise(now))


def release(workspace: Workspace, rows: Iterable[Row]) -> Outcomes:
    """Judge quarantined evidence again, under what is in force: what passes now is released."""
    wanted = {row.id: row.pack for row in rows}
    return _apply(workspace, sorted(set(wanted.values())), lambda row: row.id in wanted)


def preview(workspace: Workspace, policy: bytes) -> Outcomes:
    """What :func:`apply` would change under ``policy``; nothing is written.

    :param policy: a policy document
    """
    found = Outcomes()
    for part in _judged(
        workspace, workspace.trusted_root, policy, workspace.catalog.packs(), lambda row: True
    ):
        found.add(part)
    return found


def dependents(workspace: Workspace, root: bytes) -> list[Row]:
    """Verified evidence that the root in force bears out and ``root`` does not.

    Both roots judge it, under the policy in force: so what the policy refuses is not counted.
    """
    packs = workspace.catalog.packs()
    refused = _refused(workspace, root, packs, _is_verified)
    packs = sorted({row.pack for row in refused.values()})
    also = _refused(workspace, workspace.trusted_root, packs, lambda row: row.id in refused)
    return [row for row in refused.values() if row.id not in also]


def _refused(
    workspace: Workspace, root: bytes, packs: Sequence[str], wanted: Callable[[Row], bool]
) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for part in _judged(workspace, root, workspace.policy, packs, wanted):
        bad = {one.row for one in part.changes if one.after.verdict != Outcome.VERIFIED.value}
        found.update((row.id, row) for row in part.rows if row.id in bad)
    return found


def _apply(workspace: Workspace, packs: Sequence[str], wanted: Callable[[Row], bool]) -> Outcomes:
    trust, policy = workspace.trusted_root, workspace.policy
    now = regime(digest_of(trust), digest_of(policy))
    found = Outcomes()
    if packs:
        workspace.keep(trust)
        workspace.keep(policy)
    for part in _judged(workspace, trust, policy, packs, wanted):
        found.add(part)
        found.packs += supersede(workspace, part.changes, part.evidence)
        workspace.catalog.mark_judged([row.id for row in part.rows], now)
        held = {row.id: row.leaf for row in part.same if _is_suspect(row)}
        verdicts = {row: Leaf.parse(line.encode()).verdict for row, line in held.items()}
        workspace.catalog.restore(verdicts)
        found.restored += verdicts
    if found.changes:
        workspace.note(
            "judgement.changed",
            {
                "trust": digest_of(trust),
                "policy": digest_of(policy),
                "judged": found.judged,
                "counts": dict(found.counts),
                "packs": found.packs,
            },
        )
    return found


@dataclass(slots=True)
class _Judged:
    """One pack's evidence, judged again.

    :param same: rows whose leaf still holds, also those that no judgement can change
    :param evidence: of the changes, by row
    """

    rows: list[Row] = field(default_factory=list)
    count: int = 0
    missing: int = 0
    changes: list[Change] = field(default_factory=list)
    same: list[Row] = field(default_factory=list)
    evidence: dict[int, Evidence] = field(default_factory=dict)


def _judged(
    workspace: Workspace,
    trust: bytes,
    policy: bytes,
    packs: Sequence[str],
    wanted: Callable[[Row], bool],
) -> Iterator[_Judged]:
    if not packs:
        return
    with VerifierPool(trust, policy, workspace.settings.harvest_workers) as pool:
        for digest in packs:
            rows = [row for row in workspace.catalog.evidence(pack=digest) if wanted(row)]
            if rows:
                yield _judge_pack(workspace, pool, digest, rows)


def _judge_pack(workspace: Workspace, pool: VerifierPool, digest: str, rows: list[Row]) -> _Judged:
    found = _Judged()
    items = load_by_leaf(workspace.archive, digest)
    cases: list[tuple[Row, Evidence]] = []
    for row in rows:
        item = items.get(row.leaf_hash)
        if item is None or item.leaf.line().decode() != row.leaf:
            found.missing += 1
            continue
        found.rows.append(row)
        if _is_settled(item.leaf):
            found.same.append(row)
        else:
            cases.append((row, item))
    judgements = judged(pool, [item for _, item in cases])
    for (row, _), (item, judgement) in zip(cases, judgements, strict=True):
        found.count += 1
        after = successor(item.leaf, judgement, pool.trust_digest, pool.policy_digest)
        if after is None:
            found.same.append(row)
        else:
            found.changes.append(Change(row.id, row.verdict, item.leaf, after))
            found.evidence[row.id] = item
    return found


def _is_settled(leaf: Leaf) -> bool:
    """What was set aside for its form alone: no root and no policy makes an attestation of it."""
    return leaf.engine == "none" and leaf.verdict != Outcome.UNKNOWN.value


def _is_verified(row: Row) -> bool:
    return row.verdict == Outcome.VERIFIED.value


def _is_suspect(row: Row) -> bool:
    return row.verdict == "suspect"


def _judged_otherwise(now: str) -> Callable[[Row], bool]:
    return lambda row: row.judged != now


def supersede(
    workspace: Workspace, changes: Iterable[Change], evidence: Mapping[int, Evidence]
) -> list[str]:
    """Pack the new leaves with their evidence, and move the catalog's rows to them.

    :param evidence: by row; its leaf may be the one before
    :returns: the new packs
    """
    groups: dict[tuple[str, datetime], list[Change]] = {}
    for change in changes:
        kept = class_of(workspace.settings.retention, change.after)
        key = (kept.name, retain_until(kept, change.after))
        groups.setdefault(key, []).append(change)
    now = workspace.now()
    # No store takes a date that is past, as that of evidence which only waits to be pruned.
    first = Duration(1, "month").after(
        now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    )
    stored = []
    for (name, promised), members in sorted(groups.items()):
        until = max(promised, first)
        pack = write_pack(replace(evidence[one.row], leaf=one.after) for one in members)
        workspace.catalog.claim_pack(claim_row(pack, name, until, now))
        cold = cold_days(workspace.settings.retention, name)
        store_pack(workspace.archive, pack, until, name, cold)
        workspace.catalog.supersede(
            pack.digest,
            [
                (one.row, leaf_hash(one.before.line()).hex(), catalog_row(one.after, pack.digest))
                for one in members
            ],
        )
        stored.append(pack.digest)
    return stored
