"""Requests a second as the registry counts them, where the settings state a budget."""

from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench import bulk, child
from tests.bench.comparison import Figure, Figures, Result
from tests.doubles.registry import RegistryDouble
from tests.doubles.sigstore import IDENTITY, ISSUER

BUDGET = 100
"""Requests a second."""

IMAGES = 40


def measure(folder: Path) -> list[Result]:
    """One harvest, and two at once, each a process with the same budget in its settings."""
    return [_measure(folder, tasks) for tasks in (1, 2)]


def busiest_second(times: Sequence[float]) -> int:
    """Most of these moments, in order, within any one second."""
    return max(bisect_left(times, at + 1) - place for place, at in enumerate(times))


def _measure(folder: Path, tasks: int) -> Figures:
    double = bulk.new_double()
    trusted_root = folder / f"trusted-root-{tasks}.json"
    trusted_root.write_bytes(double.trusted_root())
    with RegistryDouble() as registry, ThreadPoolExecutor(tasks) as threads:
        registry.repositories["corp/service"] = bulk.repository(double, 0, IMAGES)
        place = {"url": registry.url, "requests_per_second": BUDGET}
        settings = [
            child.write_settings(
                folder / f"budget-{tasks}-{task}", place, trusted_root, IDENTITY, ISSUER
            )
            for task in range(tasks)
        ]
        for (result,) in threads.map(child.harvests, settings):
            if result["verified"] != IMAGES * bulk.AN_IMAGE:
                raise RuntimeError(f"{IMAGES * bulk.AN_IMAGE} to verify, found {result}")
        times = sorted(request.at for request in registry.requests)
    return Figures(
        f"a budget of {BUDGET} requests a second, {tasks} process(es) at once",
        (
            Figure("requests that the registry counted", len(times)),
            Figure("a second, over the whole", (len(times) - 1) / (times[-1] - times[0]), BUDGET),
            Figure("in the busiest second", busiest_second(times), BUDGET),
        ),
    )
