"""Verbs of what all else rests on: the archive's store, and the catalog made from it."""

from __future__ import annotations

import argparse

from longseal.cli.command import DONE, FINDINGS, Verbs, workspace_of
from longseal.cli.output import show

_ENFORCED = {True: "enforced", False: "NOT enforced", None: "not known"}


def add(verbs: Verbs) -> None:
    archive = verbs.group("archive", "Where evidence is kept.")
    archive.verb("check", _check, "Try what the archive's store enforces.")


def _check(arguments: argparse.Namespace) -> int:
    trials = list(workspace_of(arguments).archive.trials())
    document = {one.rule: {"enforced": one.enforced, "found": one.found} for one in trials}
    rows = {one.rule: f"{_ENFORCED[one.enforced]}: {one.found}" for one in trials}
    show(arguments, "The archive's store", rows, document)
    return DONE if all(one.enforced for one in trials) else FINDINGS
