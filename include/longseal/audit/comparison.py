"""The deep check: packs against bit rot, and the catalog against what the archive gives."""

from __future__ import annotations

from longseal.archive.pack import packs_in
from longseal.audit.audit import sample
from longseal.errors import VerificationError
from longseal.harvest import take_up
from longseal.rebuild import Contents, Differences, adopt, contents, differences
from longseal.verify.report import Report, State
from longseal.workspace import Workspace

SHOWN = 20
"""Differences of one table that a report names."""


def compare(workspace: Workspace, share: float, adopting: bool = False) -> Report:
    """Read a share of the packs whole, and compare the catalog with one made from the archive.

    Packs in a cold class are left out: reading them costs money and hours.

    :param share: of the packs, another one on another day; 1 compares all evidence
    :param adopting: take in packs that nobody claimed, rather than report them
    """
    report = Report(f"catalog and archive of {workspace.settings.organisation}")
    listed = packs_in(workspace.archive)
    chosen = sample(listed, share, workspace.now())
    with contents(workspace, chosen, cold=False) as found:
        _packs(report, found)
        unlike = differences(workspace, found)
    if any(unlike.tables.values()):
        # What a harvest or seal noted between the two readings is no difference the next time.
        with contents(workspace, chosen, cold=False) as found:
            again = differences(workspace, found)
        for table, said in unlike.tables.items():
            unlike.tables[table] = [one for one in said if one in set(again.tables[table])]
        unlike.orphans = [one for one in unlike.orphans if one in again.orphans]
    _orphans(report, workspace, unlike, adopting)
    for table, said in unlike.tables.items():
        report.attempt(table, lambda said=said: _none(said))  # type: ignore[misc]
    return report


def _packs(report: Report, found: Contents) -> None:
    for digest, said in found.failed.items():
        report.add("packs", State.FAILED, f"{digest}: {said}")
    cold = f"; {len(found.waiting)} left out in a cold class" if found.waiting else ""
    detail = f"{len(found.packs)} of {len(found.listed)} read whole{cold}"
    if not found.failed:
        report.passed("packs", detail)


def _orphans(report: Report, workspace: Workspace, unlike: Differences, adopting: bool) -> None:
    if adopting:
        take_up(workspace)
        evidence = adopt(workspace, unlike.orphans)
        report.passed("orphans", f"{len(unlike.orphans)} packs adopted, {evidence} pieces new")
        return
    for digest in unlike.orphans[:SHOWN]:
        report.add(
            "orphans",
            State.FAILED,
            f"nobody claimed {digest}: longseal archive check --deep --adopt",
        )
    if not unlike.orphans:
        waiting = len(unlike.claimed)
        report.passed(
            "orphans", f"none; the next harvest takes up {waiting}" if waiting else "none"
        )


def _none(said: list[str]) -> str:
    if said:
        more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        raise VerificationError("; ".join(said[:SHOWN]) + more)
    return "as the archive has it"
