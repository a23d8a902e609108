"""The alert of a month that is not sealed in time: run by the triggerer, which writes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)


async def not_sealed(*, context: Mapping[str, Any] | None = None) -> None:
    """Say which run is late.

    :param context: what Airflow knows of the run and its deadline
    """
    run = (context or {}).get("dag_run") or {}
    _log.error(
        "longseal: the run %s of %s has not ended five days after it was due: its period may not be"
        " sealed. Look at its tasks; longseal audit says which month is missing",
        run.get("dag_run_id") or run.get("run_id"),
        run.get("dag_id"),
    )
