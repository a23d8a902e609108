"""What is signed in bulk is genuine: else a benchmark over it would measure refusals."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.attestations import Attestation, policy
from tests.doubles.sigstore import PREDICATE
from tests.doubles.sigstore_v2 import SigstoreV2Double, Statement

from longseal.verify.engine import Engine, Judgement
from longseal.verify.trust import TrustMaterial

SIGNED = datetime(2026, 11, 20, 10, tzinfo=UTC)
STATEMENTS = [Statement(f"sha256:{number:064x}", PREDICATE, {"n": number}) for number in range(5)]


@pytest.fixture(scope="module")
def double() -> SigstoreV2Double:
    return SigstoreV2Double(SIGNED - timedelta(days=1))


@pytest.fixture(scope="module")
def bundles(double: SigstoreV2Double) -> list[bytes]:
    return double.attest_all(STATEMENTS, SIGNED)


@pytest.fixture
def judge(double: SigstoreV2Double) -> Callable[[bytes, str], Judgement]:
    engine = Engine(TrustMaterial.parse(double.trusted_root()), policy())
    return lambda data, image: engine.judge(data, image, "corp/app", SIGNED + timedelta(hours=1))


def test_each_verifies_at_the_time_that_the_authority_gave(
    bundles: list[bytes], judge: Callable[[bytes, str], Judgement]
) -> None:
    for statement, bundle in zip(STATEMENTS, bundles, strict=True):
        judgement = judge(bundle, statement.image)
        assert judgement.outcome == "verified"
        assert (judgement.signed_at, judgement.time_source) == (SIGNED, "rfc3161")


def test_no_two_share_key_token_or_place_in_the_log(bundles: list[bytes]) -> None:
    materials = [json.loads(bundle)["verificationMaterial"] for bundle in bundles]
    for unlike in (
        lambda material: material["certificate"]["rawBytes"],
        lambda material: json.dumps(material["timestampVerificationData"]),
        lambda material: material["tlogEntries"][0]["logIndex"],
    ):
        assert len({unlike(material) for material in materials}) == len(STATEMENTS)


@pytest.mark.parametrize("part", ["certificate", "timestampVerificationData", "tlogEntries"])
def test_one_with_a_part_of_another_is_not_verified(
    part: str, bundles: list[bytes], judge: Callable[[bytes, str], Judgement]
) -> None:
    other = json.loads(bundles[1])["verificationMaterial"][part]

    def transplant(document: dict[str, Any]) -> None:
        document["verificationMaterial"][part] = other

    image = STATEMENTS[0].image
    assert judge(bundles[0], image).outcome == "verified"
    changed = Attestation(bundles[0], image, "corp/app").changed(transplant)
    assert judge(changed, image).outcome == "rejected"
