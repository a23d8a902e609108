"""A real PKCS #11 token: SoftHSM with keys of every kind that a signer may meet."""

import datetime
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

MODULE = next(
    (
        str(path)
        for folder in ("/usr/lib/softhsm", "/usr/lib64", "/usr/lib/x86_64-linux-gnu/softhsm")
        if (path := Path(folder) / "libsofthsm2.so").is_file()
    ),
    None,
)
PIN = "24861357"


@contextmanager
def softhsm(folder: Path) -> Iterator["SoftHsm"]:
    """Tokens in ``folder``, which this process's environment and library point to meanwhile."""
    if MODULE is None:
        pytest.skip("libsofthsm2.so is not installed (apt-get install softhsm2)")
    import pkcs11

    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(conf))
        pkcs11.lib(MODULE).reinitialize()
        yield SoftHsm(folder)
    # Whoever loads it next has it read its own configuration.
    pkcs11.lib(MODULE).finalize()


@dataclass(frozen=True)
class SoftHsm:
    folder: Path

    def token(self, label: str) -> None:
        """Make a token whose PIN is :data:`PIN`."""
        _util("--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", PIN)

    def load(self, token: str, label: str, key_id: str, key: Any) -> None:
        """Put a private key and its public half on a token."""
        path = self.folder / "import.pem"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(pem)
        _util(
            *("--import", str(path), "--token", token, "--label", label, "--id", key_id),
            *("--pin", PIN),
        )
        path.unlink()

    def edit(self, token: str, change: Callable[[Any], None], pin: str = PIN) -> None:
        """Do what the tool cannot, in a read-write session that is closed afterwards."""
        import pkcs11

        library = pkcs11.lib(MODULE)
        library.reinitialize()
        with library.get_token(token_label=token).open(rw=True, user_pin=pin) as session:
            change(session)
        library.reinitialize()

    def uri(self, token: str, path: str = "", pin: str = "env:LONGSEAL_TEST_PIN") -> str:
        return f"pkcs11:token={token}{path}?module-path={MODULE}&pin-source={pin}"


def private_object(key: ec.EllipticCurvePrivateKey, label: str, key_id: bytes) -> dict[Any, Any]:
    """The attributes of a private key that stands alone."""
    from pkcs11 import Attribute
    from pkcs11.util.ec import decode_ec_private_key

    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return {
        **decode_ec_private_key(der),
        Attribute.LABEL: label,
        Attribute.ID: key_id,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.SIGN: True,
    }


def public_object(key: ec.EllipticCurvePublicKey, label: str, key_id: bytes) -> dict[Any, Any]:
    from pkcs11 import Attribute
    from pkcs11.util.ec import decode_ec_public_key

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        **decode_ec_public_key(der),
        Attribute.LABEL: label,
        Attribute.ID: key_id,
        Attribute.TOKEN: True,
        Attribute.VERIFY: True,
    }


def certificate_object(
    key: ec.EllipticCurvePrivateKey, label: str, key_id: bytes
) -> dict[Any, Any]:
    """A self-signed certificate for ``key``."""
    from pkcs11 import Attribute, CertificateType, ObjectClass

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return {
        Attribute.CLASS: ObjectClass.CERTIFICATE,
        Attribute.CERTIFICATE_TYPE: CertificateType.X_509,
        Attribute.SUBJECT: name.public_bytes(),
        Attribute.VALUE: certificate.public_bytes(Encoding.DER),
        Attribute.LABEL: label,
        Attribute.ID: key_id,
        Attribute.TOKEN: True,
    }


def _util(*arguments: str) -> None:
    subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True, timeout=60)
