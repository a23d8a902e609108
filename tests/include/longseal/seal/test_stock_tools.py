"""Seals by this code, judged by the stock cosign, Rekor v2 and Sigstore timestamp authority."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.doubles import softhsm
from tests.doubles.kms import REGION, KmsDouble
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.lab.lab import Lab
from tests.lab.softhsm import Token

from longseal.errors import VerificationError
from longseal.seal.bundle import format_key_bundle, parse_key_bundle
from longseal.seal.keys import fingerprint, load_public_pem, public_pem
from longseal.seal.rekor import log_entry, verify_entry
from longseal.seal.signers.aws_kms import AwsKmsSigner, kms_client
from longseal.seal.signers.checked import sign_checked
from longseal.seal.signers.file import FileSigner
from longseal.seal.signers.interface import Signer
from longseal.seal.signers.pkcs11 import Pkcs11Signer
from longseal.seal.statement import MAX_SUBJECTS, PAYLOAD_TYPE, Statement, Subject, pae
from longseal.seal.timestamps import Authority, gather, verify_quorum
from longseal.seal.trusted_root import format_trusted_root, parse_trusted_root

pytestmark = pytest.mark.lab

TYPE = "https://longseal.example/seal/v1"
ARTIFACT = b"stella.example/seal/1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
UNLOGGED = ("--use-signed-timestamps", "--insecure-ignore-tlog=true")


class Sealed:
    """A bundle over `ARTIFACT` and what lies beside it, in a folder."""

    def __init__(
        self,
        folder: Path,
        signer: Signer,
        authorities: Sequence[Authority],
        lab: Lab | None = None,
        subjects: int = 1,
    ) -> None:
        more = tuple(Subject.of(b"%d" % n) for n in range(subjects - 1))
        self.payload = Statement((Subject.of(ARTIFACT, "checkpoint"), *more), TYPE, {}).format()
        message = pae(PAYLOAD_TYPE, self.payload)
        self.key = signer.public_key
        self.digest = hashlib.sha256(message).digest()
        self.signature = sign_checked(signer, message, fingerprint(self.key))
        tokens = gather(authorities, self.signature, len(authorities), datetime.now(UTC)).tokens
        self.entry = lab and log_entry(lab.rekor_url, self.digest, self.signature, self.key)
        log = lab and (lab.rekor_url, log_key(lab), lab.rekor_origin)
        data = format_key_bundle(
            self.payload, self.signature, self.key, [each.data for each in tokens], self.entry
        )
        self.bundle = parse_key_bundle(data)
        self.folder = folder
        (folder / "seal.sigstore.json").write_bytes(data)
        (folder / "seal-trusted-root.json").write_bytes(format_trusted_root(authorities, log))
        (folder / "org.pub").write_text(public_pem(self.key))
        (folder / "checkpoint").write_bytes(ARTIFACT)

    def verify(self, lab: Lab, *flags: str) -> str:
        return lab.cosign(
            "verify-blob-attestation",
            f"--bundle={self.folder}/seal.sigstore.json",
            f"--key={self.folder}/org.pub",
            f"--trusted-root={self.folder}/seal-trusted-root.json",
            f"--type={TYPE}",
            *flags,
            f"{self.folder}/checkpoint",
        )


def log_key(lab: Lab):
    return load_public_pem(Path(lab.rekor_public_key).read_bytes(), "rekor.public_key")


@pytest.fixture
def authority(lab: Lab) -> Authority:
    return Authority.load(lab.tsa_url, lab.tsa_chain.read_bytes(), "tsa.pem")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 3072),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["p256", "p384", "rsa", "ed25519"],
)
def test_cosign_verifies_a_seal_by_every_kind_of_key(
    lab: Lab, authority: Authority, tmp_path: Path, key
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sealed = Sealed(tmp_path, FileSigner(path), [authority])
    sealed.verify(lab, *UNLOGGED)
    (tmp_path / "checkpoint").write_bytes(ARTIFACT + b"x")
    with pytest.raises(CalledProcessError):
        sealed.verify(lab, *UNLOGGED)


def test_cosign_verifies_a_seal_by_a_token(
    lab: Lab, authority: Authority, tmp_path: Path, softhsm_token: Token
) -> None:
    Sealed(tmp_path, Pkcs11Signer(softhsm_token.uri), [authority]).verify(lab, *UNLOGGED)


def test_cosign_verifies_a_seal_by_an_rsa_key_in_a_token(
    lab: Lab, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSEAL_TEST_PIN", softhsm.PIN)
    with softhsm.softhsm(tmp_path / "softhsm") as hsm:
        hsm.token("rsa")
        hsm.load("rsa", "org", "01", rsa.generate_private_key(65537, 3072))
        hsm.edit("rsa", lambda session: None)
        signer = Pkcs11Signer(hsm.uri("rsa", ";object=org"))
        Sealed(tmp_path, signer, [authority]).verify(lab, *UNLOGGED)


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "RSA_3072"])
def test_cosign_verifies_a_seal_by_a_key_in_kms(
    lab: Lab, authority: Authority, tmp_path: Path, spec: str
) -> None:
    with KmsDouble() as kms:
        key = kms.create("org", spec)
        connect = partial(kms_client, REGION, kms.url, "AKIATEST", "secret")
        Sealed(tmp_path, AwsKmsSigner(key.arn, connect), [authority]).verify(lab, *UNLOGGED)


def test_cosign_needs_no_flag_for_a_logged_seal(
    lab: Lab, authority: Authority, tmp_path: Path, signer: FileSigner
) -> None:
    sealed = Sealed(tmp_path, signer, [authority], lab)
    sealed.verify(lab)
    verify_entry(
        sealed.bundle.tlog_entry,
        sealed.digest,
        sealed.signature,
        sealed.key,
        log_key(lab),
        lab.rekor_origin,
    )


def test_rsa_seals_are_logged_too(lab: Lab, authority: Authority, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    Sealed(tmp_path, FileSigner(path), [authority], lab).verify(lab)


def test_cosign_takes_the_most_subjects_that_are_written(
    lab: Lab, authority: Authority, tmp_path: Path, signer: FileSigner
) -> None:
    Sealed(tmp_path, signer, [authority], subjects=MAX_SUBJECTS).verify(lab, *UNLOGGED)


def test_cosign_verifies_beside_a_second_authority(
    lab: Lab, authority: Authority, tmp_path: Path, signer: FileSigner
) -> None:
    with TimestampAuthorityDouble(tmp_path / "double") as double:
        both = [authority, Authority.load(double.url, double.pem, "tsa.pem")]
        sealed = Sealed(tmp_path, signer, both)
    sealed.verify(lab, *UNLOGGED)
    assert len(verify_quorum(sealed.bundle.timestamps, sealed.signature, both, 2)) == 2
    root = parse_trusted_root((tmp_path / "seal-trusted-root.json").read_bytes())
    assert root == (tuple(both), None)


def test_an_entry_of_another_signature_log_or_place_is_refused(
    lab: Lab, authority: Authority, tmp_path: Path, signer: FileSigner
) -> None:
    sealed = Sealed(tmp_path, signer, [authority], lab)
    good = (sealed.digest, sealed.signature, sealed.key, log_key(lab), lab.rekor_origin)
    verify_entry(sealed.entry, *good)
    stranger = ed25519.Ed25519PrivateKey.generate().public_key()
    for place, value in [(0, bytes(32)), (1, b"x"), (3, stranger), (4, "elsewhere.example")]:
        wrong = list(good)
        wrong[place] = value
        with pytest.raises(VerificationError):
            verify_entry(sealed.entry, *wrong)
