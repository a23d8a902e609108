"""
### Reseal

At the end of every month (UTC): seals, under the organisation's key, all verified evidence that no
earlier seal covers, and attaches statements to the images. One key operation for the seal, and one
for each 1,000 images. A rerun of a sealed period signs nothing.

A **scheduled or backfill run** seals the month of its dates. Backfill in order, one at a time, and
first with `--dry-run`:

    airflow backfill create --dag-id longseal_reseal --from-date 2026-01-01 --to-date 2026-06-01 \\
        --max-active-runs 1 --reprocess-behavior failed

A **manual run** names its period: `{"period": "2026-10"}` for a month that is over,
`{"period": "2026-10.1"}` for a supplement to it, or `{"period": "r-NAME"}` for a release, which
seals all so far. `{"period": "r-renewal-2026-11-24"}`, with the day's date, covers nothing and
renews all seals, where `longseal reseal --forecast` says that one is due.

A month that failed holds the later ones back. Those that fail too, saying that it comes first, need
nothing but the same backfill once more, when the cause is mended. Where the next one waits, mark
its run as failed, clear the failed tasks of the month that failed, and when that is sealed,
backfill the month that was marked.

Where the DAG processor's environment has `LONGSEAL_SEAL_DEADLINE_DAYS`, as `5`, a run that has not
ended so long after it was queued misses its deadline: the run's page shows it, and the triggerer's
log has the alert. The weekly audit fails where a month is not sealed by the end of its fifth day.

Where the settings name a secret for receipts (`seal.recheck_secret_env`), the recheck is mapped
over batches of packs (`recheck_packs`), and `recheck` itself takes their receipts.

`freeze`, whatever rechecks, `sign` and `sign_image_statements` run in the queue `signing`, whose
workers alone hold the key.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TriggerRule, chain

from longseal_airflow.assets import SEALS
from longseal_airflow.defaults import DEFAULT_ARGS, seal_deadline
from longseal_airflow.operators.reseal import (
    LongsealAttachImageStatementsOperator,
    LongsealCheckOperator,
    LongsealFreezeOperator,
    LongsealLogOperator,
    LongsealPlanRecheckOperator,
    LongsealPublishOperator,
    LongsealPushSealOperator,
    LongsealRecheckAheadOperator,
    LongsealRecheckOperator,
    LongsealSignImageStatementsOperator,
    LongsealSignOperator,
    LongsealTimestampOperator,
)

with DAG(
    dag_id="longseal_reseal",
    schedule=CronDataIntervalTimetable("0 0 1 * *", timezone="UTC"),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    # No month is left out. With catchup, only scheduled and backfill runs count as the past that
    # freeze depends on: a manual run neither holds a month back nor hides one that failed.
    catchup=True,
    max_active_runs=1,
    deadline=seal_deadline(),
    doc_md=__doc__,
    tags=["longseal", "seals"],
    params={
        "period": Param(
            None,
            type=["null", "string"],
            pattern=r"^(\d{4}-(0[1-9]|1[0-2])(\.[1-9]\d{0,3})?|r-[a-z0-9.-]{1,64})$",
            title="Period",
            description_md=(
                "What a manual run seals: `YYYY-MM`, `YYYY-MM.N` for a supplement, or `r-NAME` for"
                " a release. Leave it empty in a backfill."
            ),
        )
    },
    default_args={**DEFAULT_ARGS, "period": "{{ params.period or '' }}"},
):
    plan_recheck = LongsealPlanRecheckOperator(task_id="plan_recheck", queue="signing")
    chain(
        # The first freeze of all writes the key set, for which it asks the key for its public half.
        LongsealFreezeOperator(
            task_id="freeze", queue="signing", depends_on_past=True, wait_for_downstream=True
        ),
        plan_recheck,
        LongsealRecheckAheadOperator.partial(
            task_id="recheck_packs",
            queue="signing",
            max_active_tis_per_dagrun=4,
            map_index_template="{{ task.packs | length }} packs from {{ task.packs[0][:15] }}",
        ).expand(packs=plan_recheck.output),
        # Takes the receipts of what was rechecked in batches, and rechecks what has none.
        LongsealRecheckOperator(
            task_id="recheck", queue="signing", trigger_rule=TriggerRule.NONE_FAILED
        ),
        LongsealSignOperator(task_id="sign", queue="signing"),
        LongsealTimestampOperator(task_id="timestamp"),
        LongsealLogOperator(task_id="log"),
        LongsealCheckOperator(task_id="check"),
        LongsealPublishOperator(task_id="publish", outlets=[SEALS]),
        LongsealSignImageStatementsOperator(task_id="sign_image_statements", queue="signing"),
        LongsealPushSealOperator(task_id="push_seal"),
        LongsealAttachImageStatementsOperator(task_id="attach_image_statements"),
    )
