"""Disposal: the last copy goes only where all of its pack may, and its proof stays."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, seal
from tests.retired import RULE, SIGNED_AT, approval_policy, put_attested, trust_double

from longseal import rebuild
from longseal.archive import prune
from longseal.archive.approval import sign_policy
from longseal.archive.disposal import disposable, plan_disposal, read_last
from longseal.archive.holds import Holds, Scope
from longseal.archive.interface import Archive
from longseal.archive.pack import pack_key, packs_in
from longseal.archive.restore import restore
from longseal.archive.tombstones import tombstones
from longseal.audit.audit import audit
from longseal.audit.comparison import compare
from longseal.catalog.models import Evidence
from longseal.cli import main
from longseal.errors import RefusedError, VerificationError
from longseal.seal.published import read_seal
from longseal.settings import load
from longseal.verify.report import State
from longseal.verify.target import Given, verify
from longseal.workspace import Workspace, utc_now

RETENTION = {"max_share": 100, "default": "1 month", "dispose": "13 months"}


COLLECTED = datetime(2023, 6, 1, tzinfo=UTC)


def configure(installation: Installation, **retention: Any) -> None:
    """Write the settings again, with this retention and all else that they say."""
    document = yaml.safe_load(installation.config.read_text())
    installation.write(
        **{name: document[name] for name in ("trust", "registries", "policy")},
        retention={**RETENTION, **retention},
    )


def end_locks(installation: Installation) -> None:
    """Let the year pass for which a prune locks the only copy: a directory takes no offence."""
    for promise in (installation.folder / "archive/packs/sha256").glob(".*.retain"):
        promise.write_text("2024-01-01T00:00:00Z\n")


def collect(installation: Installation) -> str:
    """Harvest, in 2023, one attestation of then, and seal it now; its manifest."""
    sigstore = trust_double(installation, datetime(2023, 1, 1, tzinfo=UTC))
    configure(installation)
    manifest = put_attested(installation, sigstore, SIGNED_AT)
    harvest_all(Workspace(load(installation.config, {}), clock=lambda: COLLECTED))
    harvest_all(installation.workspace())
    seal(installation.workspace(), "r-old")
    return manifest


@pytest.fixture
def pruned(tmp_path: Path, authority: TimestampAuthorityDouble) -> tuple[Installation, Evidence]:
    """One attestation of 2023, collected then, sealed and pruned now; and its row."""
    installation = Installation(tmp_path / "installation", authority)
    collect(installation)
    planned = prune.plan(installation.workspace())
    assert planned is not None
    prune.execute(installation.workspace(), planned.digest, "grace")
    end_locks(installation)
    (row,) = installation.workspace().catalog.evidence()
    return installation, row


def dispose(workspace: Workspace) -> dict[str, Any]:
    planned = plan_disposal(workspace)
    assert planned is not None
    return prune.execute(workspace, planned.digest, "grace")


def test_it_is_off_unless_set(pruned: tuple[Installation, Evidence]) -> None:
    installation, _ = pruned
    configure(installation, dispose="never")
    with pytest.raises(RefusedError, match=r"retention\.dispose is set for no class"):
        plan_disposal(installation.workspace())


@pytest.mark.parametrize("retention", [{"dispose": "20 years"}, {"dispose": "never"}])
def test_nothing_goes_before_its_date(
    pruned: tuple[Installation, Evidence], retention: dict[str, str]
) -> None:
    installation, row = pruned
    classes = {"other": {"keep": "1 month", "dispose": "1 month", "predicates": ["other"]}}
    configure(installation, **retention, classes=classes)
    assert plan_disposal(installation.workspace()) is None
    assert packs_in(installation.workspace().archive) == [row.pack]


def test_what_is_past_its_last_date_leaves_the_archive_and_its_proof_stays(
    pruned: tuple[Installation, Evidence],
) -> None:
    installation, row = pruned
    workspace = installation.workspace()
    kept = {key for key in workspace.archive.keys("") if not key.startswith("packs/")}
    done = dispose(workspace)
    assert (done["deleted"], done["kept"], done["key_operations"]) == (1, 0, 1)
    assert list(workspace.archive.keys("packs/")) == []
    assert kept <= set(workspace.archive.keys(""))
    assert workspace.catalog.evidence() == []
    (tombstone,) = (one for one in tombstones(workspace) if one.disposed)
    assert (tombstone.place[4], tombstone.approver, tombstone.seals) == (row.bundle, "grace", (1,))
    published = read_seal(workspace, 1)
    shard = workspace.kept(published.files("leaves/")["leaves/0000.jsonl"])
    assert row.leaf.encode() + b"\n" == shard


@pytest.mark.parametrize("by", ["image", "manifest", "bundle"])
def test_a_disposed_digest_is_answered_with_its_tombstone(
    pruned: tuple[Installation, Evidence], by: str
) -> None:
    installation, row = pruned
    workspace = installation.workspace()
    done = dispose(workspace)
    report = verify(Given(getattr(row, by)), lambda: workspace)
    assert report.exit_code == 2
    (check,) = report.checks
    assert "disposed of on" in check.detail
    assert "approved by grace" in check.detail
    assert done["deletion"] in check.detail
    assert "its leaf is in seal 1" in check.detail


def test_the_archive_agrees_with_the_catalog_afterwards(
    pruned: tuple[Installation, Evidence],
) -> None:
    installation, _ = pruned
    workspace = installation.workspace()
    dispose(workspace)
    assert compare(workspace, 1.0).exit_code == 0
    packs = [one for one in audit(workspace).checks if one.name == "packs"]
    assert [one.state for one in packs] == [State.PASSED]
    rebuild.rebuild(workspace)
    assert workspace.catalog.evidence() == []
    with pytest.raises(RefusedError, match="was pruned"):
        restore(workspace, "sha256:" + "0" * 64)


def test_again_it_signs_and_deletes_nothing(pruned: tuple[Installation, Evidence]) -> None:
    installation, _ = pruned
    workspace = installation.workspace()
    planned = plan_disposal(workspace)
    again = plan_disposal(workspace)
    assert planned is not None and again is not None
    assert (again.digest, again.key_operations) == (planned.digest, 0)
    done = prune.execute(workspace, planned.digest, "grace")
    before = installation.files()
    assert prune.execute(workspace, planned.digest, "grace") == {**done, "key_operations": 0}
    assert plan_disposal(workspace) is None
    assert installation.files() == before


def test_what_is_still_in_its_registry_stays(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    collect(installation)
    assert plan_disposal(installation.workspace()) is None


def test_what_was_put_back_stays(pruned: tuple[Installation, Evidence]) -> None:
    installation, row = pruned
    restore(installation.workspace(), row.bundle)
    assert plan_disposal(installation.workspace()) is None


def test_a_hold_wins_also_after_the_approval(pruned: tuple[Installation, Evidence]) -> None:
    installation, row = pruned
    workspace = installation.workspace()
    planned = plan_disposal(workspace)
    assert planned is not None
    Holds(workspace).set(Scope.of(image=row.image), "2030-1", "claim")
    with pytest.raises(RefusedError, match="no longer due"):
        prune.execute(workspace, planned.digest, "grace")
    assert plan_disposal(workspace) is None
    assert packs_in(workspace.archive) == [row.pack]
    Holds(workspace).lift("settled", "2030-1")
    assert dispose(workspace)["deleted"] == 1


def test_a_lock_that_is_longer_than_the_date_wins(pruned: tuple[Installation, Evidence]) -> None:
    installation, row = pruned
    workspace = installation.workspace()
    data = workspace.archive.get(pack_key(row.pack))
    workspace.archive.put(pack_key(row.pack), data, workspace.now() + timedelta(days=1))
    assert plan_disposal(workspace) is None


def test_a_pack_of_which_a_part_is_not_due_stays_whole(
    pruned: tuple[Installation, Evidence],
) -> None:
    installation, row = pruned
    classes = {"old": {"keep": "1 month", "dispose": "never", "predicates": [row.predicate_type]}}
    configure(installation, classes=classes)
    assert plan_disposal(installation.workspace()) is None


def test_a_policy_never_approves_a_disposal(pruned: tuple[Installation, Evidence]) -> None:
    installation, row = pruned
    workspace = installation.workspace()
    sign_policy(workspace, approval_policy({**RULE, "repositories": ["**"], "classes": ["*"]}))
    planned = plan_disposal(workspace)
    assert planned is not None
    with pytest.raises(RefusedError, match="no policy approves a disposal"):
        prune.execute(workspace, planned.digest, None)
    assert packs_in(workspace.archive) == [row.pack]


def test_a_pack_that_was_changed_stops_it(pruned: tuple[Installation, Evidence]) -> None:
    installation, row = pruned
    workspace = installation.workspace()
    planned = plan_disposal(workspace)
    assert planned is not None
    pack = installation.folder / "archive" / pack_key(row.pack)
    pack.chmod(0o644)
    pack.write_bytes(pack.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError):
        prune.execute(workspace, planned.digest, "grace")
    assert pack.is_file()


def test_a_pack_that_holds_more_than_the_plan_says_stays(
    pruned: tuple[Installation, Evidence],
) -> None:
    workspace = pruned[0].workspace()
    (item,) = disposable(workspace).items
    versions: dict[str, str | None] = dict.fromkeys(item.packs)
    assert read_last(workspace, [item], versions).keys() == set(item.leaves)
    with pytest.raises(VerificationError, match="other leaves than the plan says"):
        read_last(workspace, [replace(item, leaves=())], versions)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_disposal_is_finished_by_the_same_plan(
    pruned: tuple[Installation, Evidence], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    installation, row = pruned
    workspace = installation.workspace()
    planned = plan_disposal(workspace)
    assert planned is not None
    calls = iter(range(1, 100))
    real = type(workspace.archive).dispose

    def killed(self: Archive, key: str, now: datetime) -> None:
        real(self, key, now)
        if next(calls) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(workspace.archive), "dispose", killed)
        prune.execute(workspace, planned.digest, "grace")
    with pytest.raises(RefusedError, match="a prune was cut off"):
        plan_disposal(installation.workspace())
    done = prune.execute(installation.workspace(), planned.digest, "mallory")
    assert done["deleted"] == 1
    assert list(workspace.archive.keys("packs/")) == []
    (tombstone,) = (one for one in tombstones(workspace) if one.disposed)
    assert (tombstone.place[4], tombstone.approver) == (row.bundle, "grace")
    assert compare(installation.workspace(), 1.0).exit_code == 0


def test_a_repository_that_would_lose_too_much_is_refused(
    pruned: tuple[Installation, Evidence],
) -> None:
    installation, _ = pruned
    configure(installation, max_share=20)
    with pytest.raises(RefusedError, match=r"retention\.max_share"):
        plan_disposal(installation.workspace())
    assert plan_disposal(installation.workspace(), max_share=100) is not None


def test_the_command_plans_a_disposal(
    pruned: tuple[Installation, Evidence], capsys: pytest.CaptureFixture[str]
) -> None:
    installation, _ = pruned
    config = ["--config", str(installation.config), "--json"]
    assert main(["prune", "--dispose", *config]) == 1
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert main(["prune", "--approve", plan, "--approver", "grace", *config]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == 1
    assert main(["prune", "--dispose", *config]) == 0
    assert json.loads(capsys.readouterr().out) == {"plan": None, "items": []}
    before = ["--before", "2024-01-01T00:00:00Z"]
    assert main(["prune", "--dispose", *before, *config]) == 2


PACK = f"packs/sha256/{'0' * 64}.zip"


def test_a_store_disposes_of_a_pack_for_good(archive: Archive) -> None:
    archive.put(PACK, b"pack")
    archive.dispose(PACK, utc_now())
    assert archive.stat(PACK) is None
    archive.dispose(PACK, utc_now())
    assert archive.put(PACK, b"other").fresh


@pytest.mark.parametrize(
    "key",
    [
        "seals/000001/seal.sigstore.json",
        "ledger/00000001.json",
        f"objects/sha256/{'0' * 64}",
        f"packs/sha256/{'0' * 64}.zip.bak",
        "packs/sha256/../../seals/000001/seal.sigstore.json",
        "packs/sha256/",
    ],
)
def test_a_store_disposes_of_nothing_but_packs(archive: Archive, key: str) -> None:
    with pytest.raises(RefusedError, match="only packs"):
        archive.dispose(key, utc_now())


def test_a_store_keeps_what_is_locked(archive: Archive) -> None:
    archive.put(PACK, b"pack", utc_now() + timedelta(minutes=2))
    with pytest.raises(RefusedError, match="it stays"):
        archive.dispose(PACK, utc_now())
    assert archive.get(PACK) == b"pack"


@pytest.mark.lab
def test_a_bucket_enforces_its_lock_whatever_the_clock_here_says(s3_archive: Archive) -> None:
    s3_archive.put(PACK, b"pack", utc_now() + timedelta(minutes=2))
    with pytest.raises(RefusedError, match="does not delete"):
        s3_archive.dispose(PACK, utc_now() + timedelta(days=1))
    assert s3_archive.get(PACK) == b"pack"


@pytest.mark.lab
def test_a_bucket_keeps_what_is_held(s3_archive: Archive) -> None:
    s3_archive.put(PACK, b"pack")
    s3_archive.hold(PACK, True)
    with pytest.raises(RefusedError, match="legal hold"):
        s3_archive.dispose(PACK, utc_now())
    s3_archive.hold(PACK, False)
    s3_archive.dispose(PACK, utc_now())
    assert s3_archive.stat(PACK) is None
