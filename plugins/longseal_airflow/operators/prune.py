"""Prune: plan, and once somebody has approved the plan, carry it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from longseal.archive.prune import execute, plan
from longseal.errors import RefusedError
from longseal.workspace import Workspace
from longseal_airflow.operators.base import LongsealOperator, given

if TYPE_CHECKING:
    from airflow.sdk import Context

SHOWN = 50
"""Repositories that a plan's summary counts one by one."""


class LongsealPlanPruneOperator(LongsealOperator):
    """Plan, in a signed document, which attestations are past retention and would be deleted.

    Skipped where nothing is due, and then nothing is signed; a plan with the same items that is
    still young is given again.

    Returns the ``plan`` (digest), its ``items`` (a count), the counts ``by_repository`` of the
    first 50, and ``key_operations``.
    """

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Plan."""
        planned = plan(workspace)
        if planned is None:
            raise AirflowSkipException("Nothing is past its retention.")
        counts = Counter(f"{item.registry}/{item.repository}" for item in planned.items)
        self.log_table("Would go", [f"{count} from {name}" for name, count in counts.items()])
        return {
            "plan": planned.digest,
            "items": len(planned.items),
            "by_repository": dict(counts.most_common(SHOWN)),
            "key_operations": planned.key_operations,
        }


class LongsealPruneOperator(LongsealOperator):
    """Carry out an approved plan: read every archived copy back whole, delete, leave tombstones.

    A plan that was carried out is not carried out again. Refused at once: a plan that nobody
    approved, that is not signed, or that is older than a week; and, before anything is deleted, an
    archived copy that is missing or changed.

    Returns the ``plan``, how many attachments were ``deleted``, the digest of the ``deletion``
    statement, and ``key_operations``.

    :param plan: digest of the approved plan (templated)
    :param approval: what the ``ApprovalOperator`` returned (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "plan", "approval")

    def __init__(self, *, plan: str, approval: Mapping[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.approval = approval

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Prune."""
        return execute(workspace, given("plan", self.plan, str), approver_of(self.approval))


def approver_of(approval: object) -> str:
    """Who approved.

    :raises RefusedError: nobody did
    """
    found = approval if isinstance(approval, Mapping) else {}
    user = found.get("responded_by_user") or {}
    if list(found.get("chosen_options", ())) != [ApprovalOperator.APPROVE] or not user.get("id"):
        raise RefusedError("approval: nobody approved this plan, so nothing is deleted")
    return f"{user['name']} ({user['id']})" if user.get("name") else str(user["id"])
