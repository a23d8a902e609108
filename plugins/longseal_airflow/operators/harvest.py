"""Harvest: plan, a task for each batch, and a summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from longseal.completion import complete
from longseal.harvest import Batch, Harvested, Tally, harvest, plan
from longseal.intake import intake
from longseal.workspace import Workspace
from longseal_airflow.assets import EVIDENCE
from longseal_airflow.operators.base import LongsealOperator, given

if TYPE_CHECKING:
    from airflow.sdk import Context

SILENT = "silent"
"""XCom key of the registries that did not answer the plan, with what they said."""


class LongsealPlanHarvestOperator(LongsealOperator):
    """Divide the registries' repositories into batches, at most 1,024 of them.

    Returns a list of batches (``registry``, ``repositories``), one for each mapped task, and pushes
    silent registries under the key ``silent``. Writes nothing. Fails at once where no registry
    answers at all.
    """

    def act(self, workspace: Workspace, context: Context) -> list[dict[str, Any]]:
        """Plan."""
        batches, silent = plan(workspace)
        for name, reason in silent.items():
            self.log.warning("The registry %s did not answer: %s", name, reason)
        context["ti"].xcom_push(key=SILENT, value=silent)
        return [batch.to_json() for batch in batches]


class LongsealHarvestOperator(LongsealOperator):
    """Find, verify and archive the attestations of one batch.

    Evidence is named by its digest, and what is known is neither downloaded nor verified again. A
    rejected attestation is quarantined with its reason and never fails the task; a registry that
    does not answer is reported as unknown. Retried: an archive that cannot be reached.

    Returns counts (``found``, ``verified``, ``rejected`` by reason, ``ignored``, ``unknown``,
    ``known``, ``vanished``, ``images``), the digests of new ``packs``, and what was
    ``unreachable``.

    :param batch: one of the plan's (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "batch")

    def __init__(self, *, batch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Harvest."""
        batch = Batch.from_json(given("batch", self.batch, dict))
        return _counts(harvest(workspace, batch))


class LongsealIntakeOperator(LongsealOperator):
    """Take in the evidence that a CI run left in a file or folder.

    It is judged and kept by the same rules as what hangs in a registry; what is known is neither
    judged nor stored again. Returns the same counts as a batch, so that the summary can add them.

    :param path: of the file or folder, where the worker sees it (templated)
    :param repository: whose evidence it is (templated)
    :param artifact: ``sha256:`` digest that it must speak of (templated); None: what it says itself
    """

    template_fields: Sequence[str] = (
        *LongsealOperator.template_fields,
        "path",
        "repository",
        "artifact",
    )

    def __init__(
        self, *, path: str, repository: str, artifact: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.repository = repository
        self.artifact = artifact

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Take in."""
        path = Path(given("path", self.path, str))
        repository = given("repository", self.repository, str)
        return _counts(intake(workspace, path, repository, self.artifact or None))


def _counts(result: Harvested) -> dict[str, Any]:
    return {
        **result.total.to_json(),
        "images": len(result.images),
        "packs": result.packs,
        "unreachable": result.unreachable,
    }


class LongsealSummariseHarvestOperator(LongsealOperator):
    """Add the batches up; the log ends in one line.

    Returns the same counts as a batch, for all of them, and puts them into the event of the asset
    ``longseal://evidence``, where that is an outlet of the task; also what changed where stored
    evidence was ``judged_again``, and trust material that is ``ending`` soon. Writes nothing.

    :param harvested: what the batches returned (templated)
    :param silent: registries that did not answer, with what they said (templated)
    :param judged: what judging stored evidence again returned (templated)
    """

    template_fields: Sequence[str] = (
        *LongsealOperator.template_fields,
        "harvested",
        "silent",
        "judged",
    )

    def __init__(
        self,
        *,
        harvested: Iterable[Mapping[str, Any]],
        silent: Mapping[str, str] | None = None,
        judged: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.harvested = harvested
        self.silent = silent
        self.judged = judged

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Add up."""
        total, images, packs = Tally(), 0, 0
        unreachable = dict(self.silent or {})
        for one in self.harvested or ():
            total.add(Tally.from_json(one))
            images += one["images"]
            packs += len(one["packs"])
            unreachable |= one["unreachable"]
        self.log_table("Quarantined", [f"{n} {why}" for why, n in total.rejected.most_common()])
        self.log_table("Unreachable", [f"{name}: {why}" for name, why in unreachable.items()])
        judged = self.judged or {"counts": {}, "ending": []}
        self.log_table("Judged again", [f"{n} {what}" for what, n in judged["counts"].items()])
        self.log_table("Trust material that ends soon", judged["ending"])
        counts = total.to_json()
        rejected = total.rejected.total()
        context["outlet_events"][EVIDENCE].extra = {**counts, "packs": packs}
        self.log.info(
            "%d images: %d attestations found, %d verified, %d rejected, %d unknown, %d known"
            " before; %d vanished; %d places unreachable; %d new packs",
            *(images, total.found, total.verified, rejected, total.unknown, total.known),
            *(total.vanished, len(unreachable), packs),
        )
        return {
            **counts,
            "images": images,
            "packs": packs,
            "unreachable": len(unreachable),
            "judged_again": judged["counts"],
            "ending": judged["ending"],
        }


class LongsealCompleteProofsOperator(LongsealOperator):
    """Ask a log for the inclusion proofs of signatures that have only its promise.

    Skipped where the settings name no log. What the log gives is verified and archived beside the
    bytes found; what it does not give, and a log that does not answer, fail no run: the next one
    asks again, ten times at most for one proof.

    Returns counts: ``completed``, ``failed`` and ``packs``; and ``silent``, what the log said when
    it stopped answering.
    """

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Complete."""
        found = complete(workspace)
        if found is None:
            raise AirflowSkipException("the settings name no log of proofs (complete_proofs)")
        if found.silent is not None:
            self.log.warning("The log stopped answering: %s", found.silent)
        self.log_table("No proof yet", [f"{name}: {why}" for name, why in found.failed.items()])
        counts = {"completed": found.completed, "failed": len(found.failed)}
        return {**counts, "packs": len(found.packs), "silent": found.silent}
