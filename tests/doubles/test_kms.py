"""The KMS double held against openssl: a digest is signed as it is, a message is hashed once."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.doubles.kms import REGION, KmsDouble

MESSAGE = b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
DIGEST = hashlib.sha256(MESSAGE).digest()
ALGORITHM = {"ECC_NIST_P256": "ECDSA_SHA_256", "RSA_2048": "RSASSA_PKCS1_V1_5_SHA_256"}


@pytest.fixture
def kms() -> Iterator[KmsDouble]:
    with KmsDouble() as kms:
        yield kms


def client(kms: KmsDouble):
    session = boto3.session.Session("AKIATEST", "secret", region_name=REGION)
    return session.client("kms", endpoint_url=kms.url)


def openssl(*arguments: object) -> bool:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("spec", ALGORITHM)
@pytest.mark.parametrize(("kind", "message"), [("DIGEST", DIGEST), ("RAW", MESSAGE)])
def test_openssl_verifies_what_it_signs(
    kms: KmsDouble, tmp_path: Path, spec: str, kind: str, message: bytes
) -> None:
    key = kms.create("org", spec)
    answer = client(kms).sign(
        KeyId=key.arn, Message=message, MessageType=kind, SigningAlgorithm=ALGORITHM[spec]
    )
    pem = key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name, data in (("pub", pem), ("sig", answer["Signature"]), ("m", MESSAGE), ("d", DIGEST)):
        (tmp_path / name).write_bytes(data)
    files = ("-signature", tmp_path / "sig", tmp_path / "m")
    assert openssl("dgst", "-sha256", "-verify", tmp_path / "pub", *files)
    digest = ("-in", tmp_path / "d", "-sigfile", tmp_path / "sig", "-pkeyopt", "digest:sha256")
    assert openssl("pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "pub", *digest)
    (tmp_path / "m").write_bytes(DIGEST)
    assert not openssl("dgst", "-sha256", "-verify", tmp_path / "pub", *files)


@pytest.mark.parametrize(("kind", "size"), [("DIGEST", 33), ("DIGEST", 31), ("RAW", 4097)])
def test_it_refuses_what_kms_refuses(kms: KmsDouble, kind: str, size: int) -> None:
    kms.create("org")
    with pytest.raises(ClientError, match="ValidationException"):
        client(kms).sign(
            KeyId="alias/org",
            Message=b"m" * size,
            MessageType=kind,
            SigningAlgorithm="ECDSA_SHA_256",
        )


def test_it_knows_a_key_by_id_arn_and_alias(kms: KmsDouble) -> None:
    key = kms.create("org")
    alias = f"{key.arn.rpartition(':')[0]}:alias/org"
    for name in ("org", key.arn, "alias/org", alias):
        assert client(kms).get_public_key(KeyId=name)["KeyId"] == key.arn
    assert client(kms).describe_key(KeyId="org")["KeyMetadata"]["KeyState"] == "Enabled"
