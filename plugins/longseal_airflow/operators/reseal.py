"""Reseal: an operator for each step of a period's seal, and for its image statements."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowSkipException

from longseal.archive.leaf import Leaf
from longseal.errors import RefusedError, RetryableError
from longseal.seal.artifact import push_seal
from longseal.seal.images import attach_images, sign_images
from longseal.seal.published import Published
from longseal.seal.recheck import plan_recheck, recheck_ahead
from longseal.seal.reseal import Reseal
from longseal.workspace import Workspace
from longseal_airflow.assets import SEALS
from longseal_airflow.operators.base import LongsealOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


DATED: Final = ("scheduled", "backfill")
"""Types of the runs that take their month from their dates."""


class LongsealResealOperator(LongsealOperator):
    """One step towards the seal of a period.

    Each step finds its place from the archive alone; a period that is sealed is left as it is.
    Refused at once: a manual run that names no period, a month that is not over, and a step whose
    predecessor has not run.

    Returns ``period``, ``sequence``, ``root``, ``size``, ``counts``, ``sealed``, and once there is
    one the ``seal`` (digest) and its ``path`` in the archive.

    :param period: ``YYYY-MM``, ``YYYY-MM.N`` or ``r-NAME``, for manual runs only (templated):
        scheduled and backfill runs seal the month of their data interval
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "period")

    def __init__(self, *, period: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.period = period

    def act(self, workspace: Workspace, context: Context) -> Any:
        """Take the step."""
        return self.step(workspace, Reseal(workspace, period_of(self.period, context)))

    @abstractmethod
    def step(self, workspace: Workspace, reseal: Reseal) -> Any:
        """The library's part."""


class LongsealFreezeOperator(LongsealResealOperator):
    """Decide what the period's seal covers, and claim the next sequence for exactly that.

    Waits, by its retries, for a period before it that is claimed and not published yet. A scheduled
    or backfill run also waits while the run of the month before is at work, and is refused where
    that has ended and left its month unsealed: it would swallow that month's evidence.
    """

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Freeze, unless the month before is in the way."""
        require_month_before(workspace, context)
        return super().act(workspace, context)

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Freeze."""
        if reseal.sealed is not None:
            self.log.info(
                "%s is sealed already, as seal %d (%s): nothing is signed",
                *(reseal.period.name, reseal.sealed.sequence, reseal.sealed.digest),
            )
        return reseal.freeze()


class LongsealPlanRecheckOperator(LongsealResealOperator):
    """Divide the packs that no seal covers yet into batches, to be rechecked side by side.

    Returns lists of digests, one for each mapped :class:`LongsealRecheckAheadOperator`: none where
    the settings name no secret for the receipts (``seal.recheck_secret_env``), or where the period
    is sealed.
    """

    def step(self, workspace: Workspace, reseal: Reseal) -> list[Sequence[str]]:
        """Plan."""
        return [] if reseal.sealed is not None else plan_recheck(workspace)


class LongsealRecheckOperator(LongsealResealOperator):
    """Verify again, from the packs alone, all that is about to be sealed.

    Evidence that does not hold fails the task at once, and is set aside; the attempt is void.
    """

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Recheck."""
        return reseal.recheck()


class LongsealSignOperator(LongsealResealOperator):
    """Sign what was frozen and rechecked: one key operation, or none where it is signed already.

    Returns ``key_operations`` besides.
    """

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Sign."""
        return reseal.sign()


class LongsealTimestampOperator(LongsealResealOperator):
    """Have the signature timestamped by a quorum. Retried: too few authorities answered well.

    Returns ``silent_authorities`` besides, with what each said, and ``revocation``: how many lists
    and answers about their certificates are ``kept``, what ``failed``, and what is ``revoked``.
    """

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Timestamp."""
        return reseal.timestamp()


class LongsealLogOperator(LongsealResealOperator):
    """Enter the signature in the transparency log, where the settings name one."""

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Log."""
        return reseal.log()


class LongsealCheckOperator(LongsealResealOperator):
    """Put the bundle together, and check all of it as a stranger would, before it is published."""

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Check."""
        return reseal.check()


class LongsealPublishOperator(LongsealResealOperator):
    """Publish the checked bundle as the period's seal, and renew all seals before it.

    Names the seal in the event of the asset ``longseal://seals``, where that is an outlet.
    """

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Publish, and say so."""
        found = super().act(workspace, context)
        context["outlet_events"][SEALS].extra = {
            name: found[name] for name in ("period", "sequence", "root", "size", "seal")
        }
        return found

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Publish."""
        return reseal.publish()


class LongsealSignImageStatementsOperator(LongsealResealOperator):
    """Sign the statements about the seal's images: one key operation for up to 1,000 of them.

    Statements that are made already are left. Returns ``image_statements`` and
    ``key_operations``.
    """

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Sign."""
        return sign_images(workspace, seal_of(reseal))


class LongsealPushSealOperator(LongsealResealOperator):
    """Push the seal as an OCI artifact, where the settings name a place (``seal.artifact``).

    What is there is left. Returns the manifest's digest as ``artifact``, and whether it was
    ``pushed``.
    """

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Push."""
        return push_seal(workspace, seal_of(reseal))


class LongsealAttachImageStatementsOperator(LongsealResealOperator):
    """Attach each statement to its images; at most the two newest stay on one image.

    Returns how many were ``attached`` and ``removed``. Retried: an image that did not take its
    statement.
    """

    def step(self, workspace: Workspace, reseal: Reseal) -> dict[str, Any]:
        """Attach."""
        found = attach_images(workspace, seal_of(reseal))
        failed = found.pop("failed")
        self.log_table("Not attached", [f"{image}: {why}" for image, why in failed.items()])
        if failed:
            image, why = next(iter(failed.items()))
            raise RetryableError(
                f"{len(failed)} images took no statement, the first {image}: {why}"
            )
        return found


def period_of(named: str | None, context: Context) -> str:
    """The period that a run seals.

    The data interval of a manual run is the last month before now, whatever logical date it was
    given: such a run has to name its period.

    :raises RefusedError: a manual run names none, or another run does
    """
    run = context["dag_run"]
    dated = run.run_type in DATED
    if dated and named:
        raise RefusedError("period: a scheduled or backfill run takes its month from its dates")
    if named:
        return named
    if not dated or run.data_interval_start is None:
        raise RefusedError(
            'period: a manual run names what it seals, as in {"period": "2026-10"} or'
            ' {"period": "r-NAME"}'
        )
    return f"{run.data_interval_start:%Y-%m}"


class LongsealRecheckAheadOperator(LongsealOperator):
    """Verify again what no seal covers yet, so that the recheck of the seal has little left to do.

    Skipped where the settings name no secret for the receipts (``seal.recheck_secret_env``). Run it
    in the signing queue, whose workers alone have that secret. What does not hold is logged and
    fails nothing here: the recheck of the seal sets it aside.

    Returns counts: ``rechecked``, ``packs``, ``known`` (packs that were rechecked before) and
    ``failed``.

    :param packs: digests, one of the plan's batches (templated); None for all
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "packs")

    def __init__(self, *, packs: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.packs = packs

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Recheck."""
        found = recheck_ahead(workspace, self.packs)
        if found is None:
            raise AirflowSkipException("the settings name no secret (seal.recheck_secret_env)")
        self.log_table(
            "Does not hold",
            [f"{Leaf.parse(line).image}: {why}" for line, why in sorted(found.failed.items())],
        )
        return found.to_json()


def require_month_before(workspace: Workspace, context: Context) -> None:
    """Of a month before that a run was made for, require the seal.

    ``depends_on_past`` alone does not: it lets the first run of every backfill pass, and each one
    whose month before lies before the DAG's start date.

    :raises RetryableError: that run has not ended yet
    :raises RefusedError: it has, and its month is not sealed
    """
    run, task = context["dag_run"], context["ti"]
    if run.run_type not in DATED or run.data_interval_start is None:
        return
    before = (run.data_interval_start - timedelta(days=1)).replace(day=1)
    month, of_month = f"{before:%Y-%m}", partial(task.get_dr_count, task.dag_id, [before])
    if of_month() == 0 or Reseal(workspace, month).sealed is not None:
        return
    if of_month(states=["queued", "running"]):
        raise RetryableError(f"{month} comes first, and its run has not ended")
    raise RefusedError(f"the run of {month} has left it unsealed: seal that month first")


def seal_of(reseal: Reseal) -> Published:
    """The period's published seal.

    :raises RefusedError: there is none yet
    """
    if reseal.sealed is None:
        raise RefusedError(f"{reseal.period.name} is not sealed: publish comes first")
    return reseal.sealed
