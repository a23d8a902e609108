"""
### Harvest

Every hour: finds the signed attestations of all registries, verifies each one, and archives it with
all that its verification needs later. What is known is neither downloaded nor verified again.

First `trust` looks for newer trust material, and `judge` judges stored evidence again where policy
or trusted root have changed, from the archive alone. Where `trust` fails, the run is marked as
failed, and the harvest goes on under the root in force.

A rejected attestation is quarantined with its reason; it never fails a run. A registry that does
not answer is reported as *unknown*, never as *unsigned*. The counts stand in the log of
`summarise`; the asset `longseal://evidence` carries them.

Where `log_watch` names a log of one's own, `watch` reads what is new in it and reports signatures
of the policy's identities that no registry has shown. Where `complete_proofs` names a log,
`complete_proofs` asks it for the inclusion proofs of signatures that have only its promise.
Otherwise they are skipped.
"""

from datetime import UTC, datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronTriggerTimetable, TriggerRule

from longseal_airflow.assets import EVIDENCE
from longseal_airflow.defaults import DEFAULT_ARGS, HARVEST_POOL
from longseal_airflow.operators.audit import LongsealLogWatchOperator
from longseal_airflow.operators.harvest import (
    SILENT,
    LongsealCompleteProofsOperator,
    LongsealHarvestOperator,
    LongsealPlanHarvestOperator,
    LongsealSummariseHarvestOperator,
)
from longseal_airflow.operators.trust import LongsealJudgeOperator, LongsealTrustOperator

with DAG(
    dag_id="longseal_harvest",
    schedule=CronTriggerTimetable("7 * * * *", timezone="UTC"),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["longseal", "attestations"],
    default_args=DEFAULT_ARGS,
):
    trust = LongsealTrustOperator(task_id="trust")
    judge = LongsealJudgeOperator(task_id="judge", trigger_rule=TriggerRule.ALL_DONE)
    plan = LongsealPlanHarvestOperator(task_id="plan", pool=HARVEST_POOL)
    trust >> judge >> plan
    # Without newer trust material the harvest goes on under what is in force; the run fails.
    trust >> EmptyOperator(task_id="trusted")
    harvest = LongsealHarvestOperator.partial(
        task_id="harvest",
        pool=HARVEST_POOL,
        max_active_tis_per_dagrun=4,
        map_index_template=(
            "{{ task.batch.registry }}: {{ task.batch.repositories | join(', ') | truncate(80) }}"
        ),
    ).expand(batch=plan.output)
    harvest >> [
        LongsealCompleteProofsOperator(
            task_id="complete_proofs", trigger_rule=TriggerRule.NONE_FAILED
        ),
        LongsealLogWatchOperator(task_id="watch", trigger_rule=TriggerRule.NONE_FAILED),
    ]
    LongsealSummariseHarvestOperator(
        task_id="summarise",
        harvested=harvest.output,
        silent=plan.output[SILENT],
        judged=judge.output,
        outlets=[EVIDENCE],
        trigger_rule=TriggerRule.NONE_FAILED,
    )
