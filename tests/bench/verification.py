"""Verification alone: on every core beside one process of sigstore-python, and on one core beside
sigstore-go.

`python -m tests.bench.verification SETTINGS TURNS` takes the bundles from the archive of a harvest,
and prints the rates of all as JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sigstore.models import Bundle, TrustedRoot
from sigstore.verify.policy import Identity
from sigstore.verify.verifier import Verifier

from longseal.archive.pack import load_pack
from longseal.settings import load
from longseal.verify.pool import Case, VerifierPool
from longseal.workspace import Workspace
from tests.bench import child
from tests.bench.comparison import Comparison, Result, Series, take_turns
from tests.bench.harvest import Turn
from tests.lab.tools import tool

CASES = 8
"""Handed to a process at once, as the harvest does."""

REPEATED = 5
"""Each bundle is judged so often in a turn, so that a second's noise does not drown it."""


def measure(turn: Turn, turns: int) -> list[Result]:
    """Longseal's processes, their start included, and its peers, by turns."""
    settings = turn.new_settings()
    turn.harvests(settings)
    found = child.run("tests.bench.verification", str(settings), str(turns))
    rates = {name: tuple(values) for name, values in found.items()}
    cores = len(os.sched_getaffinity(0))
    return [
        Comparison(
            f"verification alone, {cores} cores",
            Series("Longseal", rates["every core"]),
            (Series("sigstore-python, one process", rates["sigstore-python"], 1.8),),
        ),
        Comparison(
            "verification alone, one core",
            Series("Longseal, one process", rates["one core"]),
            (
                Series("sigstore-go, from the bundle's bytes, as Longseal", rates["bytes"], 1.0),
                Series("sigstore-go, bundles parsed before", rates["parsed"]),
            ),
        ),
    ]


@contextmanager
def _one_core() -> Iterator[None]:
    """Nothing that is started in here gets more than one core, and all get the same."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _main(path: Path, turns: int) -> None:
    workspace = Workspace(load(path, os.environ))
    now = datetime.now(UTC)
    found = [
        (item.payload, item.leaf)
        for pack in workspace.catalog.packs()
        for item in load_pack(workspace.archive, pack)
    ]
    cases = REPEATED * [Case(data, leaf.image, leaf.repository, now) for data, leaf in found]
    signer = found[0][1].signer
    assert signer is not None
    trusted_root = str(workspace.settings.trust)
    verifier = Verifier(trusted_root=TrustedRoot.from_file(trusted_root))
    identity = Identity(identity=signer.identity, issuer=signer.issuer)
    lines = "".join(
        json.dumps({"image": leaf.image, "bundle": json.loads(data)}) + "\n" for data, leaf in found
    )

    def longseal() -> float:
        started = time.perf_counter()
        with VerifierPool(workspace.trusted_root, workspace.policy) as pool:
            submitted = [
                pool.submit(cases[start : start + CASES]) for start in range(0, len(cases), CASES)
            ]
            judged = [one.outcome for future in submitted for one in future.result()]
        assert judged == ["verified"] * len(cases)
        return time.perf_counter() - started

    def every_core() -> Mapping[str, float]:
        return {"every core": longseal()}

    def one_core() -> Mapping[str, float]:
        with _one_core():
            return {"one core": longseal()}

    def sigstore_python() -> Mapping[str, float]:
        started = time.perf_counter()
        for case in cases:
            verifier.verify_dsse(Bundle.from_json(case.data), identity)
        return {"sigstore-python": time.perf_counter() - started}

    def sigstore_go() -> Mapping[str, float]:
        argv = [tool("sigstorego"), trusted_root, signer.identity, signer.issuer, str(REPEATED)]
        with _one_core():
            done = subprocess.run(argv, input=lines, stdout=subprocess.PIPE, text=True, check=True)
        seconds: dict[str, float] = json.loads(done.stdout)
        return seconds

    contenders = [every_core, sigstore_python, one_core, sigstore_go]
    print(json.dumps(take_turns(contenders, len(cases), turns)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
