"""Trust material, and stored evidence judged again by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from longseal import judgement, trust
from longseal.workspace import Workspace
from longseal_airflow.operators.base import LongsealOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class LongsealTrustOperator(LongsealOperator):
    """Look for newer trust material, in the settings' file or their TUF repository, and adopt it.

    The only task that asks the repository. Fails at once, and leaves in force what is, where the
    new root takes away what verified evidence rests on: an operator may accept that as a revocation
    (``longseal trust accept --revoke``). Retried: a repository that does not answer.

    Returns ``root``, ``adopted``, ``source``, ``since`` and what is ``ending`` soon.
    """

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Refresh."""
        found = trust.refresh(workspace)
        self.log.info("The trusted root in force is %s (%s)", found["root"], found["source"])
        return {name: found[name] for name in ("root", "adopted", "source", "since", "ending")}


class LongsealJudgeOperator(LongsealOperator):
    """Judge stored evidence again that was last judged under another policy or trusted root.

    From the packs: nothing is downloaded. A changed verdict is a new leaf that supersedes, in a new
    pack. Writes nothing where neither policy nor root has changed. Retried: an archive that cannot
    be reached.

    Returns how many were ``judged``, ``counts`` of what changed, and what of the trust material is
    ``ending`` within 30 days.
    """

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Judge again."""
        found = judgement.apply(workspace)
        ending = trust.show(workspace)["ending"]
        self.log_table("Changed", [f"{n} {what}" for what, n in found.counts.items()])
        self.log_table("Ends soon", ending)
        if found.missing:
            self.log.warning("%d rows of the catalog name leaves that no pack has", found.missing)
        return {
            "judged": found.judged,
            "counts": dict(found.counts),
            "missing": found.missing,
            "ending": ending,
        }
