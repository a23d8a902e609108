"""
### Mirror

Every day: brings images, attestations and seals to the sites that have no internet. A site is a
registry, or a volume that is carried there. What a site has is not sent again; its signed
inventory comes last, once everything in it has arrived. A site that cannot be reached holds no
other one up.

A manual run may name one site, `{"site": "ship-3"}`, and of it one repository or one image, which
then come without a new inventory. `{"dry_run": true}` tells what each site lacks, and sends
nothing.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG, CronTriggerTimetable, Param, TriggerRule

from longseal_airflow.assets import DELIVERIES
from longseal_airflow.defaults import DEFAULT_ARGS
from longseal_airflow.operators.mirror import (
    LongsealChooseSitesOperator,
    LongsealDeliverOperator,
    LongsealFinishMirrorOperator,
    LongsealPlanMirrorOperator,
)

with DAG(
    dag_id="longseal_mirror",
    schedule=CronTriggerTimetable("30 4 * * *", timezone="UTC"),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["longseal", "sites"],
    params={
        "site": Param(
            None,
            type=["null", "string"],
            maxLength=200,
            title="Site",
            description_md="The name of one site in the settings; empty for all of them.",
        ),
        "repository": Param(
            None,
            type=["null", "string"],
            maxLength=255,
            title="Repository",
            description_md="A pattern of repositories; empty for all that a site should have.",
        ),
        "image": Param(
            None,
            type=["null", "string"],
            pattern="^sha256:[0-9a-f]{64}$",
            title="Image",
            description_md="The digest of one image; empty for all of them.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description_md="Tell what is lacking; send nothing.",
        ),
    },
    default_args=DEFAULT_ARGS,
):
    sites = LongsealChooseSitesOperator(task_id="choose_sites", site="{{ params.site or '' }}")
    plan = LongsealPlanMirrorOperator(
        task_id="plan",
        sites=sites.output,
        repository="{{ params.repository or '' }}",
        image="{{ params.image or '' }}",
    )
    dry_run = "{{ 'true' if params.dry_run else '' }}"
    deliver = LongsealDeliverOperator.partial(
        task_id="deliver",
        dry_run=dry_run,
        max_active_tis_per_dagrun=4,
        map_index_template="{{ task.batch.site }} from {{ task.batch.start }}",
    ).expand(batch=plan.output)
    # The inventory is signed, hence the queue.
    LongsealFinishMirrorOperator.partial(
        task_id="finish",
        dry_run=dry_run,
        batches=plan.output,
        delivered=deliver.output,
        outlets=[DELIVERIES],
        queue="signing",
        trigger_rule=TriggerRule.ALL_DONE,
        map_index_template="{{ task.site }}",
    ).expand(site=sites.output)
