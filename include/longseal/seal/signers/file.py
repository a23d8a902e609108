"""A private key in a PEM file: for trials, tests and one-time keys, never for production."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from longseal.errors import ConflictError, SettingsError, SignerError, UnsupportedError
from longseal.seal.keys import MAX_PEM_BYTES, supported
from longseal.seal.signers.interface import PublicKey

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class FileSigner:
    """Signs with a PKCS #8 key file; the file is read at first use.

    :param path: PEM file
    :param password_env: the environment variable that unlocks it, where it is encrypted
    """

    def __init__(self, path: Path, password_env: str | None = None) -> None:
        self.path = path
        self.password_env = password_env

    @classmethod
    def create(cls, path: Path) -> FileSigner:
        """Make a P-256 key in a new file that only its owner reads.

        :raises ConflictError: there is a file already; keys are never overwritten
        """
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as err:
            raise ConflictError(f"{path} exists: a key file is never overwritten") from err
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        return cls(path)

    @property
    def public_key(self) -> PublicKey:
        return supported(self._key.public_key(), str(self.path))

    @property
    def warning(self) -> str | None:
        return (
            f"{self.path} is a key in a file: whoever reads the file can sign. "
            "Use a KMS or an HSM in production."
        )

    def sign(self, message: bytes) -> bytes:
        match self._key:
            case ec.EllipticCurvePrivateKey() as key:
                return key.sign(message, ec.ECDSA(hashes.SHA256()))
            case rsa.RSAPrivateKey() as key:
                return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
            case key:
                return key.sign(message)

    @cached_property
    def _key(self) -> _PrivateKey:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_PEM_BYTES)
        except OSError as err:
            raise SettingsError(
                "signer.path", f"cannot read the key file {self.path}: {err.strerror}"
            ) from err
        password = None
        if b"ENCRYPTED" in data:
            password = os.environ.get(self.password_env or "", "").encode()
            if not password:
                raise SettingsError(
                    "signer.password_env", f"{self.path} is encrypted: name a variable that is set"
                )
        try:
            key = load_pem_private_key(data, password)
        except UnsupportedAlgorithm as err:
            raise UnsupportedError(f"{self.path} holds a key of no known kind") from err
        except (ValueError, TypeError):
            # Not chained: what the parser says about a key file may quote from it.
            found = f"{self.password_env} does not unlock it" if password else "it is none"
            raise SignerError(f"{self.path}: expected a PEM PKCS #8 key; {found}") from None
        if not isinstance(key, _PrivateKey):
            raise UnsupportedError(f"{self.path}: expected P-256, RSA or Ed25519")
        return key
