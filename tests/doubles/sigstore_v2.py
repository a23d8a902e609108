"""The private Sigstore in the shape of today's: a Rekor v2 log and a timestamp authority.

It signs many at once: one tree and one checkpoint for all attestations of a call. Everything is as
genuine as what a client gets: a key and a certificate for each, a token, a proof of inclusion.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.doubles.sigstore import (
    _SHA256,
    IDENTITY,
    ISSUER,
    PAYLOAD_TYPE,
    SigstoreDouble,
    _b64,
    _length,
    _p256,
    _pae,
)

from longseal.canonical import timestamp
from longseal.seal.tree import Tree, leaf_hash


@dataclass(frozen=True)
class Statement:
    """What is to be attested of an image."""

    image: str
    predicate_type: str
    predicate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def payload(self) -> bytes:
        """The in-toto statement."""
        algorithm, _, value = self.image.partition(":")
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "image", "digest": {algorithm: value}}],
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        }
        return json.dumps(statement).encode()


class SigstoreV2Double(SigstoreDouble):
    """A :class:`SigstoreDouble` with a timestamp authority, whose log gives no time."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self._tsa = _Authority(start)

    def trusted_root(self) -> bytes:
        """The ``trusted_root.json`` that verifies what is signed here."""
        root = json.loads(super().trusted_root())
        root["timestampAuthorities"] = [
            {
                "subject": {"organization": "double", "commonName": "Double TSA"},
                "uri": "https://tsa.example",
                "certChain": {
                    "certificates": [
                        {"rawBytes": _b64(one.public_bytes(Encoding.DER))}
                        for one in self._tsa.chain
                    ]
                },
                "validFor": {"start": timestamp(self.start)},
            }
        ]
        return json.dumps(root).encode()

    def attest_all(self, statements: Iterable[Statement], at: datetime) -> list[bytes]:
        """A bundle for each statement, signed at ``at`` and logged in a tree of these alone."""
        signed = [self._signed(statement.payload, at) for statement in statements]
        tree = Tree.of(leaf_hash(body) for body, _ in signed)
        note = f"log.example\n{tree.size}\n{_b64(tree.root)}\n"
        signature = self._log.id[:4] + self._log.key.sign(note.encode(), _SHA256)
        checkpoint = f"{note}\n\u2014 log.example {_b64(signature)}\n"
        bundles = []
        for index, (body, bundle) in enumerate(signed):
            entry = {
                "logIndex": str(index),
                "logId": {"keyId": _b64(self._log.id)},
                "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
                "inclusionProof": {
                    "logIndex": str(index),
                    "rootHash": _b64(tree.root),
                    "treeSize": str(tree.size),
                    "hashes": [_b64(one) for one in tree.proof(index)],
                    "checkpoint": {"envelope": checkpoint},
                },
                "canonicalizedBody": _b64(body),
            }
            bundle["verificationMaterial"]["tlogEntries"] = [entry]
            bundles.append(json.dumps(bundle).encode())
        return bundles

    def _signed(self, payload: bytes, at: datetime) -> tuple[bytes, dict[str, Any]]:
        """The log's entry, and the bundle without it."""
        key = _p256()
        names = [x509.RFC822Name(IDENTITY)]
        certificate = self._certificate(key, names, ISSUER, at, timedelta(minutes=10))
        raw = {"rawBytes": _b64(certificate.public_bytes(Encoding.DER))}
        message = _pae(PAYLOAD_TYPE, payload)
        signature = key.sign(message, _SHA256)
        logged = {
            "data": {"algorithm": "SHA2_256", "digest": _b64(hashlib.sha256(message).digest())},
            "signature": {
                "content": _b64(signature),
                "verifier": {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": raw},
            },
        }
        body = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": logged}}
        token = {"signedTimestamp": _b64(self._tsa.answer(signature, at))}
        bundle = {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": raw,
                "timestampVerificationData": {"rfc3161Timestamps": [token]},
            },
            "dsseEnvelope": {
                "payload": _b64(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": _b64(signature)}],
            },
        }
        return json.dumps(body, separators=(",", ":")).encode(), bundle


class _Authority:
    """Answers with RFC 3161 tokens, which carry no certificate: the trusted root has the chain."""

    def __init__(self, start: datetime) -> None:
        root_key, self._key = _p256(), _p256()
        names = [
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            for name in ("Double TSA root", "Double TSA")
        ]

        def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> Any:
            return (
                x509.CertificateBuilder(names[0], name, key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(start)
                .not_valid_after(start + timedelta(days=3650))
            )

        root = certificate(names[0], root_key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        signer = certificate(names[1], self._key).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
        )
        self.chain = [one.sign(root_key, hashes.SHA256()) for one in (signer, root)]
        der = self.chain[0].public_bytes(Encoding.DER)
        issuer_and_serial = _sequence(
            names[0].public_bytes(), _integer(self.chain[0].serial_number)
        )
        self._signer = _integer(1) + issuer_and_serial + _HASHED
        # ESSCertIDv2 of RFC 5035, whose hash is SHA-256 by default
        names_it = _sequence(_sequence(_sequence(_octets(hashlib.sha256(der).digest()))))
        self._names_signer = _attribute("1.2.840.113549.1.9.16.2.47", names_it)

    def answer(self, data: bytes, at: datetime) -> bytes:
        """The TimeStampResp for ``data`` (RFC 3161 section 2.4.2, RFC 5652 section 5)."""
        content = _sequence(
            _integer(1),
            _oid("1.3.6.1.4.1.57264.2"),
            _sequence(_HASHED, _octets(hashlib.sha256(data).digest())),
            _integer(x509.random_serial_number()),
            _der(0x18, at.strftime("%Y%m%d%H%M%SZ").encode()),
        )
        attributes = b"".join(
            sorted(
                [
                    _attribute("1.2.840.113549.1.9.3", _TST_INFO),
                    _attribute("1.2.840.113549.1.9.4", _octets(hashlib.sha256(content).digest())),
                    _attribute(
                        "1.2.840.113549.1.9.5", _der(0x17, at.strftime("%y%m%d%H%M%SZ").encode())
                    ),
                    self._names_signer,
                ]
            )
        )
        signature = self._key.sign(_der(0x31, attributes), _SHA256)
        signer = _sequence(
            self._signer, _der(0xA0, attributes), _sequence(_ECDSA), _octets(signature)
        )
        signed_data = _sequence(
            _integer(3),
            _der(0x31, _HASHED),
            _sequence(_TST_INFO, _der(0xA0, _octets(content))),
            _der(0x31, signer),
        )
        token = _sequence(_oid("1.2.840.113549.1.7.2"), _der(0xA0, signed_data))
        return _sequence(_sequence(_integer(0)), token)


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes([tag]) + _length(content) + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _octets(data: bytes) -> bytes:
    return _der(0x04, data)


def _integer(number: int) -> bytes:
    return bytes(core.Integer(number).dump())


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def _attribute(dotted: str, value: bytes) -> bytes:
    return _sequence(_oid(dotted), _der(0x31, value))


_TST_INFO = _oid("1.2.840.113549.1.9.16.1.4")
_HASHED = _sequence(_oid("2.16.840.1.101.3.4.2.1"))
_ECDSA = _oid("1.2.840.10045.4.3.2")
