import inspect
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from tests.installation import Installation
from tests.plugins.conftest import Take, Taken, Task

import longseal_airflow.operators.audit
import longseal_airflow.operators.harvest
import longseal_airflow.operators.mirror
import longseal_airflow.operators.prune
import longseal_airflow.operators.reseal
from longseal.errors import MalformedError, RefusedError, RegistryError, RestoreInProgress
from longseal.workspace import Workspace, utc_now
from longseal_airflow.operators.base import LongsealOperator, actor_of, given


def _operators() -> list[type[LongsealOperator]]:
    modules = vars(longseal_airflow.operators).values()
    return [
        found
        for module in modules
        if inspect.ismodule(module)
        for found in vars(module).values()
        if inspect.isclass(found)
        and issubclass(found, LongsealOperator)
        and found.__module__ == module.__name__
        and not inspect.isabstract(found)
    ]


class Raising(LongsealOperator):
    """Raises what it is given."""

    def __init__(self, *, error: Exception, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def act(self, workspace: Workspace, context: Any) -> None:
        raise self.error


def test_a_permanent_error_fails_the_task_without_another_try(take: Take) -> None:
    with pytest.raises(AirflowFailException, match=r"^no such thing$"):
        take(Raising, error=MalformedError("no such thing"))


def test_a_retryable_error_is_left_to_the_retries(take: Take) -> None:
    with pytest.raises(RegistryError):
        take(Raising, error=RegistryError("no answer"))


def test_what_is_cold_is_waited_for_and_uses_up_no_try(take: Take) -> None:
    error = RestoreInProgress("it lies in a cold storage class", retry_after=3600)
    with pytest.raises(TaskDeferred) as caught:
        take(Raising, error=error)
    assert isinstance(caught.value.trigger, TimeDeltaTrigger)
    assert caught.value.method_name == "take_up"
    waited = caught.value.trigger.moment - utc_now()
    assert timedelta(minutes=50) < waited <= timedelta(hours=1)


def test_after_the_wait_the_step_is_taken_again(take: Take, taken: Taken) -> None:
    operator = Raising(task_id="task", error=RefusedError("taken again"))
    with pytest.raises(RegistryError):
        take(Raising, error=RegistryError("no answer"))
    with pytest.raises(AirflowFailException, match="taken again"):
        operator.take_up(taken.context, {"moment": "now"})


def test_what_nobody_foresaw_is_left_to_the_retries(take: Take) -> None:
    with pytest.raises(ZeroDivisionError):
        take(Raising, error=ZeroDivisionError())


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"policy": []}, "longseal.yaml:11: policy: trusts nobody"),
        ({"trust": {"trusted_root": "absent.json"}}, "trust.trusted_root: no such file"),
        ({"organisation": None}, "organisation: missing"),
    ],
)
def test_broken_settings_fail_the_task_in_one_line_that_names_the_setting(
    take: Take, installation: Installation, changes: dict[str, Any], setting: str
) -> None:
    installation.write(**changes)
    with pytest.raises(AirflowFailException) as caught:
        take(longseal_airflow.operators.harvest.LongsealPlanHarvestOperator)
    assert setting in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_operator_may_name_its_settings(take: Take, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match=r"other\.yaml: settings: cannot be read"):
        take(
            longseal_airflow.operators.harvest.LongsealPlanHarvestOperator,
            config=f"{tmp_path}/{{{{ params.name }}}}.yaml",
            params={"name": "other"},
        )


def test_the_actor_names_run_task_and_try_and_who_started_it(take: Take, taken: Taken) -> None:
    take(longseal_airflow.operators.audit.LongsealAuditOperator)
    assert actor_of(taken.context) == "airflow longseal/run/task try 1, started by grace"
    taken.context["ti"] = Task("task", map_index=3, try_number=2)
    assert actor_of(taken.context) == "airflow longseal/run/task[3] try 2, started by grace"


@pytest.mark.parametrize("value", ["", "None", None, 7])
def test_an_argument_that_came_out_empty_is_refused(value: object) -> None:
    with pytest.raises(RefusedError, match=r"^plan: expected a str, found "):
        given("plan", value, str)


@pytest.mark.parametrize("operator", _operators(), ids=lambda operator: operator.__name__)
def test_template_fields_are_assigned_as_they_were_given(
    operator: type[LongsealOperator],
) -> None:
    fields = {name: f"{{{{ params.{name} }}}}" for name in operator.template_fields}
    made = operator(task_id="task", **fields)  # type: ignore[arg-type]
    assert {name: getattr(made, name) for name in fields} == fields


def test_every_operator_is_looked_at() -> None:
    assert len(_operators()) >= 19
