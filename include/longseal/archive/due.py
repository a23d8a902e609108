"""What is due by its retention, and what of it stays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any

from longseal.archive.document import Item, attachment_of
from longseal.archive.holds import Holds, holding
from longseal.archive.pack import load_pack
from longseal.archive.records import newest_records
from longseal.archive.retention import evidence_class
from longseal.errors import MalformedError, RefusedError, UnsupportedError
from longseal.registry.model import parse_manifest
from longseal.settings import RetentionClass
from longseal.workspace import Workspace


@dataclass(slots=True)
class Due:
    """What is due, and what of it stays.

    :param stopped: counts of attachments by what stops them
    """

    items: list[Item] = field(default_factory=list)
    stopped: Counter[str] = field(default_factory=Counter)
    attached: Counter[tuple[str, str]] = field(default_factory=Counter)


def due(
    workspace: Workspace,
    before: datetime | None = None,
    repositories: Collection[str] | None = None,
    own: str | None = None,
) -> Due:
    """What is past retention, sealed, archived, wholly looked for and not held.

    :param repositories: those asked for; None for all
    :param own: digest of the plan that is being carried out: what it has marked counts as there
    """
    found = Due()
    most = workspace.settings.retention.max_count
    candidates: list[Item] = []
    partial: list[Item] = []
    for item in _past_retention(workspace, found, before, repositories, own):
        (partial if item.layers else candidates).append(item)
        if len(candidates) + len(partial) > most:
            raise RefusedError(
                f"retention.max_count: more than {most} attachments are due: is a setting wrong?"
                " If not, raise it, or prune in steps (--before)"
            )
    candidates += _in_older_tags(workspace, partial, found)
    records = newest_records(
        workspace.archive, {(item.registry, item.repository, item.image) for item in candidates}
    )
    attached: dict[Any, set[str]] = {}
    for item in candidates:
        place = (item.registry, item.repository, item.image)
        record = records.get(place)
        # Unknown is never "nothing else there", and vanished evidence is an alarm: both block.
        # What was taken in from files hangs on nothing that anybody looked for.
        if record is None or record.alarming:
            found.stopped["not looked for" if record is None else record.state] += 1
            continue
        if place not in attached:
            attached[place] = set(json.loads(record.line)["found"])
        if item.manifest in attached[place]:
            found.items.append(item)
        else:
            found.stopped["no longer there"] += 1
    found.items.sort(key=lambda item: item.place)
    found.stopped = +found.stopped
    return found


def _past_retention(
    workspace: Workspace,
    found: Due,
    before: datetime | None,
    repositories: Collection[str] | None,
    own: str | None,
) -> Iterator[Item]:
    now, retention = workspace.now(), workspace.settings.retention
    holds = Holds(workspace).in_force()
    stored = set(workspace.catalog.packs())

    @cache
    def rule(repository: str, predicate: str | None, verdict: str) -> RetentionClass:
        return evidence_class(retention, repository, predicate, verdict)

    def past(row: Any) -> bool:
        return (
            row.seal is not None
            and row.verdict != "suspect"
            and row.pack in stored
            and not (row.reason or "").startswith("in-index:")
            and (before is None or row.signed_at < before)
            and rule(row.repository, row.predicate_type, row.verdict).keep.after(row.signed_at)
            <= now
        )

    for place, group in groupby(workspace.catalog.placed(repositories), key=attachment_of):
        rows = [row for row in group if row.tombstone is None or row.tombstone == own]
        if not rows:
            continue
        found.attached[place[:2]] += 1
        going = [row for row in rows if past(row)]
        if not going:
            continue
        free = [row for row in going if holding(holds, [row]) is None] if holds else going
        if len(free) < len(going):
            found.stopped["held"] += 1
        if not free:
            continue
        rules = {rule(row.repository, row.predicate_type, row.verdict) for row in free}
        yield Item(
            *place,
            packs=tuple(sorted({row.pack for row in free})),
            seals=tuple(sorted({row.seal for row in free})),
            leaves=tuple(sorted(row.leaf_hash for row in free)),
            rules=tuple(sorted(f"{one.name}: {one.keep.count} {one.keep.unit}s" for one in rules)),
            layers=tuple(sorted(row.bundle for row in free)) if len(free) < len(rows) else (),
        )


def _in_older_tags(workspace: Workspace, items: list[Item], found: Due) -> Iterator[Item]:
    """Of attachments of which a part is due, those of cosign's older tags: a tag can be rewritten,
    while the digest of a referrer is its name."""
    wanted = {item.packs[0] for item in items}
    subjectless: set[str] = set()
    for pack in sorted(wanted):
        manifests = {one.leaf.manifest: one.manifest for one in load_pack(workspace.archive, pack)}
        for digest, data in manifests.items():
            try:
                parsed = parse_manifest(data)
            except (MalformedError, UnsupportedError):
                continue
            if parsed.subject is None:
                subjectless.add(digest)
    for item in items:
        if item.manifest in subjectless:
            yield item
        else:
            found.stopped["due in part only"] += 1


def attached(rows: Iterable[Any]) -> Counter[tuple[str, str]]:
    """How many attachments these rows of the catalog are of, by registry and repository."""
    return Counter(place[:2] for place in set(map(attachment_of, rows)))


def capped(workspace: Workspace, found: Due, max_share: int | None) -> list[Item]:
    """The items of the repositories that lose no more than they may."""
    most = workspace.settings.retention.max_share if max_share is None else max_share
    if not 1 <= most <= 100:
        raise RefusedError(f"a share is a number of percent from 1 to 100, found {most}")
    going = Counter((item.registry, item.repository) for item in found.items)
    over = {
        name: f"{many} of {found.attached[name]}"
        for name, many in going.items()
        if many * 100 > most * found.attached[name]
    }
    if over and len(over) == len(going):
        first, share = next(iter(sorted(over.items())))
        raise RefusedError(
            f"retention.max_share: {len(over)} repositories would lose more than {most} % of their"
            f" attachments, {first[0]}/{first[1]} {share}: is a setting wrong? If not, allow more"
            " for this once (--max-share)"
        )
    for name in over:
        found.stopped["over retention.max_share"] += going[name]
    return [item for item in found.items if (item.registry, item.repository) not in over]
