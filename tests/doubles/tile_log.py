"""A transparency log published as static files (C2SP tlog-tiles), served on loopback.

It signs any history that a test asks for, honest or not.
"""

import base64
import hashlib
import http.server
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.doubles.server import LoopbackServer

from longseal.seal.checkpoint import Checkpoint, sign_note
from longseal.seal.tree import Tree, leaf_hash


class FileServer(LoopbackServer):
    """Serves a folder under ``/api/v2``."""

    def __init__(self, folder: Path) -> None:
        root = str(folder)

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=root)  # type: ignore[arg-type]

            def translate_path(self, path: str) -> str:
                return super().translate_path(path.removeprefix("/api/v2"))

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)

    @property
    def url(self) -> str:
        return f"{super().url}/api/v2"


class TileLogDouble:
    """A log in ``folder``: :meth:`publish` says what it holds from now on."""

    origin = "watched.example"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ed25519.Ed25519PrivateKey.generate()
        self.entries: list[bytes] = []

    def instance(self) -> dict[str, Any]:
        """What a trusted root says of it."""
        public = self.key.public_key()
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        log_id = hashlib.sha256(self.origin.encode() + b"\n\x01" + raw).digest()
        return {
            "baseUrl": f"https://{self.origin}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": base64.b64encode(spki).decode(),
                "keyDetails": "PKIX_ED25519",
            },
            "logId": {"keyId": base64.b64encode(log_id).decode()},
        }

    def append(self, *entries: bytes) -> None:
        """Log ``entries``, and publish."""
        self.publish([*self.entries, *entries])

    def publish(self, entries: list[bytes], *, signed: list[bytes] | None = None) -> None:
        """Publish ``entries`` under a checkpoint of ``signed``, which are the same by default."""
        self.entries = entries
        for start in range(0, len(entries), 256):
            part = entries[start : start + 256]
            name = f"{start // 256:03}" + ("" if len(part) == 256 else f".p/{len(part)}")
            path = self.folder / "tile/entries" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(len(each).to_bytes(2) + each for each in part))
        tree = Tree.of(map(leaf_hash, entries if signed is None else signed))
        head = Checkpoint(self.origin, tree.size, tree.root)
        note = sign_note(head.format(), self.origin, self.key)
        (self.folder / "checkpoint").write_bytes(note)
