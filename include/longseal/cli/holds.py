"""Verbs of legal holds."""

from __future__ import annotations

import argparse

from longseal.canonical import parse_timestamp
from longseal.cli.command import DONE, Verbs, workspace_of
from longseal.cli.output import print_json, show


def add(verbs: Verbs) -> None:
    hold = verbs.group("hold", "Legal holds: what is not deleted, whatever its retention says.")
    put = hold.verb("set", _set, "Hold evidence that all of the given speaks of.")
    put.add_argument("--case", required=True, metavar="NAME", help="what the matter is called")
    put.add_argument("--reason", required=True, help="for the register and the ledger")
    put.add_argument(
        "--until", metavar="YYYY-MM-DDTHH:MM:SSZ", help="when it ends; without it, when lifted"
    )
    put.add_argument("--image", metavar="DIGEST")
    put.add_argument("--repository", metavar="PATTERN", help="as in corp/*; '**' is everything")
    put.add_argument("--digest", metavar="DIGEST", help="of an attestation or its manifest")
    put.add_argument(
        "--period", metavar="YYYY-MM[..YYYY-MM]", help="in which it was signed, ends included"
    )
    lift = hold.verb("lift", _lift, "Lift the holds of a case, or one of them.")
    lift.add_argument("--case", metavar="NAME")
    lift.add_argument("--hold", type=int, metavar="N", help="as longseal hold list numbers them")
    lift.add_argument("--reason", required=True, help="for the register and the ledger")
    every = hold.verb("list", _list, "The holds in force.")
    every.add_argument("--all", action="store_true", help="also those that ended or were lifted")


def _set(arguments: argparse.Namespace) -> int:
    from longseal.archive.holds import Holds, Scope

    scope = Scope.of(arguments.image, arguments.repository, arguments.digest, arguments.period)
    until = parse_timestamp(arguments.until) if arguments.until else None
    register = Holds(workspace_of(arguments))
    document = register.set(scope, arguments.case, arguments.reason, until)
    show(arguments, "Held", document, document)
    return DONE


def _lift(arguments: argparse.Namespace) -> int:
    from longseal.archive.holds import Holds

    register = Holds(workspace_of(arguments))
    document = {"lifted": register.lift(arguments.reason, arguments.case, arguments.hold)}
    show(arguments, "Lifted", document, document)
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    from longseal.archive.holds import Holds

    workspace = workspace_of(arguments)
    now = workspace.now()
    found = [
        hold.to_json(now) for hold in Holds(workspace).all() if arguments.all or hold.in_force(now)
    ]
    if arguments.json:
        print_json({"holds": found})
    else:
        for one in found:
            show(arguments, f"Hold {one['hold']}: {one['case']}", one, one)
    return DONE
