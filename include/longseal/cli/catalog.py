"""Verbs of what all else rests on: the archive's store, and the catalog made from it."""

from __future__ import annotations

import argparse

from longseal.cli.command import DONE, FINDINGS, Verbs, workspace_of
from longseal.cli.output import print_json, show, show_report
from longseal.errors import RefusedError
from longseal.workspace import Workspace

_ENFORCED = {True: "enforced", False: "NOT enforced", None: "not known"}


def add(verbs: Verbs) -> None:
    archive = verbs.group("archive", "Where evidence is kept.")
    check = archive.verb("check", _check, "Try what the archive's store enforces.")
    check.add_argument(
        "--deep",
        action="store_true",
        help="instead: read packs whole, and compare the catalog with one made from the archive",
    )
    check.add_argument(
        "--share", type=share, default=0.1, help="share of the packs that --deep reads (0 to 1)"
    )
    check.add_argument(
        "--adopt", action="store_true", help="with --deep: take in packs that nobody claimed"
    )
    archive.verb(
        "lifecycle", _lifecycle, "The bucket's lifecycle configuration by which packs go cold."
    )
    catalog = verbs.group("catalog", "What is known; the archive has all of it.")
    catalog.verb("rebuild", _rebuild, "Make the catalog again from the archive alone.")

    restore = verbs.verb("restore", _restore, "Put pruned attestations back on their image.")
    restore.add_argument(
        "target", metavar="DIGEST|IMAGE@DIGEST", help="of an image, attestation or its manifest"
    )
    restore.add_argument("--registry", metavar="NAME", help="of the settings; else all that had it")
    restore.add_argument(
        "--dry-run", action="store_true", help="say what would come back, and write nothing"
    )


def share(text: str) -> float:
    """A share, as an option has it."""
    found = float(text)
    if not 0 <= found <= 1:
        raise ValueError(text)
    return found


def _check(arguments: argparse.Namespace) -> int:
    workspace = workspace_of(arguments)
    if arguments.deep:
        return _compare(arguments, workspace)
    if arguments.adopt:
        raise RefusedError("--adopt goes with --deep, which is not given")
    trials = list(workspace.archive.trials())
    document = {one.rule: {"enforced": one.enforced, "found": one.found} for one in trials}
    rows = {one.rule: f"{_ENFORCED[one.enforced]}: {one.found}" for one in trials}
    show(arguments, "The archive's store", rows, document)
    return DONE if all(one.enforced for one in trials) else FINDINGS


def _lifecycle(arguments: argparse.Namespace) -> int:
    from longseal.archive.retention import cold_tiers
    from longseal.archive.s3 import lifecycle
    from longseal.settings import S3ArchiveSettings

    settings = workspace_of(arguments).settings
    tiers, chosen = cold_tiers(settings.retention), settings.archive
    if not isinstance(chosen, S3ArchiveSettings) or not tiers:
        raise RefusedError("retention.cold is set for no class, or the archive is no bucket")
    print_json(lifecycle(chosen.prefix, tiers, chosen.cold_class))
    return DONE


def _compare(arguments: argparse.Namespace, workspace: Workspace) -> int:
    from longseal.audit.comparison import compare

    report = compare(workspace, arguments.share, arguments.adopt)
    return show_report(arguments, report)


def _rebuild(arguments: argparse.Namespace) -> int:
    from longseal.rebuild import rebuild

    document = rebuild(workspace_of(arguments)).to_json()
    show(arguments, "Catalog", document, document)
    return FINDINGS if document["failed"] else DONE


def _restore(arguments: argparse.Namespace) -> int:
    from longseal.archive.restore import restore

    digest = arguments.target.rpartition("@")[2]
    document = restore(workspace_of(arguments), digest, arguments.registry, arguments.dry_run)
    show(arguments, "Would restore" if arguments.dry_run else "Restored", document, document)
    return FINDINGS if document["failed"] else DONE
