"""Cosign's older attachments, as real projects made them, through the whole harvest."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attestations import older_annotations
from tests.doubles.sigstore import IDENTITY, ISSUER, SigstoreDouble
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, opened, rule, seal, settings

from longseal.archive.pack import load_pack
from longseal.canonical import digest_of, parse_object
from longseal.catalog.models import Evidence
from longseal.harvest import Tally, harvest, plan
from longseal.mirror.delivery import deliver, target_of
from longseal.mirror.plan import plan as mirror_plan
from longseal.registry.interface import Manifest
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from longseal.verify.engine import Engine
from longseal.verify.image import Expectations, verify_image
from longseal.verify.policy import Policy
from longseal.verify.pool import Case, judge
from longseal.verify.report import Report
from longseal.verify.target import Given, verify
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace

REPOSITORY = "corp/app"
PLACES = {"verify": ".sig", "verify-attestation": ".att"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "MANIFEST.tsv").open(newline="") as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["type"] == "oci-case"]


def case_of(folder: Path, row: dict[str, str], bundles: Path) -> Workspace:
    """The layout of ``row`` as a registry, under a policy that takes the row's signer alone."""
    shutil.copytree(
        bundles / row["path"], folder / "registry" / REPOSITORY, copy_function=shutil.copyfile
    )
    signer = {"identity": row["identity"], "issuer": row["issuer"]}
    content = settings(
        signer,
        trust={"trusted_root": str(bundles / row["trusted_root"])},
        policy=[rule(signer, "https://**", REPOSITORY)],
    )
    return opened(folder, content)


@pytest.fixture(scope="module")
def harvested(
    sigstore_bundles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[dict[str, str], Workspace, Evidence]]]:
    """By case, its row and the evidence of the attachment that the row speaks of."""
    found = {}
    for row in rows_of(sigstore_bundles):
        workspace = case_of(tmp_path_factory.mktemp(row["id"]), row, sigstore_bundles)
        assert not harvest_all(workspace).unreachable
        (image,) = {one.image for one in workspace.catalog.evidence()}
        tag = image.replace(":", "-") + PLACES[row["content"]]
        manifest = workspace.registry("exported").resolve(REPOSITORY, tag)
        assert manifest is not None
        (evidence,) = workspace.catalog.evidence(manifest=manifest)
        found[row["id"]] = (row, workspace, evidence)
    yield found


def test_the_twelve_layouts_agree_with_what_upstream_says(
    harvested: dict[str, tuple[dict[str, str], Workspace, Evidence]],
) -> None:
    accepted = {"verify": "ignored", "verify-attestation": "verified"}
    expected = {
        name: accepted[row["content"]] if row["expectation"] == "pass" else "rejected"
        for name, (row, _, _) in harvested.items()
    }
    assert len(expected) == 12
    assert {name: evidence.verdict for name, (_, _, evidence) in harvested.items()} == expected


def test_evidence_is_the_manifest_and_the_layer_and_judged_alike_from_them_alone(
    harvested: dict[str, tuple[dict[str, str], Workspace, Evidence]],
) -> None:
    for row, workspace, evidence in harvested.values():
        (item,) = (
            one
            for one in load_pack(workspace.archive, evidence.pack)
            if one.leaf.line().decode() == evidence.leaf
        )
        layout = Path(workspace.settings.path).parent / "registry" / REPOSITORY / "blobs/sha256"
        assert item.manifest == (layout / evidence.manifest[7:]).read_bytes()
        assert item.payload == (layout / evidence.bundle[7:]).read_bytes()
        leaf = item.leaf
        engine = Engine(
            TrustMaterial.parse(workspace.kept(leaf.trust)),
            Policy.parse(workspace.kept(leaf.policy)),
        )
        again = judge(engine, Case.kept(item))
        assert (again.outcome, again.subjects, again.identity) == (
            leaf.verdict,
            leaf.subject,
            leaf.signer and leaf.signer.identity,
        ), row["id"]
        assert "layers" in parse_object(item.manifest, "manifest")


def test_each_that_is_rejected_has_its_own_reason(
    harvested: dict[str, tuple[dict[str, str], Workspace, Evidence]],
) -> None:
    assert {
        name: (evidence.reason or "").partition(":")[0]
        for name, (_, _, evidence) in harvested.items()
        if evidence.verdict == "rejected"
    } == {
        "oci-conforma-wrong-identity": "identity",
        "oci-connaisseur-wrong-identity": "identity",
        "oci-neg-att-payload-changed": "signature",
        "oci-neg-bundle-annotation-missing": "log-entry",
        "oci-neg-payload-digest-changed": "signature",
        "oci-neg-sig-flipped": "signature",
    }


def test_an_older_attestation_is_sealed_after_it_was_judged_again_from_the_pack(
    sigstore_bundles: Path, tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    row = next(row for row in rows_of(sigstore_bundles) if row["id"] == "oci-conforma-att")
    installation = Installation(
        tmp_path / "installation",
        authority,
        {
            "trust": {"trusted_root": str(sigstore_bundles / row["trusted_root"])},
            "policy": [
                {
                    "repositories": [REPOSITORY],
                    "predicates": ["https://**"],
                    "identities": [{"identity": row["identity"], "issuer": row["issuer"]}],
                }
            ],
        },
    )
    shutil.copytree(
        sigstore_bundles / row["path"],
        installation.folder / "registry" / REPOSITORY,
        copy_function=shutil.copyfile,
    )
    workspace = installation.workspace()
    assert harvest_all(workspace).total == Tally(found=2, verified=1, ignored=1)
    assert seal(workspace, "r-older").sealed is not None
    (evidence,) = (one for one in workspace.catalog.evidence() if one.verdict == "verified")
    report = verify(Given(evidence.bundle), lambda: workspace)
    assert report.exit_code == 0, report.to_json()
    assert "in seal 1" in report.checks[0].detail
    for batch in plan(workspace)[0]:
        assert harvest(workspace, batch).total == Tally(found=2, known=2)


def test_an_attestation_that_older_cosign_adds_makes_none_vanish(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    """It writes a new manifest with all of them under the tag; and what travels is that one."""
    sigstore = SigstoreDouble()
    installation = Installation(tmp_path / "installation", authority)
    (installation.folder / "root.json").write_bytes(sigstore.trusted_root())
    rule = {"repositories": ["corp/*"], "predicates": ["**"]}
    installation.write(
        trust={"trusted_root": "root.json"},
        policy=[{**rule, "identities": [{"issuer": ISSUER, "identity": IDENTITY}]}],
    )
    registry = installation.registry()
    image = _stored(registry, [], "v1")
    tag = image.replace(":", "-") + ".att"
    bundles = [sigstore.attest(image) for _ in range(2)]
    layers = [_older_layer(registry, bundle) for bundle in bundles]
    before = _stored(registry, layers[:1], tag)
    workspace = installation.workspace()
    assert harvest_all(workspace).total == Tally(found=1, verified=1)
    after = _stored(registry, layers, tag)
    assert harvest_all(workspace).total == Tally(found=1, verified=2)
    assert harvest_all(workspace).total == Tally(found=1, known=1)
    assert {row.state for row in workspace.catalog.images()} == {"whole"}

    registry.delete_manifest(REPOSITORY, before)
    site = workspace.settings.site("ship")
    (shipment,) = mirror_plan(workspace, site).shipments
    assert shipment.referrers == (after,)
    delivered = deliver(workspace, site, [shipment])
    assert (delivered.images, delivered.failed) == (1, {})
    there = target_of(workspace, site)
    assert there.resolve(REPOSITORY, tag) == after
    engine = Engine(TrustMaterial.parse(workspace.trusted_root), Policy.parse(workspace.policy))
    report = Report("site")
    verify_image(report, there, REPOSITORY, image, Expectations(engine=engine), workspace.now())
    assert report.exit_code == 0, report.to_json()
    assert len(report.checks) == 3
    assert deliver(workspace, site, [shipment]).copied.blobs_sent == 0

    _stored(registry, layers[1:], tag)
    assert harvest_all(workspace).total.vanished == 2, "the first attestation is in no manifest now"


def _older_layer(registry: LayoutRegistry, bundle: bytes) -> dict[str, Any]:
    envelope = json.dumps(json.loads(bundle)["dsseEnvelope"]).encode()
    registry.put_blob(REPOSITORY, digest_of(envelope), len(envelope), io.BytesIO(envelope))
    return {
        "mediaType": "application/vnd.dsse.envelope.v1+json",
        "digest": digest_of(envelope),
        "size": len(envelope),
        "annotations": older_annotations(bundle),
    }


def _stored(registry: LayoutRegistry, layers: list[dict[str, Any]], tag: str) -> str:
    registry.put_blob(REPOSITORY, digest_of(b"{}"), 2, io.BytesIO(b"{}"))
    config = {"mediaType": EMPTY_CONFIG, "digest": digest_of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    data = json.dumps(document).encode()
    registry.put_manifest(REPOSITORY, Manifest(digest_of(data), OCI_MANIFEST, data), tag)
    return digest_of(data)
