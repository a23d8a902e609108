"""A process that plans a prune, or carries it out, and prints what it took.

`python -m tests.bench.pruning SETTINGS [execute]`.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from longseal.archive import prune
from longseal.archive.directory import DirectoryArchive
from longseal.settings import load
from longseal.workspace import Workspace
from tests.bench.child import peak_mib


def main(path: str, execute: str = "") -> dict[str, Any]:
    workspace = Workspace(load(Path(path), os.environ))
    assert workspace.catalog
    started = time.process_time()
    plan = prune.plan(workspace)
    assert plan is not None
    found = {
        "plan_cpu": time.process_time() - started,
        "items": len(plan.items),
        "packs": len({pack for item in plan.items for pack in item.packs}),
    }
    if execute:
        reads = _count_reads()
        cpu, started = time.process_time(), time.perf_counter()
        result = prune.execute(workspace, plan.digest, "bench")
        found |= {
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - cpu,
            "deleted": result["deleted"],
            "reads": len(reads),
        }
    return {**found, "mib": peak_mib()}


def _count_reads() -> list[str]:
    """The packs that are read from here on."""
    reads: list[str] = []
    get = DirectoryArchive.get

    def counted(self: DirectoryArchive, key: str, limit: int | None = None) -> bytes:
        if key.endswith(".zip"):
            reads.append(key)
        return get(self, key, limit)

    DirectoryArchive.get = counted  # type: ignore[method-assign]
    return reads


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
