"""Images and their proof pushed to three kinds of registry; stock tools read what arrived."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from longseal.mirror.mirror import mirror
from longseal.seal.ceremony import seal_trusted_root
from longseal.seal.keys import public_pem
from longseal.seal.organisation import organisation_key
from longseal.workspace import Workspace
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, rule, seal_with_images
from tests.lab import Lab, SignedImage
from tests.lab.registries import Kind, Registry

pytestmark = pytest.mark.lab

IMAGES, ATTESTATIONS = 4, 2
NAMES = "corp/mirrored-*"
STATEMENT = "https://stella.example/longseal/image/v1"


@dataclass
class Mirrored:
    """Images in one registry, sealed, and sites of every kind that are to have them."""

    lab: Lab
    workspace: Workspace
    images: list[SignedImage]
    sites: dict[Kind, Registry]
    folder: Path

    def reference(self, kind: Kind, image: SignedImage) -> str:
        return f"{self.sites[kind].host}/{image.repository}@{image.digest}"

    def bring(self, kind: Kind) -> dict[str, object]:
        return mirror(self.workspace, self.workspace.settings.site(kind.replace("_", "-")))


@pytest.fixture(scope="module")
def mirrored(
    lab: Lab, docker_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mirrored]:
    images = lab.sign_many(
        docker_registry.url,
        images=IMAGES,
        attestations=ATTESTATIONS,
        repositories=2,
        prefix="corp/mirrored-",
    )
    folder = tmp_path_factory.mktemp("mirror")
    sites = {kind: lab.registry(kind) for kind in get_args(Kind)}
    with TimestampAuthorityDouble(folder / "tsa") as authority:
        signer = {"issuer": lab.issuer, "identity": lab.identity}
        installation = Installation(
            folder / "installation",
            authority,
            {
                "trust": {"trusted_root": str(lab.trusted_root)},
                "registries": [
                    {"name": "main", "url": docker_registry.url, "repositories": [NAMES]}
                ],
                "policy": [rule(signer, "**", NAMES)],
                "sites": [
                    {
                        "name": kind.replace("_", "-"),
                        "kind": "registry",
                        "url": site.url,
                        "repositories": [NAMES],
                    }
                    for kind, site in sites.items()
                ],
            },
        )
        harvest_all(installation.workspace())
        workspace = installation.workspace()
        seal_with_images(workspace, "r-one")
        (folder / "org.pub").write_text(public_pem(organisation_key(workspace).key))
        (folder / "seal-trusted-root.json").write_bytes(seal_trusted_root(workspace))
        yield Mirrored(lab, workspace, images, sites, folder)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_stock_tools_read_and_cosign_verifies_what_a_site_received(
    mirrored: Mirrored, kind: Kind
) -> None:
    lab = mirrored.lab
    done = mirrored.bring(kind)
    assert (done["images"], done["failed"], done["withheld"]) == (IMAGES, {}, {})
    again = mirrored.bring(kind)
    assert (again["images"], again["blobs_sent"], again["kit_files"]) == (IMAGES, 0, 0)
    for image in mirrored.images:
        reference = mirrored.reference(kind, image)
        for predicate_type in image.predicate_types:
            lab.verify_attestation(reference, predicate_type)
        lab.cosign(
            "verify-attestation",
            f"--key={mirrored.folder / 'org.pub'}",
            f"--trusted-root={mirrored.folder / 'seal-trusted-root.json'}",
            f"--type={STATEMENT}",
            "--use-signed-timestamps",
            "--insecure-ignore-tlog=true",
            reference,
        )
    reference = mirrored.reference(kind, mirrored.images[0])
    attached = ATTESTATIONS + 1
    seen = json.loads(lab.run("oras", "discover", "--plain-http", "--format=json", reference))
    assert len(seen["referrers"]) == attached
    lab.run("regctl", "registry", "set", mirrored.sites[kind].host, "--tls=disabled")
    listed = json.loads(lab.run("regctl", "artifact", "list", reference, "--format={{json .}}"))
    descriptors = listed.get("descriptors") or listed.get("manifests") or []
    assert len(descriptors) == attached
    tagged = f"{mirrored.sites[kind].host}/{mirrored.images[0].repository}:{mirrored.images[0].tag}"
    assert lab.run("crane", "digest", "--insecure", tagged).strip() == mirrored.images[0].digest


@pytest.mark.parametrize("kind", get_args(Kind))
def test_skopeo_reads_what_a_site_received(mirrored: Mirrored, kind: Kind) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    mirrored.bring(kind)
    for image in mirrored.images:
        target = f"docker://{mirrored.reference(kind, image)}"
        done = subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", target], capture_output=True, check=True
        )
        assert json.loads(done.stdout)["Digest"] == image.digest
