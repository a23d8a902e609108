"""Prune: plan, and once somebody has approved the plan, carry it out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from longseal.archive.approval import require_approved
from longseal.archive.disposal import plan_disposal
from longseal.archive.document import Item
from longseal.archive.prune import execute, plan
from longseal.canonical import parse_timestamp
from longseal.errors import MalformedError, RefusedError
from longseal.workspace import Workspace
from longseal_airflow.operators.base import LongsealOperator, given, truth

if TYPE_CHECKING:
    from airflow.sdk import Context

RETENTION = "retention"
"""What the settings say under that name, and nothing else."""

SHOWN = 50
"""Repositories that a plan's summary counts one by one."""


class LongsealPlanPruneOperator(LongsealOperator):
    """Plan, in a signed document, which attestations are past retention and would be deleted.

    Skipped where nothing is due, and then nothing is signed; a plan with the same items that is
    still young is given again.

    Returns the ``plan`` (digest), its ``items`` (a count), the counts ``by_repository`` of the
    first 50, what is due and ``stopped``, ``key_operations``, and ``policy``: the digest of the
    signed approval policy where it approves this plan, else None.

    :param before: ``retention``, or a time of RFC 3339: only what was signed before it (templated).
        What renders to nothing, or to ``None``, is refused
    :param max_share: ``retention``, or a number of percent in place of ``retention.max_share``
        (templated)
    :param dispose: ``True`` plans what is past ``retention.dispose``, and would leave the archive
        (templated)
    :param instead: what the run does in place of a prune; skipped where there is such (templated)
    """

    template_fields: Sequence[str] = (
        *LongsealOperator.template_fields,
        "before",
        "max_share",
        "dispose",
        "instead",
    )

    def __init__(
        self,
        *,
        before: str = RETENTION,
        max_share: str | int = RETENTION,
        dispose: bool | str = False,
        instead: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.before = before
        self.max_share = max_share
        self.dispose = dispose
        self.instead = instead

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Plan."""
        if self.instead:
            raise AirflowSkipException("This run does something else: nothing is planned.")
        disposing = truth("dispose", self.dispose)
        if disposing:
            if cutoff(self.before) is not None:
                raise RefusedError("before: a disposal has its date from retention.dispose alone")
            planned = plan_disposal(workspace, share(self.max_share))
        else:
            planned = plan(workspace, cutoff(self.before), share(self.max_share))
        if planned is None:
            raise AirflowSkipException("Nothing is past its retention.")
        counts = Counter(f"{item.registry}/{item.repository}" for item in planned.items)
        if planned.stopped:
            self.log_table("Due, and stay", [f"{n} {why}" for why, n in planned.stopped.items()])
        self.log_table("Would go", [f"{count} from {name}" for name, count in counts.items()])
        return {
            "plan": planned.digest,
            "items": len(planned.items),
            "by_repository": dict(counts.most_common(SHOWN)),
            "stopped": dict(planned.stopped),
            "key_operations": planned.key_operations,
            "policy": None if disposing else self._policy(workspace, planned.items),
        }

    def _policy(self, workspace: Workspace, items: Sequence[Item]) -> str | None:
        try:
            return require_approved(workspace, items).digest
        except RefusedError as err:
            self.log.info("%s", err)
            return None


class LongsealApprovalOperator(ApprovalOperator):
    """Ask somebody to approve a plan, unless the signed approval policy does.

    Whether it does is found out again when the plan is carried out.

    :param policy: what the plan's task returned as ``policy`` (templated)
    """

    template_fields: Collection[str] = (*ApprovalOperator.template_fields, "policy")

    def __init__(self, *, policy: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy

    def execute(self, context: Context) -> Any:
        """Ask, or do without."""
        if self.policy in ("", "None"):
            return super().execute(context)
        self.log.info("The approval policy %s approves the plan.", self.policy)
        return {"policy": self.policy}


class LongsealPruneOperator(LongsealOperator):
    """Carry out an approved plan: read every archived copy back whole, delete, leave tombstones.

    A plan that was carried out is not carried out again. Refused at once: a plan that nobody
    approved, that is not signed, that is older than a week, or whose world has changed; and, before
    anything is deleted, an archived copy that is missing or changed.

    Returns the ``plan``, how many attachments were ``deleted``, how many of the plan were ``kept``
    (held meanwhile, or gone before), the digest of the ``deletion``
    statement, and ``key_operations``.

    :param plan: digest of the approved plan (templated)
    :param approval: what the ``LongsealApprovalOperator`` returned (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "plan", "approval")

    def __init__(self, *, plan: str, approval: Mapping[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.approval = approval

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Prune."""
        digest = given("plan", self.plan, str)
        return execute(workspace, digest, approver_of(self.approval), answered(self.approval))


def cutoff(before: object) -> datetime | None:
    """The cutoff that was given.

    :raises RefusedError: none was, or something else than a time
    """
    if before == RETENTION:
        return None
    try:
        return parse_timestamp(before)  # type: ignore[arg-type]
    except MalformedError as err:
        raise RefusedError(
            f"before: expected {RETENTION!r} or a time as 2024-11-01T00:00:00Z, found"
            f" {str(before)[:40]!a}: nothing is planned"
        ) from err


def share(given: object) -> int | None:
    """The share that was given, in percent.

    :raises RefusedError: it is no whole number
    """
    if given == RETENTION:
        return None
    if re.fullmatch(r"[1-9][0-9]?|100", str(given)) is None:
        raise RefusedError(
            f"max_share: expected {RETENTION!r} or a number from 1 to 100, found"
            f" {str(given)[:40]!a}: nothing is planned"
        )
    return int(str(given))


def approver_of(approval: object) -> str | None:
    """Who approved; None where the signed policy is to.

    :raises RefusedError: nobody did
    """
    found = approval if isinstance(approval, Mapping) else {}
    if found.keys() == {"policy"} and found["policy"]:
        return None
    user = found.get("responded_by_user") or {}
    if list(found.get("chosen_options", ())) != [ApprovalOperator.APPROVE] or not user.get("id"):
        raise RefusedError("approval: nobody approved this plan, so nothing is deleted")
    return f"{user['name']} ({user['id']})" if user.get("name") else str(user["id"])


def answered(approval: object) -> datetime | None:
    """When somebody answered; None where nobody was asked."""
    found = approval.get("responded_at") if isinstance(approval, Mapping) else None
    return datetime.fromisoformat(found) if isinstance(found, str) else found
