"""What the tasks of all DAGs have in common: their owner, and how they are tried again."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Final

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference

DEFAULT_ARGS: Final[dict[str, Any]] = {
    "owner": "longseal",
    "retries": 3,
    "retry_delay": timedelta(minutes=2),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(hours=1),
}

HARVEST_POOL: Final = os.environ.get("LONGSEAL_HARVEST_POOL", "default_pool")
"""The Airflow pool of the tasks that ask registries: its slots bound how many do at once."""


def seal_deadline() -> DeadlineAlert | None:
    """The deadline of a reseal run, in the days of ``LONGSEAL_SEAL_DEADLINE_DAYS``; else none.

    It belongs into the environment of the DAG processor alone: ``airflow dags test`` of Airflow
    3.3.2 fails at the end of a run whose DAG has a deadline.
    """
    days = os.environ.get("LONGSEAL_SEAL_DEADLINE_DAYS")
    if not days:
        return None
    return DeadlineAlert(
        name="sealed in time",
        # A month's run is queued when the month is over.
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(days=float(days)),
        callback=AsyncCallback("longseal_airflow.notifiers.deadline.not_sealed"),
    )
