"""What the tasks of all DAGs have in common: their owner, and how they are tried again."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Final

DEFAULT_ARGS: Final[dict[str, Any]] = {
    "owner": "longseal",
    "retries": 3,
    "retry_delay": timedelta(minutes=2),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(hours=1),
}

HARVEST_POOL: Final = os.environ.get("LONGSEAL_HARVEST_POOL", "default_pool")
"""The Airflow pool of the tasks that ask registries: its slots bound how many do at once."""
