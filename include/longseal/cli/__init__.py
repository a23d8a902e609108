"""The ``longseal`` command: the DAGs' verbs for a terminal, and ``verify`` for anybody.

Exit code 0: done, or verified. 1: done with findings, or not verified. 2: could not do it, or could
not check. With ``--json`` one JSON document goes to standard output, and nothing else.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from longseal import __version__
from longseal.cli import archive, catalog, harvest, holds, judgement, seal, site, verify
from longseal.cli.command import FAILED, Verbs
from longseal.errors import LongsealError


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
    verbs = Verbs(parser)
    for group in (harvest, judgement, seal, archive, catalog, holds, site, verify):
        group.add(verbs)
    return parser
