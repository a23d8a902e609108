"""`python -m tests.bench [SECTION...] [--turns N] [--full] [--json]`."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.bench import budget, harvest, mirror, nothing_new, prune, scale, seal, verification
from tests.bench.comparison import Comparison, Figures, Result, table
from tests.lab import LabError, open_lab
from tests.lab.registries import Kind, registry

LAB_SECTIONS = {
    "harvest": harvest.measure,
    "verification": verification.measure,
    "nothing-new": nothing_new.measure,
    "mirror": mirror.measure,
}
REGISTRIES: tuple[Kind, ...] = ("docker_registry", "distribution")
"""What a first harvest is measured on; the rest is on the first of them."""

SECTIONS = (*LAB_SECTIONS, "scale", "seal", "plan", "prune", "budget")
SIZES = [1_000, 10_000]
SEALED = [10_000, 100_000]
PRUNED = 50
"""Images of ten referrers."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--turns", type=int, default=5, help="turns of each contender")
    parser.add_argument("--images", type=int, default=60, help="images of five attestations")
    parser.add_argument(
        "--full",
        action="store_true",
        help="scale up to 100,000 attestations, seal and plan to 1,000,000; prune 1,000 images",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    load = os.getloadavg()[0]
    try:
        with tempfile.TemporaryDirectory(prefix="longseal-bench-") as name:
            results = _measure(Path(name), arguments)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    cores = len(os.sched_getaffinity(0))
    if arguments.json:
        content = {
            "comparisons": [one.to_json() for one in results if isinstance(one, Comparison)],
            "figures": [one.to_json() for one in results if isinstance(one, Figures)],
            "turns": arguments.turns,
            "cores": cores,
            "load_before": load,
        }
        print(json.dumps(content, indent=2))
        return 0
    print(
        f"{table(results)}\n\n"
        f"Where there are ratios: {arguments.turns} interleaved turns each, medians, and ratios of "
        f"the same turn. {cores} cores; load before: {load:.1f}.\n"
        "Left out of Longseal's harvests: the start of the interpreter, and but for the row that "
        "says so, imports and the making of the catalog. cosign starts for every call, and a call "
        "an image is credited with all its attestations."
    )
    return 0


def _measure(folder: Path, arguments: argparse.Namespace) -> list[Result]:
    chosen = [name for name in SECTIONS if name in (arguments.sections or SECTIONS)]
    results: list[Result] = []
    if in_lab := [LAB_SECTIONS[name] for name in chosen if name in LAB_SECTIONS]:
        with open_lab(folder) as lab:
            for kind in REGISTRIES if "harvest" in chosen else REGISTRIES[:1]:
                place = lab.registry(kind)
                signed = lab.sign_many(place.url, images=arguments.images)
                turn = harvest.Turn(lab, place, signed)
                for measure in in_lab if kind == REGISTRIES[0] else [harvest.measure]:
                    results += measure(turn, arguments.turns)
    if "prune" in chosen:
        (folder / "prune").mkdir()
        kind = REGISTRIES[0]
        with registry(kind, folder / "prune" / kind) as found:
            images = 1_000 if arguments.full else PRUNED
            results += prune.measure(folder / "prune", found, images, arguments.turns)
    if "scale" in chosen:
        results += scale.measure(folder, [*SIZES, *[100_000] * arguments.full])
    if "seal" in chosen:
        results += seal.measure(folder, [*SEALED, *[1_000_000] * arguments.full])
    if "plan" in chosen:
        results += prune.measure_plan(folder, [*SEALED, *[1_000_000] * arguments.full])
    if "budget" in chosen:
        results += budget.measure(folder)
    return results


if __name__ == "__main__":
    sys.exit(main())
