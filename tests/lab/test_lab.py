"""The laboratory is real: stock verifiers accept its work, its servers refuse what they must."""

import base64
import datetime
import hashlib
import json
import subprocess

import pytest
import requests
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.lab import PREDICATE_TYPES, Lab
from tests.lab.fixtures import Bucket
from tests.lab.registries import INDEX, MANIFEST, Registry
from tests.lab.softhsm import Token

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def attested_image(lab: Lab, registry: Registry) -> str:
    digest = lab.push_image(registry.url, "corp/checked", "v1")
    reference = f"{registry.host}/corp/checked@{digest}"
    lab.attest(reference, PREDICATE_TYPES[0], {"added": 1})
    return reference


def bundles(registry: Registry, reference: str) -> list[bytes]:
    """The Sigstore bundles of an image, by whatever way the registry has."""
    repository, digest = reference.removeprefix(registry.host + "/").split("@")

    def get(path: str, accept: str = "*/*") -> requests.Response:
        url = f"{registry.url}/v2/{repository}/{path}"
        return requests.get(url, headers={"Accept": accept}, timeout=10)

    found = get(f"referrers/{digest}")
    if found.status_code == 404:
        found = get(f"manifests/{digest.replace(':', '-')}", INDEX)
    entries = found.json()["manifests"]
    manifests = [get(f"manifests/{each['digest']}", MANIFEST).json() for each in entries]
    layers = [each["layers"][0] for each in manifests]
    assert all(each["mediaType"] == BUNDLE for each in layers)
    return [get(f"blobs/{each['digest']}").content for each in layers]


@pytest.fixture(params=["docker_registry", "distribution_registry", "referrers_registry"])
def registry(request: pytest.FixtureRequest) -> Registry:
    return request.getfixturevalue(request.param)


@pytest.mark.lab
def test_cosign_verifies_what_it_attested(lab: Lab, registry: Registry) -> None:
    reference = attested_image(lab, registry)
    envelope = json.loads(lab.verify_attestation(reference, PREDICATE_TYPES[0]))
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["predicate"] == {"added": 1}
    assert statement["subject"][0]["digest"]["sha256"] in reference


@pytest.mark.lab
def test_cosign_refuses_another_identity(lab: Lab, docker_registry: Registry) -> None:
    digest = lab.push_image(docker_registry.url, "corp/foreign", "v1")
    reference = f"{docker_registry.host}/corp/foreign@{digest}"
    lab.attest(reference, PREDICATE_TYPES[0], {}, identity="mallory@stella.example")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        lab.verify_attestation(reference, PREDICATE_TYPES[0])
    assert "no matching CertificateIdentity found" in refused.value.stderr


@pytest.mark.lab
def test_sigstore_python_verifies_the_same_bundle(lab: Lab, registry: Registry) -> None:
    from sigstore.models import Bundle
    from sigstore.verify import policy

    [found] = bundles(registry, attested_image(lab, registry))
    verifier = sigstore_verifier(lab)
    expected = policy.Identity(identity=lab.identity, issuer=lab.issuer)
    kind, payload = verifier.verify_dsse(Bundle.from_json(found), expected)
    assert kind == "application/vnd.in-toto+json"
    assert json.loads(payload)["predicateType"] == PREDICATE_TYPES[0]


@pytest.mark.lab
def test_the_first_entry_of_the_log_has_no_index_in_its_bundle(lab: Lab) -> None:
    from sigstore.models import Bundle

    bundle = lab.index_zero_bundle.read_text()
    [entry] = json.loads(bundle)["verificationMaterial"]["tlogEntries"]
    assert "logIndex" not in entry
    with pytest.raises(Exception, match="logIndex"):
        Bundle.from_json(bundle)


@pytest.mark.lab
def test_many_images_are_signed_side_by_side(lab: Lab, referrers_registry: Registry) -> None:
    made = lab.sign_many(
        referrers_registry.url, images=3, attestations=4, repositories=2, prefix="corp/many-"
    )
    assert len({image.digest for image in made}) == 3
    for image in made:
        assert len(bundles(referrers_registry, image.reference)) == 4
        assert image.predicate_types == (*PREDICATE_TYPES, PREDICATE_TYPES[0])


@pytest.mark.lab
def test_a_second_timestamp_authority_runs_beside_the_first(lab: Lab) -> None:
    from rfc3161_client import TimestampRequestBuilder, VerifierBuilder, decode_timestamp_response

    second = lab.another_tsa()
    for authority in (lab.tsa, second):
        request = TimestampRequestBuilder().data(b"sealed").build()
        answer = requests.post(
            authority.url,
            data=request.as_bytes(),
            headers={"Content-Type": "application/timestamp-query"},
            timeout=10,
        )
        response = decode_timestamp_response(answer.content)
        leaf, root = x509.load_pem_x509_certificates(authority.chain.read_bytes())
        verifier = VerifierBuilder().tsa_certificate(leaf).add_root_certificate(root).build()
        assert verifier.verify_message(response, b"sealed")


@pytest.mark.lab
def test_a_compliance_lock_is_not_shortened(s3_bucket: Bucket) -> None:
    client = s3_bucket.server.client()
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
    where = {"Bucket": s3_bucket.name, "Key": "pack.zip"}
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    version = client.put_object(**where, **lock, Body=b"pack")["VersionId"]
    sooner = {"Mode": "COMPLIANCE", "RetainUntilDate": until - datetime.timedelta(days=29)}
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object_retention(**where, Retention=sooner)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(**where, VersionId=version)


@pytest.mark.lab
def test_a_wrong_checksum_is_refused(s3_bucket: Bucket) -> None:
    client = s3_bucket.server.client()
    checksum = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    where = {"Bucket": s3_bucket.name, "Key": "pack.zip"}
    with pytest.raises(ClientError, match="BadDigest"):
        client.put_object(**where, Body=b"pack", ChecksumSHA256=checksum)


@pytest.mark.lab
def test_an_existing_object_is_not_written_over(s3_bucket: Bucket) -> None:
    client = s3_bucket.server.client()
    where = {"Bucket": s3_bucket.name, "Key": "seals/1"}
    client.put_object(**where, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**where, Body=b"second", IfNoneMatch="*")


def test_softhsm_signs_and_the_signature_verifies(softhsm_token: Token) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_ecdsa_signature

    token = pkcs11.lib(str(softhsm_token.module)).get_token(token_label=softhsm_token.label)
    with token.open(user_pin=softhsm_token.pin) as session:
        key = session.get_key(
            label=softhsm_token.key_label, object_class=pkcs11.ObjectClass.PRIVATE_KEY
        )
        digest = hashlib.sha256(b"sealed").digest()
        raw = key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
        assert key[pkcs11.Attribute.EXTRACTABLE] is False
    public = load_pem_public_key(softhsm_token.public_pem.read_bytes())
    public.verify(encode_ecdsa_signature(raw), b"sealed", ec.ECDSA(hashes.SHA256()))


def sigstore_verifier(lab: Lab):
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    return Verifier(trusted_root=TrustedRoot.from_file(str(lab.trusted_root)))
