"""What a verb prints: a table for people, or one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from longseal.verify.report import Report

SHOWN = 50
"""Pieces of evidence that a table shows."""


def print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=2, sort_keys=True))


def show(
    arguments: argparse.Namespace, title: str, rows: Mapping[str, Any], document: Mapping[str, Any]
) -> None:
    if arguments.json:
        print_json(document)
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
        return "\n".join(
            f"{name}: {_text(item)}" for name, item in value.items() if item not in (None, {}, [])
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def show_report(
    arguments: argparse.Namespace, report: Report, more: Mapping[str, Any] | None = None
) -> int:
    """Print the checks; returns the exit code.

    :param more: what the JSON document has beside them
    """
    if arguments.json:
        print_json({**report.to_json(), **(more or {})})
    else:
        _show_checks(report.to_json())
    return report.exit_code


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
