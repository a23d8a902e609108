import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.attestations import older_annotations
from tests.doubles.sigstore import SigstoreDouble

from longseal.canonical import sha256_hex
from longseal.errors import MalformedError
from longseal.verify import legacy
from longseal.verify.statement import IMAGE_SIGNATURE, Statement

IMAGE = "sha256:" + "1" * 64


@pytest.fixture(scope="module")
def bundle(sigstore: SigstoreDouble) -> bytes:
    return sigstore.attest(IMAGE)


def test_an_attestation_becomes_the_bundle_that_newer_cosign_would_have_written(
    bundle: bytes,
) -> None:
    expected = json.loads(bundle)
    made = json.loads(
        legacy.attestation(json.dumps(expected["dsseEnvelope"]).encode(), older_annotations(bundle))
    )
    assert made["dsseEnvelope"] == expected["dsseEnvelope"]
    material, theirs = made["verificationMaterial"], expected["verificationMaterial"]
    assert material["x509CertificateChain"]["certificates"] == [theirs["certificate"]]
    (entry,), (wanted,) = material["tlogEntries"], theirs["tlogEntries"]
    del wanted["inclusionProof"]
    assert entry == wanted | {"logIndex": "0"}


def test_a_signature_is_over_the_layers_bytes(bundle: bytes) -> None:
    token = {legacy.TIMESTAMP: json.dumps({"SignedRFC3161Timestamp": "dG9rZW4="})}
    annotations = older_annotations(bundle) | {legacy.SIGNATURE: "c2ln"} | token
    made = json.loads(legacy.signature(b"signed", annotations))
    digest = base64.b64decode(made["messageSignature"]["messageDigest"]["digest"])
    assert digest.hex() == sha256_hex(b"signed")
    assert made["messageSignature"]["signature"] == "c2ln"
    stamped = made["verificationMaterial"]["timestampVerificationData"]
    assert stamped == {"rfc3161Timestamps": [{"signedTimestamp": "dG9rZW4="}]}


def test_without_a_certificate_some_key_has_signed() -> None:
    made = json.loads(legacy.attestation(b"{}", {}))
    assert made["verificationMaterial"] == {"publicKey": {}}


@pytest.mark.parametrize(
    "broken",
    [
        {legacy.CERTIFICATE: "none"},
        {legacy.BUNDLE: "{"},
        {legacy.BUNDLE: "[]"},
        {legacy.BUNDLE: "{}"},
        {legacy.BUNDLE: "[" * 200_000},
        {legacy.BUNDLE: "\ud800"},
        {legacy.TIMESTAMP: "{}"},
        {legacy.TIMESTAMP: json.dumps({"SignedRFC3161Timestamp": 1})},
    ],
)
def test_broken_annotations_are_malformed(bundle: bytes, broken: dict[str, str]) -> None:
    with pytest.raises(MalformedError):
        legacy.attestation(b"{}", older_annotations(bundle) | broken)


@pytest.mark.parametrize(
    "change",
    [
        {"body": "!"},
        {"body": base64.b64encode(b"[]").decode()},
        {"body": base64.b64encode(b"{}").decode()},
        {"logIndex": True},
        {"logIndex": -1},
        {"integratedTime": "1"},
        {"logID": "zz"},
    ],
)
def test_a_promise_of_another_shape_is_malformed(bundle: bytes, change: dict[str, Any]) -> None:
    annotations = older_annotations(bundle)
    promise = json.loads(annotations[legacy.BUNDLE])
    promise["Payload"] |= change
    annotations[legacy.BUNDLE] = json.dumps(promise)
    with pytest.raises(MalformedError):
        legacy.attestation(b"{}", annotations)


def test_a_signature_layer_without_its_signature_is_malformed() -> None:
    with pytest.raises(MalformedError, match="no annotation"):
        legacy.signature(b"signed", {})


def test_simple_signing_speaks_of_the_image_it_names(sigstore_bundles: Path) -> None:
    layout = sigstore_bundles / "oci-legacy/derived/connaisseur-keyless/blobs/sha256"
    (payload,) = layout.glob("897d9e86*")
    image = "sha256:31dc72a13a0c34b40eb95419d2b2fd67320c856baf3b72da518023ee8d370aee"
    assert legacy.simple_signing(payload.read_bytes()) == Statement(IMAGE_SIGNATURE, (image,))


@pytest.mark.parametrize(
    "critical",
    [
        None,
        [],
        {},
        {"type": "cosign container image signature"},
        {"type": "cosign container image signature", "image": []},
        {"type": "cosign container image signature", "image": {"docker-manifest-digest": "latest"}},
        {"type": "atomic container signature", "image": {"docker-manifest-digest": IMAGE}},
    ],
)
def test_anything_else_is_no_simple_signing(critical: object) -> None:
    with pytest.raises(MalformedError):
        legacy.simple_signing(json.dumps({"critical": critical}).encode())
