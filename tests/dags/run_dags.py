"""Run DAGs as DAGs, one after another, in one interpreter: `run_dags.py RUNS RESULTS`.

RUNS is a JSON list of `{"dag", "conf", "config", "approve"}`; RESULTS gets, for each, the state of
the run and that of each task by id and map index, with its number of tries.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main(runs: Path, results: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    dags = DagBag()
    found = []
    for run in json.loads(runs.read_text()):
        os.environ["LONGSEAL_CONFIG"] = run["config"]
        if run.get("approve"):
            threading.Thread(target=approve, daemon=True).start()
        done = dags.dags[run["dag"]].test(run_conf=run.get("conf") or {})
        found.append(
            {
                "state": done.state,
                "tasks": {
                    task.task_id + ("" if task.map_index < 0 else f"[{task.map_index}]"): [
                        task.state,
                        task.try_number,
                    ]
                    for task in done.get_task_instances()
                },
            }
        )
    results.write_text(json.dumps(found))


def approve() -> None:
    """Approve, as `grace`, the first thing that waits for it, by what the page in the UI calls."""
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
    from airflow.models import TaskInstance
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select

    waiting: Any = None
    while waiting is None:
        time.sleep(0.5)
        with create_session() as session:
            waiting = session.scalar(
                select(TaskInstance).where(TaskInstance.state == TaskInstanceState.AWAITING_INPUT)
            )
            if waiting is not None:
                update_hitl_detail(
                    waiting.dag_id,
                    waiting.run_id,
                    waiting.task_id,
                    UpdateHITLDetailPayload(chosen_options=["Approve"]),
                    SimpleAuthManagerUser(username="grace", role="admin"),
                    session,
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
