import shutil
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from tests.doubles.registry import RegistryDouble
from tests.installation import Installation
from tests.plugins.conftest import Take, Taken

from longseal_airflow.assets import EVIDENCE
from longseal_airflow.operators.harvest import (
    SILENT,
    LongsealCompleteProofsOperator,
    LongsealHarvestOperator,
    LongsealIntakeOperator,
    LongsealPlanHarvestOperator,
    LongsealSummariseHarvestOperator,
)

BATCH = {"registry": "exported", "repositories": ["corp/a-svc0"]}
SILENT_REGISTRY = {"name": "gone", "url": "http://127.0.0.1:9"}


def counts(**changed: Any) -> dict[str, Any]:
    nothing = {"found": 0, "verified": 0, "rejected": {}, "ignored": 0, "unknown": 0, "known": 0}
    return {
        **nothing,
        "vanished": 0,
        "images": 0,
        "packs": [],
        "unreachable": {},
        **changed,
    }


def test_the_plan_is_a_list_of_batches(take: Take, taken: Taken) -> None:
    assert take(LongsealPlanHarvestOperator) == [BATCH]
    assert taken.pushed == {SILENT: {}}


def test_a_silent_registry_is_reported_and_the_others_are_planned(
    take: Take, taken: Taken, installation: Installation
) -> None:
    registries = [{"name": "exported", "layout": "registry"}, SILENT_REGISTRY]
    installation.write(registries=registries)
    assert take(LongsealPlanHarvestOperator) == [BATCH]
    assert list(taken.pushed[SILENT]) == ["gone"]


def test_a_plan_that_no_registry_answers_fails_at_once(
    take: Take, installation: Installation
) -> None:
    installation.write(registries=[SILENT_REGISTRY])
    with pytest.raises(AirflowFailException, match=r"registries: no registry answered; gone: "):
        take(LongsealPlanHarvestOperator)


def test_a_batch_is_harvested_once(take: Take, installation: Installation) -> None:
    first = take(LongsealHarvestOperator, batch=BATCH)
    before = installation.files()
    assert (first["found"], first["verified"], first["images"]) == (20, 20, 4)
    assert len(first["packs"]) == 1
    again = take(LongsealHarvestOperator, batch=BATCH)
    assert (again["found"], again["verified"], again["known"]) == (20, 0, 20)
    assert installation.files() == before


def test_a_rejected_attestation_does_not_fail_the_task(
    take: Take, installation: Installation
) -> None:
    installation.write(
        policy=[
            {
                "repositories": ["other/*"],
                "predicates": ["**"],
                "identities": [{"issuer": "https://issuer.example", "identity": "a@b.example"}],
            }
        ]
    )
    found = take(LongsealHarvestOperator, batch=BATCH)
    assert found["rejected"] == {"no-rule": 20}


def test_an_archive_that_cannot_be_written_fails_at_once(
    take: Take, installation: Installation
) -> None:
    shutil.rmtree(installation.folder / "archive")
    (installation.folder / "archive").write_text("not a folder")
    with pytest.raises(AirflowFailException, match=r"archive\.path"):
        take(LongsealHarvestOperator, batch=BATCH)


def test_what_a_ci_run_left_is_taken_in_once(take: Take, installation: Installation) -> None:
    workspace = installation.workspace()
    take(LongsealHarvestOperator, batch=BATCH)
    row = workspace.catalog.evidence()[0]
    file = installation.folder / "bundle.json"
    file.write_bytes(workspace.registry("exported").blob("corp/a-svc0", row.bundle, 1_000_000))
    first = take(LongsealIntakeOperator, path=str(file), repository="corp/ci")
    assert (first["found"], first["verified"], first["images"]) == (1, 1, 1)
    other = "sha256:" + "0" * 64
    found = take(LongsealIntakeOperator, path=str(file), repository="corp/ci", artifact=other)
    assert found["rejected"] == {"subject": 1}
    again = take(LongsealIntakeOperator, path=str(file), repository="corp/ci", artifact="")
    assert (again["known"], again["packs"]) == (1, [])


@pytest.mark.parametrize(
    "wrong",
    [{"path": ""}, {"path": "/nonexistent"}, {"repository": "../x"}, {"artifact": "latest"}],
)
def test_an_intake_of_nothing_or_for_nobody_fails_at_once(
    take: Take, installation: Installation, wrong: dict[str, str]
) -> None:
    fine = {"path": str(installation.folder / "registry"), "repository": "corp/ci"}
    with pytest.raises(AirflowFailException):
        take(LongsealIntakeOperator, **{**fine, **wrong})


@pytest.mark.parametrize("batch", ["", None, []])
def test_a_batch_that_is_none_is_refused(take: Take, batch: Any) -> None:
    with pytest.raises(AirflowFailException, match="batch: expected a dict"):
        take(LongsealHarvestOperator, batch=batch)


def test_the_summary_adds_the_batches_up(
    take: Take, taken: Taken, capsys: pytest.CaptureFixture[str]
) -> None:
    found = take(
        LongsealSummariseHarvestOperator,
        harvested=[
            counts(found=3, verified=2, rejected={"no-rule": 1}, images=1, packs=["sha256:0"]),
            counts(found=2, known=1, rejected={"no-rule": 1}, images=1, unreachable={"a": "b"}),
        ],
        silent={"gone": "no answer"},
        judged={"counts": {"verified to rejected": 4}, "ending": ["CA x ends on 2026-12-10"]},
    )
    log = capsys.readouterr().out
    assert found == {
        **counts(found=5, verified=2, known=1, rejected={"no-rule": 2}, images=2),
        "packs": 1,
        "unreachable": 2,
        "judged_again": {"verified to rejected": 4},
        "ending": ["CA x ends on 2026-12-10"],
    }
    assert taken.event(EVIDENCE)["rejected"] == {"no-rule": 2}
    assert "] 2 images: 5 attestations found, 2 verified, 2 rejected, " in log.splitlines()[-1]
    assert "] 2 no-rule " in log
    assert "] gone: no answer " in log
    assert "] 4 verified to rejected " in log
    assert "] CA x ends on 2026-12-10 " in log


@pytest.mark.parametrize("harvested", [None, []])
def test_no_batches_are_summed_up_as_nothing(take: Take, harvested: Any) -> None:
    expected = {**counts(), "packs": 0, "unreachable": 0, "judged_again": {}, "ending": []}
    assert take(LongsealSummariseHarvestOperator, harvested=harvested, silent=None) == expected


def test_nothing_secret_is_shown_of_a_registry_that_refuses_the_login(
    take: Take,
    taken: Taken,
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conn = '{"conn_type": "longseal_registry", "login": "robot", "password": "correct-horse"}'
    monkeypatch.setenv("AIRFLOW_CONN_CORP_REGISTRY", conn)
    with RegistryDouble(basic=("robot", "another")) as registry:
        main = {"name": "main", "url": registry.url, "conn_id": "corp_registry"}
        installation.write(registries=[{"name": "exported", "layout": "registry"}, main])
        result = take(LongsealPlanHarvestOperator)
        assert registry.requests
    assert "main" in taken.pushed[SILENT]
    assert "correct-horse" not in f"{result}{taken.pushed}{capsys.readouterr()}"


def test_where_no_log_of_proofs_is_named_the_task_is_skipped(take: Take) -> None:
    with pytest.raises(AirflowSkipException, match="complete_proofs"):
        take(LongsealCompleteProofsOperator)


def test_proofs_are_asked_for_and_counted(take: Take, installation: Installation) -> None:
    installation.write(complete_proofs={"url": "http://127.0.0.1:1"})
    counts = {"completed": 0, "failed": 0, "packs": 0, "silent": None}
    assert take(LongsealCompleteProofsOperator) == counts
