import json
import sys
from copy import copy
from datetime import UTC, datetime, timedelta
from importlib import import_module
from inspect import iscoroutinefunction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, DeadlineReference
from airflow.sdk.api.datamodels._generated import DagRunType
from airflow.sdk.exceptions import ParamValidationError
from jinja2 import Environment
from tests.airflow_home import Airflow

IDS = {"harvest", "reseal", "prune", "mirror", "audit"}


@pytest.fixture(scope="module")
def dags(airflow: Airflow) -> dict[str, DAG]:
    bag = DagBag()
    assert bag.import_errors == {}
    return {name.removeprefix("longseal_"): dag for name, dag in bag.dags.items()}


def queues(dag: DAG) -> dict[str, set[str]]:
    """Tasks by queue."""
    found: dict[str, set[str]] = {}
    for task in dag.tasks:
        found.setdefault(task.queue, set()).add(task.task_id)
    return found


def test_there_are_five_dags(dags: dict[str, DAG]) -> None:
    assert set(dags) == IDS


@pytest.mark.parametrize("name", IDS)
def test_a_dag_says_what_it_is_and_whose(dags: dict[str, DAG], name: str) -> None:
    dag = dags[name]
    assert dag.owner == "longseal"
    assert "longseal" in dag.tags
    assert dag.doc_md is not None
    assert dag.doc_md.strip().startswith(f"### {name.capitalize()}")


@pytest.mark.parametrize("name", IDS)
def test_tasks_back_off_before_they_are_tried_again(dags: dict[str, DAG], name: str) -> None:
    for task in dags[name].tasks:
        assert task.retries == (0 if task.task_id == "approve" else 3), task
        assert task.retry_delay == timedelta(minutes=2)
        assert task.retry_exponential_backoff == 2.0
        assert task.max_retry_delay == timedelta(hours=1)


def test_the_tasks_that_ask_registries_run_in_the_pool_that_the_environment_names(
    dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {task.pool for task in dags["harvest"].tasks} == {"default_pool"}
    monkeypatch.setattr("longseal_airflow.defaults.HARVEST_POOL", "registries")
    harvest = DagBag(dags["harvest"].fileloc).dags["longseal_harvest"]
    pools = {task.task_id: task.pool for task in harvest.tasks}
    assert {name for name, pool in pools.items() if pool == "registries"} == {"plan", "harvest"}


@pytest.mark.parametrize(
    ("name", "timetable", "expression"),
    [
        ("harvest", "CronTriggerTimetable", "7 * * * *"),
        ("reseal", "CronDataIntervalTimetable", "0 0 1 * *"),
        ("prune", "CronDataIntervalTimetable", "0 6 2 * *"),
        ("mirror", "CronTriggerTimetable", "30 4 * * *"),
        ("audit", "CronTriggerTimetable", "0 5 * * 1"),
    ],
)
def test_timetables_are_explicit(
    dags: dict[str, DAG], name: str, timetable: str, expression: str
) -> None:
    found: Any = dags[name].timetable
    assert (type(found).__name__, found.expression) == (timetable, expression)
    assert str(found.timezone) == "UTC"


def test_one_run_at_a_time_where_runs_write(dags: dict[str, DAG]) -> None:
    assert {name for name, dag in dags.items() if dag.max_active_runs == 1} == IDS - {"audit"}


def test_months_are_sealed_in_their_order_and_none_is_left_out(dags: dict[str, DAG]) -> None:
    reseal = dags["reseal"]
    assert reseal.catchup
    assert {task.task_id for task in reseal.tasks if task.depends_on_past} == {"freeze"}
    assert reseal.get_task("freeze").wait_for_downstream


def test_a_run_has_a_deadline_where_the_dag_processor_is_told_one(
    dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not dags["reseal"].deadline
    monkeypatch.setenv("LONGSEAL_SEAL_DEADLINE_DAYS", "5")
    bag = DagBag()
    assert bag.import_errors == {}
    (deadline,) = bag.dags["longseal_reseal"].deadline
    assert deadline.reference == DeadlineReference.DAGRUN_QUEUED_AT
    assert deadline.interval == timedelta(days=5)
    module, _, name = deadline.callback.path.rpartition(".")
    assert iscoroutinefunction(getattr(import_module(module), name))


def test_a_harvest_goes_on_without_newer_trust_material_and_its_run_fails(
    dags: dict[str, DAG],
) -> None:
    harvest = dags["harvest"]
    assert harvest.get_task("judge").upstream_task_ids == {"trust"}
    assert harvest.get_task("judge").trigger_rule == "all_done"
    assert harvest.get_task("plan").upstream_task_ids == {"judge"}
    # A leaf that does not run marks the run as failed.
    assert harvest.get_task("trusted").upstream_task_ids == {"trust"}
    assert harvest.get_task("trusted").trigger_rule == "all_success"
    assert harvest.get_task("trusted").downstream_task_ids == set()


def test_the_steps_of_a_seal_follow_each_other(dags: dict[str, DAG]) -> None:
    assert [task.task_id for task in dags["reseal"].topological_sort()] == [
        "freeze",
        "plan_recheck",
        "recheck_packs",
        "recheck",
        "sign",
        "timestamp",
        "log",
        "check",
        "publish",
        "sign_image_statements",
        "push_seal",
        "attach_image_statements",
    ]
    assert all(len(task.downstream_task_ids) <= 1 for task in dags["reseal"].tasks)


def test_the_recheck_is_mapped_over_batches_and_follows_on_none_as_well(
    dags: dict[str, DAG],
) -> None:
    assert dags["reseal"].get_task("recheck_packs").is_mapped
    assert dags["reseal"].get_task("recheck_packs").upstream_task_ids == {"plan_recheck"}
    assert dags["reseal"].get_task("recheck").upstream_task_ids == {"recheck_packs"}
    assert dags["reseal"].get_task("recheck").trigger_rule == "none_failed"


def test_what_needs_the_key_runs_where_it_is(dags: dict[str, DAG]) -> None:
    signing = {name: queues(dag).get("signing", set()) for name, dag in dags.items()}
    assert signing == {
        "harvest": set(),
        "reseal": {
            "freeze",
            "plan_recheck",
            "recheck_packs",
            "recheck",
            "sign",
            "sign_image_statements",
        },
        "prune": {"plan", "prune"},
        "mirror": {"finish"},
        "audit": {"recheck_ahead"},
    }


def test_a_backfill_never_prunes(dags: dict[str, DAG]) -> None:
    allowed = dags["prune"].allowed_run_types
    assert allowed == {DagRunType.SCHEDULED, DagRunType.MANUAL}


def test_a_prune_waits_for_its_approval(dags: dict[str, DAG]) -> None:
    prune = dags["prune"]
    assert prune.get_task("prune").upstream_task_ids == {"approve"}
    assert prune.get_task("approve").upstream_task_ids == {"plan"}
    assert prune.get_task("prune").trigger_rule == "all_success"
    # A plan may be carried out for a week.
    assert prune.get_task("approve").response_timeout == timedelta(days=6)


@pytest.mark.parametrize(
    ("dispose", "asked"), [(True, "for good"), (False, "read back from the archive")]
)
def test_who_approves_is_told_whether_the_last_copy_goes(
    dags: dict[str, DAG], dispose: bool, asked: str
) -> None:
    found = {"plan": "sha256:1", "items": 3, "by_repository": {"main/corp/app": 3}, "stopped": {}}
    context = {
        "params": {"dispose": dispose},
        "ti": SimpleNamespace(xcom_pull=lambda task_ids: found),
    }
    approve, environment = dags["prune"].get_task("approve"), Environment(autoescape=False)
    text = "".join(
        environment.from_string(one).render(context) for one in (approve.subject, approve.body)
    )
    assert asked in text
    assert ("last copy" in text) == dispose
    assert "**3 attestations**" in text


@pytest.mark.parametrize("period", ["2026-10", "2026-10.1", "r-one", None])
def test_a_period_is_accepted(dags: dict[str, DAG], period: str | None) -> None:
    params = copy(dags["reseal"].params)
    params["period"] = period
    assert params["period"] == period


@pytest.mark.parametrize("period", ["2026-13", "october", "", "r-", "2026-10 ", 7])
def test_what_is_no_period_is_refused(dags: dict[str, DAG], period: Any) -> None:
    params = copy(dags["reseal"].params)
    with pytest.raises(ParamValidationError):
        params["period"] = period


@pytest.mark.parametrize("digest", ["", f"sha256:{'a' * 64}", f"host/corp/app@sha256:{'0' * 64}"])
def test_what_can_be_restored_is_accepted(dags: dict[str, DAG], digest: str) -> None:
    params = copy(dags["prune"].params)
    params["restore"] = digest
    assert params["restore"] == digest


@pytest.mark.parametrize(
    "digest", ["app:v1", "sha256:abc", f"sha256:{'A' * 64}", f"@sha256:{'a' * 64}", None, " "]
)
def test_what_names_nothing_to_restore_is_refused(dags: dict[str, DAG], digest: Any) -> None:
    params = copy(dags["prune"].params)
    with pytest.raises(ParamValidationError):
        params["restore"] = digest


def test_airflow_lists_no_import_errors(airflow: Airflow) -> None:
    assert "No data found" in airflow("dags", "list-import-errors")


def test_a_backfill_lists_its_months(airflow: Airflow) -> None:
    printed = airflow(
        *("backfill", "create", "--dag-id", "longseal_reseal", "--dry-run"),
        *("--from-date", "2026-01-01", "--to-date", "2026-04-01"),
        *("--max-active-runs", "1", "--reprocess-behavior", "failed"),
    )
    months = [f"{datetime(2026, month, 1, tzinfo=UTC):%Y-%m-%d} 00:00:00" for month in range(1, 5)]
    assert [month for month in months if month in printed] == months
    assert "2025-12" not in printed
    assert "2026-05" not in printed


def test_airflow_itself_bars_a_backfill_of_the_prune(airflow: Airflow) -> None:
    done = airflow.python(
        str(Path(sys.executable).with_name("airflow")),
        *("backfill", "create", "--dag-id", "longseal_prune"),
        *("--from-date", "2026-01-01", "--to-date", "2026-04-01"),
    )
    assert done.returncode != 0
    assert "does not allow backfill runs" in " ".join((done.stdout + done.stderr).split())


def test_plugins_load_and_nothing_is_executed_under_a_bare_name(airflow: Airflow) -> None:
    script = (
        "import json, sys, airflow.plugins_manager as plugins;"
        "print(json.dumps([[one.name for one in plugins._get_plugins()[0]],"
        " plugins.get_import_errors(), [*{'base', 'harvest', 'provider_info'} & {*sys.modules}]]))"
    )
    names, errors, bare = json.loads(airflow.python("-c", script).stdout.splitlines()[-1])
    assert "longseal" in names
    assert errors == {}
    assert bare == []
