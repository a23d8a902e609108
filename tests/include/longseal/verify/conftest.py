from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.attestations import LAB_SIGNER, Attestation, policy, read_layouts, rule
from tests.doubles.sigstore import SigstoreDouble

from longseal.verify.engine import Engine, Judgement
from longseal.verify.trust import TrustMaterial

Judge = Callable[..., Judgement]


@pytest.fixture(scope="session")
def attestations(lab_layouts: Path) -> list[Attestation]:
    return read_layouts(lab_layouts)


@pytest.fixture(scope="session")
def attestation(attestations: list[Attestation]) -> Attestation:
    return attestations[0]


@pytest.fixture(scope="session")
def lab_root(lab_layouts: Path) -> bytes:
    return (lab_layouts / "trusted_root.json").read_bytes()


@pytest.fixture(scope="session")
def lab_engine(lab_root: bytes) -> Engine:
    return Engine(TrustMaterial.parse(lab_root), policy(rule(identities=[LAB_SIGNER])))


@pytest.fixture(scope="session")
def sigstore() -> SigstoreDouble:
    return SigstoreDouble()


@pytest.fixture(scope="session")
def collected() -> datetime:
    """When everything here was collected: after all of it was signed."""
    return datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture(scope="session")
def judge(sigstore: SigstoreDouble, collected: datetime) -> Judge:
    """Judges what the double signed, by the rules given."""
    trust = TrustMaterial.parse(sigstore.trusted_root())

    def judge(data: bytes, image: str, *rules: dict[str, Any]) -> Judgement:
        return Engine(trust, policy(*rules)).judge(data, image, "corp/app", collected)

    return judge
