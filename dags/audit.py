"""
### Audit

Every week: walks the ledger, verifies every seal and the chain of them, and reads packs back from
the archive. Writes nothing. A run fails where a check failed or could not be made; the report is in
its log.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronTriggerTimetable, Param

from longseal_airflow.defaults import DEFAULT_ARGS
from longseal_airflow.operators.audit import LongsealAuditOperator

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
