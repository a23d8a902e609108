"""The steps of a seal: what they sign, what they refuse to sign, and what a crash leaves."""

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from tests.doubles.kms import KmsDouble
from tests.include.longseal.seal.forgery import a_leaf, write_row
from tests.installation import Installation, harvest_all, seal

from longseal.archive.interface import Archive
from longseal.archive.leaf import Leaf
from longseal.archive.pack import Evidence, load_pack, store_pack, write_pack
from longseal.archive.records import Place, Record, newest_records, record_files, record_line
from longseal.audit.audit import audit
from longseal.catalog.models import Image
from longseal.errors import (
    RefusedError,
    RetryableError,
    SettingsError,
    SignerError,
    TimestampError,
    VerificationError,
)
from longseal.seal.images import attach_images, sign_images
from longseal.seal.period import Period
from longseal.seal.published import check_tree, published, read_lines
from longseal.seal.reseal import Reseal
from longseal.seal.signers.file import FileSigner
from longseal.settings import load
from longseal.verify.report import State
from longseal.workspace import Workspace


def test_a_seal_of_a_hundred_attestations_takes_one_key_operation(
    harvested: Installation,
) -> None:
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    assert (sealed.sequence, sealed.size) == (1, 100)
    assert harvested.key_operations() == 1


def test_sealing_a_sealed_period_signs_and_writes_nothing(harvested: Installation) -> None:
    first = seal(harvested.workspace(), "r-one").sealed
    before = harvested.files()
    again = seal(harvested.workspace(), "r-one").sealed
    assert first is not None and again is not None
    assert again.digest == first.digest
    assert harvested.files() == before


def test_a_seal_takes_only_what_no_earlier_one_covers_and_names_it(
    harvested: Installation,
) -> None:
    first = seal(harvested.workspace(), "r-one").sealed
    second = seal(harvested.workspace(), "r-two").sealed
    assert first is not None and second is not None
    assert second.size == 0
    assert second.statement.predicate["previous"] == first.digest
    assert second.statement.predicate["renews"] == [{"sequence": 1, "digest": first.digest}]
    report = audit(harvested.workspace())
    assert report.state is State.PASSED, report.to_json()


@pytest.mark.parametrize("period", ["2026-11", "2026-12.1", "9999-12"])
def test_a_month_that_is_not_over_is_refused(period: str) -> None:
    with pytest.raises(RefusedError, match="not over"):
        Period.parse(period, datetime(2026, 11, 24, tzinfo=UTC))


@pytest.mark.parametrize("period", ["", "2026", "2026-13", "2026-1", "r-", "r-UPPER", "0000-01"])
def test_what_names_no_period_is_refused(period: str) -> None:
    with pytest.raises(RefusedError):
        Period.parse(period, datetime(2026, 11, 24, tzinfo=UTC))


def test_a_month_ends_where_the_next_begins() -> None:
    assert Period.parse("2026-10", datetime(2026, 11, 1, tzinfo=UTC)).end == datetime(
        2026, 11, 1, tzinfo=UTC
    )


def test_a_row_that_was_only_written_into_the_catalog_is_not_sealed(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    line, pack = a_leaf(workspace)
    forged = Leaf.parse(line.replace(b"ci@stella.example", b"me@stella.example"))
    write_row(workspace, forged, pack)
    with pytest.raises(VerificationError, match="in no pack"):
        Reseal(workspace, "r-one").freeze()
    assert harvested.key_operations() == 0


def test_a_leaf_that_its_evidence_does_not_bear_out_is_set_aside_and_never_signed(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    item = load_pack(workspace.archive, a_leaf(workspace)[1])[0]
    forged = Leaf.parse(item.leaf.line().replace(b"ci@stella.example", b"me@stella.example"))
    pack = write_pack([Evidence(forged, item.manifest, item.payload)])
    store_pack(workspace.archive, pack)
    write_row(workspace, forged, pack.digest)
    reseal = Reseal(workspace, "r-one")
    reseal.freeze()
    with pytest.raises(VerificationError, match="set aside"):
        reseal.recheck()
    with pytest.raises(RefusedError):
        Reseal(harvested.workspace(), "r-one").sign()
    assert harvested.key_operations() == 0
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    assert sealed.size == 100
    assert "me@stella.example" not in json.dumps(sealed.statement.predicate)


def test_the_records_in_a_seal_are_the_newest_that_harvests_archived(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    image = workspace.catalog.images()[0]
    unknown = _archive_record(workspace, image, hours=1, state="unknown")
    # A worker that may write the catalog sets it back to the search that was whole.
    _write_record(workspace, image, image.record)
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    lines = list(read_lines(workspace, [sealed.files()["records.jsonl"]]))
    assert len(lines) == 20
    assert unknown in lines
    assert image.record.encode() not in lines
    assert sealed.statement.predicate["counts"]["records"] == {"unknown": 1, "whole": 19}
    assert sign_images(workspace, sealed)["image_statements"] == 1
    assert attach_images(workspace, sealed)["attached"] == 19


def test_a_record_that_was_only_written_into_the_catalog_is_not_sealed(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    image = workspace.catalog.images()[0]
    _write_record(workspace, image, image.record.replace('"count":5', '"count":6'))
    with pytest.raises(VerificationError, match="no harvest archived"):
        Reseal(workspace, "r-one").freeze()
    assert harvested.key_operations() == 0


def test_a_record_that_is_not_in_the_archive_is_never_signed_whoever_froze_it(
    harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = harvested.workspace()

    def forged(archive: Archive, places: Collection[Place]) -> dict[Place, Record]:
        found = newest_records(archive, places)
        place, record = min(found.items())
        line = record.line.replace(b'"count":5', b'"count":6')
        assert line != record.line
        return {**found, place: Record.parse(line)}

    with monkeypatch.context() as patch:
        patch.setattr("longseal.seal.reseal.newest_records", forged)
        Reseal(workspace, "r-one").freeze()
    with pytest.raises(VerificationError, match="1 completeness records"):
        Reseal(workspace, "r-one").recheck()
    with pytest.raises(RefusedError):
        Reseal(harvested.workspace(), "r-one").sign()
    assert harvested.key_operations() == 0
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    assert sealed.size == 100


def test_an_image_whose_record_a_crash_prevented_is_counted_as_having_none(
    harvested: Installation,
) -> None:
    shutil.rmtree(harvested.folder / "archive/records")
    with create_engine(f"sqlite:///{harvested.folder}/catalog.db").begin() as connection:
        connection.execute(text("DELETE FROM image"))
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    assert sealed.statement.predicate["counts"]["records"] == {"none": 20}
    assert sign_images(harvested.workspace(), sealed)["image_statements"] == 0


def test_evidence_changed_in_the_archive_is_not_sealed(harvested: Installation) -> None:
    workspace = harvested.workspace()
    pack = next((harvested.folder / "archive/packs/sha256").glob("*.zip"))
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(VerificationError):
        Reseal(workspace, "r-one").freeze()
    assert harvested.key_operations() == 0


def test_nothing_is_signed_that_was_not_rechecked(harvested: Installation) -> None:
    reseal = Reseal(harvested.workspace(), "r-one")
    reseal.freeze()
    with pytest.raises(RefusedError, match="not rechecked"):
        reseal.sign()
    assert harvested.key_operations() == 0


@pytest.mark.parametrize("last", ["freeze", "recheck", "sign", "timestamp", "log", "check"])
def test_a_run_that_ended_after_any_step_is_taken_up_with_the_same_bytes(
    harvested: Installation, last: str
) -> None:
    reseal = Reseal(harvested.workspace(), "r-one")
    for step in ("freeze", "recheck", "sign", "timestamp", "log", "check"):
        getattr(reseal, step)()
        if step == last:
            break
    claimed = reseal.ceremony.statement()
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    assert sealed.statement.format() == claimed
    assert harvested.key_operations() == 1


def test_another_period_waits_for_the_claimed_one(harvested: Installation) -> None:
    Reseal(harvested.workspace(), "r-one").freeze()
    with pytest.raises(RetryableError, match="claimed by the period r-one"):
        Reseal(harvested.workspace(), "r-two").freeze()


def test_an_authority_that_is_down_costs_no_second_signature(harvested: Installation) -> None:
    harvested.authority.mode = "down"
    try:
        with pytest.raises(TimestampError):
            seal(harvested.workspace(), "r-one")
        assert published(harvested.workspace()) == []
    finally:
        harvested.authority.mode = "honest"
    seal(harvested.workspace(), "r-one")
    assert harvested.key_operations() == 1


def test_another_key_than_the_key_set_pins_signs_nothing(harvested: Installation) -> None:
    reseal = Reseal(harvested.workspace(), "r-one")
    reseal.freeze()
    reseal.recheck()
    key = harvested.folder / "org.pem"
    key.unlink()
    FileSigner.create(key)
    with pytest.raises(SignerError):
        Reseal(harvested.workspace(), "r-one").sign()
    assert published(harvested.workspace()) == []


def test_a_key_file_that_is_missing_is_one_clear_line(harvested: Installation) -> None:
    (harvested.folder / "org.pem").unlink()
    with pytest.raises((SettingsError, SignerError), match="key"):
        Reseal(harvested.workspace(), "r-one").freeze()
    assert not (harvested.folder / "archive/seals").exists()


def test_one_operation_makes_the_statement_of_all_images_and_it_hangs_on_each(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    assert sign_images(workspace, sealed) == {"image_statements": 1, "key_operations": 1}
    assert attach_images(workspace, sealed)["attached"] == 20
    before = harvested.files()
    assert sign_images(harvested.workspace(), sealed)["key_operations"] == 0
    assert attach_images(harvested.workspace(), sealed)["attached"] == 0
    assert harvested.files() == before


def test_a_run_beyond_its_budget_stops_before_it_signs_and_a_larger_one_goes_on(
    harvested: Installation,
) -> None:
    key = {"kind": "file", "path": "org.pem"}
    harvested.write(signer={**key, "max_operations": 1})
    workspace = harvested.workspace()
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    with pytest.raises(RefusedError, match=r"signer\.max_operations: 1 .* needs 2"):
        sign_images(workspace, sealed)
    assert harvested.key_operations() == 1
    assert not (harvested.folder / "archive/seals/000001/images").exists()
    assert sign_images(harvested.workspace(), sealed)["key_operations"] == 1


def test_a_seal_is_signed_by_a_key_in_kms(
    harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMS_KEY", "AKIATEST")
    monkeypatch.setenv("KMS_SECRET", "5ecre7")
    with KmsDouble() as kms:
        key = kms.create("org")
        login = {"access_key_env": "KMS_KEY", "secret_key_env": "KMS_SECRET"}
        harvested.write(signer={"kind": "aws-kms", "key_id": key.arn, "endpoint": kms.url, **login})
        workspace = Workspace(load(harvested.config, {}), environ=os.environ)
        kms.denied.add("Sign")
        with pytest.raises(SettingsError, match="allow kms:Sign"):
            seal(workspace, "r-one")
        kms.denied.clear()
        seal(workspace, "r-one")
    assert kms.signatures == 1
    # The one that was denied stands in the ledger too.
    assert harvested.key_operations() == 2


def test_own_statements_are_no_evidence_for_the_next_harvest(harvested: Installation) -> None:
    workspace = harvested.workspace()
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    sign_images(workspace, sealed)
    attach_images(workspace, sealed)
    before = harvested.files()
    total = harvest_all(harvested.workspace()).total
    assert (total.found, total.known, total.unknown) == (100, 100, 0)
    assert harvested.files() == before


def test_private_images_are_never_listed_beside_public_ones(
    harvested: Installation, tmp_path: Path
) -> None:
    from longseal.seal.images import Place, groups_of

    registries = [
        {"name": "exported", "layout": "registry"},
        {"name": "open", "layout": "registry", "visibility": "public"},
    ]
    harvested.write(registries=registries)
    places = [Place("exported", "corp/a", "sha256:" + "1" * 64)]
    places.append(Place("open", "corp/b", "sha256:" + "2" * 64))
    groups = groups_of(harvested.workspace(), places)
    assert sorted(map(len, groups)) == [1, 1]


def test_a_statement_takes_a_thousand_images_and_no_more(harvested: Installation) -> None:
    from longseal.seal.images import Place, groups_of

    places = [Place("exported", "corp/a", f"sha256:{number:064x}") for number in range(2001)]
    groups = groups_of(harvested.workspace(), places)
    assert list(map(len, groups)) == [1000, 1000, 1]


def _archive_record(workspace: Workspace, image: Image, hours: float, **changed: Any) -> bytes:
    """What a harvest does whose search ends otherwise, these hours after the last."""
    at = image.checked_at + timedelta(hours=hours)
    line = record_line(json.loads(image.record) | changed, at)
    for key, data in record_files([line], at):
        workspace.store(key, data)
    return line


def _write_record(workspace: Workspace, image: Image, record: str) -> None:
    """What a worker that may write the catalog could do."""
    workspace.catalog.record_images(
        [
            {
                "source": image.source,
                "repository": image.repository,
                "digest": image.digest,
                "state": "whole",
                "record": record,
                "checked_at": image.checked_at,
            }
        ]
    )


def test_a_seal_whose_head_by_sha512_is_not_of_its_leaves_is_refused(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    predicate = dict(sealed.statement.predicate)
    predicate["tree512"] = {**predicate["tree512"], "root": "0" * 128}
    changed = replace(sealed, statement=replace(sealed.statement, predicate=predicate))
    note = workspace.kept(sealed.files()["checkpoint"])
    lines = list(read_lines(workspace, sealed.files("leaves/").values()))
    check_tree(sealed, lines, note)
    with pytest.raises(VerificationError, match="SHA-512"):
        check_tree(changed, lines, note)
