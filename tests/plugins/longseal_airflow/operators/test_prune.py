from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from tests.installation import Installation
from tests.plugins.conftest import Take
from tests.retired import REPOSITORY, RULE, approval_policy, retire

from longseal.archive.approval import sign_policy
from longseal_airflow.operators.prune import (
    LongsealApprovalOperator,
    LongsealPlanPruneOperator,
    LongsealPruneOperator,
)

APPROVAL = {
    "chosen_options": ["Approve"],
    "params_input": {},
    "responded_at": datetime(2026, 11, 24, tzinfo=UTC),
    "responded_by_user": {"id": "7", "name": "grace"},
}


def test_the_plan_is_skipped_and_nothing_signed_where_nothing_is_due(
    take: Take, installation: Installation
) -> None:
    with pytest.raises(AirflowSkipException):
        take(LongsealPlanPruneOperator)
    assert installation.files().keys() == {
        name for name in installation.files() if name.startswith("registry/")
    }


def test_an_approved_plan_is_carried_out_once(take: Take, installation: Installation) -> None:
    manifest = retire(installation)
    planned = take(LongsealPlanPruneOperator)
    assert planned == {
        "plan": planned["plan"],
        "items": 1,
        "by_repository": {f"exported/{REPOSITORY}": 1},
        "stopped": {},
        "key_operations": 1,
        "policy": None,
    }
    assert take(LongsealPlanPruneOperator) == {**planned, "key_operations": 0}
    assert installation.registry().manifest(REPOSITORY, manifest) is not None

    done = take(LongsealPruneOperator, plan=planned["plan"], approval=APPROVAL)
    assert (done["deleted"], done["key_operations"]) == (1, 1)
    assert installation.registry().manifest(REPOSITORY, manifest) is None
    deleted = [
        entry.details
        for entry in installation.workspace().ledger.walk()
        if entry.action == "prune.deleted"
    ]
    assert [one["approver"] for one in deleted] == ["grace (7)"]
    (begun,) = (
        entry.details
        for entry in installation.workspace().ledger.walk()
        if entry.action == "prune.begun"
    )
    assert (begun["approver"], begun["approvedAt"]) == ("grace (7)", "2026-11-24T00:00:00Z")

    before = installation.files()
    again = take(LongsealPruneOperator, plan=planned["plan"], approval=APPROVAL)
    assert again == {**done, "key_operations": 0}
    assert installation.files() == before
    with pytest.raises(AirflowSkipException):
        take(LongsealPlanPruneOperator)


@pytest.mark.parametrize(
    "approval",
    [
        None,
        {},
        "None",
        {**APPROVAL, "chosen_options": ["Reject"]},
        {**APPROVAL, "chosen_options": []},
        {**APPROVAL, "responded_by_user": None},
        {"policy": ""},
        {"policy": None},
        {**APPROVAL, "responded_by_user": {"id": "", "name": "grace"}},
    ],
)
def test_nothing_is_deleted_that_nobody_approved(
    take: Take, installation: Installation, approval: Any
) -> None:
    manifest = retire(installation)
    planned = take(LongsealPlanPruneOperator)
    with pytest.raises(AirflowFailException, match="nobody approved this plan"):
        take(LongsealPruneOperator, plan=planned["plan"], approval=approval)
    assert installation.registry().manifest(REPOSITORY, manifest) is not None


def test_what_the_signed_policy_names_is_carried_out_and_nobody_is_asked(
    take: Take, installation: Installation
) -> None:
    manifest = retire(installation)
    document = approval_policy({**RULE, "repositories": ["**"], "classes": ["*"]})
    signed = sign_policy(installation.workspace(), document)
    planned = take(LongsealPlanPruneOperator)
    assert planned["policy"] == signed["policy"]
    approval = take(LongsealApprovalOperator, subject="?", policy=planned["policy"])
    # It may have been taken back meanwhile: what counts is the one in force then.
    sign_policy(installation.workspace(), approval_policy())
    with pytest.raises(AirflowFailException, match="no rule for"):
        take(LongsealPruneOperator, plan=planned["plan"], approval=approval)
    assert installation.registry().manifest(REPOSITORY, manifest) is not None
    sign_policy(installation.workspace(), document)
    assert take(LongsealPruneOperator, plan=planned["plan"], approval=approval)["deleted"] == 1


@pytest.mark.parametrize("plan", ["", "None", None])
def test_a_plan_that_came_out_empty_is_refused(take: Take, plan: Any) -> None:
    with pytest.raises(AirflowFailException, match="plan: expected a str"):
        take(LongsealPruneOperator, plan=plan, approval=APPROVAL)


@pytest.mark.parametrize(
    "before",
    ["", "None", None, "never", "1700000000", 1700000000, "2024-11", "2999-01-01T00:00:00Z"],
)
def test_a_cutoff_that_is_none_or_in_the_future_is_refused(
    take: Take, installation: Installation, before: Any
) -> None:
    retire(installation)
    with pytest.raises(AirflowFailException, match=r"before: expected|in the future"):
        take(LongsealPlanPruneOperator, before=before)
    with pytest.raises(AirflowSkipException):
        take(LongsealPlanPruneOperator, before="2023-04-01T00:00:00Z")
    assert take(LongsealPlanPruneOperator, before="2023-06-01T00:00:00Z")["items"] == 1


def test_a_disposal_is_planned_where_it_is_set_and_asked_for(
    take: Take, installation: Installation
) -> None:
    with pytest.raises(AirflowFailException, match=r"retention\.dispose is set for no class"):
        take(LongsealPlanPruneOperator, dispose="{{ params.dispose }}", params={"dispose": True})
    installation.write(retention={"dispose": "10 years"})
    with pytest.raises(AirflowSkipException):
        take(LongsealPlanPruneOperator, dispose="{{ params.dispose }}", params={"dispose": True})
    with pytest.raises(AirflowFailException, match="before: a disposal has its date from"):
        take(LongsealPlanPruneOperator, dispose=True, before="2023-06-01T00:00:00Z")
    with pytest.raises(AirflowFailException, match="dispose: expected true or false"):
        take(LongsealPlanPruneOperator, dispose="perhaps")


def test_a_run_that_does_something_else_plans_nothing(
    take: Take, installation: Installation
) -> None:
    retire(installation)
    with pytest.raises(AirflowSkipException, match="something else"):
        take(LongsealPlanPruneOperator, instead="{{ params.restore }}", params={"restore": "x"})
    assert take(LongsealPlanPruneOperator, instead="{{ params.restore }}", params={"restore": ""})


@pytest.mark.parametrize("share", ["", "None", None, "0", "101", 1.5, True, "20 %"])
def test_a_share_that_is_none_is_refused(
    take: Take, installation: Installation, share: Any
) -> None:
    with pytest.raises(AirflowFailException, match="max_share: expected"):
        take(LongsealPlanPruneOperator, max_share=share)


def test_a_document_that_is_no_signed_plan_is_not_carried_out(
    take: Take, installation: Installation
) -> None:
    document = b'{"createdAt":"2026-11-24T00:00:00Z","items":[]}'
    digest = installation.workspace().keep(document)
    with pytest.raises(AirflowFailException, match="is not signed: plan first"):
        take(LongsealPruneOperator, plan=digest, approval=APPROVAL)
