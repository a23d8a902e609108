"""The ``longseal`` command: the DAGs' verbs for a terminal, and ``verify`` for anybody.

Exit code 0: done, or verified. 1: done with findings, or not verified. 2: could not do it, or could
not check. With ``--json`` one JSON document goes to standard output, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longseal import __version__
from longseal.canonical import parse_timestamp
from longseal.errors import LongsealError, RefusedError
from longseal.settings import load
from longseal.workspace import Workspace

if TYPE_CHECKING:
    from longseal.harvest import Harvested
    from longseal.judgement import Outcomes
    from longseal.quarantine import Filter

DONE, FINDINGS, FAILED = 0, 1, 2

_SHOWN = 50
"""Pieces of evidence that a table shows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="longseal: %(message)s", stream=sys.stderr)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except LongsealError as err:
        print(f"longseal: {err}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("longseal: interrupted; the same command takes up where it stopped", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longseal", description="Keep software attestations provable for years."
    )
    parser.add_argument("--version", action="version", version=f"longseal {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        below: Any = verbs,
    ) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = below.add_parser(name, help=text, description=text)
        found.add_argument("--config", type=Path, metavar="FILE", help="longseal.yaml")
        found.add_argument("--json", action="store_true", help="one JSON document on stdout")
        found.set_defaults(run=run)
        return found

    harvest = verb(
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

    reseal = verb("reseal", _reseal, "Seal a period under the organisation's key.")
    reseal.add_argument(
        "--period", required=True, help="YYYY-MM, YYYY-MM.N for a supplement, or r-NAME"
    )

    prune = verb("prune", _prune, "Plan what is past retention, or carry out an approved plan.")
    prune.add_argument("--approve", metavar="DIGEST", help="carry out the plan with this digest")
    prune.add_argument("--approver", default=os.environ.get("USER", ""), help="who approves it")

    mirror = verb("mirror", _mirror, "Bring images and their proof to a site.")
    mirror.add_argument("--site", required=True, metavar="NAME")

    audit = verb("audit", _audit, "Check ledger, seals and packs.")
    audit.add_argument(
        "--share", type=float, default=1.0, help="share of the packs that is read whole (0 to 1)"
    )

    verb("watch", _watch, "Look in the log for signatures that no registry has shown.")

    prove = verb("prove", _prove, "Write the proof of an attestation, to be checked anywhere.")
    prove.add_argument("digest", metavar="sha256:HEX", help="of an attestation or image")
    prove.add_argument(
        "--to", type=Path, default=Path("proof"), metavar="FOLDER", help="a new folder"
    )

    verify = verb("verify", _verify, "Verify a bundle, seal, volume, image or known digest.")
    verify.add_argument("target", metavar="TARGET")
    verify.add_argument(
        "--key",
        metavar="FILE|sha256:HEX",
        help="the organisation's key or its fingerprint; of another's bundle, the file of its key",
    )
    verify.add_argument("--trusted-root", type=Path, metavar="FILE", help="for keyless signatures")
    verify.add_argument("--identity", help="who must have signed, exactly")
    verify.add_argument("--issuer", help="who vouched for the identity, exactly")
    verify.add_argument("--artifact", metavar="FILE|sha256:HEX", help="what a bundle must speak of")
    verify.add_argument(
        "--seal-trusted-root", type=Path, metavar="FILE", help="for the organisation's statements"
    )
    verify.add_argument(
        "--timestamp-root",
        action="append",
        metavar="sha256:HEX",
        help="fingerprint of a timestamp root that is believed; may be repeated",
    )
    verify.add_argument("--quorum", type=int, default=1, help="authorities that must have stamped")

    def group(name: str, text: str) -> Any:
        found = verbs.add_parser(name, help=text, description=text)
        return found.add_subparsers(required=True, metavar="VERB")

    trust = group("trust", "The trusted root that attestations are verified against.")
    verb("show", _trust_show, "What is in force, and what of it ends soon.", trust)
    verb("refresh", _trust_refresh, "Adopt what the file or TUF repository has now.", trust)
    accept = verb("accept", _trust_accept, "Adopt it as a revocation.", trust)
    accept.add_argument("root", nargs="?", metavar="DIGEST", help="the root that is meant")
    accept.add_argument("--revoke", action="store_true", required=True)
    accept.add_argument("--reason", required=True, help="for the ledger")

    policy = group("policy", "Judge stored evidence again.")
    test = verb("test", _policy_test, "What a policy would change; nothing is written.", policy)
    test.add_argument(
        "--policy", type=Path, metavar="FILE", help="with the key policy; else the settings' own"
    )
    verb("apply", _policy_apply, "Judge by the policy and trusted root in force.", policy)

    quarantine = group("quarantine", "Stored evidence that is not accepted, with the reason.")
    for name, run, text in (
        ("list", _quarantine_list, "What is held, counted by reason."),
        ("show", _quarantine_show, "All that is known of a digest that is held."),
        ("release", _quarantine_release, "Judge it again, and release what is accepted now."),
    ):
        found = verb(name, run, text, quarantine)
        optional = "?" if name == "release" else None
        if name != "list":
            found.add_argument("digest", nargs=optional, metavar="DIGEST")
        if name != "show":
            found.add_argument("--reason", metavar="SLUG", help="as in no-rule")
            found.add_argument("--repository", metavar="PATTERN", help="as in corp/*")
            found.add_argument("--image", metavar="DIGEST")

    keys = group("keys", "The organisation's keys.")
    verb("list", _keys_list, "Every key, its window, and which seals stand.", keys)
    verb("rotate", _keys_rotate, "Let next_signer of the settings sign from now on.", keys)
    verb("commit", _keys_commit, "Commit to keys.recovery of the settings.", keys)
    revoke = verb("revoke", _keys_revoke, "Say from when a key may have been stolen.", keys)
    revoke.add_argument("key", metavar="sha256:HEX")
    revoke.add_argument("--from", dest="since", required=True, metavar="YYYY-MM-DDTHH:MM:SSZ")
    revoke.add_argument("--reason", required=True, help="for the key set's statement")
    recover = verb("recover", _keys_recover, "Go on with a new key after the old is lost.", keys)
    recover.add_argument("--recovery-key", type=Path, required=True, metavar="FILE")
    recover.add_argument("--password-env", metavar="NAME", help="where its password is")
    counts = verb("reconcile", _keys_reconcile, "Hold others' counts against the ledger.", keys)
    counts.add_argument("--cloudtrail", type=Path, metavar="FILE", help="an export of events")
    counts.add_argument("--key-id", action="append", default=[], help="as the events name the key")
    counts.add_argument("--count", type=int, metavar="N", help="what the HSM's counter says")
    counts.add_argument("--log", action="store_true", help="read the transparency log")
    counts.add_argument("--since", metavar="YYYY-MM-DDTHH:MM:SSZ", help="count from here on")

    verb("config", _config, "Check the settings, and print what they come to.")
    return parser


def _workspace(arguments: argparse.Namespace) -> Workspace:
    settings = load(arguments.config, os.environ)
    return Workspace(settings, actor=f"{os.environ.get('USER', 'unknown')} (longseal command)")


def _harvest(arguments: argparse.Namespace) -> int:
    from longseal import judgement
    from longseal.completion import complete
    from longseal.harvest import Harvested, harvest, plan

    workspace = _workspace(arguments)
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
    _show(arguments, "Harvest", {**totals, "images": len(result.images)}, document)
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


def _trust_show(arguments: argparse.Namespace) -> int:
    from longseal import trust

    document = trust.show(_workspace(arguments))
    _show(arguments, "Trust", document, document)
    return FINDINGS if document["ending"] or document["pending"] else DONE


def _trust_refresh(arguments: argparse.Namespace) -> int:
    from longseal import trust

    document = trust.refresh(_workspace(arguments))
    _show(arguments, "Trust", document, document)
    return FINDINGS if document["ending"] else DONE


def _trust_accept(arguments: argparse.Namespace) -> int:
    from longseal import judgement, trust

    workspace = _workspace(arguments)
    document = trust.accept(workspace, arguments.reason, arguments.root)
    outcomes = judgement.apply(workspace)
    document["evidence"] = outcomes.to_json()
    _show(arguments, "Trust", {**document, "evidence": outcomes.counts}, document)
    return FINDINGS if outcomes.changes or document["ending"] else DONE


def _policy_test(arguments: argparse.Namespace) -> int:
    from longseal import judgement
    from longseal.settings import policy_document, with_policy

    workspace = _workspace(arguments)
    settings = workspace.settings
    if arguments.policy is not None:
        settings = with_policy(settings, arguments.policy)
    outcomes = judgement.preview(workspace, policy_document(settings))
    _show_outcomes(arguments, "What would change", outcomes)
    return FINDINGS if outcomes.changes else DONE


def _policy_apply(arguments: argparse.Namespace) -> int:
    from longseal import judgement

    outcomes = judgement.apply(_workspace(arguments))
    _show_outcomes(arguments, "What changed", outcomes)
    return FINDINGS if outcomes.missing else DONE


def _taken_in(workspace: Workspace, arguments: argparse.Namespace) -> Harvested:
    from longseal.intake import intake
    from longseal.verify.target import artifact_digest

    if not arguments.repository:
        raise RefusedError(
            "--from needs --repository NAME: the policy's rules are for repositories"
        )
    source = sys.stdin.buffer if arguments.source == "-" else Path(arguments.source)
    return intake(workspace, source, arguments.repository, artifact_digest(arguments.artifact))


def _filter(arguments: argparse.Namespace) -> Filter:
    from longseal.quarantine import Filter

    given = vars(arguments)
    names = ("reason", "repository", "image", "digest")
    return Filter(**{name: given.get(name) for name in names})


def _quarantine_list(arguments: argparse.Namespace) -> int:
    from longseal import quarantine

    rows = list(quarantine.held(_workspace(arguments), _filter(arguments)))
    document = {
        "held": len(rows),
        "reasons": quarantine.counts(rows),
        "evidence": [quarantine.listed(row) for row in rows],
    }
    totals = {name: document[name] for name in ("held", "reasons")}
    _show(arguments, "Quarantine", totals, document)
    if not arguments.json:
        for row in rows[:_SHOWN]:
            print(f"{row.bundle} {row.repository}@{row.image[:19]} {row.verdict}: {row.reason}")
        if len(rows) > _SHOWN:
            print(f"… and {len(rows) - _SHOWN} more: --json has them all, filters have fewer")
    return FINDINGS if rows else DONE


def _quarantine_show(arguments: argparse.Namespace) -> int:
    from longseal import quarantine

    found = [
        quarantine.shown(row) for row in quarantine.held(_workspace(arguments), _filter(arguments))
    ]
    if not found:
        raise RefusedError(f"nothing with the digest {arguments.digest} is held")
    if arguments.json:
        _print_json({"evidence": found})
    else:
        for one in found:
            _show(arguments, "Held", one, one)
    return FINDINGS


def _quarantine_release(arguments: argparse.Namespace) -> int:
    from longseal import quarantine

    document = quarantine.release(_workspace(arguments), _filter(arguments))
    rows = {name: value for name, value in document.items() if name != "evidence"}
    _show(arguments, "Released", rows, document)
    return FINDINGS if document["held"] else DONE


def _reseal(arguments: argparse.Namespace) -> int:
    from longseal.seal.images import attach_images, sign_images
    from longseal.seal.reseal import Reseal

    workspace = _workspace(arguments)
    reseal = Reseal(workspace, arguments.period)
    reseal.freeze()
    reseal.recheck()
    operations = reseal.sign()["key_operations"]
    silent = reseal.timestamp()["silent_authorities"]
    reseal.log()
    reseal.check()
    document = reseal.publish()
    assert reseal.sealed is not None
    statements = sign_images(workspace, reseal.sealed)
    attached = attach_images(workspace, reseal.sealed)
    document |= {
        "key_operations": operations + statements["key_operations"],
        "image_statements": statements["image_statements"],
        "attached": attached["attached"],
        "failed": attached["failed"],
        "silent_authorities": silent,
    }
    _show(arguments, "Seal", document, document)
    return FINDINGS if attached["failed"] or silent else DONE


def _prune(arguments: argparse.Namespace) -> int:
    from longseal.archive import prune

    workspace = _workspace(arguments)
    if arguments.approve:
        if not arguments.approver:
            raise RefusedError("say who approves the plan: --approver NAME")
        document = prune.execute(workspace, arguments.approve, arguments.approver)
        _show(arguments, "Pruned", document, document)
        return DONE
    planned = prune.plan(workspace)
    if planned is None:
        _show(arguments, "Prune", {"due": 0}, {"plan": None, "items": []})
        return DONE
    document = {
        "plan": planned.digest,
        "items": [item.to_json() for item in planned.items],
        "key_operations": planned.key_operations,
    }
    _show(
        arguments,
        "Prune",
        {
            "due": len(planned.items),
            "plan": planned.digest,
            "to carry it out": f"longseal prune --approve {planned.digest}",
        },
        document,
    )
    return FINDINGS


def _mirror(arguments: argparse.Namespace) -> int:
    from longseal.mirror.mirror import mirror

    workspace = _workspace(arguments)
    document = mirror(workspace, workspace.settings.site(arguments.site))
    _show(arguments, f"Mirror to {arguments.site}", document, document)
    return FINDINGS if document["failed"] or document["withheld"] else DONE


def _audit(arguments: argparse.Namespace) -> int:
    from longseal.audit.audit import audit, summary

    workspace = _workspace(arguments)
    report = audit(workspace, arguments.share)
    if arguments.json:
        _print_json({**report.to_json(), **summary(workspace)})
    else:
        _show_checks(report.to_json())
    return report.exit_code


def _watch(arguments: argparse.Namespace) -> int:
    from longseal.audit.watch import watch

    found = watch(_workspace(arguments))
    if found is None:
        raise RefusedError("no log to watch: name one in the settings (log_watch)")
    document = found.to_json()
    missing = {
        f"entry {entry.index}": f"{entry.identity} signed {entry.artifact} at {entry.begins}"
        for entry in found.missing
    }
    rows = {**document, "missing": len(missing), **missing}
    _show(arguments, "Log watch", rows, document)
    return FINDINGS if found.missing or found.unreadable else DONE


def _prove(arguments: argparse.Namespace) -> int:
    from longseal.seal.ceremony import authorities
    from longseal.seal.keys import fingerprint
    from longseal.seal.organisation import organisation_key
    from longseal.seal.proof_folder import prove

    workspace = _workspace(arguments)
    folders = prove(workspace, arguments.digest, arguments.to)
    anchors = [f"key={fingerprint(organisation_key(workspace).key)}"]
    roots = {one.root_fingerprint for one in authorities(workspace)}
    anchors += [f"tsa={root}" for root in sorted(roots)]
    document = {"folders": list(map(str, folders)), "check": f"./verify.sh {' '.join(anchors)}"}
    _show(arguments, "Proof", document, document)
    return DONE


def _verify(arguments: argparse.Namespace) -> int:
    from longseal.verify.target import Given, verify

    given = Given(
        target=arguments.target,
        key=arguments.key,
        trusted_root=arguments.trusted_root,
        identity=arguments.identity,
        issuer=arguments.issuer,
        artifact=arguments.artifact,
        seal_trusted_root=arguments.seal_trusted_root,
        timestamp_roots=frozenset(arguments.timestamp_root) if arguments.timestamp_root else None,
        quorum=arguments.quorum,
    )
    report = verify(given, lambda: _workspace(arguments))
    if arguments.json:
        _print_json(report.to_json())
    else:
        _show_checks(report.to_json())
    return report.exit_code


def _keys_list(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_report import key_standings

    keys, found = key_standings(_workspace(arguments))
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
    _show(arguments, f"Key set {keys.version}", {"recovery": keys.recovery, **rows}, document)
    return FINDINGS if any(one.doubtful for one in found) else DONE


def _keys_rotate(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import rotate

    return _keys_changed(arguments, rotate(_workspace(arguments)))


def _keys_commit(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import commit

    return _keys_changed(arguments, commit(_workspace(arguments)))


def _keys_revoke(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import revoke

    since = parse_timestamp(arguments.since)
    workspace = _workspace(arguments)
    return _keys_changed(arguments, revoke(workspace, arguments.key, since, arguments.reason))


def _keys_recover(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_history import recover
    from longseal.seal.signers.file import FileSigner

    recovery = FileSigner(arguments.recovery_key, arguments.password_env)
    return _keys_changed(arguments, recover(_workspace(arguments), recovery))


def _keys_changed(arguments: argparse.Namespace, document: Mapping[str, Any]) -> int:
    _show(arguments, "Key set", document, document)
    return FINDINGS if document["resumed"] else DONE


def _keys_reconcile(arguments: argparse.Namespace) -> int:
    from longseal.seal.key_report import (
        reconcile_cloudtrail,
        reconcile_counter,
        reconcile_log,
    )

    workspace = _workspace(arguments)
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
    _show(arguments, "Key operations", rows, document)
    return FINDINGS if any(one.alarm for one in found) else DONE


def _config(arguments: argparse.Namespace) -> int:
    from longseal import trust

    workspace = _workspace(arguments)
    settings = workspace.settings
    asked = isinstance(settings.trust, Path) or trust.newest(workspace) is not None
    root = _digest(workspace.trusted_root) if asked else "none yet: longseal trust refresh"
    document = {
        "file": str(settings.path),
        "organisation": settings.organisation,
        "registries": [one.name for one in settings.registries],
        "sites": [one.name for one in settings.sites],
        "policy": _digest(workspace.policy),
        "trusted_root": root,
        "timestamps": [one.url for one in settings.timestamps],
        "timestamp_quorum": settings.timestamp_quorum,
    }
    _show(arguments, "Settings", document, document)
    return DONE


def _digest(data: bytes) -> str:
    from longseal.canonical import digest_of

    return digest_of(data)


def _print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=2, sort_keys=True))


def _show(
    arguments: argparse.Namespace, title: str, rows: Mapping[str, Any], document: Mapping[str, Any]
) -> None:
    if arguments.json:
        _print_json(document)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        if value not in (None, {}, []):
            table.add_row(name.replace("_", " "), escape(_text(value)))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _show_outcomes(arguments: argparse.Namespace, title: str, outcomes: Outcomes) -> None:
    document = outcomes.to_json()
    rows = {name: value for name, value in document.items() if name != "changes"}
    _show(arguments, title, rows, document)
    if arguments.json:
        return
    for change in document["changes"][:_SHOWN]:
        before, after = change["from"], change["to"]
        print(
            f"{change['repository']}@{change['image'][:19]} {change['bundle'][:19]}"
            f" {change['predicate_type'] or ''}: {before['verdict']} -> {after['verdict']}:"
            f" {after['reason'] or before['reason']}"
        )
    if len(document["changes"]) > _SHOWN:
        print(f"… and {len(document['changes']) - _SHOWN} more: --json has them all")


def _show_checks(document: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{document['target']}: {document['result']}"))
    for heading in ("check", "result", "detail"):
        table.add_column(heading, overflow="fold")
    for check in document["checks"]:
        table.add_row(escape(check["check"]), check["result"], escape(check["detail"]))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    sys.exit(main())
