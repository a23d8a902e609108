"""What every verb has: its options, its exit codes, and the settings that it works by."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longseal.settings import load
from longseal.workspace import Workspace

DONE, FINDINGS, FAILED = 0, 1, 2


class Verbs:
    """A parser's verbs, or those of one of its groups."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._below: Any = parser.add_subparsers(required=True, metavar="VERB")

    def verb(
        self, name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = self._below.add_parser(name, help=text, description=text)
        found.add_argument("--config", type=Path, metavar="FILE", help="longseal.yaml")
        found.add_argument("--json", action="store_true", help="one JSON document on stdout")
        found.set_defaults(run=run)
        return found

    def group(self, name: str, text: str) -> Verbs:
        return Verbs(self._below.add_parser(name, help=text, description=text))


def add_timestamp_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timestamp-root",
        action="append",
        metavar="sha256:HEX",
        help="fingerprint of a timestamp root that is believed; may be repeated",
    )
    parser.add_argument("--quorum", type=int, default=1, help="authorities that must have stamped")


def timestamp_roots(arguments: argparse.Namespace) -> frozenset[str] | None:
    """Those that are believed; None where no option names any."""
    return frozenset(arguments.timestamp_root) if arguments.timestamp_root else None


def workspace_of(arguments: argparse.Namespace) -> Workspace:
    settings = load(arguments.config, os.environ)
    return Workspace(settings, actor=f"{os.environ.get('USER', 'unknown')} (longseal command)")
