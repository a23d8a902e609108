"""
### Audit

Every week: `audit` walks the ledger, verifies every seal and the chain of them, and reads packs
back from the archive; `compare` compares the catalog with one made from the archive. Neither writes
anything. A run fails where a check failed or could not be made; the report is in its log.

Where the settings name a secret for it (`seal.recheck_secret_env`), `recheck_ahead` verifies again
what no seal covers yet, in the queue `signing`, and leaves its receipts in the archive: the recheck
at the month's end has little left to do. Otherwise it is skipped.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronTriggerTimetable, Param

from longseal_airflow.defaults import DEFAULT_ARGS
from longseal_airflow.operators.audit import LongsealArchiveCheckOperator, LongsealAuditOperator
from longseal_airflow.operators.reseal import LongsealRecheckAheadOperator

with DAG(
    dag_id="longseal_audit",
    schedule=CronTriggerTimetable("0 5 * * 1", timezone="UTC"),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["longseal", "audit"],
    params={
        "share": Param(
            0.1,
            type="number",
            minimum=0,
            maximum=1,
            title="Share of the packs",
            description_md=(
                "How many of the packs are read whole and hashed, from 0 to 1: another share every"
                " day. The others are only looked for."
            ),
        )
    },
    default_args=DEFAULT_ARGS,
):
    LongsealAuditOperator(task_id="audit", share="{{ params.share }}")
    LongsealRecheckAheadOperator(task_id="recheck_ahead", queue="signing")
    LongsealArchiveCheckOperator(task_id="compare", share="{{ params.share }}")
