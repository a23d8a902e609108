"""Evidence of the past, and an image whose one attestation is past its retention."""

from datetime import UTC, datetime

from longseal import harvest
from longseal.canonical import canonical_json, digest_of, timestamp
from longseal.registry.attach import EMPTY, attach
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from longseal.seal.bundle import MEDIA_TYPE
from tests.doubles.sigstore import IDENTITY, ISSUER, SigstoreDouble
from tests.installation import Installation, seal

REPOSITORY = "corp/old"
SIGNED_AT = datetime(2023, 5, 1, tzinfo=UTC)


def trust_double(installation: Installation, start: datetime) -> SigstoreDouble:
    """Have the installation trust a Sigstore double, and nothing else, for ``REPOSITORY``."""
    sigstore = SigstoreDouble(start=start)
    (installation.folder / "root.json").write_bytes(sigstore.trusted_root())
    rule = {"repositories": [REPOSITORY], "predicates": ["**"]}
    installation.write(
        trust={"trusted_root": "root.json"},
        registries=[{"name": "exported", "layout": "registry", "repositories": [REPOSITORY]}],
        policy=[{**rule, "identities": [{"issuer": ISSUER, "identity": IDENTITY}]}],
    )
    return sigstore


def harvest_image(installation: Installation, sigstore: SigstoreDouble, at: datetime) -> str:
    """Put an image that was attested at this time into the registry, and harvest it.

    :returns: the attestation's manifest
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
    registry, digest = installation.registry(), digest_of(image)
    registry.put_manifest(REPOSITORY, Manifest(digest, OCI_MANIFEST, image), f"v{at:%Y-%m-%d}")
    subject = Descriptor(OCI_MANIFEST, digest, len(image))
    bundle = sigstore.attest(digest, at=at)
    manifest = attach(registry, REPOSITORY, subject, MEDIA_TYPE, bundle, {})
    workspace = installation.workspace()
    for batch in harvest.plan(workspace)[0]:
        harvest.harvest(workspace, batch)
    return manifest


def retire(installation: Installation) -> str:
    """Put such an image into the registry, harvest it, and seal it as ``r-old``.

    :returns: the attestation's manifest
    """
    sigstore = trust_double(installation, datetime(2023, 1, 1, tzinfo=UTC))
    manifest = harvest_image(installation, sigstore, SIGNED_AT)
    seal(installation.workspace(), "r-old")
    return manifest
