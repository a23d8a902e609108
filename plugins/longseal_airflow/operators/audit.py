"""Audit: does everything that Longseal says it did still hold together?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from longseal.audit.audit import audit, summary
from longseal.audit.comparison import compare
from longseal.audit.watch import watch
from longseal.errors import RefusedError, RetryableError, VerificationError
from longseal.verify.report import Report, State
from longseal.workspace import Workspace
from longseal_airflow.operators.base import LongsealOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class LongsealAuditOperator(LongsealOperator):
    """Walk the ledger, verify every seal and the chain of them, and read packs back.

    Writes nothing. A check that fails fails the task at once, after the report is logged; one that
    could not be made is tried again, and is never taken for one that passed.

    Returns ``result``, ``checks`` by how they ended, and the counts of ``evidence``, ``images`` and
    ``seals``.

    :param share: of the packs that are read whole, 0 to 1 (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "share")

    def __init__(self, *, share: float | str = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Audit."""
        return {**_passed(self, audit(workspace, _share(self.share))), **summary(workspace)}


class LongsealArchiveCheckOperator(LongsealOperator):
    """Read a share of the packs whole, and compare the catalog with one made from the archive.

    Writes nothing. A damaged pack, one that nobody claimed, and a row that is not what the archive
    gives fail the task at once, after the report is logged.

    Returns ``result``, and ``checks`` by how they ended.

    :param share: of the packs that are read whole, 0 to 1 (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "share")

    def __init__(self, *, share: float | str = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Compare."""
        return _passed(self, compare(workspace, _share(self.share)))


class LongsealLogWatchOperator(LongsealOperator):
    """Look in a log of one's own for signatures of the policy's identities without evidence here.

    Skipped where the settings name no log. An entry without evidence is reported by every run until
    its evidence is found, and fails none; a log that contradicts its own history fails the task at
    once. Retried: a log that does not answer.

    Returns ``size`` of the log, ``new`` entries, and counts: ``missing``, ``waiting`` (younger than
    two hours) and ``unreadable``.
    """

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Watch."""
        found = watch(workspace)
        if found is None:
            raise AirflowSkipException("the settings name no log to watch (log_watch)")
        self.log_table(
            f"In {found.log}, and no evidence found",
            [
                f"{one.index}: {one.identity} ({one.issuer}) signed {one.artifact} at {one.begins}"
                for one in found.missing
            ],
        )
        return {**found.to_json(), "missing": len(found.missing)}


def _passed(operator: LongsealOperator, report: Report) -> dict[str, Any]:
    """Log a report, and fail where it did not pass.

    :raises VerificationError: a check failed
    :raises RetryableError: one could not be made
    """
    operator.log_table(
        report.target,
        [f"{one.state.value:8} {one.name:12} {one.detail}" for one in report.checks],
    )
    if report.state is not State.PASSED:
        found = [one for one in report.checks if one.state is report.state]
        line = f"{len(found)} checks {report.state}, the first {found[0].name}: {found[0].detail}"
        raise (VerificationError if report.state is State.FAILED else RetryableError)(line)
    checks = Counter(one.state.value for one in report.checks)
    return {"result": report.state.value, "checks": dict(checks)}


def _share(value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise RefusedError(f"share: expected a number from 0 to 1, found {str(value)[:20]!r}")
    return share
