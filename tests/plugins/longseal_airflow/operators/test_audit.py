from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from tests.installation import Installation
from tests.plugins.conftest import Take

from longseal.harvest import harvest, plan
from longseal_airflow.operators.audit import LongsealAuditOperator


@pytest.fixture
def pack(installation: Installation) -> Path:
    """The one pack of a harvest."""
    workspace = installation.workspace()
    for batch in plan(workspace)[0]:
        harvest(workspace, batch)
    (found,) = (installation.folder / "archive" / "packs").rglob("*.zip")
    return found


def test_an_audit_counts_what_it_checked(
    take: Take, installation: Installation, pack: Path
) -> None:
    before = installation.files()
    assert take(LongsealAuditOperator, share="{{ params.share }}", params={"share": 1.0}) == {
        "result": "passed",
        "checks": {"passed": 3},
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


@pytest.mark.parametrize("share", ["", "None", "2", "-0.1", "nan", None])
def test_a_share_that_is_none_is_refused(take: Take, share: Any) -> None:
    with pytest.raises(AirflowFailException, match="share: expected a number from 0 to 1"):
        take(LongsealAuditOperator, share=share)
