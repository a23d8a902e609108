"""A key in Google Cloud KMS, Azure Key Vault or Vault's transit engine, by securesystemslib.

Its signers find address and credentials in the worker's own environment, as each service's own
tools do, and take the message whole: for ECDSA and RSA they hash it here and send the digest; for
Ed25519, in Vault, the message goes there. The libraries of each are an extra of this package.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from longseal.errors import RetryableError, SettingsError, UnsupportedError
from longseal.seal.keys import load_public_pem
from longseal.seal.signers.interface import PublicKey

if TYPE_CHECKING:
    from securesystemslib.signer import Signer as ServiceKey

_SCHEMES: Final = frozenset({"ecdsa-sha2-nistp256", "rsa-pkcs1v15-sha256", "ed25519"})
"""The schemes of securesystemslib whose signatures cosign verifies."""

_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Service:
    """What differs between the services.

    :param extra: the extra that installs ``modules``
    :param takes: the keys that both securesystemslib and cosign take
    :param open: reads the public key there, and gives what signs by it
    :param unreached: exceptions of its libraries that say that it did not answer, by module
    :param refused: those that carry an answer that is no success
    :param status: that answer's HTTP status
    """

    name: str
    extra: str
    modules: tuple[str, ...]
    takes: str
    open: Callable[[], ServiceKey]
    unreached: tuple[tuple[str, str], ...]
    refused: tuple[str, str]
    status: Callable[[Any], int | None]


def gcp(key: str) -> Service:
    """:param key: name of a key version, ``projects/…/cryptoKeyVersions/1``"""

    def connect() -> ServiceKey:
        from securesystemslib.signer import GCPSigner

        uri, public = GCPSigner.import_(key)
        return GCPSigner.from_priv_key_uri(uri, public)

    return Service(
        "Google Cloud KMS",
        "gcp",
        ("google.cloud.kms",),
        "a version of a key of the algorithm EC_SIGN_P256_SHA256 or RSA_SIGN_PKCS1_*_SHA256",
        connect,
        (
            ("google.api_core.exceptions", "RetryError"),
            ("google.auth.exceptions", "TransportError"),
        ),
        ("google.api_core.exceptions", "GoogleAPICallError"),
        lambda err: err.code,
    )


def azure(vault: str, key: str) -> Service:
    """The newest version of a key.

    :param vault: name of the vault, the first part of ``….vault.azure.net``
    """

    def connect() -> ServiceKey:
        from securesystemslib.signer import AzureSigner

        uri, public = AzureSigner.import_(vault, key)
        return AzureSigner.from_priv_key_uri(uri, public)

    return Service(
        "Azure Key Vault",
        "azure",
        ("azure.identity", "azure.keyvault.keys"),
        "a key on the curve P-256",
        connect,
        (
            ("azure.core.exceptions", "ServiceRequestError"),
            ("azure.core.exceptions", "ServiceResponseError"),
        ),
        ("azure.core.exceptions", "HttpResponseError"),
        lambda err: err.status_code,
    )


_VAULT_STATUS: Final = {
    "BadGateway": 502,
    "InternalServerError": 500,
    "RateLimitExceeded": 429,
    "UnexpectedError": 504,
    "VaultDown": 503,
}


def vault(key: str) -> Service:
    """The newest version of an ``ed25519`` key of the transit engine at ``transit/``."""

    def connect() -> ServiceKey:
        from securesystemslib.signer import VaultSigner

        uri, public = VaultSigner.import_(key)
        return VaultSigner.from_priv_key_uri(uri, public)

    return Service(
        "Vault",
        "vault",
        ("hvac",),
        "a key of the type ed25519",
        connect,
        (("requests", "RequestException"),),
        ("hvac.exceptions", "VaultError"),
        lambda err: _VAULT_STATUS.get(type(err).__name__),
    )


class ServiceSigner:
    """Signs with a service's key. Nothing is loaded or asked before first use."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._opened: tuple[int, ServiceKey, PublicKey] | None = None

    @property
    def warning(self) -> str | None:
        return None

    @property
    def public_key(self) -> PublicKey:
        return self._key()[1]

    def sign(self, message: bytes) -> bytes:
        signer, _ = self._key()
        with self._errors("sign"):
            return bytes.fromhex(signer.sign(message).signature)

    def _key(self) -> tuple[ServiceKey, PublicKey]:
        # Connections do not outlive a fork.
        if self._opened is None or self._opened[0] != os.getpid():
            self._require_extra()
            with self._errors("read the public key"):
                signer = self.service.open()
            self._opened = os.getpid(), signer, self._public(signer)
        return self._opened[1:]

    def _require_extra(self) -> None:
        for module in self.service.modules:
            try:
                importlib.import_module(module)
            except ImportError as err:
                raise SettingsError(
                    "signer.kind",
                    f"{self.service.name} needs libraries that are not installed: add the extra "
                    f"longseal[{self.service.extra}] (docs/operator.md says how)",
                ) from err

    def _public(self, signer: ServiceKey) -> PublicKey:
        key = signer.public_key
        if key.scheme not in _SCHEMES:
            raise UnsupportedError(
                f"signer.key: the key in {self.service.name} signs by {key.scheme}, which cosign "
                f"cannot verify; expected {self.service.takes}"
            )
        pem = str(key.keyval["public"])
        if key.scheme == "ed25519":
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(pem))
        return load_public_pem(pem.encode(), f"the key in {self.service.name}")

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        unreached = tuple(_named(*each) for each in self.service.unreached)
        refused = _named(*self.service.refused)
        what = f"could not {action}"
        try:
            yield
        except unreached as err:
            raise RetryableError(
                f"{what}: {self.service.name} did not answer ({type(err).__name__})"
            ) from err
        except refused as err:
            found = f"{self.service.name} answered {type(err).__name__}: {str(err)[:200]}"
            if self.service.status(err) in _PASSING:
                raise RetryableError(f"{what}: {found}") from err
            raise SettingsError("signer.key", f"{what}: {found}") from err
        except Exception as err:
            # Credentials that are missing, a key of a kind that securesystemslib does not take: it
            # and the libraries below it have many errors for these, with no root in common.
            raise SettingsError(
                "signer.key",
                f"{what}: {self.service.name}: {type(err).__name__}: {str(err)[:200]}; expected "
                f"{self.service.takes}, and credentials in the environment",
            ) from err


def _named(module: str, name: str) -> type[Exception]:
    found: type[Exception] = getattr(importlib.import_module(module), name)
    return found
