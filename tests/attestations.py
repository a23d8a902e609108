"""The laboratory's attestations as read from their layouts, and rules to judge them by."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longseal.canonical import canonical_json
from longseal.verify.policy import Policy
from tests.doubles.sigstore import IDENTITY, ISSUER

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
        "identities": [{"identity": IDENTITY, "issuer": ISSUER}],
        "maxCertificateMinutes": 10,
    } | changed


def policy(*rules: dict[str, Any]) -> Policy:
    """The policy of these rules, or of the one of :func:`rule`."""
    return Policy.parse(canonical_json({"rules": list(rules) or [rule()]}))
