"""What the tasks of all DAGs have in common: their owner, and how they are tried again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

DEFAULT_ARGS: Final[dict[str, Any]] = {
    "owner": "longseal",
    "retries": 3,
    "retry_delay": timedelta(minutes=2),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(hours=1),
}
