from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, seal
from tests.plugins.conftest import Take, Taken, dag_run

from longseal.errors import RetryableError, TimestampError
from longseal_airflow.assets import SEALS
from longseal_airflow.operators.reseal import (
    LongsealAttachImageStatementsOperator,
    LongsealCheckOperator,
    LongsealFreezeOperator,
    LongsealLogOperator,
    LongsealPlanRecheckOperator,
    LongsealPublishOperator,
    LongsealPushSealOperator,
    LongsealRecheckAheadOperator,
    LongsealRecheckOperator,
    LongsealSignImageStatementsOperator,
    LongsealSignOperator,
    LongsealTimestampOperator,
)

STEPS = (
    LongsealFreezeOperator,
    LongsealRecheckOperator,
    LongsealSignOperator,
    LongsealTimestampOperator,
    LongsealLogOperator,
    LongsealCheckOperator,
    LongsealPublishOperator,
    LongsealSignImageStatementsOperator,
    LongsealPushSealOperator,
    LongsealAttachImageStatementsOperator,
)


@pytest.fixture
def harvested(installation: Installation) -> Installation:
    workspace = installation.workspace()
    harvest_all(workspace)
    return installation


def test_the_steps_seal_a_release_with_one_key_operation_each(
    take: Take, taken: Taken, harvested: Installation
) -> None:
    results: dict[str, Any] = {}
    for step in STEPS:
        results[step.__name__] = take(step, period="r-one")
        if step is LongsealPublishOperator:
            event = taken.event(SEALS)
    published = results["LongsealPublishOperator"]
    assert (published["sequence"], published["size"], published["sealed"]) == (1, 20, True)
    assert event == {
        name: published[name] for name in ("period", "sequence", "root", "size", "seal")
    }
    assert results["LongsealSignOperator"]["key_operations"] == 1
    assert results["LongsealSignImageStatementsOperator"] == {
        "image_statements": 1,
        "key_operations": 1,
    }
    assert results["LongsealAttachImageStatementsOperator"] == {"attached": 4, "removed": 0}
    assert harvested.key_operations() == 2

    before = harvested.files()
    again = {step.__name__: take(step, period="r-one") for step in STEPS}
    assert again["LongsealPublishOperator"] == published
    assert again["LongsealAttachImageStatementsOperator"] == {"attached": 0, "removed": 0}
    assert harvested.files() == before


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("run_type", ["manual", "operator_triggered", "asset_triggered"])
def test_a_run_that_nobody_dated_must_name_its_period(take: Take, step: Any, run_type: str) -> None:
    with pytest.raises(AirflowFailException, match=r"^period: a manual run names what it seals"):
        take(
            step, period="{{ params.period or '' }}", params={"period": None}, run=dag_run(run_type)
        )


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_dated_run_seals_the_month_of_its_interval(
    take: Take, harvested: Installation, run_type: str
) -> None:
    month = datetime(2026, 9, 1, tzinfo=UTC)
    frozen = take(LongsealFreezeOperator, period="", run=dag_run(run_type, month))
    assert (frozen["period"], frozen["size"]) == ("2026-09", 0)


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("success", AirflowFailException),
        ("failed", AirflowFailException),
        ("queued", RetryableError),
        ("running", RetryableError),
    ],
)
def test_a_month_whose_run_has_left_it_unsealed_holds_the_next_one_back(
    take: Take, installation: Installation, run_type: str, state: str, error: type[Exception]
) -> None:
    month, before = datetime(2026, 1, 1, tzinfo=UTC), datetime(2025, 12, 1, tzinfo=UTC)
    run, runs = dag_run(run_type, month), {before: state}
    with pytest.raises(error, match="2025-12"):
        take(LongsealFreezeOperator, run=run, runs=runs)
    assert list(installation.workspace().archive.keys("seals/")) == []
    seal(installation.workspace(), "2025-12")
    assert take(LongsealFreezeOperator, run=run, runs=runs)["period"] == "2026-01"


def test_a_month_that_no_run_was_made_for_holds_nothing_back(
    take: Take, installation: Installation
) -> None:
    run = dag_run("backfill", datetime(2026, 1, 1, tzinfo=UTC))
    runs = {datetime(2025, 11, 1, tzinfo=UTC): "failed"}
    assert take(LongsealFreezeOperator, run=run, runs=runs)["period"] == "2026-01"


def test_a_manual_run_is_held_back_by_no_month(take: Take, installation: Installation) -> None:
    runs = {datetime(2026, 9, 1, tzinfo=UTC): "failed"}
    assert take(LongsealFreezeOperator, period="r-one", runs=runs)["period"] == "r-one"


def test_a_backfill_that_names_one_period_for_all_its_months_is_refused(take: Take) -> None:
    with pytest.raises(AirflowFailException, match="takes its month from its dates"):
        take(LongsealFreezeOperator, period="r-one", run=dag_run("backfill"))


@pytest.mark.parametrize(
    ("period", "message"),
    [("2999-01", "is not over"), ("2026-13", "expected a period as"), ("r-A", "r-A")],
)
def test_what_is_no_finished_period_is_refused(take: Take, period: str, message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        take(LongsealFreezeOperator, period=period)


def test_a_period_waits_for_the_one_that_is_claimed(take: Take, harvested: Installation) -> None:
    take(LongsealFreezeOperator, period="r-one")
    with pytest.raises(RetryableError, match="claimed by the period r-one and not published yet"):
        take(LongsealFreezeOperator, period="r-two")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (LongsealRecheckOperator, "freeze comes first"),
        (LongsealSignOperator, "freeze comes first"),
        (LongsealSignImageStatementsOperator, "publish comes first"),
    ],
)
def test_a_step_out_of_turn_is_refused(take: Take, step: Any, message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        take(step, period="r-one")


def test_nothing_is_signed_that_was_not_rechecked(take: Take, harvested: Installation) -> None:
    take(LongsealFreezeOperator, period="r-one")
    with pytest.raises(AirflowFailException, match="recheck comes before sign"):
        take(LongsealSignOperator, period="r-one")
    assert harvested.key_operations() == 0


def test_a_missing_key_fails_at_once_and_names_its_setting(
    take: Take, harvested: Installation
) -> None:
    (harvested.folder / "org.pem").unlink()
    with pytest.raises(AirflowFailException, match=r"signer\.path: cannot read the key file"):
        take(LongsealFreezeOperator, period="r-one")


def test_authorities_that_do_not_answer_are_asked_again(
    take: Take, harvested: Installation, honest_authority: TimestampAuthorityDouble
) -> None:
    for step in STEPS[:3]:
        take(step, period="r-one")
    honest_authority.mode = "down"
    try:
        with pytest.raises(TimestampError):
            take(LongsealTimestampOperator, period="r-one")
    finally:
        honest_authority.mode = "honest"
    assert take(LongsealTimestampOperator, period="r-one")["silent_authorities"] == {}


def test_an_image_that_takes_no_statement_is_tried_again(
    take: Take, harvested: Installation
) -> None:
    for step in STEPS[:-1]:
        take(step, period="r-one")
    (harvested.folder / "registry").rename(harvested.folder / "away")
    (harvested.folder / "registry").mkdir()
    with pytest.raises(RetryableError, match=r"^4 images took no statement, the first corp/a-svc0"):
        take(LongsealAttachImageStatementsOperator, period="r-one")


def test_what_no_seal_covers_is_rechecked_ahead_where_there_is_a_secret(
    take: Take, harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AirflowSkipException, match="recheck_secret_env"):
        take(LongsealRecheckAheadOperator)
    monkeypatch.setenv("RECHECK", "5" * 64)
    harvested.write(seal={"recheck_secret_env": "RECHECK"})
    counts = {"rechecked": 20, "packs": 1, "known": 0, "failed": 0}
    assert take(LongsealRecheckAheadOperator) == counts


def test_the_recheck_is_divided_into_batches_where_there_is_a_secret_and_a_seal_to_make(
    take: Take, harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(LongsealFreezeOperator, period="r-one")
    assert take(LongsealPlanRecheckOperator, period="r-one") == []
    monkeypatch.setenv("RECHECK", "5" * 64)
    harvested.write(seal={"recheck_secret_env": "RECHECK"})
    (batch,) = take(LongsealPlanRecheckOperator, period="r-one")
    assert batch == harvested.workspace().catalog.unsealed_packs()
    counts = {"rechecked": 20, "packs": 1, "known": 0, "failed": 0}
    assert take(LongsealRecheckAheadOperator, packs=batch) == counts
    assert take(LongsealRecheckAheadOperator, packs=[])["packs"] == 0
    for step in STEPS[1:]:
        take(step, period="r-one")
    assert take(LongsealPlanRecheckOperator, period="r-one") == []


def test_a_period_that_is_sealed_says_so_and_a_supplement_to_it_is_sealed_beside_it(
    take: Take, harvested: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    month = "2026-10"
    for period, sequence in ((month, 1), (f"{month}.1", 2)):
        published = {step.__name__: take(step, period=period) for step in STEPS}
        assert published["LongsealPublishOperator"]["sequence"] == sequence
    assert "is sealed already" not in capsys.readouterr().out
    operations = harvested.key_operations()
    assert take(LongsealFreezeOperator, period=month)["sealed"]
    assert f"{month} is sealed already, as seal 1" in capsys.readouterr().out
    assert harvested.key_operations() == operations
