"""Rekor v2 on loopback: it takes hashed rekords and proves them, or not."""

import base64
import http.server
import json
import socketserver
import threading
from typing import Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ed25519

from longseal.canonical import canonical_json
from longseal.seal.checkpoint import Checkpoint, key_id, sign_note
from longseal.seal.tree import Tree, leaf_hash

Mode = Literal[
    "honest",
    "down",  # 503
    "wrong-path",  # hashes that lead to another root
    "other-log",  # a checkpoint by another key
    "other-entry",  # a good proof, of somebody else's entry
]


class RekorV2Double:
    """A context manager: the log answers at ``url`` while it is open."""

    origin = "rekor.example"

    def __init__(self) -> None:
        self.mode: Mode = "honest"
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.entries = [b"an entry before"]
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                down = double.mode == "down"
                body = b"try later" if down else canonical_json(double.answer(asked))
                self.send_response(503 if down else 201)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The entry for a request, as the mode has it."""
        request = asked["hashedRekordRequestV002"]
        digest = request["digest"]
        if self.mode == "other-entry":
            digest = base64.b64encode(bytes(32)).decode()
        spec = {
            "data": {"algorithm": "SHA2_256", "digest": digest},
            "signature": request["signature"],
        }
        body = canonical_json(
            {
                "apiVersion": "0.0.2",
                "kind": "hashedrekord",
                "spec": {"hashedRekordV002": spec},
            }
        )
        self.entries.append(body)
        index, tree = len(self.entries) - 1, Tree.of(map(leaf_hash, self.entries))
        path = [bytes(32)] if self.mode == "wrong-path" else tree.proof(index)
        head = Checkpoint(self.origin, tree.size, tree.root).format()
        other = ed25519.Ed25519PrivateKey.generate()
        key = other if self.mode == "other-log" else self.key
        return {
            "logIndex": str(index),
            "logId": {"keyId": _base64(key_id(self.origin, self.key.public_key()))},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "canonicalizedBody": _base64(body),
            "inclusionProof": {
                "logIndex": str(index),
                "treeSize": str(tree.size),
                "rootHash": _base64(tree.root),
                "hashes": [_base64(each) for each in path],
                "checkpoint": {"envelope": sign_note(head, self.origin, key).decode()},
            },
        }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
