"""Prune: only what is sealed, archived and read back goes, and a tombstone stays."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation
from tests.retired import REPOSITORY, retire

from longseal.archive import prune
from longseal.archive.records import record_files, record_line
from longseal.catalog.models import Evidence
from longseal.errors import RefusedError, VerificationError
from longseal.settings import load
from longseal.verify.target import Given, verify
from longseal.workspace import Workspace, utc_now


@pytest.fixture
def retired(tmp_path: Path, authority: TimestampAuthorityDouble) -> tuple[Installation, str]:
    """One attestation of 2023, harvested and sealed; and its manifest."""
    installation = Installation(tmp_path / "installation", authority)
    return installation, retire(installation)


def gone(installation: Installation, manifest: str) -> bool:
    return installation.registry().manifest(REPOSITORY, manifest) is None


def test_what_is_past_retention_goes_and_can_still_be_verified(
    retired: tuple[Installation, str],
) -> None:
    installation, manifest = retired
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    assert [item.manifest for item in planned.items] == [manifest]
    done = prune.execute(workspace, planned.digest, "grace")
    assert done["deleted"] == 1
    assert gone(installation, manifest)
    row = workspace.catalog.evidence()[0]
    assert row.tombstone == done["deletion"]
    report = verify(Given(row.bundle), lambda: workspace)
    assert report.exit_code == 0, report.to_json()
    assert "pruned from exported" in report.checks[0].detail


def test_pruning_again_deletes_signs_and_writes_nothing(
    retired: tuple[Installation, str],
) -> None:
    installation, _ = retired
    planned = prune.plan(installation.workspace())
    assert planned is not None
    prune.execute(installation.workspace(), planned.digest, "grace")
    before, operations = installation.files(), installation.key_operations()
    assert prune.plan(installation.workspace()) is None
    prune.execute(installation.workspace(), planned.digest, "grace")
    assert installation.files() == before
    assert installation.key_operations() == operations


def test_a_plan_made_twice_is_signed_once(retired: tuple[Installation, str]) -> None:
    installation, _ = retired
    first = prune.plan(installation.workspace())
    again = prune.plan(installation.workspace())
    assert first is not None and again is not None
    assert (first.digest, first.key_operations) == (again.digest, 1)
    assert again.key_operations == 0


def test_nothing_young_is_planned(harvested: Installation) -> None:
    assert prune.plan(harvested.workspace()) is None


def test_what_an_index_lists_is_not_planned(retired: tuple[Installation, str]) -> None:
    workspace = retired[0].workspace()
    with workspace.catalog.session() as session:
        session.execute(update(Evidence).values(verdict="ignored", reason="in-index: unsigned"))
    assert prune.plan(workspace) is None


def test_a_document_that_nobody_signed_is_no_plan(retired: tuple[Installation, str]) -> None:
    installation, manifest = retired
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    forged = workspace.keep(workspace.kept(planned.digest).replace(b"createdAt", b"createdAT"))
    with pytest.raises((RefusedError, KeyError)):
        prune.execute(workspace, forged, "mallory")
    assert not gone(installation, manifest)


def test_a_plan_older_than_a_week_is_refused(retired: tuple[Installation, str]) -> None:
    installation, manifest = retired
    planned = prune.plan(installation.workspace())
    assert planned is not None
    later = Workspace(load(installation.config, {}), clock=lambda: utc_now() + timedelta(days=8))
    with pytest.raises(RefusedError, match="older than 7 days"):
        prune.execute(later, planned.digest, "grace")
    assert not gone(installation, manifest)


@pytest.mark.parametrize("harm", ["changed", "truncated", "missing", "shortened"])
def test_a_copy_that_does_not_read_back_stops_the_deletion(
    retired: tuple[Installation, str], harm: str
) -> None:
    installation, manifest = retired
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    pack = next((installation.folder / "archive/packs/sha256").glob("*.zip"))
    pack.chmod(0o644)
    if harm == "changed":
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    elif harm == "truncated":
        pack.write_bytes(pack.read_bytes()[:-1])
    elif harm == "missing":
        pack.unlink()
    else:
        pack.with_name(f".{pack.name}.retain").unlink()
    with pytest.raises(VerificationError):
        prune.execute(workspace, planned.digest, "grace")
    assert not gone(installation, manifest)
    assert [entry.action for entry in workspace.ledger.walk()][-1] == "prune.alarm"


@pytest.mark.parametrize("change", [{"state": "unknown"}, {"vanished": ["sha256:" + "1" * 64]}])
def test_an_image_that_was_not_wholly_looked_for_is_not_pruned_whatever_the_catalog_says(
    retired: tuple[Installation, str], change: dict[str, Any]
) -> None:
    installation, _ = retired
    workspace = installation.workspace()
    (image,) = workspace.catalog.images()
    at = image.checked_at + timedelta(hours=1)
    line = record_line(json.loads(image.record) | change, at)
    for key, data in record_files([line], at):
        workspace.store(key, data)
    assert workspace.catalog.images()[0].state == "whole"
    assert prune.plan(workspace) is None
