import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from sigstore._internal.merkle import verify_merkle_inclusion

from longseal.canonical import canonical_json
from longseal.errors import LogError, MalformedError, UnsupportedError, VerificationError
from longseal.seal.checkpoint import Checkpoint, key_id, sign_note
from longseal.seal.keys import spki
from longseal.seal.rekor import key_details, log_entry, verify_entry
from longseal.seal.signers.file import FileSigner
from longseal.seal.tree import Tree, leaf_hash

ORIGIN = "rekor.example"
LOG = ed25519.Ed25519PrivateKey.generate()
DIGEST = hashlib.sha256(b"message").digest()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def body_of(signature: bytes, key: Any) -> dict[str, Any]:
    verifier = {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "publicKey": {"rawBytes": b64(spki(key))}}
    return {
        "apiVersion": "0.0.2",
        "kind": "hashedrekord",
        "spec": {
            "hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": b64(DIGEST)},
                "signature": {"content": b64(signature), "verifier": verifier},
            }
        },
    }


def entry_of(body: dict[str, Any], index: int = 5, size: int = 11) -> dict[str, Any]:
    """What a log that holds ``body`` at ``index`` answers."""
    line = canonical_json(body)
    tree = Tree.of(leaf_hash(line if n == index else b"%d" % n) for n in range(size))
    checkpoint = Checkpoint(ORIGIN, size, tree.root)
    return {
        "logIndex": str(index),
        "logId": {"keyId": b64(key_id(ORIGIN, LOG.public_key()))},
        "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
        "canonicalizedBody": b64(line),
        "inclusionProof": {
            "logIndex": str(index),
            "treeSize": str(size),
            "rootHash": b64(tree.root),
            "hashes": [b64(each) for each in tree.proof(index)],
            "checkpoint": {"envelope": sign_note(checkpoint.format(), ORIGIN, LOG).decode()},
        },
    }


@pytest.fixture
def signature(signer: FileSigner) -> bytes:
    return signer.sign(b"message")


@pytest.fixture
def verify(signer: FileSigner, signature: bytes) -> Callable[[dict[str, Any]], None]:
    def verify(entry: dict[str, Any]) -> None:
        verify_entry(entry, DIGEST, signature, signer.public_key, LOG.public_key(), ORIGIN)

    return verify


@pytest.fixture
def entry(signer: FileSigner, signature: bytes) -> dict[str, Any]:
    return entry_of(body_of(signature, signer.public_key))


def test_an_included_entry_holds_here_and_in_sigstore(entry, verify) -> None:
    verify(entry)
    proof = entry["inclusionProof"]
    inner = SimpleNamespace(
        canonicalized_body=base64.b64decode(entry["canonicalizedBody"]),
        inclusion_proof=SimpleNamespace(
            log_index=5,
            tree_size=11,
            hashes=[base64.b64decode(each) for each in proof["hashes"]],
            root_hash=base64.b64decode(proof["rootHash"]),
        ),
    )
    verify_merkle_inclusion(SimpleNamespace(_inner=inner))


def test_the_first_entry_of_a_log_holds_though_it_says_no_index(
    signer: FileSigner, signature: bytes, verify
) -> None:
    entry = entry_of(body_of(signature, signer.public_key), index=0, size=1)
    del entry["logIndex"], entry["inclusionProof"]["logIndex"], entry["inclusionProof"]["hashes"]
    verify(entry)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("logIndex",), "6"),
        (("logId", "keyId"), b64(bytes(32))),
        (("kindVersion", "version"), "0.0.1"),
        (("kindVersion", "kind"), "dsse"),
        (("inclusionProof", "logIndex"), "4"),
        (("inclusionProof", "logIndex"), "11"),
        (("inclusionProof", "treeSize"), "12"),
        (("inclusionProof", "rootHash"), b64(bytes(32))),
        (("inclusionProof", "hashes"), []),
        (("inclusionProof", "hashes"), [b64(bytes(32))] * 4),
        (("inclusionProof", "hashes"), [b64(bytes(5))] * 4),
    ],
)
def test_an_entry_that_says_something_else_is_refused(entry, verify, path, value) -> None:
    with pytest.raises(VerificationError):
        verify(_changed(entry, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("logIndex",), 5),
        (("logIndex",), "-5"),
        (("logIndex",), "9" * 5000),
        (("logIndex",), "\N{ARABIC-INDIC DIGIT FIVE}"),
        (("logId",), None),
        (("logId", "keyId"), "!"),
        (("canonicalizedBody",), None),
        (("canonicalizedBody",), b64(b"not json")),
        (("canonicalizedBody",), b64(b'{"kind":1,"kind":2}')),
        (("inclusionProof",), []),
        (("inclusionProof", "hashes"), None),
        (("inclusionProof", "hashes"), [b64(bytes(32))] * 65),
        (("inclusionProof", "hashes"), [7]),
        (("inclusionProof", "checkpoint"), {}),
        (("inclusionProof", "checkpoint", "envelope"), "\ud800"),
        (("inclusionProof", "checkpoint", "envelope"), "no note"),
    ],
)
def test_what_is_no_entry_is_refused(entry, verify, path, value) -> None:
    with pytest.raises(MalformedError):
        verify(_changed(entry, path, value))


@pytest.mark.parametrize("change", ["digest", "signature", "key", "details", "more"])
def test_an_entry_of_another_signature_is_refused(
    signer: FileSigner, signature: bytes, verify, change: str
) -> None:
    body = body_of(signature, signer.public_key)
    spec = body["spec"]["hashedRekordV002"]
    match change:
        case "digest":
            spec["data"]["digest"] = b64(bytes(32))
        case "signature":
            spec["signature"]["content"] = b64(signer.sign(b"message"))
        case "key":
            other = ec.generate_private_key(ec.SECP256R1()).public_key()
            spec["signature"]["verifier"]["publicKey"]["rawBytes"] = b64(spki(other))
        case "details":
            spec["signature"]["verifier"]["keyDetails"] = "PKIX_ECDSA_P384_SHA_256"
        case "more":
            body["spec"]["more"] = 1
    with pytest.raises(VerificationError, match="of another signature"):
        verify(entry_of(body))


def test_a_checkpoint_of_another_log_is_refused(entry, verify) -> None:
    text = Checkpoint("elsewhere.example", 11, bytes(32)).format()
    for note in (sign_note(text, ORIGIN, LOG), sign_note(text, "elsewhere.example", LOG)):
        path = ("inclusionProof", "checkpoint", "envelope")
        with pytest.raises(VerificationError):
            verify(_changed(entry, path, note.decode()))


def test_a_log_with_an_ecdsa_key_is_named_by_its_spki() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert key_id(ORIGIN, key) == hashlib.sha256(spki(key)).digest()


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519, which signs messages and no digests"),
        (ec.generate_private_key(ec.SECP384R1()), "of 384 bits"),
        (rsa.generate_private_key(65537, 2560), "of 2560 bits"),
    ],
)
def test_keys_that_a_log_cannot_verify_with_are_named(key, found: str) -> None:
    with pytest.raises(UnsupportedError, match=found):
        key_details(key.public_key())


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that gives one answer to everything and keeps what it was asked."""
    asked: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_request_is_a_hashed_rekord_and_nulls_of_the_answer_are_dropped(
    signer: FileSigner, signature: bytes, entry
) -> None:
    answer = json.dumps({**entry, "inclusionPromise": None, "integratedTime": None}).encode()
    with answering(201, answer) as (url, asked):
        assert log_entry(url, DIGEST, signature, signer.public_key) == entry
    [(path, request)] = asked
    assert path == "/api/v2/log/entries"
    assert json.loads(request) == {
        "hashedRekordRequestV002": {
            "digest": b64(DIGEST),
            "signature": {
                "content": b64(signature),
                "verifier": {
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "publicKey": {"rawBytes": b64(spki(signer.public_key))},
                },
            },
        }
    }


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b"{}"), (302, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}" + b" " * 300_000)],
)
def test_an_answer_that_cannot_be_read_is_worth_a_retry(
    signer: FileSigner, signature: bytes, status: int, body: bytes
) -> None:
    with answering(status, body) as (url, _), pytest.raises(LogError):
        log_entry(url, DIGEST, signature, signer.public_key)


def _changed(entry: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    entry = json.loads(json.dumps(entry))
    target = entry
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return entry
