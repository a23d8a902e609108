"""Verbs that find evidence: harvest, watch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longseal.cli.command import DONE, FINDINGS, Verbs, workspace_of
from longseal.cli.output import show
from longseal.errors import LongsealError, RefusedError
from longseal.workspace import Workspace

if TYPE_CHECKING:
    from longseal.harvest import Harvested


def add(verbs: Verbs) -> None:
    harvest = verbs.verb(
        "harvest", _harvest, "Find, verify and archive every attestation of the registries."
    )
    harvest.add_argument(
        "--from",
        dest="source",
        metavar="DIR|FILE|-",
        help="take in the evidence there instead: bundles, JSONL, answers of GitHub, npm or PyPI",
    )
    harvest.add_argument("--repository", metavar="NAME", help="whose evidence is taken in")
    harvest.add_argument(
        "--artifact",
        metavar="FILE|sha256:HEX",
        help="what it must speak of; without it, what it says itself",
    )
    verbs.verb("watch", _watch, "Look in the log for signatures that no registry has shown.")


def _harvest(arguments: argparse.Namespace) -> int:
    from longseal import judgement
    from longseal.completion import complete
    from longseal.harvest import Harvested, harvest, plan

    workspace = workspace_of(arguments)
    if arguments.source is None and (arguments.repository or arguments.artifact):
        raise RefusedError("--repository and --artifact go with --from, which is not given")
    batches, silent = plan(workspace) if arguments.source is None else ([], {})
    trusted = _refreshed(workspace)
    judged = judgement.apply(workspace)
    result = Harvested(unreachable=dict(silent))
    for batch in batches:
        result.add(harvest(workspace, batch))
    if arguments.source is not None:
        result.add(_taken_in(workspace, arguments))
    completed = complete(workspace)
    document = {**result.to_json(), "trust": trusted, "judged_again": judged.counts}
    if completed is not None:
        document["proofs"] = completed.to_json()
    totals = {name: value for name, value in document.items() if name not in ("images", "packs")}
    show(arguments, "Harvest", {**totals, "images": len(result.images)}, document)
    return FINDINGS if result.findings or trusted["failed"] or trusted["ending"] else DONE


def _refreshed(workspace: Workspace) -> dict[str, Any]:
    """Look for newer trust material; without it, what is in force stays so."""
    from longseal import trust

    try:
        found, failed = trust.refresh(workspace), None
    except LongsealError as err:
        found, failed = trust.show(workspace), str(err)
        print(f"longseal: {err}", file=sys.stderr)
    return {"root": found["root"], "ending": found["ending"], "failed": failed}


def _taken_in(workspace: Workspace, arguments: argparse.Namespace) -> Harvested:
    from longseal.intake import intake
    from longseal.verify.target import artifact_digest

    if not arguments.repository:
        raise RefusedError(
            "--from needs --repository NAME: the policy's rules are for repositories"
        )
    source = sys.stdin.buffer if arguments.source == "-" else Path(arguments.source)
    return intake(workspace, source, arguments.repository, artifact_digest(arguments.artifact))


def _watch(arguments: argparse.Namespace) -> int:
    from longseal.audit.watch import watch

    found = watch(workspace_of(arguments))
    if found is None:
        raise RefusedError("no log to watch: name one in the settings (log_watch)")
    document = found.to_json()
    missing = {
        f"entry {entry.index}": f"{entry.identity} signed {entry.artifact} at {entry.begins}"
        for entry in found.missing
    }
    rows = {**document, "missing": len(missing), **missing}
    show(arguments, "Log watch", rows, document)
    return FINDINGS if found.missing or found.unreadable else DONE
