"""How long evidence is kept: pinned when archived, so that a later setting shortens nothing."""

from __future__ import annotations

from datetime import datetime

from longseal.archive.leaf import Leaf
from longseal.patterns import matches_any
from longseal.settings import Duration, RetentionClass, RetentionSettings


def evidence_class(retention: RetentionSettings, leaf: Leaf) -> RetentionClass:
    """The class that ``leaf`` belongs to: the first that takes it, else the default.

    The name carries the verdict too: a pack never mixes classes.
    """
    for each in retention.classes:
        if matches_any(each.repositories, leaf.repository) and matches_any(
            each.predicates, leaf.predicate_type or ""
        ):
            return RetentionClass(name=f"{each.name}.{leaf.verdict}", keep=each.keep)
    return RetentionClass(name=f"default.{leaf.verdict}", keep=retention.default)


def retain_until(keep: Duration, leaf: Leaf) -> datetime:
    """The first moment of the month after the one in which ``keep`` ends.

    Whole months, so that packs of one month share a date; counted from the collection, since the
    archive holds it from then on, and since the clock of whoever dated it may be wrong.
    """
    end = keep.after(leaf.collected_at)
    month = end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Duration(1, "month").after(month)
