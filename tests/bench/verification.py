"""Verification alone, on every core, beside one process of sigstore-python.

`python -m tests.bench.verification SETTINGS TURNS` takes the bundles from the archive of a harvest,
and prints the rates of the two as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sigstore.models import Bundle, TrustedRoot
from sigstore.verify.policy import Identity
from sigstore.verify.verifier import Verifier

from longseal.archive.pack import load_pack
from longseal.settings import load
from longseal.verify.pool import Case, VerifierPool
from longseal.workspace import Workspace
from tests.bench.comparison import Comparison, Series, take_turns
from tests.bench.harvest import child

CASES = 8
"""Handed to a process at once, as the harvest does."""

REPEATED = 5
"""Each bundle is judged so often in a turn, so that a second's noise does not drown it."""


def compare(settings: Path, turns: int) -> Comparison:
    """Longseal's processes, their start included, and sigstore-python, by turns."""
    rates = child("tests.bench.verification", str(settings), str(turns))
    return Comparison(
        f"verification alone, {len(os.sched_getaffinity(0))} cores",
        Series("Longseal", tuple(rates["longseal"])),
        (Series("one process of sigstore-python", tuple(rates["sigstore"]), demanded=1.6),),
    )


def _main(path: Path, turns: int) -> None:
    workspace = Workspace(load(path, os.environ))
    now = datetime.now(UTC)
    found = REPEATED * [
        (item.payload, item.leaf)
        for pack in workspace.catalog.packs()
        for item in load_pack(workspace.archive, pack)
    ]
    cases = [Case(data, leaf.image, leaf.repository, now) for data, leaf in found]
    signer = found[0][1].signer
    assert signer is not None
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(workspace.settings.trusted_root)))
    identity = Identity(identity=signer.identity, issuer=signer.issuer)

    def longseal() -> Mapping[str, float]:
        started = time.perf_counter()
        with VerifierPool(workspace.trusted_root, workspace.policy) as pool:
            submitted = [
                pool.submit(cases[start : start + CASES]) for start in range(0, len(cases), CASES)
            ]
            judged = [one.outcome for future in submitted for one in future.result()]
        assert judged == ["verified"] * len(cases)
        return {"longseal": time.perf_counter() - started}

    def sigstore() -> Mapping[str, float]:
        started = time.perf_counter()
        for case in cases:
            verifier.verify_dsse(Bundle.from_json(case.data), identity)
        return {"sigstore": time.perf_counter() - started}

    print(json.dumps(take_turns([longseal, sigstore], len(cases), turns)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
