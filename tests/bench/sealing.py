"""A process that seals, or seals again, and prints what it took.

`python -m tests.bench.sealing SETTINGS PERIOD judged` seals; `unjudged` leaves out the judging of
the recheck; `again` seals what is sealed; `proofs` makes proofs of what is sealed.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longseal import judgement
from longseal.seal import contents
from longseal.seal import reseal as sealing
from longseal.seal.checkpoint import Proof
from longseal.seal.published import check_tree, read_lines
from longseal.seal.reseal import Reseal
from longseal.settings import load
from longseal.workspace import Workspace
from tests.bench.child import peak_mib
from tests.installation import STEPS

PROOFS = 10_000


def main(path: str, period: str, kind: str) -> dict[str, Any]:
    workspace = Workspace(load(Path(path), os.environ))
    match kind:
        case "again":
            return _again(workspace, period)
        case "proofs":
            return _proofs(workspace, period)
    if kind == "unjudged":
        judgement.judged = lambda pool, evidence: iter(())
    reading = _Clock()
    for module in (contents, sealing):
        module.load_pack = reading.around(module.load_pack)
    reseal = Reseal(workspace, period)
    cpu, seconds, operations = {}, {}, 0
    for step in STEPS:
        before, read, started = time.process_time(), reading.seconds, time.perf_counter()
        operations += getattr(reseal, step)().get("key_operations", 0)
        cpu[step] = time.process_time() - before - (reading.seconds - read)
        seconds[step] = time.perf_counter() - started
    assert reseal.sealed is not None
    return {
        "cpu": cpu,
        "seconds": seconds,
        "reading": reading.seconds,
        "size": reseal.sealed.size,
        "key_operations": operations,
        "mib": peak_mib(),
    }


class _Clock:
    """The CPU seconds of some calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.process_time()
            try:
                return call(*arguments)
            finally:
                self.seconds += time.process_time() - started

        return timed


def _again(workspace: Workspace, period: str) -> dict[str, Any]:
    """All that a rerun does, opening of archive and catalog included."""
    started, operations = time.perf_counter(), 0
    reseal = Reseal(workspace, period)
    for step in STEPS:
        operations += getattr(reseal, step)().get("key_operations", 0)
    return {"seconds": time.perf_counter() - started, "key_operations": operations}


def _proofs(workspace: Workspace, period: str) -> dict[str, Any]:
    seal = Reseal(workspace, period).sealed
    assert seal is not None
    note = workspace.kept(seal.files()["checkpoint"])
    tree = check_tree(seal, read_lines(workspace, seal.files("leaves/").values()), note)
    places = random.Random(1).choices(range(tree.size), k=PROOFS)
    started = time.process_time()
    sizes = [len(Proof(index, tree.proof(index), note).format()) for index in places]
    return {"seconds": time.process_time() - started, "bytes": max(sizes)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
