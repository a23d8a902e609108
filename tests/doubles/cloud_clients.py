"""Doubles of the clients of Google Cloud KMS and Azure Key Vault, in place of their libraries' own.

They check what they are asked as the services document it, and sign by keys of their own. Needed
are the extras ``gcp`` and ``azure``.
"""

from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SHA256 = Prehashed(hashes.SHA256())


def _sign(key: Any, digest: bytes) -> bytes:
    assert len(digest) == 32
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(digest, ec.ECDSA(_SHA256))
    return key.sign(digest, padding.PKCS1v15(), _SHA256)


def gcp_client(patch: pytest.MonkeyPatch, keys: dict[str, Any], algorithm: str) -> Any:
    """Keys by their names in place of Google's; returns what may be told to fail.

    :param algorithm: name of a ``CryptoKeyVersionAlgorithm``
    """
    from google.api_core.exceptions import NotFound
    from google.cloud import kms
    from google.cloud.kms_v1.types import CryptoKeyVersion

    told = SimpleNamespace(error=None, asked=[])

    class KeyManagementServiceClientDouble:
        def _key(self, request: dict[str, Any]) -> Any:
            if told.error is not None:
                raise told.error
            if request["name"] not in keys:
                raise NotFound("no such key")
            return keys[request["name"]]

        def get_public_key(self, request: dict[str, Any]) -> Any:
            public = self._key(request).public_key()
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            found = CryptoKeyVersion.CryptoKeyVersionAlgorithm[algorithm]
            return SimpleNamespace(algorithm=found, public_key=SimpleNamespace(data=pem))

        def asymmetric_sign(self, request: dict[str, Any]) -> Any:
            key = self._key(request)
            told.asked.append(request)
            return SimpleNamespace(signature=_sign(key, request["digest"]["sha256"]))

    patch.setattr(kms, "KeyManagementServiceClient", KeyManagementServiceClientDouble)
    return told


def azure_client(patch: pytest.MonkeyPatch, vault: str, keys: dict[str, Any]) -> Any:
    """Keys by their names in place of those of a vault of Azure's."""
    from azure.core.exceptions import ResourceNotFoundError
    from securesystemslib.signer import _azure_signer

    told = SimpleNamespace(error=None)
    address = f"https://{vault}.vault.azure.net/"

    class KeyClientDouble:
        def __init__(self, vault_url: str, credential: object) -> None:
            assert vault_url == address

        def get_key(self, name: str) -> Any:
            if told.error is not None:
                raise told.error
            if name not in keys:
                raise ResourceNotFoundError("no such key", SimpleNamespace(**_NOT_FOUND))
            public = keys[name].public_key()
            size = (public.key_size + 7) // 8
            numbers = public.public_numbers()
            jwk = {"kid": f"{address}keys/{name}/1", "kty": "EC", "crv": f"P-{public.key_size}"}
            point = {c: getattr(numbers, c).to_bytes(size, "big") for c in ("x", "y")}
            return SimpleNamespace(key=SimpleNamespace(**jwk, **point))

    class CryptographyClientDouble:
        def __init__(self, key: str, credential: object) -> None:
            self.name = key.removeprefix(f"{address}keys/").removesuffix("/1")

        def sign(self, algorithm: str, digest: bytes) -> Any:
            assert algorithm == "ES256"
            r, s = decode_dss_signature(_sign(keys[self.name], digest))
            return SimpleNamespace(signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"))

    patch.setattr(_azure_signer, "KeyClient", KeyClientDouble)
    patch.setattr(_azure_signer, "CryptographyClient", CryptographyClientDouble)
    patch.setattr(_azure_signer, "DefaultAzureCredential", lambda: None)
    return told


_NOT_FOUND = {"status_code": 404, "reason": "Not Found", "headers": {}, "text": lambda: ""}
