import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from tests.installation import EXAMPLES, Installation
from tests.plugins.conftest import Take

from longseal.canonical import digest_of
from longseal.errors import RetryableError
from longseal_airflow.operators.harvest import LongsealHarvestOperator
from longseal_airflow.operators.trust import LongsealJudgeOperator, LongsealTrustOperator

BATCH = {"registry": "exported", "repositories": ["corp/a-svc0"]}
ROOT = (EXAMPLES / "trusted_root.json").read_bytes()


def shortened() -> bytes:
    document: Any = json.loads(ROOT)
    document["timestampAuthorities"][0]["validFor"]["end"] = "2024-06-01T00:00:00Z"
    return json.dumps(document).encode()


def test_the_root_of_the_settings_is_adopted_once(take: Take, installation: Installation) -> None:
    first = take(LongsealTrustOperator)
    assert (first["adopted"], first["root"]) == (True, digest_of(ROOT))
    before = installation.files()
    assert take(LongsealTrustOperator)["adopted"] is False
    assert installation.files() == before


def test_a_root_that_takes_away_what_evidence_rests_on_fails_at_once(
    take: Take, installation: Installation
) -> None:
    take(LongsealTrustOperator)
    take(LongsealHarvestOperator, batch=BATCH)
    (installation.folder / "root.json").write_bytes(shortened())
    installation.write(trust={"trusted_root": "root.json"})
    with pytest.raises(AirflowFailException, match=r"20 verified attestations.*stays in force"):
        take(LongsealTrustOperator)
    assert take(LongsealJudgeOperator)["judged"] == 0


def test_what_ends_soon_or_has_ended_is_in_the_result(
    take: Take, installation: Installation
) -> None:
    (installation.folder / "root.json").write_bytes(shortened())
    installation.write(trust={"trusted_root": "root.json"})
    ended = ["every timestamp authority has ended"]
    assert take(LongsealTrustOperator)["ending"] == ended
    assert take(LongsealJudgeOperator)["ending"] == ended


def test_a_repository_that_does_not_answer_is_tried_again(
    take: Take, installation: Installation
) -> None:
    (installation.folder / "tuf.json").write_bytes(_bootstrap())
    installation.write(trust={"tuf": {"url": "http://127.0.0.1:9", "root": "tuf.json"}})
    with pytest.raises(RetryableError, match="did not answer"):
        take(LongsealTrustOperator)


def test_stored_evidence_is_judged_again_after_a_change_of_policy(
    take: Take, installation: Installation
) -> None:
    take(LongsealHarvestOperator, batch=BATCH)
    assert take(LongsealJudgeOperator) == {"judged": 0, "counts": {}, "missing": 0, "ending": []}
    installation.write(
        policy=[
            {
                "repositories": ["other/*"],
                "predicates": ["**"],
                "identities": [{"issuer": "https://issuer.example", "identity": "a@b.example"}],
            }
        ]
    )
    found = take(LongsealJudgeOperator)
    assert (found["judged"], found["counts"]) == (20, {"verified to rejected": 20})
    before = installation.files()
    assert take(LongsealJudgeOperator)["judged"] == 0
    assert installation.files() == before


def _bootstrap() -> bytes:
    from tests.tuf_repository import TufRepository

    return TufRepository().bootstrap
