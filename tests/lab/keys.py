"""Keys and certificate chains for the laboratory's authorities."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
# Long enough ago for authorities that sign in the month before.
BORN = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(days=90)
DIES = BORN + datetime.timedelta(days=3650)


@dataclass(frozen=True)
class CertifiedKey:
    """A key with the certificates from its own up to the root."""

    name: str
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `<name>.key` (PKCS #8) and `<name>.pem` (the chain, root last)."""
        pems = [each.public_bytes(serialization.Encoding.PEM) for each in self.chain]
        chain = folder / f"{self.name}.pem"
        chain.write_bytes(b"".join(pems))
        return write_key(self.key, folder / f"{self.name}.key"), chain


def fulcio_ca() -> CertifiedKey:
    """An intermediate that certifies code signers, under a root of its own."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    return _certify("fulcio", ec.SECP384R1(), _root("fulcio"), depth=0, usage=usage)


def tsa_signer(name: str) -> CertifiedKey:
    """A timestamp signer (RFC 3161 2.3), under a root of its own."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    return _certify(name, ec.SECP256R1(), _root(name), depth=None, usage=usage)


def write_key(key: PrivateKey, path: Path) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def spki(key: PrivateKey, encoding: serialization.Encoding = serialization.Encoding.DER) -> bytes:
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _root(name: str) -> CertifiedKey:
    return _certify(f"{name}-root", ec.SECP384R1(), None, depth=1, usage=None)


def _certify(
    name: str,
    curve: ec.EllipticCurve,
    parent: CertifiedKey | None,
    *,
    depth: int | None,
    usage: x509.ExtendedKeyUsage | None,
) -> CertifiedKey:
    """Certify a new key; it is an authority when it has a `depth`."""
    key = ec.generate_private_key(curve)
    public = key.public_key()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lab"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"lab-{name}"),
        ]
    )
    is_ca = depth is not None
    key_usage = x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        **dict.fromkeys(["content_commitment", "key_encipherment", "data_encipherment"], False),
        **dict.fromkeys(["key_agreement", "encipher_only", "decipher_only"], False),
    )
    builder = (
        x509.CertificateBuilder(parent.chain[0].subject if parent else subject, subject, public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BORN)
        .not_valid_after(DIES)
        .add_extension(x509.BasicConstraints(is_ca, depth), critical=True)
        .add_extension(key_usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if parent:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
    if usage:
        builder = builder.add_extension(usage, critical=not is_ca)
    certificate = builder.sign(parent.key if parent else key, hashes.SHA384())
    return CertifiedKey(name, key, (certificate, *(parent.chain if parent else ())))
