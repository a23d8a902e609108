"""What every signer must do, tried with each of them: files, SoftHSM, doubles of the services."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.doubles import cloud_clients, softhsm
from tests.doubles.kms import REGION, KmsDouble
from tests.doubles.softhsm import PIN, SoftHsm
from tests.doubles.vault import TOKEN, VaultDouble

from longseal.errors import PermanentError, SignerError, VerificationError
from longseal.seal.keys import fingerprint, public_pem, spki, verify_signature
from longseal.seal.signers import service
from longseal.seal.signers.aws_kms import AwsKmsSigner, kms_client
from longseal.seal.signers.checked import CountingSigner, sign_checked
from longseal.seal.signers.file import FileSigner
from longseal.seal.signers.interface import Signer
from longseal.seal.signers.pkcs11 import Pkcs11Signer
from longseal.seal.signers.service import ServiceSigner

MESSAGE = b"DSSEv1 28 application/vnd.in-toto+json 8000 " + b"\0\xff" * 4000
KEYS = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
EXTRAS = {"gcp": "google.cloud.kms", "azure": "azure.keyvault.keys", "vault": "hvac"}
STRANGER = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Case:
    """:param opened: a signer of its own each time, for the key called so"""

    key: Any
    opened: Callable[[str], Signer]

    @property
    def signer(self) -> Signer:
        return self.opened("org")

    @property
    def pinned(self) -> str:
        return fingerprint(self.key.public_key())


def in_a_file(folder: Path, key: Any) -> Case:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "org").write_bytes(pem)
    return Case(key, lambda name: FileSigner(folder / name))


def in_a_token(hsm: SoftHsm, key: Any, label: str) -> Case:
    return Case(key, lambda name: Pkcs11Signer(hsm.uri(label, f";object={name}")))


def in_kms(kms: KmsDouble, key: Any, spec: str) -> Case:
    kms.create("org", spec, key)
    connect = partial(kms_client, REGION, kms.url, "AKIATEST", "secret")
    return Case(key, lambda name: AwsKmsSigner(f"alias/{name}", connect, pauses=()))


def in_vault(vault: VaultDouble, key: Any, patch: pytest.MonkeyPatch) -> Case:
    vault.keys["org"] = [key]
    patch.setenv("VAULT_ADDR", vault.url)
    patch.setenv("VAULT_TOKEN", TOKEN)
    return Case(key, lambda name: ServiceSigner(service.vault(name)))


def in_google(key: Any, algorithm: str, patch: pytest.MonkeyPatch) -> Case:
    cloud_clients.gcp_client(patch, {"org": key}, algorithm)
    return Case(key, lambda name: ServiceSigner(service.gcp(name)))


def in_azure(key: Any, patch: pytest.MonkeyPatch) -> Case:
    cloud_clients.azure_client(patch, "corp", {"org": key})
    return Case(key, lambda name: ServiceSigner(service.azure("corp", name)))


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with softhsm.softhsm(tmp_path_factory.mktemp("softhsm")) as hsm:
        for name in ("p256", "rsa"):
            hsm.token(name)
            hsm.load(name, "org", "01", KEYS[name])
        # SoftHSM looks for tokens when it is initialised.
        hsm.edit("rsa", lambda session: None)
        yield hsm


@pytest.fixture(
    params=[
        *("file-p256", "file-rsa", "file-ed25519"),
        *("token-p256", "token-rsa"),
        *("kms-p256", "kms-rsa", "gcp-p256", "gcp-rsa", "azure-p256", "vault-ed25519"),
    ]
)
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    where, _, kind = request.param.partition("-")
    key = KEYS[kind]
    if where in EXTRAS:
        pytest.importorskip(EXTRAS[where], reason=f"the extra {where} is not installed")
    match where:
        case "file":
            yield in_a_file(tmp_path, key)
        case "token":
            monkeypatch.setenv("LONGSEAL_TEST_PIN", PIN)
            yield in_a_token(request.getfixturevalue("hsm"), key, kind)
        case "kms":
            with KmsDouble() as kms:
                yield in_kms(kms, key, {"p256": "ECC_NIST_P256", "rsa": "RSA_2048"}[kind])
        case "gcp":
            p256, rsa2048 = "EC_SIGN_P256_SHA256", "RSA_SIGN_PKCS1_2048_SHA256"
            yield in_google(key, p256 if kind == "p256" else rsa2048, monkeypatch)
        case "azure":
            yield in_azure(key, monkeypatch)
        case "vault":
            with VaultDouble() as vault:
                yield in_vault(vault, key, monkeypatch)


def openssl_verifies(folder: Path, signer: Signer, signature: bytes, message: bytes) -> bool:
    for name, data in (("sig", signature), ("message", message)):
        (folder / name).write_bytes(data)
    (folder / "pub").write_text(public_pem(signer.public_key))
    if isinstance(signer.public_key, ed25519.Ed25519PublicKey):
        how = "pkeyutl -verify -pubin -inkey pub -rawin -sigfile sig -in message"
    else:
        how = "dgst -sha256 -verify pub -signature sig message"
    return not subprocess.run(["openssl", *how.split()], cwd=folder, timeout=60).returncode


def test_the_public_key_is_the_key_s_own(case: Case) -> None:
    assert spki(case.signer.public_key) == spki(case.key.public_key())


def test_openssl_and_cryptography_verify_its_signature_of_these_bytes_alone(
    case: Case, tmp_path: Path
) -> None:
    signer = case.signer
    signature = signer.sign(MESSAGE)
    verify_signature(case.key.public_key(), signature, MESSAGE)
    assert openssl_verifies(tmp_path, signer, signature, MESSAGE)
    for other in (MESSAGE + b"!", MESSAGE[:-1], b""):
        with pytest.raises(VerificationError):
            verify_signature(case.key.public_key(), signature, other)
    assert not openssl_verifies(tmp_path, signer, signature, MESSAGE + b"!")


@pytest.mark.parametrize("message", [b"", b"m", b"m" * 5_000_000], ids=len)
def test_any_length_is_signed(case: Case, message: bytes) -> None:
    sign_checked(case.signer, message, case.pinned)


def test_each_operation_is_counted(case: Case) -> None:
    counting = CountingSigner(case.signer)
    assert fingerprint(counting.public_key) == case.pinned
    assert counting.operations == 0
    for _ in range(3):
        sign_checked(counting, MESSAGE, case.pinned)
    assert counting.operations == 3


def test_a_key_other_than_the_pinned_one_signs_nothing(case: Case) -> None:
    counting = CountingSigner(case.signer)
    with pytest.raises(SignerError, match="the signer holds"):
        sign_checked(counting, MESSAGE, fingerprint(STRANGER.public_key()))
    assert counting.operations == 0


def test_a_key_that_is_not_there_is_permanent_and_named(case: Case) -> None:
    absent = case.opened("absent")
    for _ in range(2):
        with pytest.raises(PermanentError, match=r"signer\.(path|uri|key|key_id):?"):
            absent.sign(MESSAGE)
    sign_checked(case.signer, MESSAGE, case.pinned)


def test_it_signs_on_in_a_fork_and_in_the_parent_after_it(case: Case) -> None:
    signer = case.signer
    sign_checked(signer, b"parent", case.pinned)
    child = os.fork()
    if child == 0:
        try:
            sign_checked(signer, b"child", case.pinned)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    sign_checked(signer, b"parent again", case.pinned)
