"""Verbs of what is kept, sent on and checked: prune, mirror, audit."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from longseal.canonical import parse_timestamp
from longseal.cli.command import DONE, FINDINGS, Verbs, workspace_of
from longseal.cli.output import show, show_report
from longseal.errors import RefusedError


def add(verbs: Verbs) -> None:
    prune = verbs.verb(
        "prune", _prune, "Plan what is past retention, or carry out an approved plan."
    )
    prune.add_argument("--approve", metavar="DIGEST", help="carry out the plan with this digest")
    prune.add_argument(
        "--before", metavar="YYYY-MM-DDTHH:MM:SSZ", help="plan only what was signed before"
    )
    prune.add_argument(
        "--max-share", type=int, metavar="PERCENT", help="in place of retention.max_share"
    )
    prune.add_argument("--approver", default=os.environ.get("USER", ""), help="who approves it")
    prune.add_argument(
        "--dispose",
        action="store_true",
        help="plan what is past retention.dispose, and would leave the archive",
    )
    prune.add_argument(
        "--by-policy", action="store_true", help="with --approve: the signed policy approves it"
    )

    approval = verbs.group("approval", "Which plans need nobody to approve them.")
    sign = approval.verb("sign", _sign_policy, "Sign a policy with the organisation's key.")
    sign.add_argument("policy", type=Path, metavar="FILE", help="JSON (docs/formats/statements.md)")
    approval.verb("show", _show_policy, "The policy in force.")

    mirror = verbs.verb("mirror", _mirror, "Bring images and their proof to a site.")
    mirror.add_argument("--site", required=True, metavar="NAME")
    mirror.add_argument(
        "--repository", metavar="PATTERN", help="of only these repositories, with no new inventory"
    )
    mirror.add_argument("--image", metavar="DIGEST", help="only this image, with no new inventory")
    mirror.add_argument("--dry-run", action="store_true", help="tell what the site lacks")

    receive = verbs.verb("receive", _receive, "Take in the receipts of sites.")
    receive.add_argument("receipts", nargs="+", type=Path, metavar="FILE")
    receive.add_argument("--site", required=True, metavar="NAME")
    verbs.verb("sites", _sites, "What each site has, lacks and owes, by its receipts.")

    audit = verbs.verb("audit", _audit, "Check ledger, seals and packs.")
    audit.add_argument(
        "--share", type=float, default=1.0, help="share of the packs that is read whole (0 to 1)"
    )


def _prune(arguments: argparse.Namespace) -> int:
    from longseal.archive import prune
    from longseal.archive.disposal import plan_disposal

    workspace = workspace_of(arguments)
    if arguments.approve:
        approver = None if arguments.by_policy else arguments.approver
        if approver == "":
            raise RefusedError("say who approves the plan: --approver NAME")
        document = prune.execute(workspace, arguments.approve, approver)
        show(arguments, "Pruned", document, document)
        return FINDINGS if document["kept"] else DONE
    before = None if arguments.before is None else parse_timestamp(arguments.before)
    if arguments.dispose:
        if before is not None:
            raise RefusedError(
                "--before does not go with --dispose: retention.dispose has the date"
            )
        planned = plan_disposal(workspace, arguments.max_share)
    else:
        planned = prune.plan(workspace, before, arguments.max_share)
    if planned is None:
        show(arguments, "Prune", {"due": 0}, {"plan": None, "items": []})
        return DONE
    document = {
        "plan": planned.digest,
        "items": [item.to_json() for item in planned.items],
        "stopped": dict(planned.stopped),
        "key_operations": planned.key_operations,
    }
    show(
        arguments,
        "Prune",
        {
            "due": len(planned.items),
            "due and staying": dict(planned.stopped),
            "plan": planned.digest,
            "to carry it out": f"longseal prune --approve {planned.digest}",
        },
        document,
    )
    return FINDINGS


def _sign_policy(arguments: argparse.Namespace) -> int:
    from longseal.archive.approval import MAX_BYTES, sign_policy

    try:
        with arguments.policy.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise RefusedError(f"could not read {arguments.policy}: {err.strerror}") from err
    document = sign_policy(workspace_of(arguments), data)
    show(arguments, "Signed", document, document)
    return DONE


def _show_policy(arguments: argparse.Namespace) -> int:
    from longseal.archive.approval import policy_in_force

    workspace = workspace_of(arguments)
    signed = policy_in_force(workspace)
    if signed is None:
        show(arguments, "Approval policy", {"signed": "none"}, {"policy": None})
        return DONE
    document = {
        "policy": signed.digest,
        "version": signed.version,
        "in_force": workspace.now() < signed.policy.valid_until,
        "document": json.loads(workspace.kept(signed.digest)),
    }
    show(arguments, "Approval policy", document, document)
    return DONE


def _mirror(arguments: argparse.Namespace) -> int:
    from longseal.mirror.mirror import mirror

    workspace = workspace_of(arguments)
    document = mirror(
        workspace,
        workspace.settings.site(arguments.site),
        arguments.repository,
        arguments.image,
        arguments.dry_run,
    )
    show(arguments, f"Mirror to {arguments.site}", document, document)
    bad = document["failed"] or document["withheld"] or document["receipt_refused"]
    return FINDINGS if bad else DONE


def _receive(arguments: argparse.Namespace) -> int:
    from longseal.mirror.receipt import receive, standing

    workspace = workspace_of(arguments)
    site = workspace.settings.site(arguments.site)
    for path in arguments.receipts:
        receive(workspace, site, workspace.read_setting("FILE", path))
    document = standing(workspace, site).to_json(workspace.now())
    show(arguments, f"Site {site.name}", document, document)
    return FINDINGS if document["lacking"] or document["overdue"] else DONE


def _sites(arguments: argparse.Namespace) -> int:
    from longseal.mirror.receipt import standing

    workspace = workspace_of(arguments)
    now = workspace.now()
    document = {
        site.name: standing(workspace, site).to_json(now) for site in workspace.settings.sites
    }
    show(arguments, "Sites", document, document)
    late = any(one["overdue"] or one["lacking"] for one in document.values())
    return FINDINGS if late else DONE


def _audit(arguments: argparse.Namespace) -> int:
    from longseal.audit.audit import audit, summary

    workspace = workspace_of(arguments)
    report = audit(workspace, arguments.share)
    return show_report(arguments, report, summary(workspace) if arguments.json else None)
