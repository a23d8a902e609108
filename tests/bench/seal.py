"""The month's seal over 10,000, 100,000 and 1,000,000 attestations, and what comes after it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.bench import bulk, child, unjudged
from tests.bench.comparison import Figure, Figures, Result
from tests.bench.sealing import PROOFS
from tests.doubles.sigstore import IDENTITY, ISSUER
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, rule

CPU, MIB, PROOF_BYTES, AGAIN, PROOF_SECONDS = 60, 1024, 1400, 2, 1
"""What is demanded at a million, and so of less."""

JUDGED = 1_000


def measure(folder: Path, sizes: list[int]) -> list[Result]:
    """Seal each size in an installation and a process of its own; then recheck genuine evidence."""
    results: list[Result] = []
    before = None
    (folder / "tsa").mkdir()
    with TimestampAuthorityDouble(folder / "tsa") as authority:
        for size in sizes:
            settings, period = _unjudged(Installation(folder / f"seal-{size}", authority), size)
            found = child.run("tests.bench.sealing", settings, period, "unjudged")
            again = child.run("tests.bench.sealing", settings, period, "again")
            proofs = child.run("tests.bench.sealing", settings, period, "proofs")
            if found["size"] != size:
                raise RuntimeError(f"{size} attestations to seal, found {found}")
            results.append(_figures(size, found, before, again, proofs))
            before = found
        results.append(_recheck(folder, authority))
    return results


def _figures(
    size: int,
    found: dict[str, Any],
    before: dict[str, Any] | None,
    again: dict[str, Any],
    proofs: dict[str, Any],
) -> Figures:
    cpu = _cpu(found)
    growth = [] if before is None else [_growth(found, before)]
    return Figures(
        f"the month's seal over {size:,} attestations that nobody judged",
        (
            Figure("CPU seconds besides recheck and the reading of packs", cpu, CPU, digits=1),
            *growth,
            Figure("CPU seconds of freeze", found["cpu"]["freeze"], digits=1),
            Figure("CPU seconds of recheck, without judging", found["cpu"]["recheck"], digits=1),
            Figure("CPU seconds of publish", found["cpu"]["publish"], digits=1),
            Figure("CPU seconds of reading packs, twice", found["reading"], digits=1),
            Figure("seconds in all", sum(found["seconds"].values()), digits=1),
            Figure("peak memory, MiB", found["mib"], MIB),
            Figure("key operations", found["key_operations"], 1),
            Figure("bytes of a proof", proofs["bytes"], PROOF_BYTES),
            Figure(f"CPU seconds of {PROOFS:,} proofs", proofs["seconds"], PROOF_SECONDS, digits=2),
            Figure("seconds of a rerun", again["seconds"], AGAIN, digits=2),
            Figure("key operations of a rerun", again["key_operations"], 0),
        ),
    )


def _cpu(found: dict[str, Any]) -> float:
    return float(sum(spent for step, spent in found["cpu"].items() if step != "recheck"))


def _growth(found: dict[str, Any], before: dict[str, Any]) -> Figure:
    ratio = _cpu(found) / found["size"] / (_cpu(before) / before["size"])
    return Figure("that for an attestation, to the size before", ratio, digits=2)


def _unjudged(installation: Installation, size: int) -> tuple[str, str]:
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    month = first - timedelta(days=1)
    unjudged.fill(installation.workspace(), size, month)
    return str(installation.config), f"{month:%Y-%m}"


def _recheck(folder: Path, authority: TimestampAuthorityDouble) -> Figures:
    """Genuine evidence, harvested and then rechecked, each in a fresh process."""
    registry, trusted_root = bulk.layouts(JUDGED)
    changes = {
        "registries": [{"name": "main", "layout": str(registry)}],
        "trust": {"trusted_root": str(trusted_root)},
        "policy": [rule({"issuer": ISSUER, "identity": IDENTITY})],
    }
    installation = Installation(folder / "recheck", authority, changes)
    (harvested,) = child.harvests(installation.config)
    found = child.run("tests.bench.sealing", str(installation.config), "r-bench", "judged")
    if found["size"] != JUDGED:
        raise RuntimeError(f"{JUDGED} attestations to seal, found {found}")
    return Figures(
        f"recheck of {JUDGED:,} genuine attestations",
        (
            Figure("attestations a second, rechecked", JUDGED / found["seconds"]["recheck"]),
            Figure("attestations a second, harvested", JUDGED / harvested["seconds"]),
        ),
    )
