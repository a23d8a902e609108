import shutil
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from tests.installation import Installation, harvest_all, seal
from tests.plugins.conftest import Take, Taken

from longseal.errors import RetryableError
from longseal_airflow.assets import DELIVERIES
from longseal_airflow.operators import mirror
from longseal_airflow.operators.mirror import (
    LongsealChooseSitesOperator,
    LongsealDeliverOperator,
    LongsealFinishMirrorOperator,
    LongsealPlanMirrorOperator,
)

PLANT = {"name": "plant", "kind": "volume", "path": "plant", "repositories": ["corp/*"]}
SHIP = {**PLANT, "name": "ship", "path": "ship"}


@pytest.fixture
def sealed(installation: Installation) -> Installation:
    workspace = installation.workspace()
    harvest_all(workspace)
    seal(workspace, "r-one")
    return installation


def bring(take: Take, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [take(LongsealDeliverOperator, batch=batch) for batch in batches]


def test_all_sites_are_chosen_or_the_one_that_is_named(
    take: Take, installation: Installation
) -> None:
    installation.write(sites=[SHIP, PLANT])
    assert take(LongsealChooseSitesOperator, site="") == ["ship", "plant"]
    assert take(LongsealChooseSitesOperator, site="plant") == ["plant"]


def test_a_site_that_nobody_knows_is_refused(take: Take) -> None:
    with pytest.raises(AirflowFailException, match="no site is called 'moon'; known: ship"):
        take(LongsealChooseSitesOperator, site="moon")


def test_a_site_is_brought_up_to_date_once(
    take: Take, taken: Taken, sealed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "BATCH", 3)
    batches = take(LongsealPlanMirrorOperator, sites=["ship"])
    assert [(one["start"], one["stop"]) for one in batches] == [(0, 3), (3, 6)]
    delivered = bring(take, batches)
    assert [one["images"] for one in delivered] == [3, 1]
    finish: dict[str, Any] = {"site": "ship", "batches": batches}
    done = take(LongsealFinishMirrorOperator, delivered=delivered, **finish)
    assert (done["images"], done["sequence"], done["key_operations"]) == (4, 1, 1)
    assert done["blobs_sent"] == sum(one["blobs_sent"] for one in delivered) > 0
    event = taken.event(DELIVERIES)
    assert event == {name: done[name] for name in ("site", "sequence", "images", "inventory")}

    before = sealed.files()
    assert take(LongsealPlanMirrorOperator, sites=["ship"]) == batches
    again = take(LongsealFinishMirrorOperator, delivered=bring(take, batches), **finish)
    assert (again["blobs_sent"], again["kit_files"], again["key_operations"]) == (0, 0, 0)
    assert sealed.files() == before


def test_many_images_make_larger_batches_not_more(
    take: Take, sealed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "BATCH", 1)
    monkeypatch.setattr(mirror, "MAX_TASKS", 4)
    sealed.write(sites=[SHIP, PLANT])
    batches = take(LongsealPlanMirrorOperator, sites=["ship", "plant"])
    assert [(one["site"], one["start"]) for one in batches] == [
        ("ship", 0),
        ("plant", 0),
        ("ship", 2),
        ("plant", 2),
    ]


def test_a_site_with_nothing_to_receive_still_gets_its_inventory(
    take: Take, sealed: Installation
) -> None:
    sealed.write(sites=[{**SHIP, "repositories": ["other/*"]}])
    batches = take(LongsealPlanMirrorOperator, sites=["ship"])
    delivered = bring(take, batches)
    done = take(LongsealFinishMirrorOperator, site="ship", batches=batches, delivered=delivered)
    assert (done["images"], done["sequence"]) == (0, 1)


def test_a_volume_that_is_not_there_fails_at_once(take: Take, sealed: Installation) -> None:
    shutil.rmtree(sealed.folder / "ship")
    batches = take(LongsealPlanMirrorOperator, sites=["ship"])
    with pytest.raises(AirflowFailException, match="mount or make the volume of ship first"):
        bring(take, batches)


def test_an_image_that_did_not_arrive_is_tried_again(take: Take, sealed: Installation) -> None:
    batches = take(LongsealPlanMirrorOperator, sites=["ship"])
    shutil.rmtree(sealed.folder / "registry" / "corp")
    with pytest.raises(RetryableError, match="4 images did not arrive at ship, the first corp/a"):
        bring(take, batches)


@pytest.mark.parametrize("arrived", [None, [], "another site"])
def test_no_inventory_is_signed_for_what_did_not_arrive(
    take: Take, sealed: Installation, arrived: Any
) -> None:
    sealed.write(sites=[SHIP, PLANT])
    (sealed.folder / "plant").mkdir()
    batches = take(LongsealPlanMirrorOperator, sites=["ship", "plant"])
    delivered = bring(take, batches[1:]) if arrived == "another site" else arrived
    operations = sealed.key_operations()
    with pytest.raises(AirflowFailException, match="0 of 1 batches arrived at ship"):
        take(LongsealFinishMirrorOperator, site="ship", batches=batches, delivered=delivered)
    assert sealed.key_operations() == operations


def test_a_site_that_was_not_planned_is_refused(take: Take) -> None:
    with pytest.raises(AirflowFailException, match="0 of 0 batches arrived at ship"):
        take(LongsealFinishMirrorOperator, site="ship", batches=None, delivered=None)


def test_a_dry_run_tells_what_a_site_lacks_and_sends_nothing(
    take: Take, sealed: Installation
) -> None:
    before = sealed.files()
    batches = take(LongsealPlanMirrorOperator, sites=["ship"])
    (done,) = [take(LongsealDeliverOperator, batch=one, dry_run="true") for one in batches]
    assert (done["images"], len(done["wanting"]), done["blobs_sent"]) == (0, 4, 0)
    assert {name for name in sealed.files() if name not in before} == {
        name for name in sealed.files() if name.startswith("archive/objects")
    } - before.keys()
    with pytest.raises(AirflowSkipException, match="no inventory for ship"):
        take(
            LongsealFinishMirrorOperator,
            site="ship",
            batches=batches,
            delivered=[done],
            dry_run="true",
        )


def test_one_image_comes_without_an_inventory(take: Take, sealed: Installation) -> None:
    image = sealed.workspace().catalog.images()[0]
    batches = take(
        LongsealPlanMirrorOperator,
        sites=["ship"],
        repository=image.repository,
        image=image.digest,
    )
    delivered = bring(take, batches)
    assert [one["images"] for one in delivered] == [1]
    with pytest.raises(AirflowSkipException, match="no inventory for ship"):
        take(LongsealFinishMirrorOperator, site="ship", batches=batches, delivered=delivered)
    assert not (sealed.folder / "ship/site").exists()
