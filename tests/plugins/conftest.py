from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.api.datamodels._generated import DagRun
from airflow.sdk.execution_time.context import OutletEventAccessors
from tests.installation import Installation

Take = Callable[..., Any]
"""The fixture ``take``: render an operator's templates and execute it, as a run would."""


@dataclass
class Task:
    """As much of a task instance as operators look at."""

    task_id: str
    dag_id: str = "longseal"
    run_id: str = "run"
    map_index: int = -1
    try_number: int = 1
    pushed: dict[str, Any] = field(default_factory=dict)
    runs: dict[datetime, str] = field(default_factory=dict)
    """States of the DAG's runs, by logical date."""

    def get_dr_count(
        self,
        dag_id: str,
        logical_dates: list[datetime],
        run_ids: list[str] | None = None,
        states: list[str] | None = None,
    ) -> int:
        found = [self.runs[date] for date in logical_dates if date in self.runs]
        return len([state for state in found if states is None or state in states])

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@dataclass
class Taken:
    """What the last operator left besides its result."""

    context: dict[str, Any] = field(default_factory=dict)

    @property
    def pushed(self) -> dict[str, Any]:
        return self.context["ti"].pushed

    def event(self, asset: Any) -> dict[str, Any]:
        return self.context["outlet_events"][asset].extra


def dag_run(run_type: str = "manual", month: datetime | None = None) -> DagRun:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    return DagRun(
        dag_id="longseal",
        run_id="run",
        logical_date=now,
        data_interval_start=month or datetime(2026, 10, 1, tzinfo=UTC),
        data_interval_end=now,
        run_after=now,
        start_date=now,
        end_date=None,
        run_type=run_type,
        state="running",
        triggering_user_name="grace",
        consumed_asset_events=[],
        partition_key=None,
    )


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def take(installation: Installation, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> Take:
    monkeypatch.setenv("LONGSEAL_CONFIG", str(installation.config))

    def run(
        operator: type[BaseOperator],
        *,
        run: DagRun | None = None,
        params: dict[str, Any] | None = None,
        runs: dict[datetime, str] | None = None,
        **arguments: Any,
    ) -> Any:
        made = operator(task_id="task", **arguments)
        taken.context = {
            "ti": Task("task", runs=runs or {}),
            "dag_run": run or dag_run(),
            "params": params or {},
            "outlet_events": OutletEventAccessors(),
        }
        made.render_template_fields(taken.context)
        return made.execute(taken.context)

    return run
