"""Keys and certificate chains for the laboratory's authorities."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
BORN = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(days=1)
YEARS = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class CertifiedKey:
    """A certificate with its key, and the chain from it up to the root."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write `<name>.key` (PKCS #8) and `<name>.pem` (the chain, root last)."""
        pems = [each.public_bytes(serialization.Encoding.PEM) for each in self.chain]
        (folder / f"{name}.pem").write_bytes(b"".join(pems))
        return write_key(self.key, folder / f"{name}.key"), folder / f"{name}.pem"


def authority(name: str) -> CertifiedKey:
    """A self-signed root."""
    return _certify(name, ec.SECP384R1(), None, is_authority=True)


def under(
    root: CertifiedKey,
    name: str,
    usage: x509.ObjectIdentifier,
    *,
    curve: ec.EllipticCurve,
    is_authority: bool,
) -> CertifiedKey:
    """A certificate for one extended usage, signed by `root`."""
    return _certify(name, curve, root, is_authority=is_authority, usage=usage)


def write_key(key: PrivateKey, path: Path) -> Path:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.touch(mode=0o600)
    path.write_bytes(pem)
    return path


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _certify(
    name: str,
    curve: ec.EllipticCurve,
    parent: CertifiedKey | None,
    *,
    is_authority: bool,
    usage: x509.ObjectIdentifier | None = None,
) -> CertifiedKey:
    key = ec.generate_private_key(curve)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lab"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    signer = parent.key if parent else key
    depth = (0 if parent else 1) if is_authority else None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.chain[0].subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BORN)
        .not_valid_after(BORN + YEARS)
        .add_extension(x509.BasicConstraints(is_authority, depth), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if parent:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key())
        builder = builder.add_extension(issuer_id, critical=False)
    if usage:
        # RFC 3161 2.3 wants it critical at a timestamp authority.
        critical = usage == ExtendedKeyUsageOID.TIME_STAMPING
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=critical)
    certificate = builder.sign(signer, hashes.SHA384())
    return CertifiedKey(key, (certificate, *(parent.chain if parent else ())))
