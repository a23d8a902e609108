"""A double of Vault's transit engine: reading a key and signing with it, for ed25519 keys."""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.doubles.server import LoopbackServer, QuietHandler

TOKEN = "hvs.5ecre7"


class VaultDouble(LoopbackServer):
    """Vault on loopback.

    :param status: what it answers with instead, where it is not None
    """

    def __init__(self) -> None:
        self.keys: dict[str, list[Ed25519PrivateKey]] = {}
        self.status: int | None = None
        self.signatures = 0
        double = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, request: dict[str, Any]) -> None:
                allowed = self.headers.get("X-Vault-Token") == TOKEN
                status, document = double._perform(self.path, request) if allowed else (403, {})
                self.respond(status, json.dumps(document).encode())

        super().__init__(Handler)

    def _perform(self, path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.status is not None:
            return self.status, {"errors": ["as told"]}
        *_, action, name = path.split("/")
        versions = self.keys.get(name)
        if versions is None:
            return 404, {"errors": []}
        if action == "keys":
            raw = [key.public_key().public_bytes_raw() for key in versions]
            found = {
                str(number): {"public_key": base64.b64encode(each).decode()}
                for number, each in enumerate(raw, 1)
            }
            return 200, {"data": {"type": "ed25519", "keys": found}}
        number = request["key_version"]
        signature = versions[number - 1].sign(base64.b64decode(request["input"]))
        self.signatures += 1
        text = f"vault:v{number}:{base64.b64encode(signature).decode()}"
        return 200, {"data": {"signature": text}}
