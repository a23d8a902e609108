"""Verbs by which stored evidence is judged again: trust, policy, quarantine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from longseal.cli.command import DONE, FINDINGS, Verbs, workspace_of
from longseal.cli.output import SHOWN, print_json, show
from longseal.errors import RefusedError

if TYPE_CHECKING:
    from longseal.judgement import Outcomes
    from longseal.quarantine import Filter


def add(verbs: Verbs) -> None:
    trust = verbs.group("trust", "The trusted root that attestations are verified against.")
    trust.verb("show", _trust_show, "What is in force, and what of it ends soon.")
    trust.verb("refresh", _trust_refresh, "Adopt what the file or TUF repository has now.")
    accept = trust.verb("accept", _trust_accept, "Adopt it as a revocation.")
    accept.add_argument("root", nargs="?", metavar="DIGEST", help="the root that is meant")
    accept.add_argument("--revoke", action="store_true", required=True)
    accept.add_argument("--reason", required=True, help="for the ledger")

    policy = verbs.group("policy", "Judge stored evidence again.")
    test = policy.verb("test", _policy_test, "What a policy would change; nothing is written.")
    test.add_argument(
        "--policy", type=Path, metavar="FILE", help="with the key policy; else the settings' own"
    )
    policy.verb("apply", _policy_apply, "Judge by the policy and trusted root in force.")

    quarantine = verbs.group("quarantine", "Stored evidence that is not accepted, with the reason.")
    for name, run, text in (
        ("list", _quarantine_list, "What is held, counted by reason."),
        ("show", _quarantine_show, "All that is known of a digest that is held."),
        ("release", _quarantine_release, "Judge it again, and release what is accepted now."),
    ):
        found = quarantine.verb(name, run, text)
        if name != "list":
            optional = "?" if name == "release" else None
            found.add_argument("digest", nargs=optional, metavar="DIGEST")
        if name != "show":
            found.add_argument("--reason", metavar="SLUG", help="as in no-rule")
            found.add_argument("--repository", metavar="PATTERN", help="as in corp/*")
            found.add_argument("--image", metavar="DIGEST")


def _trust_show(arguments: argparse.Namespace) -> int:
    from longseal import trust

    document = trust.show(workspace_of(arguments))
    show(arguments, "Trust", document, document)
    return FINDINGS if document["ending"] or document["pending"] else DONE


def _trust_refresh(arguments: argparse.Namespace) -> int:
    from longseal import trust

    document = trust.refresh(workspace_of(arguments))
    show(arguments, "Trust", document, document)
    return FINDINGS if document["ending"] else DONE


def _trust_accept(arguments: argparse.Namespace) -> int:
    from longseal import judgement, trust

    workspace = workspace_of(arguments)
    document = trust.accept(workspace, arguments.reason, arguments.root)
    outcomes = judgement.apply(workspace)
    document["evidence"] = outcomes.to_json()
    show(arguments, "Trust", {**document, "evidence": outcomes.counts}, document)
    return FINDINGS if outcomes.changes or document["ending"] else DONE


def _policy_test(arguments: argparse.Namespace) -> int:
    from longseal import judgement
    from longseal.settings import policy_document, with_policy

    workspace = workspace_of(arguments)
    settings = workspace.settings
    if arguments.policy is not None:
        settings = with_policy(settings, arguments.policy)
    outcomes = judgement.preview(workspace, policy_document(settings))
    _show_outcomes(arguments, "What would change", outcomes)
    return FINDINGS if outcomes.changes else DONE


def _policy_apply(arguments: argparse.Namespace) -> int:
    from longseal import judgement

    outcomes = judgement.apply(workspace_of(arguments))
    _show_outcomes(arguments, "What changed", outcomes)
    return FINDINGS if outcomes.missing else DONE


def _show_outcomes(arguments: argparse.Namespace, title: str, outcomes: Outcomes) -> None:
    document = outcomes.to_json()
    rows = {name: value for name, value in document.items() if name != "changes"}
    show(arguments, title, rows, document)
    if arguments.json:
        return
    for change in document["changes"][:SHOWN]:
        before, after = change["from"], change["to"]
        print(
            f"{change['repository']}@{change['image'][:19]} {change['bundle'][:19]}"
            f" {change['predicate_type'] or ''}: {before['verdict']} -> {after['verdict']}:"
            f" {after['reason'] or before['reason']}"
        )
    if len(document["changes"]) > SHOWN:
        print(f"… and {len(document['changes']) - SHOWN} more: --json has them all")


def _quarantine_list(arguments: argparse.Namespace) -> int:
    from longseal import quarantine

    rows = list(quarantine.held(workspace_of(arguments), _filter(arguments)))
    document = {
        "held": len(rows),
        "reasons": quarantine.counts(rows),
        "evidence": [quarantine.listed(row) for row in rows],
    }
    totals = {name: document[name] for name in ("held", "reasons")}
    show(arguments, "Quarantine", totals, document)
    if not arguments.json:
        for row in rows[:SHOWN]:
            print(f"{row.bundle} {row.repository}@{row.image[:19]} {row.verdict}: {row.reason}")
        if len(rows) > SHOWN:
            print(f"… and {len(rows) - SHOWN} more: --json has them all, filters have fewer")
    return FINDINGS if rows else DONE


def _quarantine_show(arguments: argparse.Namespace) -> int:
    from longseal import quarantine

    found = [
        quarantine.shown(row)
        for row in quarantine.held(workspace_of(arguments), _filter(arguments))
    ]
    if not found:
        raise RefusedError(f"nothing with the digest {arguments.digest} is held")
    if arguments.json:
        print_json({"evidence": found})
    else:
        for one in found:
            show(arguments, "Held", one, one)
    return FINDINGS


def _quarantine_release(arguments: argparse.Namespace) -> int:
    from longseal import quarantine

    document = quarantine.release(workspace_of(arguments), _filter(arguments))
    rows = {name: value for name, value in document.items() if name != "evidence"}
    show(arguments, "Released", rows, document)
    return FINDINGS if document["held"] else DONE


def _filter(arguments: argparse.Namespace) -> Filter:
    from longseal.quarantine import Filter

    given = vars(arguments)
    names = ("reason", "repository", "image", "digest")
    return Filter(**{name: given.get(name) for name in names})
