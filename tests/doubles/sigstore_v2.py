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

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.doubles.sigstore import (
    _SHA256,
    IDENTITY,
    ISSUER,
    PAYLOAD_TYPE,
    SigstoreDouble,
    _b64,
    _p256,
    _pae,
)
from tests.doubles.stamper import Stamper

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
        self._tsa = Stamper.new("Double TSA", start, timedelta(days=3650))

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
        token = {"signedTimestamp": _b64(self._tsa.stamp(signature, at))}
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
