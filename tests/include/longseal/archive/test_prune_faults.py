"""Prune under fire: killed at every step, twice at once, and in a world that changes meanwhile.

Whatever happens, what is in the registry and what is readable and locked in the archive are,
together, all that there ever was.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, seal
from tests.retired import REPOSITORY, harvest_image, put_image, trust_double

from longseal.archive import document, prune
from longseal.archive.directory import DirectoryArchive
from longseal.archive.holds import Holds, Scope
from longseal.archive.pack import load_pack, pack_key
from longseal.audit.audit import audit
from longseal.catalog.catalog import Catalog
from longseal.catalog.models import Evidence
from longseal.errors import RefusedError, VerificationError
from longseal.registry.attach import attach
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import parse_manifest
from longseal.seal.bundle import MEDIA_TYPE
from longseal.workspace import Workspace, utc_now

START = datetime(2023, 1, 1, tzinfo=UTC)
IMAGES, EACH = 4, 3


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Kill:
    """Counts the steps that leave something behind, and ends the process at one of them.

    A step is the moment before and the moment after each write to archive, registry and catalog.
    Once dead, no thread does anything more.
    """

    at: int | None = None
    steps: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def step(self) -> None:
        with self.lock:
            self.steps += 1
            if self.at is not None and self.steps >= self.at:
                raise Killed

    def around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def killed(*args: Any, **kwargs: Any) -> Any:
            self.step()
            done = write(*args, **kwargs)
            self.step()
            return done

        return killed

    @contextmanager
    def armed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in (
                (DirectoryArchive, "put"),
                (LayoutRegistry, "delete_manifest"),
                (LayoutRegistry, "put_manifest"),
                (Catalog, "bury"),
            ):
                patch.setattr(owner, name, self.around(getattr(owner, name)))
            yield


@dataclass(frozen=True)
class Retired:
    """Images whose attestations are all past their retention, sealed and planned."""

    installation: Installation
    images: tuple[str, ...]
    bundles: frozenset[str]
    plan: str

    def copy(self, folder: Path) -> "Retired":
        return Retired(self.installation.copy(folder), self.images, self.bundles, self.plan)

    def workspace(self) -> Workspace:
        return self.installation.workspace()

    def in_registry(self) -> set[str]:
        registry = self.installation.registry()
        return {
            layer.digest
            for image in self.images
            for referrer in registry.referrers(REPOSITORY, image) or ()
            for manifest in [registry.manifest(REPOSITORY, referrer.digest)]
            if manifest is not None
            for layer in parse_manifest(manifest.data).layers
        }

    def in_archive(self) -> set[str]:
        """Readable whole, and locked."""
        workspace = self.workspace()
        found = set()
        for pack in workspace.catalog.packs():
            stored = workspace.archive.stat(pack_key(pack))
            assert stored is not None and stored.retain_until is not None
            if stored.retain_until > utc_now():
                found |= {f"sha256:{one.leaf.sha256}" for one in load_pack(workspace.archive, pack)}
        return found

    def require_nothing_lost(self) -> None:
        assert self.in_registry() | self.in_archive() >= self.bundles

    def tombstones(self) -> set[str | None]:
        return {row.tombstone for row in self.workspace().catalog.evidence()}

    def actions(self, name: str) -> list[Any]:
        return [entry for entry in self.workspace().ledger.walk() if entry.action == name]


@pytest.fixture(scope="module")
def retired_once(
    tmp_path_factory: pytest.TempPathFactory, authority: TimestampAuthorityDouble
) -> Retired:
    installation = Installation(tmp_path_factory.mktemp("retired") / "installation", authority)
    sigstore = trust_double(installation, START)
    images = []
    for number in range(IMAGES):
        image, subject = put_image(installation, REPOSITORY, START + timedelta(days=number))
        images.append(image)
        for minute in range(EACH):
            at = START + timedelta(days=number, minutes=1 + minute)
            bundle = sigstore.attest(image, at=at)
            attach(installation.registry(), REPOSITORY, subject, MEDIA_TYPE, bundle, {})
    harvest_all(installation.workspace())
    seal(installation.workspace(), "r-old")
    planned = prune.plan(installation.workspace())
    assert planned is not None and len(planned.items) == IMAGES * EACH
    bundles = frozenset(row.bundle for row in installation.workspace().catalog.evidence())
    assert len(bundles) == IMAGES * EACH
    return Retired(installation, tuple(images), bundles, planned.digest)


@pytest.fixture
def retired(retired_once: Retired, tmp_path: Path) -> Retired:
    return retired_once.copy(tmp_path / "copy")


def test_killed_at_any_step_and_run_again_nothing_is_lost_and_the_end_is_the_same(
    retired_once: Retired, tmp_path: Path
) -> None:
    whole = retired_once.copy(tmp_path / "whole")
    counted = Kill()
    with counted.armed():
        prune.execute(whole.workspace(), whole.plan, "grace")
    assert counted.steps >= 50
    for at in range(1, counted.steps + 1):
        one = retired_once.copy(tmp_path / str(at))
        with Kill(at).armed(), pytest.raises(Killed):
            prune.execute(one.workspace(), one.plan, "grace")
        one.require_nothing_lost()
        # A harvest in between takes nothing that went for vanished.
        harvest_all(one.workspace())
        assert {image.state for image in one.workspace().catalog.images()} <= {"whole", "empty"}
        done = prune.execute(one.workspace(), one.plan, "somebody else")
        one.require_nothing_lost()
        assert (done["deleted"], done["kept"]) == (IMAGES * EACH, 0), at
        assert one.in_registry() == set()
        assert one.tombstones() == {done["deletion"]}
        assert len(one.actions("prune.begun")) == len(one.actions("prune.deleted")) == 1, at
        assert {e.details["approver"] for e in one.actions("prune.deleted")} <= {
            "grace",
            "somebody else",
        }
        shutil.rmtree(one.installation.folder)
    assert audit(whole.workspace()).exit_code == 0


def test_two_prunes_at_once_do_the_work_of_one(retired: Retired) -> None:
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(prune.execute(retired.workspace(), retired.plan, "grace"))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["deleted"] for one in results] == [IMAGES * EACH] * 2
    assert len({one["deletion"] for one in results}) == 1
    assert retired.in_registry() == set()
    retired.require_nothing_lost()
    assert audit(retired.workspace()).exit_code == 0


def test_a_hold_that_is_set_while_the_prune_runs_stops_what_is_left(
    retired: Retired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "WORKERS", 1)
    delete = LayoutRegistry.delete_manifest
    deleted = []

    def delete_and_hold(self: LayoutRegistry, repository: str, digest: str) -> None:
        delete(self, repository, digest)
        deleted.append(digest)
        if len(deleted) == 3:
            Holds(retired.workspace()).set(Scope.of(repository="**"), "case", "why")

    monkeypatch.setattr(LayoutRegistry, "delete_manifest", delete_and_hold)
    done = prune.execute(retired.workspace(), retired.plan, "grace")
    assert (done["deleted"], done["kept"]) == (3, IMAGES * EACH - 3)
    assert len(retired.in_registry()) == IMAGES * EACH - 3
    # What stayed can be planned again once the hold is lifted.
    assert retired.tombstones() == {done["deletion"], None}
    Holds(retired.workspace()).lift("over", case="case")
    again = prune.plan(retired.workspace())
    assert again is not None and len(again.items) == IMAGES * EACH - 3


def test_an_image_that_is_pushed_again_during_the_run_keeps_what_the_plan_does_not_name(
    retired: Retired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "WORKERS", 1)
    delete = LayoutRegistry.delete_manifest
    pushed: list[str] = []

    def push_and_delete(self: LayoutRegistry, repository: str, digest: str) -> None:
        if not pushed:
            image, subject = put_image(retired.installation, REPOSITORY, START)
            assert image in retired.images
            registry = retired.installation.registry()
            pushed.append(attach(registry, REPOSITORY, subject, MEDIA_TYPE, b"{}", {}))
        delete(self, repository, digest)

    monkeypatch.setattr(LayoutRegistry, "delete_manifest", push_and_delete)
    prune.execute(retired.workspace(), retired.plan, "grace")
    registry = retired.installation.registry()
    assert registry.manifest(REPOSITORY, pushed[0]) is not None
    assert all(registry.manifest(REPOSITORY, image) for image in retired.images)
    retired.require_nothing_lost()


@pytest.mark.parametrize("change", ["kept longer", "held", "judged again", "vanished"])
def test_a_plan_whose_world_has_changed_must_be_made_again(retired: Retired, change: str) -> None:
    workspace = retired.workspace()
    row = workspace.catalog.evidence()[0]
    if change == "kept longer":
        text = retired.installation.config.read_text()
        retired.installation.config.write_text(
            text.replace("max_share", "default: 20 years\n  max_share")
        )
    elif change == "held":
        Holds(workspace).set(Scope.of(digest=row.bundle), "case", "why")
    elif change == "judged again":
        workspace.catalog.set_aside([row.leaf_hash])
    else:
        retired.installation.registry().delete_manifest(REPOSITORY, row.manifest)
        harvest_all(workspace)
    there = retired.in_registry()
    with pytest.raises(RefusedError, match="make it again"):
        prune.execute(retired.workspace(), retired.plan, "grace")
    assert retired.in_registry() == there
    assert retired.tombstones() == {None}


def test_what_was_gone_before_the_run_gets_no_tombstone(retired: Retired) -> None:
    """Somebody else's clean-up: an alarm of the next harvest, and none of our deletions."""
    row = retired.workspace().catalog.evidence()[0]
    retired.installation.registry().delete_manifest(REPOSITORY, row.manifest)
    done = prune.execute(retired.workspace(), retired.plan, "grace")
    assert done["kept"] == 1
    rows = retired.workspace().catalog.evidence(manifest=row.manifest)
    assert [one.tombstone for one in rows] == [None]
    harvest_all(retired.workspace())
    states = {image.digest: image.state for image in retired.workspace().catalog.images()}
    assert states.pop(row.image) == "vanished"
    assert set(states.values()) == {"empty"}


def test_a_registry_that_does_not_delete_is_told_before_the_plan(
    retired: Retired, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(self: LayoutRegistry, repository: str, digest: str) -> None:
        asked.append(digest)
        raise RefusedError("405")

    monkeypatch.setattr(LayoutRegistry, "delete_manifest", refuse)
    with pytest.raises(RefusedError, match="nothing can be deleted: 405"):
        prune.plan(retired.workspace())
    assert len(asked) == 1


def test_a_plan_that_came_to_nothing_makes_room_for_another(
    retired: Retired, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LayoutRegistry, repository: str, digest: str) -> None:
        raise RefusedError("403")

    with monkeypatch.context() as patch:
        patch.setattr(LayoutRegistry, "delete_manifest", refuse)
        with pytest.raises(RefusedError, match="nothing of the plan was deleted: 403"):
            prune.execute(retired.workspace(), retired.plan, "grace")
    assert retired.tombstones() == {None}
    assert [e.details["why"] for e in retired.actions("prune.refused")] == [{"403": IMAGES * EACH}]
    with pytest.raises(RefusedError, match="make it again"):
        prune.execute(retired.workspace(), retired.plan, "grace")
    again = prune.plan(retired.workspace())
    assert again is not None and again.digest != retired.plan
    assert prune.execute(retired.workspace(), again.digest, "grace")["deleted"] == IMAGES * EACH


def test_an_attachment_that_cannot_go_does_not_stop_the_others(retired: Retired) -> None:
    row = retired.workspace().catalog.evidence()[0]
    registry = retired.installation.registry()
    found = registry.manifest(REPOSITORY, row.manifest)
    assert found is not None
    registry.put_manifest(REPOSITORY, found, "keep-this")
    done = prune.execute(retired.workspace(), retired.plan, "grace")
    assert (done["deleted"], done["kept"]) == (IMAGES * EACH - 1, 1)
    assert registry.manifest(REPOSITORY, row.manifest) is not None
    (refused,) = retired.actions("prune.refused")
    assert "keep-this names as well" in next(iter(refused.details["why"]))


def test_a_run_that_was_cut_off_comes_before_the_next_plan(retired: Retired) -> None:
    with Kill(6).armed(), pytest.raises(Killed):
        prune.execute(retired.workspace(), retired.plan, "grace")
    with pytest.raises(RefusedError, match=f"finish it first .*{retired.plan}"):
        prune.plan(retired.workspace())


def test_another_plan_waits_for_the_run_that_was_cut_off(retired: Retired) -> None:
    """Else what both of them name would have two tombstones."""
    other = prune.plan(retired.workspace(), before=START + timedelta(days=1))
    assert other is not None and other.digest != retired.plan
    with Kill(6).armed(), pytest.raises(Killed):
        prune.execute(retired.workspace(), retired.plan, "grace")
    there = retired.in_registry()
    with pytest.raises(RefusedError, match=f"finish it first .*{retired.plan}"):
        prune.execute(retired.workspace(), other.digest, "grace")
    assert retired.in_registry() == there
    prune.execute(retired.workspace(), retired.plan, "grace")
    with pytest.raises(RefusedError, match="make it again"):
        prune.execute(retired.workspace(), other.digest, "grace")


def test_a_run_taken_up_too_late_buries_what_is_gone_and_deletes_nothing_more(
    retired: Retired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "WORKERS", 1)
    delete = LayoutRegistry.delete_manifest

    def delete_two(self: LayoutRegistry, repository: str, digest: str) -> None:
        if len(retired.in_registry()) == IMAGES * EACH - 2:
            raise Killed
        delete(self, repository, digest)

    with monkeypatch.context() as patch:
        patch.setattr(LayoutRegistry, "delete_manifest", delete_two)
        with pytest.raises(Killed):
            prune.execute(retired.workspace(), retired.plan, "grace")
    monkeypatch.setattr(document, "PLAN_LIFE", timedelta(seconds=-1))
    done = prune.execute(retired.workspace(), retired.plan, "grace")
    assert (done["deleted"], done["kept"]) == (2, IMAGES * EACH - 2)
    assert len(retired.in_registry()) == IMAGES * EACH - 2
    assert retired.tombstones() == {done["deletion"], None}


def test_a_row_that_somebody_made_older_is_not_deleted(harvested: Installation) -> None:
    """The catalog is no authority: the sealed leaf says when it was signed."""
    seal(harvested.workspace(), "r-one")
    workspace = harvested.workspace()
    with workspace.catalog.session() as session:
        session.execute(update(Evidence).values(signed_at=START))
    planned = prune.plan(workspace, max_share=100)
    assert planned is not None
    with pytest.raises(VerificationError, match="not past its retention"):
        prune.execute(workspace, planned.digest, "mallory")


@pytest.mark.parametrize(("share", "items"), [(100, IMAGES * EACH), (99, None), (20, None)])
def test_a_repository_that_would_lose_too_much_stops_the_plan(
    retired: Retired, share: int, items: int | None
) -> None:
    if items is None:
        with pytest.raises(RefusedError, match=r"retention\.max_share"):
            prune.plan(retired.workspace(), max_share=share)
    else:
        planned = prune.plan(retired.workspace(), max_share=share)
        assert planned is not None and len(planned.items) == items


def test_more_than_may_go_at_once_stops_the_plan(retired: Retired) -> None:
    text = retired.installation.config.read_text()
    retired.installation.config.write_text(text.replace("max_share", "max_count: 11\n  max_share"))
    with pytest.raises(RefusedError, match=r"retention\.max_count"):
        prune.plan(retired.workspace())


def test_a_cutoff_takes_only_what_was_signed_before_it(retired: Retired) -> None:
    planned = prune.plan(retired.workspace(), before=START + timedelta(days=1))
    assert planned is not None and len(planned.items) == EACH
    assert prune.plan(retired.workspace(), before=START) is None
    with pytest.raises(RefusedError, match="in the future"):
        prune.plan(retired.workspace(), before=utc_now() + timedelta(days=1))


def test_what_is_not_sealed_yet_is_not_planned(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    sigstore = trust_double(installation, START)
    harvest_image(installation, sigstore, START)
    assert prune.plan(installation.workspace()) is None
