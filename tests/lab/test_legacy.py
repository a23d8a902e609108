"""Cosign's older attachments as cosign 3 still writes them: by a key, stamped by an authority."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from longseal.canonical import canonical_json, digest_of
from longseal.registry.attachment import Attachment, fetch
from longseal.registry.discovery import discover
from longseal.registry.distribution import DistributionRegistry
from longseal.verify import legacy
from longseal.verify.engine import Engine, Judgement
from longseal.verify.keys import load_key
from longseal.verify.policy import Policy
from longseal.verify.pool import Case, judge
from longseal.verify.trust import TrustMaterial
from tests.lab.lab import Lab
from tests.lab.registries import Registry

REPOSITORY = "corp/older"
PREDICATE = "https://stella-ops.example/sbom-delta/v1"
OLDER = ("--new-bundle-format=false", "--tlog-upload=false", "--use-signing-config=false")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory, lab: Lab) -> Path:
    folder = tmp_path_factory.mktemp("key")
    lab.cosign("generate-key-pair", f"--output-key-prefix={folder}/cosign")
    return folder / "cosign.key"


@pytest.fixture(scope="module")
def image(lab: Lab, docker_registry: Registry, key: Path) -> str:
    """The digest of an image with a ``.sig`` and an ``.att`` tag."""
    digest = lab.push_image(docker_registry.url, REPOSITORY, "v1")
    reference = f"{docker_registry.host}/{REPOSITORY}@{digest}"
    predicate = key.with_name("predicate.json")
    predicate.write_text(json.dumps({"added": 1}))
    signing = ("--yes", f"--key={key}", *OLDER, f"--timestamp-server-url={lab.tsa_url}")
    lab.cosign("sign", *signing, reference)
    lab.cosign("attest", *signing, f"--type={PREDICATE}", f"--predicate={predicate}", reference)
    return digest


def _attachment(registry: Registry, image: str, place: str) -> Attachment:
    found = DistributionRegistry("lab", registry.url)
    candidates = discover(found, REPOSITORY, image, found.tags(REPOSITORY)).candidates
    (candidate,) = (one for one in candidates if one.places == (place,))
    return fetch(found, candidate)


def _judged(lab: Lab, key: Path, attachment: Attachment, image: str) -> Judgement:
    pem = key.with_suffix(".pub").read_text()
    known = [{"pem": pem, "sha256": digest_of(load_key(pem.encode(), "cosign.pub"))}]
    rule = {
        "identities": [],
        "keys": known,
        "maxCertificateMinutes": 10,
        "predicates": ["https://**"],
        "repositories": ["corp/*"],
    }
    policy = Policy.parse(canonical_json({"rules": [rule]}))
    # A root with a log in it asks for an entry of that log.
    root = json.loads(lab.trusted_root.read_bytes()) | {"tlogs": []}
    engine = Engine(TrustMaterial.parse(json.dumps(root).encode()), policy)
    (layer,) = attachment.layers
    manifest = attachment.manifest.data
    return judge(engine, Case(layer.data, image, REPOSITORY, datetime.now(UTC), manifest))


@pytest.mark.lab
@pytest.mark.parametrize(("place", "outcome"), [(".att", "verified"), (".sig", "ignored")])
def test_what_cosign_writes_is_judged_from_manifest_and_layer(
    lab: Lab, docker_registry: Registry, key: Path, image: str, place: str, outcome: str
) -> None:
    attachment = _attachment(docker_registry, image, place)
    (layer,) = attachment.layers
    assert legacy.TIMESTAMP in layer.descriptor.annotations
    found = _judged(lab, key, attachment, image)
    assert (found.outcome, found.time_source) == (outcome, "rfc3161"), found.reason
    assert found.subjects == (image,)
    other = _judged(lab, key, attachment, "sha256:" + "0" * 64)
    assert other.reason is not None
    assert (other.outcome, other.reason.slug) == ("rejected", "subject")
