import asyncio

import pytest
from airflow.triggers.callback import CallbackTrigger

from longseal_airflow.notifiers.deadline import not_sealed


def test_the_alert_names_the_run_that_is_late(caplog: pytest.LogCaptureFixture) -> None:
    path = f"{not_sealed.__module__}.{not_sealed.__name__}"
    context = {"dag_run": {"dag_id": "longseal_reseal", "dag_run_id": "scheduled__2026-11-01"}}

    async def triggerer() -> list[str]:
        trigger = CallbackTrigger(path, {"context": context})
        return [event.payload["state"] async for event in trigger.run()]

    assert asyncio.run(triggerer()) == ["running", "success"]
    assert "the run scheduled__2026-11-01 of longseal_reseal has not ended" in caplog.text


def test_an_alert_without_a_context_is_still_one(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(not_sealed())
    assert "has not ended" in caplog.text
