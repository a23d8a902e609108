import io
import json
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from tests.attestations import policy, rule
from tests.doubles.sigstore import IDENTITY, PREDICATE, SigstoreDouble

from longseal.canonical import digest_of, sha256_hex
from longseal.registry.attach import attach
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from longseal.verify.engine import Engine
from longseal.verify.image import Expectations, verify_image
from longseal.verify.report import Report, State
from longseal.verify.statement import IMAGE_SIGNATURE
from longseal.verify.trust import TrustMaterial

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
APP = "corp/app"


@pytest.fixture
def registry(tmp_path: Path) -> LayoutRegistry:
    return LayoutRegistry("layouts", tmp_path)


@pytest.fixture
def image(registry: LayoutRegistry) -> Descriptor:
    config = {"mediaType": EMPTY_CONFIG, "digest": digest_of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    data = json.dumps(document).encode()
    registry.put_blob(APP, digest_of(b"{}"), 2, io.BytesIO(b"{}"))
    registry.put_manifest(APP, Manifest(digest_of(data), OCI_MANIFEST, data), "v1")
    return Descriptor(OCI_MANIFEST, digest_of(data), len(data))


@pytest.fixture
def engine(sigstore: SigstoreDouble) -> Engine:
    rules = policy(rule(predicates=["https://stella-ops.example/**", IMAGE_SIGNATURE]))
    return Engine(TrustMaterial.parse(sigstore.trusted_root()), rules)


def verified(
    registry: LayoutRegistry, image: Descriptor, expected: Expectations, now: datetime
) -> Report:
    report = Report(image.digest)
    verify_image(report, registry, APP, image.digest, expected, now)
    return report


def test_each_attestation_is_told_with_its_signer(
    registry: LayoutRegistry,
    image: Descriptor,
    engine: Engine,
    sigstore: SigstoreDouble,
    collected: datetime,
) -> None:
    attach(registry, APP, image, BUNDLE, sigstore.attest(image.digest), {})
    report = verified(registry, image, Expectations(engine=engine), collected)
    assert report.state is State.PASSED
    assert [check.detail for check in report.checks] == [
        "the manifest has this digest",
        f"{PREDICATE} by {IDENTITY}",
    ]


def test_one_attestation_that_is_rejected_fails_the_image(
    registry: LayoutRegistry,
    image: Descriptor,
    engine: Engine,
    sigstore: SigstoreDouble,
    collected: datetime,
) -> None:
    for subject in (image.digest, digest_of(b"another")):
        attach(registry, APP, image, BUNDLE, sigstore.attest(subject), {})
    report = verified(registry, image, Expectations(engine=engine), collected)
    assert report.exit_code == 1
    assert sorted(check.state for check in report.checks) == ["failed", "passed", "passed"]


def test_an_image_signature_is_no_attestation_and_does_no_harm_beside_one(
    registry: LayoutRegistry,
    image: Descriptor,
    engine: Engine,
    sigstore: SigstoreDouble,
    collected: datetime,
) -> None:
    signature = sigstore.attest(image.digest, predicate_type=IMAGE_SIGNATURE)
    attach(registry, APP, image, BUNDLE, signature, {})
    report = verified(registry, image, Expectations(engine=engine), collected)
    assert report.checks[-1].state is State.FAILED
    assert report.checks[-1].detail == "no attestation of it verifies"
    attestation = sigstore.attest(image.digest)
    attach(registry, APP, image, BUNDLE, attestation, {})
    sealed = {(sha256_hex(attestation), image.digest)}
    report = verified(registry, image, Expectations(engine=engine, sealed=sealed), collected)
    assert report.state is State.PASSED


def test_an_attestation_that_no_seal_covers_fails_where_there_are_seals(
    registry: LayoutRegistry,
    image: Descriptor,
    engine: Engine,
    sigstore: SigstoreDouble,
    collected: datetime,
) -> None:
    attestation = sigstore.attest(image.digest)
    attach(registry, APP, image, BUNDLE, attestation, {})
    elsewhere = {(sha256_hex(attestation), digest_of(b"another"))}
    report = verified(registry, image, Expectations(engine=engine, sealed=elsewhere), collected)
    assert report.exit_code == 1


def test_an_image_with_nothing_attached_fails(
    registry: LayoutRegistry, image: Descriptor, engine: Engine, collected: datetime
) -> None:
    assert verified(registry, image, Expectations(engine=engine), collected).exit_code == 1


def test_an_image_that_is_not_there_fails(
    registry: LayoutRegistry, image: Descriptor, engine: Engine, collected: datetime
) -> None:
    registry.delete_manifest(APP, image.digest)
    report = verified(registry, image, Expectations(engine=engine), collected)
    assert [check.state for check in report.checks] == [State.FAILED]


def test_what_could_not_be_looked_at_is_not_reported_as_missing(
    registry: LayoutRegistry,
    image: Descriptor,
    engine: Engine,
    sigstore: SigstoreDouble,
    collected: datetime,
    tmp_path: Path,
) -> None:
    unjudged = sigstore.attest(image.digest, names=[x509.DNSName("stella.example")])
    attachment = attach(registry, APP, image, BUNDLE, unjudged, {})
    report = verified(registry, image, Expectations(engine=engine), collected)
    assert report.exit_code == 2
    (tmp_path / APP / "blobs/sha256" / digest_of(unjudged)[7:]).unlink()
    assert verified(registry, image, Expectations(engine=engine), collected).exit_code == 2
    (tmp_path / APP / "blobs/sha256" / attachment[7:]).unlink()
    emptied = LayoutRegistry("layouts", tmp_path)
    assert verified(emptied, image, Expectations(engine=engine), collected).exit_code == 2
