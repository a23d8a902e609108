import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from sqlalchemy import update
from tests.doubles.tile_log import FileServer, TileLogDouble
from tests.installation import EXAMPLES, Installation, harvest_all
from tests.plugins.conftest import Take

from longseal.archive.pack import load_pack
from longseal.catalog.models import Evidence
from longseal_airflow.operators.audit import (
    LongsealArchiveCheckOperator,
    LongsealAuditOperator,
    LongsealLogWatchOperator,
)


@pytest.fixture
def pack(installation: Installation) -> Path:
    """The one pack of a harvest."""
    workspace = installation.workspace()
    harvest_all(workspace)
    (found,) = (installation.folder / "archive" / "packs").rglob("*.zip")
    return found


def test_an_audit_counts_what_it_checked(
    take: Take, installation: Installation, pack: Path
) -> None:
    before = installation.files()
    assert take(LongsealAuditOperator, share="{{ params.share }}", params={"share": 1.0}) == {
        "result": "passed",
        "checks": {"passed": 8},
        "evidence": {"verified": 20},
        "images": 4,
        "seals": 0,
    }
    assert installation.files() == before


def test_a_changed_pack_fails_the_audit_after_the_report(
    take: Take, pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    with pytest.raises(AirflowFailException, match=r"^1 checks failed, the first packs: "):
        take(LongsealAuditOperator)
    log = capsys.readouterr().out
    assert "] passed   ledger " in log
    assert "] failed   packs " in log


def test_the_catalog_is_compared_with_the_archive(
    take: Take, installation: Installation, pack: Path
) -> None:
    before = installation.files()
    assert take(LongsealArchiveCheckOperator, share="{{ params.share }}", params={"share": 1}) == {
        "result": "passed",
        "checks": {"passed": 8},
    }
    assert installation.files() == before
    with installation.workspace().catalog.session() as session:
        session.execute(update(Evidence).values(verdict="rejected"))
    with pytest.raises(AirflowFailException, match=r"^1 checks failed, the first evidence: "):
        take(LongsealArchiveCheckOperator, share=1)


@pytest.mark.parametrize("share", ["", "None", "2", "-0.1", "nan", None])
def test_a_share_that_is_none_is_refused(take: Take, share: Any) -> None:
    with pytest.raises(AirflowFailException, match="share: expected a number from 0 to 1"):
        take(LongsealAuditOperator, share=share)


@pytest.fixture
def log(installation: Installation, pack: Path) -> Iterator[TileLogDouble]:
    """A log that has the entries of all attestations harvested, and is watched."""
    (installation.folder / "log").mkdir()
    log = TileLogDouble(installation.folder / "log")
    root = json.loads((EXAMPLES / "trusted_root.json").read_bytes())
    root["tlogs"].append(log.instance())
    (installation.folder / "trusted_root.json").write_text(json.dumps(root))
    for item in load_pack(installation.workspace().archive, f"sha256:{pack.stem}"):
        material = json.loads(item.payload)["verificationMaterial"]
        log.entries += [
            base64.b64decode(each["canonicalizedBody"]) for each in material["tlogEntries"]
        ]
    log.publish(log.entries)
    with FileServer(log.folder) as server:
        installation.write(
            trust={"trusted_root": "trusted_root.json"},
            log_watch={"url": server.url, "origin": log.origin},
        )
        yield log


def test_a_log_whose_entries_are_all_in_the_archive_has_none_missing(
    take: Take, installation: Installation, log: TileLogDouble
) -> None:
    counts = {"log": log.origin, "size": 20, "waiting": 0, "unreadable": 0, "missing": 0}
    assert take(LongsealLogWatchOperator) == {**counts, "new": 20}
    before = installation.files()
    assert take(LongsealLogWatchOperator) == {**counts, "new": 0}
    assert installation.files() == before


def test_an_entry_without_evidence_is_logged_and_found_when_its_evidence_comes(
    take: Take,
    installation: Installation,
    log: TileLogDouble,
    pack: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    away = installation.folder / "away"
    away.mkdir()
    for file in installation.folder.glob("catalog.db*"):
        file.rename(away / file.name)
    assert take(LongsealLogWatchOperator)["missing"] == 20
    assert "ci@stella.example (http://localhost:18100) signed sha256:" in capsys.readouterr().out
    for file in away.iterdir():
        file.replace(installation.folder / file.name)
    assert take(LongsealLogWatchOperator)["missing"] == 0


def test_a_log_that_contradicts_itself_fails_the_task(take: Take, log: TileLogDouble) -> None:
    take(LongsealLogWatchOperator)
    log.publish(log.entries[:-1])
    with pytest.raises(AirflowFailException, match="rolled back"):
        take(LongsealLogWatchOperator)


def test_where_no_log_is_named_the_task_is_skipped(take: Take, installation: Installation) -> None:
    with pytest.raises(AirflowSkipException, match="log_watch"):
        take(LongsealLogWatchOperator)
