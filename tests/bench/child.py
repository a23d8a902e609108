"""Longseal in a fresh process.

`python -m tests.bench.child SETTINGS...` harvests for each of the settings, one after the other,
and prints of each the seconds, the requests, the memory and the counts, as JSON. The first one pays
for every import and for the making of its catalog; the others show what a worker does once it runs,
at an installation that has its catalog. Each makes its own verifying processes and connections.
Left out are the interpreter's start and the reading of the settings.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any
from urllib.parse import urlsplit

from longseal import harvest
from longseal.registry.connections import Answer, Connections
from longseal.settings import load
from longseal.workspace import Workspace

ROOT = Path(__file__).parents[2]


def write_settings(
    folder: Path,
    place: Mapping[str, Any],
    trusted_root: Path,
    identity: str,
    issuer: str,
) -> Path:
    """Settings of an installation in ``folder`` that has harvested nothing yet.

    :param place: what of the entry under ``registries`` says where it is
    """
    (folder / "archive").mkdir(parents=True)
    (folder / "unused.pem").touch()
    content = {
        "organisation": "stella.example",
        "catalog": "sqlite:///catalog.db",
        "archive": {"kind": "directory", "path": "archive"},
        "trust": {"trusted_root": str(trusted_root)},
        "registries": [{"name": "main", "repositories": ["corp/*"], **place}],
        "policy": [
            {
                "repositories": ["corp/*"],
                "predicates": ["https://stella-ops.example/**"],
                "identities": [{"issuer": issuer, "identity": identity}],
            }
        ],
        # No harvest signs anything.
        "signer": {"kind": "file", "path": "unused.pem"},
        "timestamps": [{"url": "http://127.0.0.1:1", "certificates": "unused.pem"}],
    }
    settings = folder / "longseal.yaml"
    settings.write_text(json.dumps(content))
    return settings


def run(module: str, *arguments: str) -> Any:
    """Run a module in a fresh process, and parse what it prints."""
    argv = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def harvests(*settings: Path) -> list[dict[str, Any]]:
    """What a fresh process has to say of harvests for these settings."""
    found: list[dict[str, Any]] = run("tests.bench.child", *map(str, settings))
    return found


def _harvest(path: str, requests: list[tuple[str, str]], first: bool) -> dict[str, Any]:
    settings = load(Path(path), os.environ)
    requests.clear()
    started = time.perf_counter()
    workspace = Workspace(settings)
    assert workspace.catalog
    if not first:
        started = time.perf_counter()
    used = cpu()
    result = harvest.Harvested()
    for batch in harvest.plan(workspace)[0]:
        result.add(harvest.harvest(workspace, batch))
    return {
        "seconds": time.perf_counter() - started,
        "cpu": cpu() - used,
        "requests": list(requests),
        "main_mib": peak_mib(),
        # Of the largest one, and with what it shares with the main process.
        "worker_mib": getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024,
        **result.total.to_json(),
    }


def cpu(*whose: int) -> float:
    """CPU seconds: of this process, and of those started by it that have ended.

    :param whose: only of these, ``RUSAGE_CHILDREN`` or ``RUSAGE_SELF``
    """
    used = map(getrusage, whose or (RUSAGE_SELF, RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_mib() -> float:
    """What this process has taken at most."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _count_requests() -> list[tuple[str, str]]:
    """The methods and paths of whatever is asked over HTTP from here on."""
    requests: list[tuple[str, str]] = []
    ask = Connections.ask

    def counted(self: Connections, method: str, url: str, *rest: Any, **named: Any) -> Answer:
        requests.append((method, urlsplit(url)._replace(scheme="", netloc="").geturl()))
        return ask(self, method, url, *rest, **named)

    Connections.ask = counted  # type: ignore[method-assign]
    return requests


if __name__ == "__main__":
    asked = _count_requests()
    print(
        json.dumps([_harvest(path, asked, number == 0) for number, path in enumerate(sys.argv[1:])])
    )
