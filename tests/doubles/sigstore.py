"""A private Sigstore in memory: certificates, their log and the transparency log, of any shape.

What it signs verifies under :meth:`SigstoreDouble.trusted_root`, except for what a test had made
otherwise. Each entry is the first and only one of its log, so its index is left out of the bundle.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from longseal.canonical import timestamp

IDENTITY = "ci@stella.example"
ISSUER = "https://issuer.example"
SIGNER = {"identity": IDENTITY, "issuer": ISSUER}
PREDICATE = "https://stella-ops.example/sbom-delta/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SHA256 = ec.ECDSA(hashes.SHA256())
_KEY_USAGES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class _Log:
    key: ec.EllipticCurvePrivateKey

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.spki).digest()

    def instance(self, start: datetime) -> dict[str, Any]:
        return {
            "baseUrl": "https://log.example",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": _b64(self.spki),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": timestamp(start)},
            },
            "logId": {"keyId": _b64(self.id)},
        }


class SigstoreDouble:
    """One CA, one certificate log, one transparency log (Rekor v1: its promise gives the time)."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.start = start
        self._ca_key = _p256()
        self._certificate_log = _Log(_p256())
        self._log = _Log(_p256())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Double CA")])
        self._ca = (
            self._builder(self._name, self._ca_key.public_key(), start, timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(_key_identifier(self._ca_key), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )

    def trusted_root(self) -> bytes:
        """The ``trusted_root.json`` that verifies what is signed here."""
        ca = {
            "subject": {"organization": "double", "commonName": "Double CA"},
            "uri": "https://ca.example",
            "certChain": {
                "certificates": [{"rawBytes": _b64(self._ca.public_bytes(Encoding.DER))}]
            },
            "validFor": {"start": timestamp(self.start)},
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [self._log.instance(self.start)],
                "certificateAuthorities": [ca],
                "ctlogs": [self._certificate_log.instance(self.start)],
                "timestampAuthorities": [],
            }
        ).encode()

    def attest(
        self,
        image: str,
        *,
        predicate_type: str = PREDICATE,
        predicate: Mapping[str, Any] | None = None,
        **how: Any,
    ) -> bytes:
        """A bundle that attests ``predicate`` of the image; ``how`` is :meth:`sign`'s."""
        algorithm, _, value = image.partition(":")
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "image", "digest": {algorithm: value}}],
            "predicateType": predicate_type,
            "predicate": predicate or {},
        }
        return self.sign(json.dumps(statement).encode(), **how)

    def sign(
        self,
        payload: bytes,
        *,
        at: datetime = datetime(2026, 11, 24, 10, tzinfo=UTC),
        identity: str = IDENTITY,
        names: Sequence[x509.GeneralName] | None = None,
        issuer: str | None = ISSUER,
        lifetime: timedelta = timedelta(minutes=10),
        payload_type: str = PAYLOAD_TYPE,
        key: Key | None = None,
        kind: str = "dsse 0.0.1",
        version: str = "0.3",
        managed: bool = False,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
    ) -> bytes:
        """A bundle over ``payload``, logged at ``at``.

        :param names: in place of ``identity``, all names in the certificate
        :param key: the signer's; RSA signs with PKCS #1 v1.5
        :param kind: of the log entry; ``hashedrekord`` makes a message signature of ``payload``
        :param version: of the bundle; 0.1 has the log's promise, and no inclusion proof
        :param managed: signed by ``key`` without a certificate
        :param purpose: what the certificate is for
        """
        key = key or _p256()
        if names is None:
            name = x509.RFC822Name if "@" in identity else x509.UniformResourceIdentifier
            names = [name(identity)]
        message = payload if kind.startswith("hashedrekord") else _pae(payload_type, payload)
        signature = _sign(key, message)
        if managed:
            verifier = key.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
            material: dict[str, Any] = {"publicKey": {"hint": "ours"}}
        else:
            certificate = self._certificate(key, names, issuer, at, lifetime, purpose)
            verifier = certificate.public_bytes(Encoding.PEM)
            raw = {"rawBytes": _b64(certificate.public_bytes(Encoding.DER))}
            material = {"certificate": raw}
            if version != "0.3":
                material = {"x509CertificateChain": {"certificates": [raw]}}
        spec = _spec(kind, payload, payload_type, signature, verifier)
        name, _, api_version = kind.partition(" ")
        body = rfc8785.dumps({"apiVersion": api_version, "kind": name, "spec": spec})
        entry = self._entry(body, int(at.timestamp()), kind)
        if version == "0.1":
            del entry["inclusionProof"]
        content: dict[str, Any] = {
            "dsseEnvelope": {
                "payload": _b64(payload),
                "payloadType": payload_type,
                "signatures": [{"sig": _b64(signature)}],
            }
        }
        if name == "hashedrekord":
            digest = {"algorithm": "SHA2_256", "digest": _b64(hashlib.sha256(payload).digest())}
            content = {"messageSignature": {"messageDigest": digest, "signature": _b64(signature)}}
        media_type = f"application/vnd.dev.sigstore.bundle+json;version={version}"
        bundle = {
            "mediaType": media_type,
            "verificationMaterial": {**material, "tlogEntries": [entry]},
            **content,
        }
        return json.dumps(bundle).encode()

    def _entry(self, body: bytes, integrated: int, kind: str) -> dict[str, Any]:
        root = hashlib.sha256(b"\0" + body).digest()
        promised = rfc8785.dumps(
            {
                "body": _b64(body),
                "integratedTime": integrated,
                "logID": self._log.id.hex(),
                "logIndex": 0,
            }
        )
        return {
            "logId": {"keyId": _b64(self._log.id)},
            "kindVersion": dict(zip(("kind", "version"), kind.split(), strict=True)),
            "integratedTime": str(integrated),
            "inclusionPromise": {
                "signedEntryTimestamp": _b64(self._log.key.sign(promised, _SHA256))
            },
            "inclusionProof": {
                "rootHash": _b64(root),
                "treeSize": "1",
                "checkpoint": {"envelope": self.checkpoint(1, root)},
            },
            "canonicalizedBody": _b64(body),
        }

    def checkpoint(self, size: int, root: bytes) -> str:
        """The log's signed head of a tree."""
        note = f"log.example\n{size}\n{_b64(root)}\n"
        signed = self._log.id[:4] + self._log.key.sign(note.encode(), _SHA256)
        return f"{note}\n\u2014 log.example {_b64(signed)}\n"

    def _certificate(
        self,
        key: Key,
        names: Sequence[x509.GeneralName],
        issuer: str | None,
        at: datetime,
        lifetime: timedelta,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
    ) -> x509.Certificate:
        builder = (
            self._builder(x509.Name([]), key.public_key(), at - timedelta(seconds=5), lifetime)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(_key_identifier(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        if issuer is not None:
            builder = builder.add_extension(
                x509.UnrecognizedExtension(_ISSUER, _utf8_string(issuer)), critical=False
            )
        # The log signs the certificate without the extension that will hold its signature.
        unsigned = builder.sign(self._ca_key, hashes.SHA256()).tbs_certificate_bytes
        scts = x509.UnrecognizedExtension(_SCTS, self._scts(unsigned, at))
        return builder.add_extension(scts, critical=False).sign(self._ca_key, hashes.SHA256())

    def _scts(self, unsigned: bytes, at: datetime) -> bytes:
        """A list of one signed certificate timestamp (RFC 6962 §3.2, §3.3) in an OCTET STRING."""
        moment = int(at.timestamp() * 1000)
        ca = self._ca_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        signed = struct.pack("!BBQH", 0, 0, moment, 1) + hashlib.sha256(ca).digest()
        signed += len(unsigned).to_bytes(3, "big") + unsigned + b"\0\0"
        signature = self._certificate_log.key.sign(signed, _SHA256)
        sct = struct.pack(
            "!B32sQHBBH", 0, self._certificate_log.id, moment, 0, 4, 3, len(signature)
        )
        sct += signature
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        return b"\x04" + _length(listed) + listed

    def _builder(
        self, subject: x509.Name, key: Any, start: datetime, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
        )


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _sign(key: Key, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key.curve, ec.SECP521R1):
        return key.sign(data, ec.ECDSA(hashes.SHA512()))
    return key.sign(data, _SHA256)


def _spec(
    kind: str, payload: bytes, payload_type: str, signature: bytes, verifier: bytes
) -> dict[str, Any]:
    """What an entry of Rekor v1 says (rekor, ``pkg/types``)."""
    if kind == "hashedrekord 0.0.1":
        return {
            "data": {"hash": _hash(payload)},
            "signature": {"content": _b64(signature), "publicKey": {"content": _b64(verifier)}},
        }
    if kind == "intoto 0.0.1":
        return {
            "content": {"hash": _hash(b"the envelope"), "payloadHash": _hash(payload)},
            "publicKey": _b64(verifier),
        }
    if kind == "intoto 0.0.2":
        signed = {"publicKey": _b64(verifier), "sig": _b64(_b64(signature).encode())}
        return {
            "content": {
                "envelope": {"payloadType": payload_type, "signatures": [signed]},
                "hash": _hash(b"the envelope"),
                "payloadHash": _hash(payload),
            }
        }
    return {
        "envelopeHash": _hash(payload),
        "payloadHash": _hash(payload),
        "signatures": [{"signature": _b64(signature), "verifier": _b64(verifier)}],
    }


def _pae(payload_type: str, payload: bytes) -> bytes:
    named = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(named), named, len(payload), payload)


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        **dict.fromkeys(_KEY_USAGES, False),
    )


def _key_identifier(key: Key) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _hash(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


def _utf8_string(text: str) -> bytes:
    return b"\x0c" + _length(text.encode()) + text.encode()


def _length(data: bytes) -> bytes:
    if len(data) < 128:
        return bytes([len(data)])
    size = len(data).to_bytes(2, "big").lstrip(b"\0")
    return bytes([0x80 | len(size)]) + size


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
