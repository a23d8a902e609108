"""Rekor v1's reading side on loopback: it answers with what was recorded."""

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.server import LoopbackServer, QuietHandler


def recorded(entry: dict[str, Any]) -> dict[str, Any]:
    """A bundle's log entry as ``GET /api/v1/log/entries?logIndex=`` answers with it."""
    proof = entry["inclusionProof"]
    return {
        "108e9186e8c5677a": {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": _hex(entry["logId"]["keyId"]),
            "logIndex": int(entry.get("logIndex", "0")),
            "verification": {
                "inclusionProof": {
                    "checkpoint": proof["checkpoint"]["envelope"],
                    "hashes": [_hex(each) for each in proof.get("hashes", ())],
                    "logIndex": int(proof.get("logIndex", "0")),
                    "rootHash": _hex(proof["rootHash"]),
                    "treeSize": int(proof["treeSize"]),
                },
                "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
            },
        }
    }


class RekorV1Double(LoopbackServer):
    """Answers by log index; ``status`` other than 200 stands for a log that is not well."""

    def __init__(self) -> None:
        self.answers: dict[int, Any] = {}
        self.asked: list[int] = []
        self.status = 200
        double = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                index = int(parse_qs(url.query)["logIndex"][0])
                double.asked.append(index)
                known = url.path == "/api/v1/log/entries" and index in double.answers
                answer = double.answers.get(index)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.respond(double.status if known or double.status != 200 else 404, data)

        super().__init__(Handler)


def _hex(text: str) -> str:
    return base64.b64decode(text).hex()
