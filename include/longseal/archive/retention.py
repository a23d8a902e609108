"""How long evidence is kept: pinned when archived, so that a later setting shortens nothing."""

from __future__ import annotations

from datetime import datetime

from longseal.archive.leaf import Leaf
from longseal.patterns import matches_any
from longseal.settings import Duration, RetentionClass, RetentionSettings


def class_of(retention: RetentionSettings, leaf: Leaf) -> RetentionClass:
    """The class that ``leaf`` belongs to."""
    return evidence_class(retention, leaf.repository, leaf.predicate_type, leaf.verdict)


def evidence_class(
    retention: RetentionSettings, repository: str, predicate_type: str | None, verdict: str
) -> RetentionClass:
    """The class that such evidence belongs to: the first that takes it, else the default.

    The name carries the verdict too: a pack never mixes classes.
    """
    for each in retention.classes:
        if (
            matches_any(each.repositories, repository)
            and matches_any(each.predicates, predicate_type or "")
            and verdict in each.outcomes
        ):
            return RetentionClass(
                name=f"{each.name}.{verdict}",
                keep=each.keep,
                archive=each.archive or retention.archive,
                cold=each.cold,
                dispose=each.dispose,
            )
    return RetentionClass(
        name=f"default.{verdict}",
        keep=retention.default,
        archive=retention.archive,
        cold=retention.cold,
        dispose=retention.dispose,
    )


def retain_until(kept: RetentionClass, leaf: Leaf) -> datetime:
    """The first moment of the month after the one in which the archive may let go of ``leaf``.

    That is not before the registry may. Whole months, so that packs of one month share a date;
    counted from the collection, since the archive holds it from then on, and since the clock of
    whoever dated it may be wrong.
    """
    end = kept.keep.after(leaf.collected_at)
    if kept.archive is not None:
        end = max(end, kept.archive.after(leaf.collected_at))
    month = end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Duration(1, "month").after(month)


def cold_days(retention: RetentionSettings, name: str) -> int | None:
    """After how many days the store may move packs of a class to its cold class; None: never.

    :param name: of the class, with the verdict, as :func:`evidence_class` gives it
    """
    of_class = {each.name: each.cold for each in retention.classes}
    cold = of_class.get(name.rpartition(".")[0], retention.cold)
    return None if cold is None else cold.days


def cold_tiers(retention: RetentionSettings) -> list[int]:
    """All such numbers of days of the settings."""
    tiers = {retention.cold, *(each.cold for each in retention.classes)} - {None}
    return sorted({tier.days for tier in tiers if tier is not None})
