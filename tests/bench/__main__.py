"""`python -m tests.bench [--turns N] [--json]`: ratios beside cosign and sigstore-python."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.bench import harvest, verification
from tests.bench.comparison import table
from tests.lab import LabError, open_lab


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--turns", type=int, default=5, help="turns of each contender")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="longseal-bench-") as name:
            print(_measure(Path(name), arguments.turns, arguments.json))
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure(folder: Path, turns: int, as_json: bool) -> str:
    load = os.getloadavg()[0]
    with open_lab(folder) as lab:
        registry = lab.registry("docker_registry")
        turn = harvest.Turn(lab, registry.url, lab.sign_many(registry.url))
        comparisons = [harvest.compare(turn, turns), verification.compare(turn.settings, turns)]
    requests, cores = len(turn.requests), len(os.sched_getaffinity(0))
    if as_json:
        content = {
            "comparisons": [comparison.to_json() for comparison in comparisons],
            "requests_a_harvest": requests,
            "cores": cores,
            "load_before": load,
        }
        return json.dumps(content, indent=2)
    ours, alone = (
        requests / turn.attestations * sorted(series.rates)[len(series.rates) // 2]
        for series in (comparisons[0].ours, comparisons[0].peers[-1])
    )
    return (
        f"{table(comparisons)}\n\n"
        f"A harvest asks the registry {requests} times: {ours:.0f} requests a second, "
        f"{ours / alone:.0%} of the {alone:.0f} that it answers when it is alone.\n"
        f"{turns} turns each, interleaved, on {cores} cores; load before: {load:.1f}. Rates are "
        "attestations a second; ratios are of the same turn.\n"
        "Left out of Longseal's: the start of the interpreter, and but for the row that says so, "
        "imports. cosign starts for every call."
    )


if __name__ == "__main__":
    sys.exit(main())
