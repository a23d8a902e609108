"""Evidence that nobody judged is what a harvest would have left."""

from datetime import UTC, datetime
from pathlib import Path

from longseal.seal.reseal import Reseal
from tests.bench import unjudged
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation


def test_a_period_of_it_freezes(tmp_path: Path) -> None:
    (tmp_path / "tsa").mkdir()
    with TimestampAuthorityDouble(tmp_path / "tsa") as authority:
        workspace = Installation(tmp_path / "installation", authority).workspace()
        unjudged.fill(workspace, 15, datetime(2026, 1, 31, tzinfo=UTC))
        counts = Reseal(workspace, "2026-01").freeze()["counts"]
    assert (counts["verified"], counts["images"], counts["records"]) == (15, 3, {"whole": 3})
