"""
### Prune

Every month: plans, in a document signed by the organisation's key, which attestations past their
retention would leave the registries; waits until somebody has approved exactly that plan, unless
the signed approval policy does; then reads every archived copy back whole, deletes what the plan
names and nothing else, and leaves a tombstone for each under one signed deletion statement.

Where nothing is due, nothing is signed and the run is skipped. An unanswered plan fails after six
days, and nothing is deleted. A backfill is refused.

Triggered with **Dispose**, a run does the same in the archive with what is past
`retention.dispose`: what it deletes there is the last copy, and it always asks somebody.

Triggered with a digest in **Restore**, a run plans and deletes nothing: it puts back what was
pruned of that image or attestation, byte for byte, from the archive.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, CronDataIntervalTimetable, Param

from longseal_airflow.defaults import DEFAULT_ARGS
from longseal_airflow.operators.prune import (
    LongsealApprovalOperator,
    LongsealPlanPruneOperator,
    LongsealPruneOperator,
)
from longseal_airflow.operators.restore import LongsealRestoreOperator

with DAG(
    dag_id="longseal_prune",
    schedule=CronDataIntervalTimetable("0 6 2 * *", timezone="UTC"),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["scheduled", "manual"],
    doc_md=__doc__,
    tags=["longseal", "retention"],
    default_args=DEFAULT_ARGS,
    params={
        "before": Param(
            "retention",
            type="string",
            minLength=1,
            description="Only what was signed before this time (2024-11-01T00:00:00Z)",
        ),
        "max_share": Param(
            "retention",
            type="string",
            pattern="^(retention|[1-9][0-9]?|100)$",
            description="Percent of a repository that may go, in place of retention.max_share",
        ),
        "dispose": Param(
            False,
            type="boolean",
            title="Dispose",
            description="Plan what is past retention.dispose, and delete it from the archive",
        ),
        "restore": Param(
            "",
            type="string",
            pattern="^$|^([^@]+@)?sha256:[0-9a-f]{64}$",
            title="Restore",
            description="Put this back, and prune nothing: the digest of an image, an attestation"
            " or its manifest, or IMAGE@DIGEST",
            section="Restore",
        ),
        "registry": Param(
            "",
            type="string",
            title="Registry",
            description="Where to, by its name in the settings; empty for all that had it",
            section="Restore",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Say what would come back, and write nothing",
            section="Restore",
        ),
    },
):
    plan = LongsealPlanPruneOperator(
        task_id="plan",
        before="{{ params.before }}",
        max_share="{{ params.max_share }}",
        dispose="{{ params.dispose }}",
        instead="{{ params.restore }}",
        queue="signing",
    )
    approve = LongsealApprovalOperator(
        task_id="approve",
        subject="""\
Delete attestations past their retention from \
{{ "the archive, for good" if params.dispose else "the registries" }}?""",
        body="""\
{% set found = ti.xcom_pull(task_ids="plan") %}
The plan `{{ found.plan }}` deletes **{{ found["items"] }} attestations**.
{% if params.dispose %}
It deletes the **last copy**. What stays is the leaf in its seal, and a tombstone.
{% else %}
Each of them is sealed and archived, and is read back from the archive before anything goes.
{% endif %}
{% for name, count in found.by_repository.items() %}
- {{ count }} from `{{ name }}`
{%- endfor %}
{% if found.stopped %}
Due, and staying:
{% for why, count in found.stopped.items() %}
- {{ count }}: {{ why }}
{%- endfor %}
{% endif %}
""",
        policy="{{ ti.xcom_pull(task_ids='plan').policy or '' }}",
        response_timeout=timedelta(days=6),
        retries=0,
    )
    prune = LongsealPruneOperator(
        task_id="prune",
        plan="{{ ti.xcom_pull(task_ids='plan').plan }}",
        approval=approve.output,
        queue="signing",
    )
    plan >> approve >> prune
    LongsealRestoreOperator(
        task_id="restore",
        digest="{{ params.restore }}",
        registry="{{ params.registry }}",
        check_only="{{ params.dry_run }}",
    )
