"""Harvests of 1,000, 10,000 and 100,000 attestations: whether time is linear and memory flat."""

from pathlib import Path

from tests.bench import bulk, child
from tests.bench.comparison import Figure, Figures, Result
from tests.doubles.sigstore import IDENTITY, ISSUER

MAX_MIB = 512
"""What a process may take."""


def measure(folder: Path, sizes: list[int]) -> list[Result]:
    """A harvest of each size, in a process, an archive and a catalog of its own.

    The attestations are genuine; they lie in image layouts on disk, so that no registry's limit
    hides what Longseal does.
    """
    results: list[Result] = []
    before = 0.0
    for size in sizes:
        # The first harvest of a process pays for the imports, and is not counted.
        _, result = child.harvests(
            _settings(folder / f"first-{size}", sizes[0]), _settings(folder / f"scale-{size}", size)
        )
        if result["verified"] != size:
            raise RuntimeError(f"{size} attestations to verify, found {result}")
        each = result["cpu"] / size
        figures = [
            Figure("seconds", result["seconds"], digits=1),
            Figure("attestations a second", size / result["seconds"]),
            Figure("CPU seconds of all processes", result["cpu"], digits=1),
            Figure("peak of the main process, MiB", result["main_mib"], MAX_MIB),
            Figure("peak of the largest verifying process, MiB", result["worker_mib"], MAX_MIB),
        ]
        if before:
            figures.append(
                Figure("CPU time an attestation, to the size before", each / before, digits=2)
            )
        results.append(Figures(f"harvest of {size:,} attestations in one run", tuple(figures)))
        before = each
    return results


def _settings(folder: Path, size: int) -> Path:
    registry, trusted_root = bulk.layouts(size)
    place = {"layout": str(registry)}
    return child.write_settings(folder, place, trusted_root, IDENTITY, ISSUER)
