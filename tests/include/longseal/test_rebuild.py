"""The catalog made again from the archive alone, and compared with the one in use."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal
from tests.lab.answers import TABLES
from tests.retired import REPOSITORY, SIGNED_AT, harvest_image, retire, trust_double

from longseal import judgement, rebuild
from longseal.archive import prune
from longseal.archive.due import due
from longseal.archive.interface import Stored
from longseal.archive.leaf import Leaf
from longseal.archive.pack import load_by_leaf, store_pack, write_pack
from longseal.audit.comparison import compare
from longseal.catalog import models
from longseal.errors import MalformedError, RestoreInProgress, VerificationError
from longseal.harvest import claim_row, take_up
from longseal.mirror.mirror import mirror
from longseal.seal.images import attach_images, sign_images
from longseal.verify.report import State
from longseal.workspace import Workspace

ONLY_IN_THE_CATALOG = {"id", "claimed_at", "judged", "proof_tries"}
"""Surrogate keys, when a pack was claimed, and what is done again: judged, and asked of a log."""


def answers(workspace: Workspace) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, but for what only the catalog has."""
    return {
        table.__tablename__: sorted(
            tuple(
                str(getattr(row, column.name))
                for column in table.__table__.columns
                if column.name not in ONLY_IN_THE_CATALOG
            )
            for row in workspace.catalog.every(table)
        )
        for table in TABLES
    }


@pytest.fixture(scope="module")
def lived_once(
    tmp_path_factory: pytest.TempPathFactory, authority: TimestampAuthorityDouble
) -> Installation:
    """Two years of use in one folder.

    Sealed three times, with statements on images; one attestation of 2023 pruned; one rejected
    after a change of policy; deliveries to a site; one attestation that no seal covers.
    """
    installation = Installation(tmp_path_factory.mktemp("lived"), authority)
    retire(installation)
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    prune.execute(workspace, planned.digest, "grace")
    sigstore = trust_double(installation, datetime(2023, 1, 1, tzinfo=UTC))
    rule: dict[str, Any] = {"repositories": [REPOSITORY], "predicates": ["**"]}
    for at in (1, 2):
        moment = datetime.now(UTC).replace(microsecond=0) - timedelta(days=10 * (3 - at))
        harvest_image(installation, sigstore, moment)
        sealed = seal(installation.workspace(), f"r-{at}").sealed
        assert sealed is not None
        sign_images(workspace, sealed)
        attach_images(workspace, sealed)
    site = {"name": "ship", "kind": "volume", "path": "ship", "repositories": [REPOSITORY]}
    changes = {
        "trust": {"trusted_root": "root.json"},
        "registries": [{"name": "exported", "layout": "registry", "repositories": [REPOSITORY]}],
        "sites": [site],
    }
    identity = {"issuer": "https://issuer.example", "identity": "nobody@example.org"}
    installation.write(**changes, policy=[{**rule, "identities": [identity]}])
    mirror(installation.workspace(), installation.workspace().settings.site("ship"))
    assert judgement.apply(installation.workspace()).changes
    seal(installation.workspace(), "r-3")
    harvest_image(installation, sigstore, datetime.now(UTC).replace(microsecond=0))
    return installation


@pytest.fixture
def lived(lived_once: Installation, tmp_path: Path) -> Installation:
    return lived_once.copy(tmp_path / "installation")


def rows_of(workspace: Workspace, name: str) -> list[tuple[Any, ...]]:
    return answers(workspace)[name]


def failed(workspace: Workspace, share: float = 1.0) -> dict[str, str]:
    report = compare(workspace, share)
    return {one.name: one.detail for one in report.checks if one.state is State.FAILED}


def test_a_catalog_that_was_deleted_gives_the_same_answers_again(lived: Installation) -> None:
    before = answers(lived.workspace())
    assert all(before.values()), {name: len(rows) for name, rows in before.items()}
    (lived.folder / "catalog.db").unlink()
    workspace = lived.workspace()
    assert not any(answers(workspace).values())
    made = rebuild.rebuild(workspace)
    assert made.failed == {}
    assert made.rows["evidence"] == len(before["evidence"])
    assert answers(workspace) == before
    assert due(workspace, SIGNED_AT + timedelta(days=1)).items == []
    assert failed(workspace) == {}


def test_what_is_used_agrees_with_what_the_archive_gives(lived: Installation) -> None:
    report = compare(lived.workspace(), 1.0)
    assert report.exit_code == 0, report.to_json()
    assert report.checks[0].detail == "7 of 7 read whole"


def test_a_share_of_the_packs_is_enough_to_agree(lived: Installation) -> None:
    for share in (0.0, 0.2, 0.5):
        assert failed(lived.workspace(), share) == {}


@pytest.mark.parametrize(
    ("table", "values", "named"),
    [
        (models.Evidence, {"verdict": "verified"}, "evidence"),
        (models.Evidence, {"seal": None}, "evidence"),
        (models.Evidence, {"tombstone": None}, "evidence"),
        (models.Evidence, {"tombstone": "sha256:" + "1" * 64}, "evidence"),
        (models.Evidence, {"identity": "mallory@example.org"}, "evidence"),
        (models.Image, {"state": "empty"}, "images"),
        (models.Seal, {"root": "0" * 64}, "seals"),
        (models.Pack, {"retain_until": datetime(2024, 1, 1, tzinfo=UTC)}, "packs"),
        (models.ImageStatement, {"manifest": "sha256:" + "1" * 64}, "image_statements"),
        (models.Delivery, {"images": 9}, "deliveries"),
    ],
)
def test_a_row_that_somebody_changed_is_named(
    lived: Installation, table: Any, values: dict[str, Any], named: str
) -> None:
    workspace = lived.workspace()
    with workspace.catalog.session() as session:
        session.execute(update(table).values(**values))
    assert set(failed(workspace)) == {named}


@pytest.mark.parametrize("table", [models.Image, models.ImageStatement, models.Delivery])
def test_a_row_that_is_gone_is_named(lived: Installation, table: Any) -> None:
    workspace = lived.workspace()
    with workspace.catalog.session() as session:
        session.execute(delete(table))
    assert "the catalog lacks it" in " ".join(failed(workspace).values())


def test_evidence_that_only_the_catalog_has_is_named(lived: Installation) -> None:
    workspace = lived.workspace()
    row = workspace.catalog.evidence()[0]
    with workspace.catalog.session() as session:
        session.execute(
            update(models.Evidence).where(models.Evidence.id == row.id).values(image="sha256:1")
        )
    assert "no pack that stands has its leaf" in failed(workspace)["evidence"]


def test_a_damaged_pack_is_named_and_left_out_of_a_rebuilt_catalog(lived: Installation) -> None:
    pack = next((lived.folder / "archive/packs/sha256").glob("*.zip"))
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    workspace = lived.workspace()
    assert pack.stem in failed(workspace)["packs"]
    made = rebuild.rebuild(workspace)
    assert list(made.failed) == [f"sha256:{pack.stem}"]
    assert made.rows["packs"] == 6


def test_a_pack_that_is_gone_is_named(lived: Installation) -> None:
    workspace = lived.workspace()
    gone = workspace.catalog.packs()[0]
    (lived.folder / f"archive/packs/sha256/{gone[7:]}.zip").unlink()
    assert f"{gone}: the archive does not have it" in failed(workspace)["packs"]


def test_a_forged_deletion_is_not_taken_in(lived: Installation) -> None:
    (bundle,) = (lived.folder / "archive/deletions").glob("*/bundle.sigstore.json")
    bundle.chmod(0o644)
    bundle.write_bytes(bundle.read_bytes().replace(b'"sig":"', b'"sig":"AAAA'))
    workspace = lived.workspace()
    before = answers(workspace)
    with pytest.raises((VerificationError, MalformedError)):
        rebuild.rebuild(workspace)
    assert answers(workspace) == before


def forget(workspace: Workspace, packs: list[str]) -> None:
    with workspace.catalog.session() as session:
        session.execute(delete(models.Evidence).where(models.Evidence.pack.in_(packs)))
        session.execute(delete(models.Pack).where(models.Pack.digest.in_(packs)))


def test_a_pack_that_nobody_claimed_is_found_and_adopted(lived: Installation) -> None:
    workspace = lived.workspace()
    known = rows_of(workspace, "evidence")
    (loose,) = {row.pack for row in workspace.catalog.evidence() if row.seal is None}
    forget(workspace, [loose])
    assert set(failed(workspace)) == {"orphans"}
    assert compare(workspace, 0.0, adopting=True).exit_code == 0
    assert rows_of(workspace, "evidence") == known
    assert failed(workspace) == {}


def test_a_pack_whose_evidence_stands_in_another_makes_no_difference(lived: Installation) -> None:
    """What is judged again by two at once, each under its own policy, may leave such a pack."""
    workspace = lived.workspace()
    row = next(row for row in workspace.catalog.evidence() if row.seal is None)
    item = load_by_leaf(workspace.archive, row.pack)[row.leaf_hash]
    later = item.leaf.collected_at + timedelta(hours=1)
    pack = write_pack([replace(item, leaf=replace(item.leaf, collected_at=later))])
    kept = workspace.catalog.pack(row.pack)
    claim = claim_row(pack, kept.evidence_class, kept.retain_until, later)
    workspace.catalog.claim_pack(claim)
    store_pack(workspace.archive, pack, kept.retain_until, kept.evidence_class)
    workspace.catalog.mark_stored(pack.digest)
    before = answers(workspace)
    assert failed(workspace) == {}
    assert rebuild.rebuild(workspace).failed == {}
    assert answers(workspace) == before
    assert failed(workspace) == {}


def test_an_orphan_that_supersedes_takes_the_place_of_the_older_leaf(
    lived: Installation, tmp_path: Path
) -> None:
    """A catalog from a backup, older than a change of verdicts."""
    catalog, backup = lived.folder / "catalog.db", tmp_path / "backup.db"
    with closing(sqlite3.connect(catalog)) as one, closing(sqlite3.connect(backup)) as other:
        one.backup(other)
    trust_double(lived, datetime(2023, 1, 1, tzinfo=UTC))
    shutil.copy(
        lived.folder / "archive/objects/sha256" / root_of(lived), lived.folder / "root.json"
    )
    assert judgement.apply(lived.workspace()).changes
    after = rows_of(lived.workspace(), "evidence")
    for file in lived.folder.glob("catalog.db*"):
        file.unlink()
    shutil.copy(backup, catalog)
    workspace = lived.workspace()
    assert rows_of(workspace, "evidence") != after
    # Whose leaf is superseded is behind.
    assert set(failed(workspace)) == {"orphans", "evidence"}
    assert compare(workspace, 0.0, adopting=True).exit_code == 0
    assert rows_of(workspace, "evidence") == after
    assert failed(workspace) == {}


def root_of(installation: Installation) -> str:
    """The trusted root of what was found last."""
    row = max(installation.workspace().catalog.evidence(), key=lambda row: row.id)
    return Leaf.parse(row.leaf.encode()).trust[7:]


def test_a_pack_that_was_claimed_and_arrived_is_left_to_the_next_harvest(
    lived: Installation,
) -> None:
    workspace = lived.workspace()
    with workspace.catalog.session() as session:
        session.execute(update(models.Pack).values(state="claimed"))
    report = compare(workspace, 1.0)
    assert report.exit_code == 0
    assert [one.detail for one in report.checks if one.name == "orphans"] == [
        "none; the next harvest takes up 7"
    ]
    take_up(workspace)
    assert len(workspace.catalog.packs()) == 7


class ColdArchiveDouble:
    """An archive whose packs lie in a cold class, as no server here has one."""

    def __init__(self, archive: Any) -> None:
        self._archive = archive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    def stat(self, key: str) -> Stored | None:
        found: Stored | None = self._archive.stat(key)
        return found and replace(found, cold=key.endswith(".zip"))

    def get(self, key: str, limit: int | None = None) -> bytes:
        if key.endswith(".zip"):
            raise RestoreInProgress(f"{key} lies in a cold storage class")
        data: bytes = self._archive.get(key, limit)
        return data


def test_cold_packs_are_waited_for_by_a_rebuild_and_left_out_of_a_check(
    lived: Installation,
) -> None:
    workspace = lived.workspace()
    before = answers(workspace)
    workspace.__dict__["archive"] = ColdArchiveDouble(workspace.archive)
    with pytest.raises(RestoreInProgress, match="7 packs lie in a cold class"):
        rebuild.rebuild(workspace)
    assert answers(workspace) == before
    report = compare(workspace, 1.0)
    assert report.exit_code == 0
    assert report.checks[0].detail == "0 of 7 read whole; 7 left out in a cold class"


def test_a_pack_without_a_label_gets_it_from_the_next_harvest(lived: Installation) -> None:
    workspace = lived.workspace()
    for label in (lived.folder / "archive/packs/sha256").glob("*.json"):
        label.unlink()
    with workspace.catalog.session() as session:
        session.execute(update(models.Pack).values(state="claimed", evidence_class="sbom.verified"))
    take_up(workspace)
    before = rows_of(workspace, "pack")
    rebuild.rebuild(workspace)
    assert rows_of(workspace, "pack") == before


def test_a_rebuild_that_is_killed_leaves_the_catalog_as_it_was(
    lived: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = lived.workspace()
    before = answers(workspace)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rebuild.Contents, "row", killed)
    with pytest.raises(KeyboardInterrupt):
        rebuild.rebuild(workspace)
    assert answers(workspace) == before
