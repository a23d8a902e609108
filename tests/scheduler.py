"""Airflow's scheduler at work, on DAG runs that are started as its users start them."""

import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests

from tests.airflow_home import DATABASE, Airflow
from tests.lab.processes import HOST, free_port, start

T = TypeVar("T")

ENDED = {"success", "failed"}

_SETTINGS = """\
# Imported before the executor forks its workers: no task imports it again.
import longseal_airflow.operators.reseal
from longseal.catalog import catalog
from longseal.seal import rekor, timestamps
import airflow.sdk.execution_time.task_runner
import rfc3161_client
"""


@dataclass(frozen=True)
class Run:
    """A DAG run: its state, and that of each task by id and map index, with its number of tries."""

    id: str
    kind: str
    month: str
    """Of its data interval's start."""
    state: str
    tasks: dict[str, tuple[str | None, int]]


class Scheduler:
    """A running scheduler, and the API server beside it.

    :param airflow: the command, in the scheduler's own home
    """

    def __init__(self, airflow: Airflow, url: str) -> None:
        self._airflow = airflow
        self._url = f"{url}/api/v2"
        self._http = requests.Session()
        self._http.trust_env = False

    def trigger(self, dag: str, conf: Mapping[str, Any]) -> str:
        """Start a manual run; its id."""
        self._pause(dag, False)
        body = {"logical_date": None, "conf": dict(conf)}
        return self._ask("POST", f"dags/{dag}/dagRuns", body)["dag_run_id"]

    def backfill(self, dag: str, first: str, last: str, reprocess: str = "failed") -> None:
        """Start a backfill from one month to another, as the DAG's page says.

        The one before has to have ended, for which the scheduler looks twice a minute. Its runs
        begin when all are made: SQLite lets one transaction of the two fail where both write.
        """
        self._pause(dag, True)
        _until(
            lambda: self._ask("GET", f"backfills?dag_id={dag}")["backfills"],
            lambda backfills: all(each["completed_at"] for each in backfills),
            f"a backfill of {dag} has not ended",
        )
        self._airflow(
            *("backfill", "create", "--dag-id", dag, "--max-active-runs", "1"),
            *("--from-date", f"{first}-01", "--to-date", f"{last}-01"),
            *("--reprocess-behavior", reprocess),
        )
        self._pause(dag, False)

    def runs(self, dag: str) -> list[Run]:
        """All runs, in the order of their months."""
        runs = [self._run(dag, each) for each in self._found(dag)]
        return sorted(runs, key=lambda run: (run.month, run.id))

    def wait(self, dag: str, seconds: float = 480) -> list[Run]:
        """The runs, once all have ended."""
        _until(
            lambda: self._found(dag),
            lambda runs: all(run["state"] in ENDED for run in runs),
            f"{dag} still waits",
            seconds,
        )
        return self.runs(dag)

    def _found(self, dag: str) -> list[dict[str, Any]]:
        return list(self._ask("GET", f"dags/{dag}/dagRuns?limit=100")["dag_runs"])

    def _run(self, dag: str, found: dict[str, Any]) -> Run:
        path = f"dags/{dag}/dagRuns/{found['dag_run_id']}/taskInstances?limit=200"
        tasks = {
            task["task_id"] + ("" if task["map_index"] < 0 else f"[{task['map_index']}]"): (
                task["state"],
                task["try_number"],
            )
            for task in self._ask("GET", path)["task_instances"]
        }
        month = (found["data_interval_start"] or "")[:7]
        return Run(
            found["dag_run_id"],
            found["run_type"],
            month,
            found["state"],
            tasks,
        )

    def _pause(self, dag: str, paused: bool) -> None:
        self._ask("PATCH", f"dags/{dag}", {"is_paused": paused})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self._http.request(method, f"{self._url}/{path}", json=body, timeout=30)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()


@contextmanager
def scheduler(airflow: Airflow, home: Path, environment: Mapping[str, str]) -> Iterator[Scheduler]:
    """Run a scheduler and an API server, in a new home and on a database without runs.

    :param environment: of the tasks, besides this process's
    """
    home.mkdir()
    shutil.copy(airflow.home / DATABASE, home / "airflow.db")
    (home / "config").mkdir()
    (home / "config" / "airflow_local_settings.py").write_text(_SETTINGS)
    port, health = free_port(), free_port()
    url = f"http://{HOST}:{port}"
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "True",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(health),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        # Only runs that are asked for: on another day other months would be over.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    }
    here = Airflow(home, {**environment, **settings})
    command = [sys.executable, str(Path(sys.executable).with_name("airflow"))]
    serve = [*command, "api-server", "--host", HOST, "--port", str(port), "--workers", "1"]
    with (
        start("api-server", serve, home, url, ready="/api/v2/version", env=here.variables),
        start(
            "scheduler",
            [*command, "scheduler", "--skip-serve-logs"],
            home,
            f"http://{HOST}:{health}",
            ready="/health",
            env=here.variables,
        ),
    ):
        yield Scheduler(here, url)


def _until(
    look: Callable[[], T], holds: Callable[[T], bool], else_: str, seconds: float = 480
) -> T:
    """What is found, once this holds of it."""
    deadline = time.monotonic() + seconds
    while not holds(found := look()):
        assert time.monotonic() < deadline, f"{else_} after {seconds} s: {found}"
        time.sleep(0.5)
    return found
