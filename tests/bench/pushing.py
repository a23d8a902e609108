"""Longseal's push in a fresh process.

`python -m tests.bench.pushing site SETTINGS NAME...` plans for and pushes to each of the sites, one
after the other; the first one pays for every import. `python -m tests.bench.pushing image SOURCE
TARGET REPOSITORY DIGEST` copies one image. Each prints seconds, processor seconds and memory as
JSON. Left out are the interpreter's start and the reading of the settings.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longseal.mirror.delivery import deliver
from longseal.mirror.plan import plan
from longseal.registry.copy import copy_manifest_tree
from longseal.registry.distribution import DistributionRegistry
from longseal.settings import load
from longseal.workspace import Workspace
from tests.bench.child import cpu, peak_mib


def _measured(do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    processor, started = cpu(), time.perf_counter()
    found = do()
    return {
        **found,
        "seconds": time.perf_counter() - started,
        "processor": cpu() - processor,
        "mib": peak_mib(),
    }


def _site(settings: str, name: str) -> dict[str, Any]:
    workspace = Workspace(load(Path(settings), os.environ))
    site = workspace.settings.site(name)
    done = deliver(workspace, site, plan(workspace, site).shipments).to_json()
    if done["failed"] or done["refused"]:
        raise RuntimeError(f"not all arrived: {done}")
    return done


def _image(source: str, target: str, repository: str, digest: str) -> dict[str, Any]:
    here, there = (DistributionRegistry(url, url) for url in (source, target))
    copied = copy_manifest_tree(here, there, repository, repository, digest, "v1")
    return {"bytes_sent": copied.bytes_sent}


if __name__ == "__main__":
    kind, first, *rest = sys.argv[1:]
    if kind == "site":
        results = [_measured(lambda name=name: _site(first, name)) for name in rest]  # type: ignore[misc]
    else:
        results = [_measured(lambda: _image(first, *rest))]
    print(json.dumps(results))
