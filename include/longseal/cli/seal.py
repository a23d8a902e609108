"""Verbs of the organisation's seal: reseal, prove, keys."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longseal.canonical import parse_timestamp, timestamp
from longseal.cli.command import DONE, FINDINGS, Verbs, workspace_of
from longseal.cli.output import show
from longseal.errors import RefusedError
from longseal.workspace import Workspace


def add(verbs: Verbs) -> None:
    reseal = verbs.verb("reseal", _reseal, "Seal a period under the organisation's key.")
    what = reseal.add_mutually_exclusive_group(required=True)
    what.add_argument("--period", help="YYYY-MM, YYYY-MM.N for a supplement, or r-NAME")
    what.add_argument(
        "--renew", action="store_true", help="renew all seals now, with no new evidence"
    )
    what.add_argument(
        "--forecast", action="store_true", help="say until when each seal stands; signs nothing"
    )
    what.add_argument(
        "--recheck-ahead",
        action="store_true",
        help="verify again, now, what no seal covers yet (seal.recheck_secret_env)",
    )
    prove = verbs.verb(
        "prove", _prove, "Write the proof of an attestation, to be checked anywhere."
    )
    prove.add_argument("digest", metavar="sha256:HEX", help="of an attestation or image")
    prove.add_argument(
        "--to", type=Path, default=Path("proof"), metavar="FOLDER", help="a new folder"
    )

    keys = verbs.group("keys", "The organisation's keys.")
    keys.verb("list", _keys_list, "Every key, its window, and which seals stand.")
    keys.verb("rotate", _keys_rotate, "Let next_signer of the settings sign from now on.")
    keys.verb("commit", _keys_commit, "Commit to keys.recovery of the settings.")
    revoke = keys.verb("revoke", _keys_revoke, "Say from when a key may have been stolen.")
    revoke.add_argument("key", metavar="sha256:HEX")
    revoke.add_argument("--from", dest="since", required=True, metavar="YYYY-MM-DDTHH:MM:SSZ")
    revoke.add_argument("--reason", required=True, help="for the key set's statement")
    recover = keys.verb("recover", _keys_recover, "Go on with a new key after the old is lost.")
    recover.add_argument("--recovery-key", type=Path, required=True, metavar="FILE")
    recover.add_argument("--password-env", metavar="NAME", help="where its password is")
    counts = keys.verb("reconcile", _keys_reconcile, "Hold others' counts against the ledger.")
    counts.add_argument("--cloudtrail", type=Path, metavar="FILE", help="an export of events")
    counts.add_argument("--key-id", action="append", default=[], help="as the events name the key")
    counts.add_argument("--count", type=int, metavar="N", help="what the HSM's counter says")
    counts.add_argument("--log", action="store_true", help="read the transparency log")
    counts.add_argument("--since", metavar="YYYY-MM-DDTHH:MM:SSZ", help="count from here on")


def _reseal(arguments: argparse.Namespace) -> int:
    from longseal.seal.artifact import push_seal
    from longseal.seal.images import attach_images, sign_images
    from longseal.seal.period import Period
    from longseal.seal.published import published
    from longseal.seal.renewal import forecasts
    from longseal.seal.reseal import Reseal

    workspace = workspace_of(arguments)
    if arguments.forecast:
        return _forecast(arguments, workspace)
    if arguments.recheck_ahead:
        return _recheck_ahead(arguments, workspace)
    period = arguments.period
    if arguments.renew:
        if not published(workspace):
            raise RefusedError("nothing is sealed yet: there is nothing to renew")
        period = Period.of_renewal(workspace.now()).name
    reseal = Reseal(workspace, period)
    already = reseal.sealed is not None
    reseal.freeze()
    reseal.recheck()
    operations = reseal.sign()["key_operations"]
    stamped = reseal.timestamp()
    silent, told = stamped["silent_authorities"], stamped["revocation"]
    reseal.log()
    reseal.check()
    document = reseal.publish()
    assert reseal.sealed is not None
    statements = sign_images(workspace, reseal.sealed)
    artifact = push_seal(workspace, reseal.sealed)
    attached = attach_images(workspace, reseal.sealed)
    document |= {
        "key_operations": operations + statements["key_operations"],
        "image_statements": statements["image_statements"],
        "already_sealed": already,
        "artifact": artifact["artifact"],
        "attached": attached["attached"],
        "failed": attached["failed"],
        "silent_authorities": silent,
        "revocation": told,
    }
    due = 0
    if arguments.renew:
        found = forecasts(workspace)
        due = sum(one.due(workspace.now()) for one in found)
        document |= {"until": timestamp(min(one.end for one in found).at), "due": due}
    show(arguments, "Seal", document, document)
    revoked = told.get("revoked")
    return FINDINGS if attached["failed"] or silent or revoked or due else DONE


def _recheck_ahead(arguments: argparse.Namespace, workspace: Workspace) -> int:
    from longseal.archive.leaf import Leaf
    from longseal.seal.recheck import recheck_ahead

    found = recheck_ahead(workspace)
    if found is None:
        raise RefusedError(
            "the settings name no secret for the receipts (seal.recheck_secret_env), and without"
            " them a recheck ahead saves nothing"
        )
    failed = [
        {"image": Leaf.parse(line).image, "reason": why} for line, why in found.failed.items()
    ]
    counts = found.to_json()
    show(arguments, "Rechecked", counts, {**counts, "failed": failed})
    return FINDINGS if failed else DONE


def _forecast(arguments: argparse.Namespace, workspace: Workspace) -> int:
    from longseal.seal.renewal import forecasts

    now, found = workspace.now(), forecasts(workspace)
    seals = [one.to_json(now) for one in found]
    due = sum(one["due"] for one in seals)
    rows = {
        f"{one['sequence']} {one['period']}": f"until {one['until']}: {one['then']}"
        + (" — DUE" if one["due"] else "")
        for one in seals
    }
    show(arguments, "Forecast", rows, {"seals": seals, "due": due})
    return FINDINGS if due else DONE


def _prove(arguments: argparse.Namespace) -> int:
    from longseal.seal.proof_folder import prove, told

    workspace = workspace_of(arguments)
    folders = prove(workspace, arguments.digest, arguments.to)
    check = f"./verify.sh {' '.join(told(workspace, *folders))}"
    document = {"folders": list(map(str, folders)), "check": check}
    show(arguments, "Proof", document, document)
    return DONE


def _keys_list(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_report import key_standings

    keys, found = key_standings(workspace_of(arguments))
    document = {
        "version": keys.version,
        "recovery": keys.recovery,
        "keys": [one.to_json() for one in found],
    }
    rows = {
        one.to_json()["key"]: {
            name: value for name, value in one.to_json().items() if name != "key" and value
        }
        for one in found
    }
    show(arguments, f"Key set {keys.version}", {"recovery": keys.recovery, **rows}, document)
    return FINDINGS if any(one.doubtful for one in found) else DONE


def _keys_rotate(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import rotate

    return _keys_changed(arguments, rotate(workspace_of(arguments)))


def _keys_commit(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import commit

    return _keys_changed(arguments, commit(workspace_of(arguments)))


def _keys_revoke(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import revoke

    since = parse_timestamp(arguments.since)
    workspace = workspace_of(arguments)
    return _keys_changed(arguments, revoke(workspace, arguments.key, since, arguments.reason))


def _keys_recover(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import recover
    from longseal.seal.signers.file import FileSigner

    recovery = FileSigner(arguments.recovery_key, arguments.password_env)
    return _keys_changed(arguments, recover(workspace_of(arguments), recovery))


def _keys_changed(arguments: argparse.Namespace, document: Mapping[str, Any]) -> int:
    show(arguments, "Key set", document, document)
    return FINDINGS if document["resumed"] else DONE


def _keys_reconcile(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_report import (
        reconcile_cloudtrail,
        reconcile_counter,
        reconcile_log,
    )

    workspace = workspace_of(arguments)
    since = parse_timestamp(arguments.since) if arguments.since else None
    found = []
    if arguments.cloudtrail is not None:
        if not arguments.key_id:
            raise RefusedError("say how the events name the key: --key-id ARN, id or alias")
        export = workspace.read_setting("--cloudtrail", arguments.cloudtrail)
        found.append(reconcile_cloudtrail(workspace, export, arguments.key_id, since))
    if arguments.count is not None:
        found.append(reconcile_counter(workspace, arguments.count, since))
    if arguments.log:
        found.append(reconcile_log(workspace))
    if not found:
        raise RefusedError("nothing to hold against the ledger: --cloudtrail, --count or --log")
    document = {"counts": [one.to_json() for one in found]}
    rows = {one.source: {**one.to_json(), "source": None} for one in found}
    show(arguments, "Key operations", rows, document)
    return FINDINGS if any(one.alarm for one in found) else DONE
