"""Prune: only what is sealed, archived and read back goes, and a tombstone stays."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.attestations import older_annotations
from tests.chain import Clock
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, seal
from tests.retired import REPOSITORY, SIGNED_AT, put_image, retire, trust_double

from longseal.archive import prune
from longseal.archive.pack import pack_key
from longseal.archive.records import record_files, record_line
from longseal.canonical import canonical_json, digest_of, timestamp
from longseal.catalog.models import Evidence, Pack
from longseal.errors import RefusedError, VerificationError
from longseal.registry.interface import Manifest
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST, fallback_tag
from longseal.seal.ceremony import BUNDLE, STATEMENT
from longseal.seal.published import predicate_type
from longseal.seal.statement import Statement, Subject
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


def test_a_plan_beside_the_signature_of_another_is_refused(
    retired: tuple[Installation, str],
) -> None:
    """What somebody can do who writes into the archive and holds no key."""
    installation, manifest = retired
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    (key,) = (key for key in workspace.archive.keys("prunes/") if key.endswith(f"/1/{BUNDLE}"))
    document = json.loads(workspace.kept(planned.digest))
    forged = canonical_json({**document, "createdAt": timestamp(utc_now() + timedelta(hours=1))})
    statement = Statement(
        (Subject.of(forged, "plan.json"),), predicate_type(workspace, "prune-plan"), {}
    )
    second = key.replace(f"/1/{BUNDLE}", "/2")
    workspace.archive.put(f"{second}/{STATEMENT}", statement.format())
    workspace.archive.put(f"{second}/{BUNDLE}", workspace.archive.get(key))
    other = workspace.keep(forged)
    with pytest.raises(RefusedError, match="is not signed"):
        prune.execute(workspace, other, "mallory")
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


def test_the_label_says_what_was_promised_whatever_the_catalog_says(
    retired: tuple[Installation, str],
) -> None:
    installation, manifest = retired
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    sooner = utc_now().replace(microsecond=0) + timedelta(days=9)
    (promise,) = (installation.folder / "archive/packs/sha256").glob(".*.zip.retain")
    promise.write_text(f"{timestamp(sooner)}\n")
    with workspace.catalog.session() as session:
        session.execute(update(Pack).values(retain_until=sooner))
    with pytest.raises(VerificationError, match="promised was"):
        prune.execute(workspace, planned.digest, "mallory")
    assert not gone(installation, manifest)


def test_the_only_copy_that_is_left_is_locked_for_a_year_at_least(tmp_path: Path) -> None:
    """Also where its lock, as long as its stay in the registry, has ended."""
    clock = Clock(utc_now())
    with TimestampAuthorityDouble(tmp_path / "tsa", clock=clock) as authority:
        installation = Installation(tmp_path / "installation", authority)
        manifest = retire(installation)
        clock.at += timedelta(days=3 * 366)
        workspace = installation.workspace(clock)
        pack = pack_key(workspace.catalog.packs()[0])
        stored = workspace.archive.stat(pack)
        assert stored is not None and stored.retain_until is not None
        assert stored.retain_until < clock.at
        planned = prune.plan(workspace)
        assert planned is not None
        prune.execute(workspace, planned.digest, "grace")
    assert gone(installation, manifest)
    stored = workspace.archive.stat(pack)
    assert stored is not None and stored.retain_until is not None
    assert stored.retain_until > clock.at + timedelta(days=364)


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


def test_of_an_older_tag_only_what_is_past_its_retention_goes(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    sigstore = trust_double(installation, datetime(2023, 1, 1, tzinfo=UTC))
    registry = installation.registry()
    image, _ = put_image(installation, REPOSITORY, SIGNED_AT)
    young = utc_now().replace(microsecond=0) - timedelta(days=3)
    layers = []
    for at in (SIGNED_AT, young):
        bundle = sigstore.attest(image, at=at)
        envelope = json.dumps(json.loads(bundle)["dsseEnvelope"]).encode()
        digest = digest_of(envelope)
        registry.put_blob(REPOSITORY, digest, len(envelope), io.BytesIO(envelope))
        layers.append(
            {
                "mediaType": "application/vnd.dsse.envelope.v1+json",
                "digest": digest,
                "size": len(envelope),
                "annotations": older_annotations(bundle),
            }
        )
    registry.put_blob(REPOSITORY, digest_of(b"{}"), 2, io.BytesIO(b"{}"))
    config = {"mediaType": EMPTY_CONFIG, "digest": digest_of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    data = json.dumps(document).encode()
    tag = fallback_tag(image) + ".att"
    registry.put_manifest(REPOSITORY, Manifest(digest_of(data), OCI_MANIFEST, data), tag)
    harvest_all(installation.workspace())
    assert {row.verdict for row in installation.workspace().catalog.evidence()} == {"verified"}
    seal(installation.workspace(), "r-old")

    planned = prune.plan(installation.workspace())
    assert planned is not None
    assert [item.layers for item in planned.items] == [(layers[0]["digest"],)]
    done = prune.execute(installation.workspace(), planned.digest, "grace")
    assert (done["deleted"], done["kept"]) == (1, 0)
    left = registry.manifest(REPOSITORY, tag)
    assert left is not None and json.loads(left.data)["layers"] == layers[1:]
    rows = {row.bundle: row for row in installation.workspace().catalog.evidence()}
    assert rows[layers[0]["digest"]].tombstone == done["deletion"]
    assert rows[layers[1]["digest"]].tombstone is None
    harvest_all(installation.workspace())
    assert [one.state for one in installation.workspace().catalog.images()] == ["whole"]
    assert prune.plan(installation.workspace()) is None
