"""Mirror: choose sites, plan, deliver in batches, and bring each site its kit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from longseal.batches import MAX_TASKS, batch_size
from longseal.errors import RefusedError, RetryableError
from longseal.mirror.delivery import Delivered, deliver
from longseal.mirror.mirror import finish
from longseal.mirror.plan import Plan, plan
from longseal.mirror.receipt import collect
from longseal.workspace import Workspace
from longseal_airflow.assets import DELIVERIES
from longseal_airflow.operators.base import LongsealOperator, given

if TYPE_CHECKING:
    from airflow.sdk import Context

BATCH = 100
"""Images in one mapped task, or more where that makes too many tasks."""


class LongsealChooseSitesOperator(LongsealOperator):
    """Name the sites of the settings, or the one that the run names.

    Returns a list of names. Writes nothing. Fails at once for a site that the settings do not have.

    :param site: one site's name; empty for all (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "site")

    def __init__(self, *, site: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site = site

    def act(self, workspace: Workspace, context: Context) -> list[str]:
        """Choose."""
        if self.site:
            return [workspace.settings.site(self.site).name]
        return [site.name for site in workspace.settings.sites]


class LongsealPlanMirrorOperator(LongsealOperator):
    """Plan what each site should have, from what was harvested and verified.

    First takes in the receipts that came back on volumes; one that does not hold is logged.

    The plans go into the archive, named by their digests. Returns a list of batches (``site``,
    ``plan``, ``start``, ``stop``), at least one a site. Retried: a registry that does not list its
    tags.

    :param sites: their names (templated)
    :param repository: pattern of the only repositories to plan for; empty for all (templated)
    :param image: digest of the only image to plan for; empty for all (templated)
    """

    template_fields: Sequence[str] = (
        *LongsealOperator.template_fields,
        "sites",
        "repository",
        "image",
    )

    def __init__(
        self,
        *,
        sites: Sequence[str],
        repository: str | None = None,
        image: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sites = sites
        self.repository = repository
        self.image = image

    def act(self, workspace: Workspace, context: Context) -> list[dict[str, Any]]:
        """Plan."""
        batches: list[dict[str, Any]] = []
        for name in self.sites:
            site = workspace.settings.site(name)
            refused = collect(workspace, site)
            self.log_table(f"Receipt of {name} refused", [refused] if refused else [])
            planned = plan(workspace, site, self.repository or None, self.image or None)
            withheld = [f"{image}: {why}" for image, why in planned.withheld.items()]
            self.log_table(f"Withheld from {name}", withheld)
            digest, images = planned.keep(workspace), len(planned.shipments)
            size = batch_size(images, BATCH, MAX_TASKS // len(self.sites))
            batches += [
                {"site": name, "plan": digest, "start": start, "stop": start + size}
                for start in range(0, max(images, 1), size)
            ]
        # By turns, so that the sites that answer are not behind one that does not.
        return sorted(batches, key=lambda one: (one["start"], self.sites.index(one["site"])))


class LongsealDeliverOperator(LongsealOperator):
    """Bring the images of one batch, with their evidence, to their site.

    What the site has is not sent. Returns the batch, and ``images``, ``blobs_sent``, ``bytes_sent``
    and ``already_there``. Retried: an image that did not arrive.

    :param batch: one of the plan's (templated)
    :param dry_run: ``true`` to find out what the site lacks, and send nothing (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "batch", "dry_run")

    def __init__(self, *, batch: Mapping[str, Any], dry_run: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.dry_run = dry_run

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Deliver."""
        batch = given("batch", self.batch, dict)
        planned = Plan.kept(workspace, batch["plan"])
        shipments = planned.shipments[batch["start"] : batch["stop"]]
        dry_run = self.dry_run == "true"
        done = deliver(workspace, workspace.settings.site(batch["site"]), shipments, dry_run)
        self.log_table(f"{batch['site']} lacked", done.wanting)
        self.log_table("Not sent", [f"{image}: {why}" for image, why in done.refused.items()])
        self.log_table("Not arrived", [f"{image}: {why}" for image, why in done.failed.items()])
        if done.failed:
            image, why = next(iter(done.failed.items()))
            raise RetryableError(
                f"{len(done.failed)} images did not arrive at {batch['site']}, the first"
                f" {image}: {why}"
            )
        return {**batch, **done.to_json()}


class LongsealFinishMirrorOperator(LongsealOperator):
    """Bring a site its kit, with a signed inventory, once all its images arrived.

    A kit with nothing new in it is not signed again. Runs whatever became of other sites; fails at
    once where this one's images did not all arrive; is skipped after a dry run, and where the run
    named a repository or an image. Says what came of it in the event of the asset
    ``longseal://deliveries``, where that is an outlet of the task.

    Returns ``site``, ``sequence``, ``inventory`` (digest), ``images``, ``blobs_sent``,
    ``bytes_sent``, ``already_there``, ``withheld`` (a count), ``volume``, ``kit_files`` and
    ``key_operations``.

    :param dry_run: ``true`` where nothing was sent (templated)
    :param site: its name (templated)
    :param batches: what the plan returned (templated)
    :param delivered: what the deliveries returned, those that did (templated)
    """

    template_fields: Sequence[str] = (
        *LongsealOperator.template_fields,
        "site",
        "batches",
        "delivered",
        "dry_run",
    )

    def __init__(
        self,
        *,
        site: str,
        batches: Iterable[Mapping[str, Any]],
        delivered: Iterable[Mapping[str, Any]],
        dry_run: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dry_run = dry_run
        self.site = site
        self.batches = batches
        self.delivered = delivered

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Finish."""
        site = workspace.settings.site(given("site", self.site, str))
        batches = [one for one in self.batches or () if one["site"] == site.name]
        delivered = [one for one in self.delivered or () if one["site"] == site.name]
        if not batches or len(delivered) < len(batches):
            raise RefusedError(
                f"{len(delivered)} of {len(batches)} batches arrived at {site.name}: its inventory"
                " must not promise what is missing"
            )
        total = Delivered()
        for one in delivered:
            total.add(Delivered.from_json(one))
        planned = Plan.kept(workspace, batches[0]["plan"])
        if planned.part or self.dry_run == "true":
            raise AirflowSkipException(f"no inventory for {site.name}: not all of it was brought")
        found = {**total.to_json(), **finish(workspace, site, planned, total)}
        found["withheld"] = len(found["withheld"])
        del found["failed"], found["refused"], found["wanting"]
        context["outlet_events"][DELIVERIES].extra = {
            name: found[name] for name in ("site", "sequence", "images", "inventory")
        }
        return found
