"""Keys in other clouds: what differs from the contract that all signers keep."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.doubles import cloud_clients
from tests.doubles.vault import TOKEN, VaultDouble

from longseal.errors import RetryableError, SettingsError, SignerError, UnsupportedError
from longseal.seal.keys import fingerprint, spki
from longseal.seal.signers.checked import sign_checked
from longseal.seal.signers.service import Service, ServiceSigner, azure, gcp, vault

VERSION = "projects/p/locations/eu/keyRings/r/cryptoKeys/org/cryptoKeyVersions/1"
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def transit(monkeypatch: pytest.MonkeyPatch) -> Iterator[VaultDouble]:
    pytest.importorskip("hvac", reason="the extra vault is not installed")
    with VaultDouble() as transit:
        transit.keys["org"] = [KEY]
        monkeypatch.setenv("VAULT_ADDR", transit.url)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield transit


@pytest.mark.parametrize(
    ("service", "extra", "module"),
    [
        (gcp(VERSION), "gcp", "google.cloud.kms"),
        (azure("corp", "org"), "azure", "azure.identity"),
        (vault("org"), "vault", "hvac"),
    ],
    ids=["gcp", "azure", "vault"],
)
def test_an_extra_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, service: Service, extra: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    signer = ServiceSigner(service)
    assert signer.warning is None
    with pytest.raises(SettingsError, match=rf"^signer\.kind: .*the extra longseal\[{extra}\]"):
        signer.sign(b"m")


def test_vault_s_newest_version_signs_and_an_older_pin_refuses_it(transit: VaultDouble) -> None:
    newer = Ed25519PrivateKey.generate()
    transit.keys["org"] = [*[KEY] * 9, newer]
    signer = ServiceSigner(vault("org"))
    assert spki(signer.public_key) == spki(newer.public_key())
    with pytest.raises(SignerError, match="the signer holds"):
        sign_checked(signer, b"m", fingerprint(KEY.public_key()))
    assert transit.signatures == 0
    sign_checked(signer, b"m", fingerprint(newer.public_key()))


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_vault_that_fails_is_worth_a_later_try(transit: VaultDouble, status: int) -> None:
    signer = ServiceSigner(vault("org"))
    _ = signer.public_key
    transit.status = status
    with pytest.raises(RetryableError, match="could not sign: Vault answered"):
        signer.sign(b"m")


def test_a_vault_that_is_down_is_worth_a_later_try(transit: VaultDouble) -> None:
    transit.server.server_close()
    with pytest.raises(RetryableError, match="Vault did not answer"):
        ServiceSigner(vault("org")).sign(b"m")


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_vault_refuses_is_a_setting_to_correct(transit: VaultDouble, status: int) -> None:
    transit.status = status
    with pytest.raises(SettingsError, match=r"^signer\.key: ") as caught:
        ServiceSigner(vault("org")).sign(b"m")
    assert TOKEN not in str(caught.value)


def test_a_token_that_vault_does_not_take_is_not_repeated(
    transit: VaultDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "hvs.wr0ng")
    with pytest.raises(SettingsError, match="Forbidden") as caught:
        ServiceSigner(vault("org")).sign(b"m")
    assert "wr0ng" not in str(caught.value)


def test_a_vault_key_of_another_kind_is_refused_with_what_is_taken(transit: VaultDouble) -> None:
    class Pem:
        def public_key(self) -> Any:
            return self

        def public_bytes_raw(self) -> bytes:
            return b"-----BEGIN PUBLIC KEY-----"

    transit.keys["org"] = [Pem()]
    with pytest.raises(SettingsError, match="expected a key of the type ed25519"):
        ServiceSigner(vault("org")).sign(b"m")


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("google.cloud.kms", reason="the extra gcp is not installed")

    def told(algorithm: str = "EC_SIGN_P256_SHA256") -> Any:
        keys = {VERSION: ec.generate_private_key(ec.SECP256R1())}
        return cloud_clients.gcp_client(monkeypatch, keys, algorithm)

    return told


@pytest.mark.parametrize(
    "algorithm", ["EC_SIGN_P384_SHA384", "RSA_SIGN_PSS_3072_SHA256", "RSA_SIGN_PKCS1_4096_SHA512"]
)
def test_a_google_key_whose_signatures_cosign_cannot_verify_is_refused(
    google: Any, algorithm: str
) -> None:
    told = google(algorithm)
    with pytest.raises(UnsupportedError, match=r"signer\.key: .* which cosign cannot verify"):
        ServiceSigner(gcp(VERSION)).sign(b"m")
    assert told.asked == []


@pytest.mark.parametrize(
    ("name", "worth_a_try"),
    [
        ("ResourceExhausted", True),
        ("ServiceUnavailable", True),
        ("DeadlineExceeded", True),
        ("PermissionDenied", False),
        ("FailedPrecondition", False),
    ],
)
def test_google_s_errors_are_told_apart(google: Any, name: str, worth_a_try: bool) -> None:
    from google.api_core import exceptions

    told = google()
    signer = ServiceSigner(gcp(VERSION))
    _ = signer.public_key
    told.error = getattr(exceptions, name)("as told")
    with pytest.raises(RetryableError if worth_a_try else SettingsError, match=name):
        signer.sign(b"m")


def test_google_without_credentials_is_a_setting_to_correct(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    pytest.importorskip("google.cloud.kms", reason="the extra gcp is not installed")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(SettingsError, match=r"^signer\.key: .*credentials in the environment"):
        ServiceSigner(gcp(VERSION)).sign(b"m")


@pytest.mark.parametrize(("status", "worth_a_try"), [(429, True), (503, True), (403, False)])
def test_azure_s_errors_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, status: int, worth_a_try: bool
) -> None:
    pytest.importorskip("azure.keyvault.keys", reason="the extra azure is not installed")
    from azure.core.exceptions import HttpResponseError

    told = cloud_clients.azure_client(monkeypatch, "corp", {})
    told.error = HttpResponseError("as told")
    told.error.status_code = status
    with pytest.raises(RetryableError if worth_a_try else SettingsError, match="as told"):
        ServiceSigner(azure("corp", "org")).sign(b"m")


def test_an_azure_key_on_another_curve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.keyvault.keys", reason="the extra azure is not installed")
    keys = {"org": ec.generate_private_key(ec.SECP384R1())}
    cloud_clients.azure_client(monkeypatch, "corp", keys)
    with pytest.raises(UnsupportedError, match="expected a key on the curve P-256"):
        ServiceSigner(azure("corp", "org")).sign(b"m")
