"""An image whose one attestation is past its retention."""

from datetime import UTC, datetime

from longseal import harvest
from longseal.canonical import canonical_json, digest_of
from longseal.registry.attach import EMPTY, attach
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from longseal.seal.bundle import MEDIA_TYPE
from longseal.seal.reseal import Reseal
from tests.doubles.sigstore import IDENTITY, ISSUER, SigstoreDouble
from tests.installation import Installation

REPOSITORY = "corp/old"
SIGNED_AT = datetime(2023, 5, 1, tzinfo=UTC)


def retire(installation: Installation) -> str:
    """Put such an image into the registry, harvest it, and seal it as ``r-old``.

    :returns: the attestation's manifest
    """
    sigstore = SigstoreDouble(start=datetime(2023, 1, 1, tzinfo=UTC))
    (installation.folder / "root.json").write_bytes(sigstore.trusted_root())
    rule = {"repositories": [REPOSITORY], "predicates": ["**"]}
    installation.write(
        trust={"trusted_root": "root.json"},
        registries=[{"name": "exported", "layout": "registry", "repositories": [REPOSITORY]}],
        policy=[{**rule, "identities": [{"issuer": ISSUER, "identity": IDENTITY}]}],
    )
    image = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": EMPTY_CONFIG, "digest": digest_of(EMPTY), "size": len(EMPTY)},
            "layers": [],
        }
    )
    registry, digest = installation.registry(), digest_of(image)
    registry.put_manifest(REPOSITORY, Manifest(digest, OCI_MANIFEST, image), "v1")
    subject = Descriptor(OCI_MANIFEST, digest, len(image))
    bundle = sigstore.attest(digest, at=SIGNED_AT)
    manifest = attach(registry, REPOSITORY, subject, MEDIA_TYPE, bundle, {})
    workspace = installation.workspace()
    for batch in harvest.plan(workspace)[0]:
        harvest.harvest(workspace, batch)
    reseal = Reseal(workspace, "r-old")
    for step in ("freeze", "recheck", "sign", "timestamp", "log", "check", "publish"):
        getattr(reseal, step)()
    return manifest
