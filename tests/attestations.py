"""The laboratory's attestations as read from their layouts, and rules to judge them by."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longseal.canonical import canonical_json
from longseal.verify import legacy
from longseal.verify.policy import Policy
from tests.doubles.sigstore import SIGNER

LAB_SIGNER = {"identity": "ci@stella.example", "issuer": "http://localhost:18100"}


@dataclass(frozen=True)
class Attestation:
    """A bundle, and what it was found on."""

    data: bytes
    image: str
    repository: str

    def changed(self, change: Callable[[dict[str, Any]], object]) -> bytes:
        """The bundle with its document changed in place."""
        document = json.loads(self.data)
        change(document)
        return json.dumps(document).encode()


def read_layouts(root: Path) -> list[Attestation]:
    """Every attestation under ``root``, by repository and manifest."""
    found = []
    for folder in sorted(root.glob("corp/*")):
        blobs = {file.name: file.read_bytes() for file in (folder / "blobs/sha256").iterdir()}
        for _, data in sorted(blobs.items()):
            manifest = json.loads(data) if data.startswith(b"{") else {}
            if "subject" in manifest:
                bundle = blobs[manifest["layers"][0]["digest"].removeprefix("sha256:")]
                image = manifest["subject"]["digest"]
                found.append(Attestation(bundle, image, f"corp/{folder.name}"))
    return found


def rule(**changed: Any) -> dict[str, Any]:
    """A rule of the policy document; unchanged, it accepts the double's signer everywhere."""
    return {
        "repositories": ["**"],
        "predicates": ["https://stella-ops.example/**"],
        "identities": [SIGNER],
        "maxCertificateMinutes": 10,
    } | changed


def policy(*rules: dict[str, Any]) -> Policy:
    """The policy of these rules, or of the one of :func:`rule`."""
    return Policy.parse(canonical_json({"rules": list(rules) or [rule()]}))


def older_annotations(bundle: bytes) -> dict[str, str]:
    """The annotations that older cosign would have written in place of ``bundle``."""
    material = json.loads(bundle)["verificationMaterial"]
    (entry,) = material["tlogEntries"]
    raw = material["certificate"]["rawBytes"]
    payload = {
        "body": entry["canonicalizedBody"],
        "integratedTime": int(entry["integratedTime"]),
        "logIndex": int(entry.get("logIndex", 0)),
        "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
    }
    promise = entry["inclusionPromise"]["signedEntryTimestamp"]
    return {
        legacy.SIGNATURE: "",
        legacy.CERTIFICATE: f"-----BEGIN CERTIFICATE-----\n{raw}\n-----END CERTIFICATE-----\n",
        legacy.BUNDLE: json.dumps({"SignedEntryTimestamp": promise, "Payload": payload}),
    }
