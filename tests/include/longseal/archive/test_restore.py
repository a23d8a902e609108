"""Restore: what was pruned comes back byte for byte, and the tombstone stays."""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.registry import RegistryDouble
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all
from tests.retired import REPOSITORY, retire

from longseal import rebuild
from longseal.archive import prune
from longseal.archive.restore import put_back, restore
from longseal.archive.tombstones import buried, restored, tombstones
from longseal.audit.comparison import compare
from longseal.canonical import digest_of
from longseal.catalog.models import Evidence
from longseal.cli import main
from longseal.errors import PermanentError, RefusedError
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Manifest
from longseal.registry.model import OCI_MANIFEST, fallback_tag
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key
from longseal.seal.proof_folder import prove, verify_proof
from longseal.verify.report import Report
from longseal.verify.target import Given, verify
from longseal.workspace import utc_now

DSSE = "application/vnd.dsse.envelope.v1+json"


@pytest.fixture
def pruned(tmp_path: Path, authority: TimestampAuthorityDouble) -> tuple[Installation, Manifest]:
    """One attestation of 2023, harvested, sealed and pruned; its manifest as it was."""
    installation = Installation(tmp_path / "installation", authority)
    digest = retire(installation)
    before = installation.registry().manifest(REPOSITORY, digest)
    assert before is not None
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    prune.execute(workspace, planned.digest, "grace")
    assert installation.registry().manifest(REPOSITORY, digest) is None
    return installation, before


def image_of(installation: Installation) -> str:
    return installation.workspace().catalog.evidence()[0].image


@pytest.mark.parametrize("by", ["image", "manifest", "bundle"])
def test_what_was_pruned_comes_back_byte_for_byte(
    pruned: tuple[Installation, Manifest], by: str
) -> None:
    installation, before = pruned
    (row,) = installation.workspace().catalog.evidence()
    # Also where the registry has thrown away what nothing names.
    (installation.folder / f"registry/{REPOSITORY}/blobs/sha256/{row.bundle[7:]}").unlink(
        missing_ok=True
    )
    done = restore(installation.workspace(), getattr(row, by))
    assert done == {"restored": [before.digest], "evidence": 1, "failed": {}}
    registry = installation.registry()
    assert registry.manifest(REPOSITORY, before.digest) == before
    (layer,) = json.loads(before.data)["layers"]
    assert row.bundle == layer["digest"]
    assert len(registry.blob(REPOSITORY, row.bundle, layer["size"])) == layer["size"]
    assert [one.digest for one in registry.referrers(REPOSITORY, row.image) or ()] == [
        before.digest
    ]


def test_the_tombstone_stays_with_a_line_of_the_restoration(
    pruned: tuple[Installation, Manifest],
) -> None:
    installation, before = pruned
    workspace = installation.workspace()
    deletion = workspace.catalog.evidence()[0].tombstone
    restore(workspace, before.digest)
    (tombstone,) = tombstones(workspace)
    assert (tombstone.deletion, tombstone.approver) == (deletion, "grace")
    ((place, (line,)),) = restored(workspace).items()
    assert place == tombstone.place
    assert (line["deletion"], line["actor"]) == (deletion, "longseal")
    assert buried(workspace) == {}
    actions = [entry.action for entry in workspace.ledger.walk()]
    assert actions[-1] == "evidence.restored"
    report = verify(Given(before.digest), lambda: workspace)
    assert report.exit_code == 0
    assert "put back" in report.checks[0].detail


def test_what_was_put_back_is_looked_for_and_planned_again(
    pruned: tuple[Installation, Manifest],
) -> None:
    installation, before = pruned
    restore(installation.workspace(), before.digest)
    assert compare(installation.workspace(), 1.0).exit_code == 0
    rebuild.rebuild(installation.workspace())
    workspace = installation.workspace()
    assert workspace.catalog.evidence()[0].tombstone is None
    again = prune.plan(workspace)
    assert again is not None
    assert [item.manifest for item in again.items] == [before.digest]
    installation.registry().delete_manifest(REPOSITORY, before.digest)
    harvest_all(installation.workspace())
    assert installation.workspace().catalog.images()[0].state == "vanished"


def test_what_was_put_back_is_pruned_by_a_plan_of_its_own(
    pruned: tuple[Installation, Manifest],
) -> None:
    """Also within the week in which the first plan, which has the same items, is young."""
    installation, before = pruned
    (first,) = tombstones(installation.workspace())
    restore(installation.workspace(), before.digest)
    later = installation.workspace(lambda: utc_now() + timedelta(minutes=1))
    again = prune.plan(later)
    assert again is not None and again.key_operations == 1
    done = prune.execute(later, again.digest, "grace")
    assert done["deleted"] == 1
    assert installation.registry().manifest(REPOSITORY, before.digest) is None
    assert {one.deletion for one in tombstones(later)} == {first.deletion, done["deletion"]}


def test_the_plan_that_took_it_takes_it_no_second_time(
    pruned: tuple[Installation, Manifest],
) -> None:
    installation, before = pruned
    (plan,) = [
        entry.details["plan"]
        for entry in installation.workspace().ledger.walk()
        if entry.action == "prune.deleted"
    ]
    restore(installation.workspace(), before.digest)
    prune.execute(installation.workspace(), plan, "grace")
    assert installation.registry().manifest(REPOSITORY, before.digest) == before
    assert [row.tombstone for row in installation.workspace().catalog.evidence()] == [None]


def test_restoring_again_is_refused_and_writes_nothing(
    pruned: tuple[Installation, Manifest],
) -> None:
    installation, before = pruned
    restore(installation.workspace(), before.digest)
    files = installation.files()
    for digest in (before.digest, "sha256:" + "0" * 64):
        with pytest.raises(RefusedError, match=r"nothing that .* names was pruned"):
            restore(installation.workspace(), digest)
    with pytest.raises(RefusedError, match="pruned from other"):
        restore(installation.workspace(), before.digest, "other")
    assert installation.files() == files


def test_an_image_that_is_gone_gets_nothing_back(pruned: tuple[Installation, Manifest]) -> None:
    installation, before = pruned
    image = image_of(installation)
    installation.registry().delete_manifest(REPOSITORY, image)
    arguments = ["restore", f"host/{REPOSITORY}@{image}", "--config", str(installation.config)]
    assert main(arguments) == 1
    assert installation.registry().manifest(REPOSITORY, before.digest) is None
    assert installation.workspace().catalog.evidence()[0].tombstone is not None


def test_a_run_that_was_killed_before_it_noted_anything_is_taken_up(
    pruned: tuple[Installation, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, before = pruned

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("longseal.archive.restore.note_restored", killed)
        with pytest.raises(KeyboardInterrupt):
            restore(installation.workspace(), before.digest)
    assert installation.registry().manifest(REPOSITORY, before.digest) == before
    assert restore(installation.workspace(), before.digest)["restored"] == [before.digest]
    assert installation.workspace().catalog.evidence()[0].tombstone is None


def test_a_mark_of_a_prune_under_way_is_not_restored(
    pruned: tuple[Installation, Manifest],
) -> None:
    installation, before = pruned
    workspace = installation.workspace()
    row = workspace.catalog.evidence()[0]
    workspace.catalog.bury([row.id], "sha256:" + "1" * 64)
    with pytest.raises(RefusedError):
        restore(workspace, before.digest)


def test_a_pruned_digest_answers_with_its_tombstone(pruned: tuple[Installation, Manifest]) -> None:
    installation, before = pruned
    workspace = installation.workspace()
    (row,) = workspace.catalog.evidence()
    (check,) = verify(Given(before.digest), lambda: workspace).checks
    assert check.state.value == "passed"
    assert f"approved by grace, under {row.tombstone}" in check.detail
    assert f"archived in packs/sha256/{row.pack[7:]}.zip" in check.detail


def test_a_tombstone_that_nobody_signed_is_no_answer(pruned: tuple[Installation, Manifest]) -> None:
    installation, before = pruned
    (bundle,) = (installation.folder / "archive/deletions").glob("*/bundle.sigstore.json")
    bundle.chmod(0o644)
    bundle.write_bytes(bundle.read_bytes().replace(b'"sig":"', b'"sig":"AAAA'))
    workspace = installation.workspace()
    (row,) = workspace.catalog.evidence()
    workspace.catalog.bury([row.id], digest_of(bundle.read_bytes()))
    assert verify(Given(before.digest), lambda: workspace).exit_code == 1
    with pytest.raises(PermanentError):
        restore(workspace, before.digest)


def test_pruned_evidence_is_proved_from_the_archive(
    pruned: tuple[Installation, Manifest], tmp_path: Path
) -> None:
    installation, before = pruned
    shutil.rmtree(installation.folder / "registry" / REPOSITORY)
    workspace = installation.workspace()
    (folder,) = prove(workspace, before.digest, tmp_path / "proof")
    assert (folder / "manifest.json").read_bytes() == before.data
    report = Report("proof")
    verify_proof(report, folder, fingerprint(organisation_key(workspace).key), None, 1)
    assert report.exit_code == 0, report.to_json()


# -- registries without a referrers API, and cosign's older attachments ----------------------


def older(registry: DistributionRegistry, double: RegistryDouble, *layers: bytes) -> Any:
    """An image with an ``.att`` of these layers, as cosign 2 writes them.

    :returns: the image, the manifest, and all bytes by digest
    """
    image = double.add_image("corp/app", "v1")
    described, blobs = [], {}
    for layer in layers:
        digest = double.add_blob("corp/app", layer)
        described.append({"mediaType": DSSE, "digest": digest, "size": len(layer)})
        blobs[digest] = layer
    config = (
        b'{"architecture":"","created":"0001-01-01T00:00:00Z","history":['
        + b",".join([b'{"created":"0001-01-01T00:00:00Z"}'] * len(layers))
        + b'],"os":"","rootfs":{"type":"layers","diff_ids":['
        + b",".join(b'"%s"' % one["digest"].encode() for one in described)
        + b']},"config":{}}'
    )
    named = double.add_blob("corp/app", config)
    data = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": named,
                "size": len(config),
            },
            "layers": described,
        }
    ).encode()
    digest = double.add_manifest("corp/app", data, tag=f"{fallback_tag(image)}.att")
    return image, registry.manifest("corp/app", digest), {**blobs, digest: data}, named


def evidence(image: str, manifest: Manifest) -> list[Evidence]:
    return [Evidence(repository="corp/app", image=image, manifest=manifest.digest)]


@pytest.fixture
def served() -> Any:
    with RegistryDouble() as double:
        yield DistributionRegistry("lab", double.url), double


def test_an_older_attachment_comes_back_under_its_tag_with_its_configuration(served: Any) -> None:
    registry, double = served
    image, manifest, blobs, config = older(registry, double, b"one", b"two")
    registry.delete_manifest("corp/app", manifest.digest)
    for digest in (*blobs, config):
        double.repository("corp/app").blobs.pop(digest, None)
    put_back(registry, image, evidence(image, manifest), blobs)
    tag = f"{fallback_tag(image)}.att"
    assert registry.manifest("corp/app", tag) == manifest
    assert registry.has_blob("corp/app", config)


def test_a_tag_that_others_have_written_to_stays(served: Any) -> None:
    registry, double = served
    image, manifest, blobs, _ = older(registry, double, b"one")
    registry.delete_manifest("corp/app", manifest.digest)
    _, others, _, _ = older(registry, double, b"two")
    with pytest.raises(RefusedError, match="1 layers that"):
        put_back(registry, image, evidence(image, manifest), blobs)
    assert registry.manifest("corp/app", f"{fallback_tag(image)}.att") == others


def test_a_blob_that_nobody_kept_stops_it_before_anything_is_written(served: Any) -> None:
    registry, double = served
    image, manifest, blobs, _ = older(registry, double, b"one", b"two")
    lost = next(iter(blobs))
    registry.delete_manifest("corp/app", manifest.digest)
    for digest in blobs:
        double.repository("corp/app").blobs.pop(digest, None)
    kept = {digest: data for digest, data in blobs.items() if digest != lost}
    with pytest.raises(RefusedError, match=f"needs {lost}"):
        put_back(registry, image, evidence(image, manifest), kept)
    assert not any(registry.has_blob("corp/app", one) for one in kept)


@pytest.mark.lab
def test_on_a_real_store_the_catalog_is_made_again_and_what_was_pruned_comes_back(
    on_s3: Installation,
) -> None:
    installation = on_s3
    manifest = retire(installation)
    planned = prune.plan(installation.workspace())
    assert planned is not None
    prune.execute(installation.workspace(), planned.digest, "grace")
    (installation.folder / "catalog.db").unlink()
    assert rebuild.rebuild(installation.workspace()).rows["evidence"] == 1
    assert compare(installation.workspace(), 1.0).exit_code == 0
    assert restore(installation.workspace(), manifest)["restored"] == [manifest]
    assert installation.registry().manifest(REPOSITORY, manifest) is not None
    assert compare(installation.workspace(), 1.0).exit_code == 0
