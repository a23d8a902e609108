"""Evidence of the past, and an image whose one attestation is past its retention."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from longseal.canonical import canonical_json, digest_of, timestamp
from longseal.registry.attach import EMPTY, attach
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from longseal.seal.bundle import MEDIA_TYPE
from longseal.workspace import utc_now
from tests.doubles.sigstore import IDENTITY, ISSUER, SigstoreDouble
from tests.installation import Installation, harvest_all, rule, seal

REPOSITORY = "corp/old"
SIGNED_AT = datetime(2023, 5, 1, tzinfo=UTC)


RULE: Final = {
    "repositories": ["*/*"],
    "classes": ["default.verified"],
    "maxCount": 10,
    "maxShare": 100,
}
"""Of an approval policy: whatever :func:`retire` puts there needs nobody."""


def approval_policy(*rules: Mapping[str, Any], days: int = 30, **more: Any) -> bytes:
    """An approval policy of these rules, for so many days from now on."""
    until = timestamp(utc_now().replace(microsecond=0) + timedelta(days=days))
    return json.dumps({"rules": list(rules), "validUntil": until, **more}).encode()


def trust_double(installation: Installation, start: datetime) -> SigstoreDouble:
    """Have the installation trust a Sigstore double, and nothing else, for ``REPOSITORY``."""
    sigstore = SigstoreDouble(start=start)
    (installation.folder / "root.json").write_bytes(sigstore.trusted_root())
    installation.write(
        trust={"trusted_root": "root.json"},
        registries=[{"name": "exported", "layout": "registry", "repositories": [REPOSITORY]}],
        # One attachment is all that the repository has.
        retention={"max_share": 100},
        policy=[rule({"issuer": ISSUER, "identity": IDENTITY}, "**", REPOSITORY)],
    )
    return sigstore


def harvest_image(
    installation: Installation, sigstore: SigstoreDouble, at: datetime, ago: timedelta = timedelta()
) -> str:
    """Put an image that was attested at this time into the registry, and harvest it.

    :param ago: how long before now it was harvested
    :returns: the attestation's manifest
    """
    manifest = put_attested(installation, sigstore, at)
    harvest_all(installation.workspace(lambda: utc_now() - ago))
    return manifest


def put_attested(installation: Installation, sigstore: SigstoreDouble, at: datetime) -> str:
    """Put an image that was attested at this time into the registry; the attestation's manifest."""
    image, subject = put_image(installation, REPOSITORY, at)
    bundle = sigstore.attest(image, at=at)
    return attach(installation.registry(), REPOSITORY, subject, MEDIA_TYPE, bundle, {})


def put_image(installation: Installation, repository: str, at: datetime) -> tuple[str, Descriptor]:
    """Put an image of its own for this time into the registry.

    :returns: its digest, and what is attached to it names
    """
    image = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": EMPTY_CONFIG, "digest": digest_of(EMPTY), "size": len(EMPTY)},
            "layers": [],
            "annotations": {"org.opencontainers.image.created": timestamp(at)},
        }
    )
    digest = digest_of(image)
    installation.registry().put_manifest(
        repository, Manifest(digest, OCI_MANIFEST, image), f"v{at:%Y-%m-%d}"
    )
    return digest, Descriptor(OCI_MANIFEST, digest, len(image))


def retire(installation: Installation) -> str:
    """Put such an image into the registry, harvest it, and seal it as ``r-old``.

    :returns: the attestation's manifest
    """
    sigstore = trust_double(installation, datetime(2023, 1, 1, tzinfo=UTC))
    # What is found later was not found in the same second: of two such records the newer counts.
    manifest = harvest_image(installation, sigstore, SIGNED_AT, timedelta(hours=1))
    seal(installation.workspace(), "r-old")
    return manifest
