"""Months that are over, sealed by a backfill under Airflow's own scheduler.

Marked `lab` for its length, more than a minute: it needs nothing that Go builds.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.airflow_home import Airflow
from tests.installation import Installation
from tests.retired import harvest_image, trust_double
from tests.scheduler import scheduler

from longseal.archive.pack import pack_key
from longseal.seal.published import published, read_lines

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

DAG = "longseal_reseal"
SIGNED = {
    "2025-12": datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC),
    "2026-01": datetime(2026, 1, 1, tzinfo=UTC),
    "2026-02": datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC),
    "2026-03": datetime(2026, 3, 1, tzinfo=UTC),
}
DECEMBER, JANUARY, FEBRUARY, MARCH = SIGNED


def sealed(installation: Installation) -> list[tuple[str, list[str]]]:
    """The seals in order: the period of each, and the months in which what it covers was signed."""
    workspace = installation.workspace()
    return [
        (
            seal.period,
            [
                json.loads(line)["signedAt"][:7]
                for line in read_lines(workspace, seal.files("leaves/").values())
            ],
        )
        for seal in published(workspace)
    ]


def pack_of(installation: Installation, month: str) -> Path:
    """The file of the pack that holds what was signed in this month."""
    rows = installation.workspace().catalog.unsealed(None)
    (digest,) = {row.pack for row in rows if json.loads(row.leaf)["signedAt"].startswith(month)}
    return installation.folder / "archive" / pack_key(digest)


def test_a_backfill_seals_each_month_and_one_that_failed_holds_the_later_ones_back(
    airflow: Airflow, installation: Installation, tmp_path: Path
) -> None:
    sigstore = trust_double(installation, datetime(2025, 11, 1, tzinfo=UTC))
    for signed in SIGNED.values():
        harvest_image(installation, sigstore, signed)
    damaged, whole = pack_of(installation, JANUARY), tmp_path / "whole.zip"
    damaged.rename(whole)
    damaged.write_bytes(whole.read_bytes()[:-1])

    environment = {"LONGSEAL_CONFIG": str(installation.config)}
    with scheduler(airflow, tmp_path / "airflow", environment) as running:
        running.backfill(DAG, DECEMBER, FEBRUARY)
        december, january, february = running.wait(DAG)
        assert [run.month for run in (december, january, february)] == [DECEMBER, JANUARY, FEBRUARY]
        assert [run.state for run in (december, january, february)] == ["success", *["failed"] * 2]
        for run in january, february:
            assert run.tasks["freeze"] == ("failed", 1)
        assert sealed(installation) == [(DECEMBER, [DECEMBER])]

        whole.replace(damaged)
        running.backfill(DAG, DECEMBER, FEBRUARY)
        runs = running.wait(DAG)
    # Without a secret for receipts there is nothing to map a recheck over.
    assert {run.tasks.pop("recheck_packs") for run in runs} == {("skipped", 0)}
    assert {state for run in runs for state, _ in run.tasks.values()} == {"success"}
    assert {run.kind for run in runs} == {"backfill"}
    assert [run.tasks["freeze"] for run in runs] == [("success", tries) for tries in (1, 2, 2)]
    # What was signed in March waits for March.
    months = (DECEMBER, JANUARY, FEBRUARY)
    assert sealed(installation) == [(month, [month]) for month in months]
    assert installation.key_operations() == 2 * len(months)
