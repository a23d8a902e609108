import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from tests.attestations import LAB_SIGNER, read_layouts
from tests.doubles.registry import RegistryDouble
from tests.doubles.sigstore import IDENTITY, ISSUER, PREDICATE, SigstoreDouble
from tests.installation import harvest_all, opened, settings
from tests.processes import run_together

import longseal.harvest
from longseal.archive.leaf import Leaf
from longseal.archive.pack import MAX_PACK_BYTES, load_pack, pack_key
from longseal.archive.records import newest_records
from longseal.batches import MAX_BATCHES
from longseal.canonical import MAX_JSON_BYTES, digest_of, parse_object
from longseal.catalog.catalog import Catalog
from longseal.catalog.models import Seal
from longseal.errors import RetryableError, SettingsError
from longseal.harvest import (
    Batch,
    Harvested,
    Tally,
    _chunks,
    _Kept,
    plan,
)
from longseal.registry.attach import attach, attachment_manifest, detach
from longseal.registry.interface import Descriptor, Manifest, Registry
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import (
    EMPTY_CONFIG,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    fallback_tag,
)
from longseal.verify.statement import IMAGE_SIGNATURE
from longseal.workspace import Workspace

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
START = datetime(2026, 11, 25, tzinfo=UTC)
SIGNED = datetime(2026, 11, 20, tzinfo=UTC)
APP = "corp/app"


@dataclass(frozen=True)
class Place:
    """A layout as registry, and an archive and a catalog that belong to it."""

    folder: Path
    content: dict[str, Any]

    @property
    def layouts(self) -> Path:
        return self.folder / "registry"

    @property
    def registry(self) -> LayoutRegistry:
        return LayoutRegistry("writer", self.layouts)

    def open(self, hours: float = 0) -> Workspace:
        """As a task sees it that starts this many hours later."""
        now = START + timedelta(hours=hours)
        return opened(self.folder, self.content, lambda: now)

    def harvest(self, hours: float = 0) -> Harvested:
        return harvest_all(self.open(hours))

    def archived(self) -> dict[str, bytes]:
        files = (path for path in (self.folder / "archive").rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


def make_place(folder: Path, root: bytes, signer: dict[str, str], **changed: Any) -> Place:
    for name in ("registry", "archive"):
        (folder / name).mkdir(parents=True)
    (folder / "trusted_root.json").write_bytes(root)
    return Place(folder, settings(signer, **{"harvest": {"workers": 2}, **changed}))


@pytest.fixture
def lab(tmp_path: Path, lab_layouts: Path) -> Place:
    """A copy of the laboratory's twenty images with their hundred attestations."""
    root = (lab_layouts / "trusted_root.json").read_bytes()
    place = make_place(tmp_path / "lab", root, LAB_SIGNER)
    shutil.copytree(lab_layouts / "corp", place.layouts / "corp", copy_function=shutil.copyfile)
    for path in place.layouts.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


@pytest.fixture(scope="session")
def sigstore() -> SigstoreDouble:
    return SigstoreDouble()


@pytest.fixture
def place(tmp_path: Path, sigstore: SigstoreDouble) -> Place:
    """An empty one, where the double's signer is trusted."""
    signer = {"identity": IDENTITY, "issuer": ISSUER}
    return make_place(tmp_path / "place", sigstore.trusted_root(), signer)


# -- putting things into a registry --------------------------------------------------------------


def put(registry: Registry, manifest: Manifest, tag: str | None = None, repo: str = APP) -> None:
    document = parse_object(manifest.data, "manifest")
    if "config" in document:
        _put_blob(registry, b"{}", repo)
    registry.put_manifest(repo, manifest, tag)


def _put_blob(registry: Registry, data: bytes, repo: str = APP) -> None:
    registry.put_blob(repo, digest_of(data), len(data), io.BytesIO(data))


def manifest_of(document: dict[str, Any], media_type: str = OCI_MANIFEST) -> Manifest:
    data = json.dumps({"schemaVersion": 2, "mediaType": media_type} | document).encode()
    return Manifest(digest_of(data), media_type, data)


def described(manifest: Manifest) -> Descriptor:
    return Descriptor(manifest.media_type, manifest.digest, len(manifest.data))


def below_json(child: Descriptor) -> dict[str, Any]:
    return {"mediaType": child.media_type, "digest": child.digest, "size": child.size}


def image(registry: Registry, tag: str, repo: str = APP) -> Descriptor:
    config = {"mediaType": EMPTY_CONFIG, "digest": digest_of(b"{}"), "size": 2}
    made = manifest_of({"config": config, "layers": [], "annotations": {"tag": f"{repo}:{tag}"}})
    put(registry, made, tag, repo)
    return described(made)


def attached(
    registry: Registry, subject: Descriptor, bundle: bytes, kind: str = BUNDLE, repo: str = APP
) -> str:
    return attach(registry, repo, subject, kind, bundle, {})


def layered(registry: Registry, subject: Descriptor, layers: list[tuple[str, bytes]]) -> str:
    """One attachment with several layers."""
    made = attachment_manifest(subject, BUNDLE, b"", {})
    document = json.loads(made.data)
    document["layers"] = [
        {"mediaType": kind, "digest": digest_of(data), "size": len(data)} for kind, data in layers
    ]
    for _, data in layers:
        _put_blob(registry, data)
    changed = manifest_of(document)
    put(registry, changed)
    return changed.digest


# -- what came of it -----------------------------------------------------------------------------

Set = set[tuple[str, str, str, str, str, str]]


def evidence(workspace: Workspace) -> Set:
    """What the catalog holds, with nothing that depends on when it was found."""
    return {
        (
            row.repository,
            row.image,
            row.manifest,
            row.bundle,
            row.verdict,
            (row.reason or "").partition(":")[0],
        )
        for row in workspace.catalog.evidence()
    }


def assert_safe(workspace: Workspace) -> None:
    """Each piece of evidence is in an archived pack, and the pack's leaf is the catalog's."""
    packs = {digest: load_pack(workspace.archive, digest) for digest in workspace.catalog.packs()}
    for row in workspace.catalog.evidence():
        found = {item.leaf.line(): item for item in packs[row.pack]}[row.leaf.encode()]
        leaf = found.leaf
        assert digest_of(found.payload) == row.bundle == f"sha256:{leaf.sha256}"
        assert digest_of(found.manifest) == row.manifest == leaf.manifest
        assert (leaf.image, leaf.repository, leaf.verdict) == (
            row.image,
            row.repository,
            row.verdict,
        )


def records_of(place: Place) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Every archived completeness record by repository and image, the oldest first."""
    return [
        ((record["repository"], record["subject"]), record)
        for name, data in sorted(place.archived().items())
        if "/records/" in name and name.endswith(".jsonl")
        for record in map(json.loads, data.splitlines())
    ]


class Watched:
    """A registry that counts what is asked of it."""

    def __init__(self, inner: Registry) -> None:
        self.inner = inner
        self.blobs: list[str] = []
        self.manifests: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def blob(self, repository: str, digest: str, limit: int) -> bytes:
        self.blobs.append(digest)
        return self.inner.blob(repository, digest, limit)

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        self.manifests.append(reference)
        return self.inner.manifest(repository, reference)


def watch(workspace: Workspace) -> Watched:
    watched = Watched(workspace.registry("exported"))
    workspace._registries["exported"] = watched
    return watched


# -- a harvest and the next ----------------------------------------------------------------------


def test_a_first_harvest_verifies_everything(lab: Place, lab_layouts: Path) -> None:
    workspace = lab.open()
    found = harvest_all(workspace)
    assert found.total == Tally(found=100, verified=100)
    assert not found.findings
    assert len(found.images) == 20
    assert {tally.verified for tally in found.images.values()} == {5}
    expected = {
        (one.repository, one.image, digest_of(one.data)) for one in read_layouts(lab_layouts)
    }
    rows = workspace.catalog.evidence()
    assert {(row.repository, row.image, row.bundle) for row in rows} == expected
    assert {(row.identity, row.verdict) for row in rows} == {("ci@stella.example", "verified")}
    assert_safe(workspace)
    assert [image.state for image in workspace.catalog.images()] == ["whole"] * 20
    assert [entry.action for entry in workspace.ledger.walk()] == ["harvest.stored"]


def test_the_trusted_root_and_the_policy_are_archived_under_the_digests_that_leaves_name(
    lab: Place,
) -> None:
    workspace = lab.open()
    harvest_all(workspace)
    leaves = [Leaf.parse(row.leaf.encode()) for row in workspace.catalog.evidence()]
    assert {(leaf.trust, leaf.policy) for leaf in leaves} == {
        (digest_of(workspace.trusted_root), digest_of(workspace.policy))
    }
    assert workspace.kept(leaves[0].trust) == workspace.trusted_root
    assert workspace.kept(leaves[0].policy) == workspace.policy


def test_a_second_harvest_downloads_nothing_and_writes_nothing(lab: Place) -> None:
    lab.harvest()
    before = lab.archived()
    workspace = lab.open(hours=1)
    watched = watch(workspace)
    found = harvest_all(workspace)
    assert found.total == Tally(found=100, known=100)
    assert not found.findings
    assert found.packs == []
    assert watched.blobs == []
    attachments = {row.manifest for row in workspace.catalog.evidence()}
    assert attachments.isdisjoint(watched.manifests)
    assert lab.archived() == before


def test_a_late_arrival_alone_is_downloaded(place: Place, sigstore: SigstoreDouble) -> None:
    subject = image(place.registry, "v1")
    attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    place.harvest()
    late = sigstore.attest(subject.digest, at=SIGNED)
    attached(place.registry, subject, late)
    workspace = place.open(hours=1)
    watched = watch(workspace)
    assert harvest_all(workspace).total == Tally(found=2, known=1, verified=1)
    assert watched.blobs == [digest_of(late)]
    assert_safe(workspace)


def test_an_image_without_attestations_is_recorded_as_empty(place: Place) -> None:
    subject = image(place.registry, "v1")
    workspace = place.open()
    found = harvest_all(workspace)
    assert found.images == {subject.digest: Tally()}
    (row,) = workspace.catalog.images()
    assert (row.digest, row.state) == (subject.digest, "empty")


# -- what the settings leave out -----------------------------------------------------------------


def chosen(place: Place, **filters: dict[str, list[str]]) -> Place:
    return replace(
        place,
        content=place.content
        | {"registries": [{"name": "exported", "layout": "registry", **filters}]},
    )


def test_tags_that_the_settings_leave_out_are_not_looked_at_and_no_fallback_tag_reveals_them(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subjects = {tag: image(place.registry, tag) for tag in ("v1", "v2-dev", "latest")}
    for subject in subjects.values():
        signed = attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
        manifest = place.registry.manifest(APP, signed)
        assert manifest is not None
        put(place.registry, manifest, fallback_tag(subject.digest) + ".att")
    filtered = chosen(place, tags={"include": ["v*"], "exclude": ["*-dev"]})
    assert set(filtered.harvest().images) == {subjects["v1"].digest}
    assert set(place.harvest(hours=1).images) == {one.digest for one in subjects.values()}
    # What is held is looked for, whatever the filter says: or nobody would see it vanish.
    assert len(filtered.harvest(hours=2).images) == 3


def test_digests_that_the_settings_leave_out_are_not_looked_at(place: Place) -> None:
    subjects = [image(place.registry, tag).digest for tag in ("v1", "v2", "v3")]
    one = chosen(place, digests={"include": [subjects[0]]})
    assert set(one.harvest().images) == {subjects[0]}
    others = chosen(place, digests={"exclude": [f"{subjects[0][:20]}*"]})
    assert set(others.harvest().images) == set(subjects[1:])


# -- one thing wrong among many ------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"x" + data[1:]])
def test_a_blob_that_is_damaged_is_unknown_until_it_is_whole_again(
    damage: Callable[[bytes], bytes], lab: Place, lab_layouts: Path
) -> None:
    one = read_layouts(lab_layouts)[42]
    path = lab.layouts / one.repository / "blobs/sha256" / digest_of(one.data)[7:]
    path.write_bytes(damage(one.data))
    found = lab.harvest()
    assert found.total == Tally(found=100, verified=99, unknown=1)
    assert found.images[one.image] == Tally(found=5, verified=4, unknown=1)
    assert found.findings
    path.write_bytes(one.data)
    assert lab.harvest(hours=1).total == Tally(found=100, verified=1, known=99)
    workspace = lab.open(hours=2)
    assert len(evidence(workspace)) == 100
    assert_safe(workspace)


def test_an_attestation_that_was_rewritten_is_rejected_and_the_others_are_fine(
    lab: Place, lab_layouts: Path
) -> None:
    one = read_layouts(lab_layouts)[0]

    def approve(bundle: dict[str, Any]) -> None:
        bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="

    subject = lab.registry.manifest(one.repository, one.image)
    assert subject is not None
    attached(lab.registry, described(subject), one.changed(approve), repo=one.repository)
    found = lab.harvest()
    assert found.total == Tally(found=101, verified=100, rejected=Counter(signature=1))
    assert found.findings
    assert_safe(lab.open())


def test_an_attestation_of_another_image_is_rejected_for_its_subject(
    lab: Place, lab_layouts: Path
) -> None:
    one, *others = read_layouts(lab_layouts)
    other = next(each for each in others if each.image != one.image)
    subject = lab.registry.manifest(other.repository, other.image)
    assert subject is not None
    moved = attached(lab.registry, described(subject), one.data, repo=other.repository)
    workspace = lab.open()
    found = harvest_all(workspace)
    assert found.total == Tally(found=101, verified=100, rejected=Counter(subject=1))
    assert found.images[other.image].rejected == {"subject": 1}
    # The very same bytes are verified where they belong.
    verdicts = {
        (row.image, row.verdict) for row in workspace.catalog.evidence(bundle=digest_of(one.data))
    }
    assert verdicts == {(one.image, "verified"), (other.image, "rejected")}
    (row,) = workspace.catalog.evidence(manifest=moved)
    assert (row.identity, row.verdict) == ("ci@stella.example", "rejected")
    assert_safe(workspace)


def test_what_no_rule_speaks_of_and_what_strangers_sign_is_kept_with_its_reason(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v1")
    for bundle in (
        sigstore.attest(subject.digest, at=SIGNED, predicate_type="https://else.example/v1"),
        sigstore.attest(subject.digest, at=SIGNED, identity="stranger@else.example"),
        sigstore.attest(subject.digest, at=SIGNED, lifetime=timedelta(minutes=11)),
        sigstore.attest(subject.digest, at=START + timedelta(minutes=6)),
        sigstore.attest(subject.digest, at=SIGNED, names=[x509.DNSName("stella.example")]),
        sigstore.sign(b"{}", at=SIGNED),
        b"not a bundle",
    ):
        attached(place.registry, subject, bundle)
    workspace = place.open()
    found = harvest_all(workspace)
    assert found.total == Tally(
        found=7,
        unknown=1,
        rejected=Counter(
            {"no-rule": 1, "identity": 1, "certificate-lifetime": 1, "future": 1, "malformed": 2}
        ),
    )
    reasons = {row.predicate_type: row.reason for row in workspace.catalog.evidence()}
    assert (reasons["https://else.example/v1"] or "").startswith("no-rule: no rule speaks of")
    assert_safe(workspace)
    assert place.harvest(hours=1).total == Tally(found=7, known=7)


def test_what_is_no_attestation_is_ignored_and_what_cannot_be_judged_is_unknown(
    place: Place, sigstore: SigstoreDouble
) -> None:
    place.content["policy"][0]["predicates"].append(IMAGE_SIGNATURE)
    subject = image(place.registry, "v1")
    signature = sigstore.attest(subject.digest, at=SIGNED, predicate_type=IMAGE_SIGNATURE)
    attached(place.registry, subject, signature)
    attached(place.registry, subject, b"{}", "application/spdx+json")
    attached(place.registry, subject, b"{}", "application/vnd.dev.cosign.simplesigning.v1+json")
    attached(place.registry, subject, b"{}", "application/vnd.dsse.envelope.v1+json")
    envelope = json.dumps(parse_object(signature, "bundle")["dsseEnvelope"]).encode()
    attached(place.registry, subject, envelope, "application/vnd.dsse.envelope.v1+json")
    workspace = place.open()
    refused = Counter(malformed=2)
    assert harvest_all(workspace).total == Tally(found=5, ignored=2, unknown=1, rejected=refused)
    assert Counter(each[-1] for each in evidence(workspace)) == {
        "image-signature": 1,
        "not-an-attestation": 1,
        "malformed": 2,
        "unsupported": 1,
    }
    assert_safe(workspace)


def test_what_is_ignored_is_listed_with_its_type(place: Place) -> None:
    subject = image(place.registry, "v1")
    attached(place.registry, subject, b"{}", "application/spdx+json")
    cyclonedx = "application/vnd.cyclonedx+json"
    config = {"mediaType": EMPTY_CONFIG, "digest": digest_of(b"{}"), "size": 2}
    layer = {"mediaType": cyclonedx, "digest": digest_of(b"sbom"), "size": 4}
    sbom = manifest_of({"config": config, "layers": [layer]})
    put(place.registry, sbom, fallback_tag(subject.digest) + ".sbom")
    unsigned = b'{"_type": "https://in-toto.io/Statement/v1"}'
    attached(place.registry, subject, unsigned, "application/vnd.in-toto+json")
    workspace = place.open()
    assert harvest_all(workspace).total == Tally(found=3, ignored=3)
    assert {row.reason for row in workspace.catalog.evidence()} == {
        "not-an-attestation: no attestation: application/spdx+json",
        "not-an-attestation: no attestation: application/vnd.cyclonedx+json",
        "not-an-attestation: no attestation: application/vnd.in-toto+json",
    }
    assert_safe(workspace)


def test_an_attachment_that_speaks_of_another_subject_is_rejected(
    place: Place, sigstore: SigstoreDouble
) -> None:
    registry = place.registry
    subject, other = image(registry, "v1"), image(registry, "v2")
    there = attached(registry, other, sigstore.attest(other.digest, at=SIGNED))
    listed = manifest_of(
        {"manifests": [{"mediaType": OCI_MANIFEST, "digest": there, "size": 1}]}, OCI_INDEX
    )
    registry.put_manifest(APP, listed, fallback_tag(subject.digest))
    found = place.harvest()
    assert found.images[subject.digest] == Tally(found=1, rejected=Counter(malformed=1))
    assert found.images[other.digest] == Tally(found=1, verified=1)
    assert_safe(place.open())


def test_a_layer_past_the_limit_is_rejected_without_a_download(place: Place) -> None:
    subject = image(place.registry, "v1")
    made = attachment_manifest(subject, BUNDLE, b"", {})
    document = json.loads(made.data)
    document["layers"][0]["size"] = 16 * 1024 * 1024 + 1
    put(place.registry, manifest_of(document))
    workspace = place.open()
    watched = watch(workspace)
    assert harvest_all(workspace).total == Tally(found=1, rejected=Counter(malformed=1))
    assert watched.blobs == []


def test_each_layer_that_speaks_is_judged_and_the_same_bytes_once(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v1")
    good = sigstore.attest(subject.digest, at=SIGNED)
    bad = sigstore.attest(digest_of(b"another"), at=SIGNED)
    simple = "application/vnd.dev.cosign.simplesigning.v1+json"
    layered(
        place.registry,
        subject,
        [(simple, good), (BUNDLE, good), (BUNDLE, bad), (BUNDLE, good), ("text/plain", b"note")],
    )
    workspace = place.open()
    assert harvest_all(workspace).total == Tally(found=1, verified=1, rejected=Counter(subject=1))
    assert len(evidence(workspace)) == 2
    assert_safe(workspace)
    assert place.harvest(hours=1).total == Tally(found=1, known=1)


def test_an_attestation_that_says_more_than_a_leaf_holds_is_rejected(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v1")
    many = {f"algorithm-{n}": "a" * 128 for n in range(3_000)}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": subject.digest[7:]} | many}],
        "predicateType": PREDICATE,
    }
    attached(place.registry, subject, sigstore.sign(json.dumps(statement).encode(), at=SIGNED))
    workspace = place.open()
    assert harvest_all(workspace).total == Tally(found=1, rejected=Counter(malformed=1))
    (row,) = workspace.catalog.evidence()
    assert (row.reason or "").startswith("malformed: what it says cannot be written down")
    assert_safe(workspace)


def test_a_statement_of_our_own_is_no_evidence(place: Place) -> None:
    subject = image(place.registry, "v1")
    manifest = attached(place.registry, subject, b"our own statement")
    workspace = place.open()
    digest = digest_of(b"")
    workspace.catalog.add_seal(
        Seal(sequence=1, period="r-1", digest=digest, root=digest, size=0, sealed_at=START), []
    )
    workspace.catalog.add_image_statements(
        [
            {
                "seal": 1,
                "source": "exported",
                "repository": APP,
                "image": subject.digest,
                "bundle": digest,
                "manifest": manifest,
            }
        ]
    )
    assert harvest_all(workspace).images == {subject.digest: Tally()}


def test_a_tag_that_cannot_be_read_does_not_hide_the_others(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v2")
    attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    below = subject
    for _ in range(6):
        index = manifest_of({"manifests": [below_json(below)]}, OCI_INDEX)
        place.registry.put_manifest(APP, index, "v1")
        below = described(index)
    found = place.harvest()
    assert found.total.verified == 1
    assert set(found.images) == {subject.digest, below.digest}
    assert list(found.unreachable) == [f"exported/{APP}:v1"]
    assert found.findings


def test_the_images_of_an_index_are_harvested_and_so_is_the_index(
    place: Place, sigstore: SigstoreDouble
) -> None:
    registry = place.registry
    child = image(registry, "child")
    index = manifest_of(
        {"manifests": [below_json(child)]},
        OCI_INDEX,
    )
    registry.put_manifest(APP, index, "v1")
    path = place.layouts / APP / "index.json"
    document = json.loads(path.read_bytes())
    document["manifests"] = [
        entry for entry in document["manifests"] if entry["digest"] != child.digest
    ]
    path.write_text(json.dumps(document))
    for subject in (child, described(index)):
        attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    found = place.harvest()
    assert {name: tally.verified for name, tally in found.images.items()} == {
        child.digest: 1,
        index.digest: 1,
    }


def test_the_same_bytes_are_judged_in_each_repository_by_its_own_rule(
    place: Place, sigstore: SigstoreDouble
) -> None:
    for repo in (APP, "elsewhere/app"):
        subject = image(place.registry, "v1", repo)
        same = replace(subject, digest=subject.digest)
        attached(place.registry, same, sigstore.attest(subject.digest, at=SIGNED), repo=repo)
    found = place.harvest()
    assert found.total == Tally(found=2, verified=1, rejected=Counter({"no-rule": 1}))


# -- what is gone --------------------------------------------------------------------------------


@pytest.fixture
def two_images(place: Place, sigstore: SigstoreDouble) -> tuple[Descriptor, str, str]:
    """Harvested: two images with two attestations each. The first, and its two attachments."""
    subjects = [image(place.registry, tag) for tag in ("v1", "v2")]
    manifests = [
        attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
        for subject in subjects
        for _ in range(2)
    ]
    assert place.harvest().total.verified == 4
    return subjects[0], manifests[0], manifests[1]


def states(workspace: Workspace) -> dict[str, str]:
    return {row.digest: row.state for row in workspace.catalog.images()}


def test_evidence_that_is_gone_is_an_alarm_until_it_is_back(
    place: Place, sigstore: SigstoreDouble, two_images: tuple[Descriptor, str, str]
) -> None:
    subject, gone, _ = two_images
    registry = place.registry
    kept = registry.manifest(APP, gone)
    assert kept is not None
    detach(registry, APP, subject.digest, gone)
    for hours in (1, 2):
        workspace = place.open(hours)
        found = harvest_all(workspace)
        assert found.images[subject.digest] == Tally(found=1, known=1, vanished=1)
        assert found.total.vanished == 1
        assert found.findings
        assert states(workspace)[subject.digest] == "vanished"
    (row,) = [row for row in workspace.catalog.images() if row.digest == subject.digest]
    assert json.loads(row.record)["vanished"] == [gone]
    assert row.checked_at == START + timedelta(hours=1)
    registry.put_manifest(APP, kept)
    workspace = place.open(hours=3)
    assert harvest_all(workspace).total == Tally(found=4, known=4)
    assert states(workspace)[subject.digest] == "whole"


def test_an_image_that_is_gone_with_all_of_its_evidence_is_an_alarm(
    place: Place, two_images: tuple[Descriptor, str, str]
) -> None:
    subject, *manifests = two_images
    for each in (*manifests, subject.digest):
        place.registry.delete_manifest(APP, each)
    assert place.registry.tags(APP) == ("v2",)
    found = place.harvest(hours=1)
    assert found.images[subject.digest] == Tally(vanished=2)
    assert found.total == Tally(found=2, known=2, vanished=2)


def test_a_repository_that_is_gone_is_an_alarm(
    place: Place, two_images: tuple[Descriptor, str, str]
) -> None:
    shutil.rmtree(place.layouts / APP)
    assert place.harvest(hours=1).total == Tally(vanished=4)
    # Unless it is no longer to be harvested.
    place.content["registries"][0]["repositories"] = ["corp/other"]
    assert place.harvest(hours=2).total == Tally()


def test_an_attestation_of_an_image_whose_tag_moved_on_is_not_gone(
    place: Place, sigstore: SigstoreDouble, two_images: tuple[Descriptor, str, str]
) -> None:
    moved = place.registry.manifest(APP, "v2")
    assert moved is not None
    put(place.registry, moved, "v1")
    assert place.harvest(hours=1).total == Tally(found=4, known=4)


def test_what_went_under_a_tombstone_has_not_vanished(
    place: Place, two_images: tuple[Descriptor, str, str]
) -> None:
    subject, gone, _ = two_images
    catalog = place.open().catalog
    catalog.bury([row.id for row in catalog.evidence(manifest=gone)], digest_of(b"deletion"))
    detach(place.registry, APP, subject.digest, gone)
    assert place.harvest(hours=1).total == Tally(found=3, known=3)


def test_where_the_search_was_not_whole_nothing_has_vanished(
    place: Place, two_images: tuple[Descriptor, str, str]
) -> None:
    subject, gone, other = two_images
    path = place.layouts / APP / "blobs/sha256" / other[7:]
    data = path.read_bytes()
    detach(place.registry, APP, subject.digest, gone)
    path.write_bytes(data[:-1])
    workspace = place.open(hours=1)
    found = harvest_all(workspace)
    assert found.total.vanished == 0
    assert found.images[subject.digest].unknown == 1
    assert states(workspace)[subject.digest] == "unknown"


# -- killed, and two at once ---------------------------------------------------------------------


@dataclass(frozen=True)
class Undisturbed:
    """A registry, what its harvest comes to when nothing disturbs it, and how long that takes."""

    layouts: Path
    evidence: Set
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, sigstore: SigstoreDouble) -> Undisturbed:
    """Four repositories, every verdict, attachments with two layers."""
    signer = {"identity": IDENTITY, "issuer": ISSUER}
    place = make_place(tmp_path_factory.mktemp("crowd"), sigstore.trusted_root(), signer)
    registry = place.registry
    for repo in ("corp/a", "corp/b", "elsewhere/c"):
        for tag in ("v1", "v2"):
            subject = image(registry, tag, repo)
            for _ in range(4):
                bundle = sigstore.attest(subject.digest, at=SIGNED)
                attached(registry, subject, bundle, repo=repo)
            attached(registry, subject, b"{}", "application/spdx+json", repo=repo)
    subject = image(registry, "v1")
    for _ in range(6):
        good = sigstore.attest(subject.digest, at=SIGNED)
        bad = sigstore.attest(digest_of(b"another"), at=SIGNED)
        layered(registry, subject, [(BUNDLE, good), (BUNDLE, bad)])
    workspace = place.open()
    began = time.monotonic()
    harvest_all(workspace)
    seconds = time.monotonic() - began
    assert_safe(workspace)
    return Undisturbed(place.layouts, evidence(workspace), seconds)


@pytest.fixture
def crowd(undisturbed: Undisturbed, place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The same registry, to be harvested into many small packs."""
    shutil.copytree(undisturbed.layouts, place.layouts, dirs_exist_ok=True)
    monkeypatch.setattr(longseal.harvest, "_CHUNK_MEMBERS", 4)
    return place


def start_harvest(place: Place, hours: float) -> Any:
    process = multiprocessing.get_context("fork").Process(target=place.harvest, args=(hours,))
    process.start()
    return process


SEAMS = [
    ("longseal.catalog.catalog.Catalog.claim_packs", 2),
    ("longseal.archive.directory.DirectoryArchive.put", 5),
    ("longseal.archive.directory.DirectoryArchive.put", 8),
    ("longseal.catalog.catalog.Catalog.mark_stored", 1),
    ("longseal.catalog.catalog.Catalog.mark_stored", 3),
    ("longseal.catalog.catalog.Catalog.record_images", 1),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("seam", "call"), SEAMS)
def test_a_harvest_killed_at_any_seam_is_finished_by_the_next(
    seam: str,
    call: int,
    after: bool,
    crowd: Place,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, _, name = seam.rpartition(".")
    module, _, class_name = owner.rpartition(".")
    kind = getattr(__import__(module, fromlist=["_"]), class_name)
    original = getattr(kind, name)
    calls = 0

    def deadly(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(self, *arguments, **named)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, deadly)
        process = start_harvest(crowd, hours=0)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    workspace = crowd.open(hours=1)
    harvest_all(workspace)
    assert evidence(workspace) == undisturbed.evidence
    assert len(stored(crowd)) == len(undisturbed.evidence)
    assert searched(crowd)
    assert crowd.harvest(hours=2).packs == []


KILLED = 10

_COMMAND = """
import sys
import longseal.harvest
from longseal.cli import main
longseal.harvest._CHUNK_MEMBERS = 4
sys.exit(main(["harvest", "--json", "--config", sys.argv[1]]))
"""


def start_command(place: Place) -> subprocess.Popen[bytes]:
    """``longseal harvest`` as a process group of its own, as a scheduler starts a task."""
    config = place.folder / "longseal.yaml"
    config.write_text(yaml.safe_dump(place.content))
    (place.folder / "tsa.pem").touch()
    argv = [sys.executable, "-c", _COMMAND, str(config)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, start_new_session=True, env=environment
    )


def stored(place: Place) -> set[tuple[str, str, str]]:
    """All that packs hold, with nothing that depends on when it was found or how it was packed.

    Packs, their indexes and the catalog must agree, with nothing left over in any of them.
    """
    workspace = place.open()
    packs = workspace.catalog.packs()
    names = {path.name for path in (place.folder / "archive/packs/sha256").glob("[!.]*")}
    assert names == {f"{one[7:]}.{kind}" for one in packs for kind in ("zip", "parquet", "json")}
    found = []
    for digest in packs:
        items = load_pack(workspace.archive, digest)
        rows = {row.leaf for row in workspace.catalog.evidence(pack=digest)}
        assert rows == {item.leaf.line().decode() for item in items}
        for item in items:
            leaf = json.loads(item.leaf.line())
            if leaf["timeSource"] == "collection":
                del leaf["signedAt"]
            del leaf["collectedAt"]
            what = (json.dumps(leaf), digest_of(item.manifest), digest_of(item.payload))
            found.append(what)
    assert len(found) == len(set(found)) == len(workspace.catalog.evidence())
    return set(found)


def searched(place: Place) -> set[str]:
    """The completeness records that a seal would take, without their times; by the catalog too."""
    workspace = place.open()
    images = workspace.catalog.images()
    places = [(row.source, row.repository, row.digest) for row in images]
    newest = {record.line for record in newest_records(workspace.archive, places).values()}
    assert newest == {row.record.encode() for row in images}
    return {json.dumps(json.loads(line) | {"checkedAt": ""}) for line in newest}


@pytest.fixture(scope="session")
def finished(
    undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory, sigstore: SigstoreDouble
) -> tuple[Place, float]:
    """A command that was left alone, and how long it took."""
    place = copy_of(undisturbed, tmp_path_factory.mktemp("finished"), sigstore)
    began = time.monotonic()
    assert start_command(place).wait() == 1, "rejected attestations are findings"
    return place, time.monotonic() - began


def copy_of(undisturbed: Undisturbed, folder: Path, sigstore: SigstoreDouble) -> Place:
    signer = {"identity": IDENTITY, "issuer": ISSUER}
    place = make_place(folder / "place", sigstore.trusted_root(), signer)
    shutil.copytree(undisturbed.layouts, place.layouts, dirs_exist_ok=True)
    return place


@pytest.mark.parametrize("number", range(KILLED))
def test_a_command_killed_at_a_random_moment_and_run_again_ends_like_one_that_was_not(
    number: int, place: Place, undisturbed: Undisturbed, finished: tuple[Place, float]
) -> None:
    shutil.copytree(undisturbed.layouts, place.layouts, dirs_exist_ok=True)
    undisturbed_place, seconds = finished
    moment = (number + random.Random(number).random()) / KILLED
    process = start_command(place)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment * seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    place.harvest(hours=1)
    assert stored(place) == stored(undisturbed_place)
    assert searched(place) == searched(undisturbed_place)
    assert evidence(place.open()) == undisturbed.evidence
    assert place.harvest(hours=2).packs == []


def test_a_command_killed_again_and_again_ends_like_one_that_was_not(
    place: Place, undisturbed: Undisturbed, finished: tuple[Place, float]
) -> None:
    shutil.copytree(undisturbed.layouts, place.layouts, dirs_exist_ok=True)
    undisturbed_place, seconds = finished
    moments = random.Random(KILLED)
    for _ in range(KILLED // 2):
        process = start_command(place)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.4, 1) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    place.harvest(hours=1)
    assert stored(place) == stored(undisturbed_place)
    assert searched(place) == searched(undisturbed_place)


def test_a_pack_that_was_claimed_and_written_is_taken_up_and_not_harvested_again(
    crowd: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Any, digest: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("longseal.catalog.catalog.Catalog.mark_stored", killed)
        with pytest.raises(KeyboardInterrupt):
            crowd.harvest()
    workspace = crowd.open(hours=1)
    written = crowd.archived()
    stored = [
        digest
        for digest in workspace.catalog.claimed_packs()
        if f"archive/{pack_key(digest)}" in written
    ]
    assert len(stored) == 1
    harvest_all(workspace)
    assert stored[0] in workspace.catalog.packs()
    assert all(row.collected_at == START for row in workspace.catalog.evidence(pack=stored[0]))
    assert workspace.catalog.evidence(pack=stored[0])


def test_of_an_attachment_in_two_packs_only_what_is_missing_is_packed_again(
    place: Place, sigstore: SigstoreDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = image(place.registry, "v1")
    good = sigstore.attest(subject.digest, at=SIGNED)
    bad = sigstore.attest(digest_of(b"another"), at=SIGNED)
    layered(place.registry, subject, [(BUNDLE, good), (BUNDLE, bad)])
    store_pack = longseal.harvest.store_pack
    written = []

    def killed(archive: Any, pack: Any, *kept: Any) -> None:
        written.append(pack)
        if len(written) == 2:
            raise KeyboardInterrupt
        store_pack(archive, pack, *kept)

    with monkeypatch.context() as patch:
        patch.setattr("longseal.harvest.store_pack", killed)
        with pytest.raises(KeyboardInterrupt):
            place.harvest()
    # One of each verdict more: both packs are written anew, and neither has anything twice.
    for digest in (subject.digest, digest_of(b"another")):
        attached(place.registry, subject, sigstore.attest(digest, at=SIGNED))
    place.harvest(hours=1)
    assert len(stored(place)) == 4


def _harvest_together(place: Place, hours: float, start: Any) -> None:
    start.wait()
    place.harvest(hours)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_harvests_at_once_do_no_harm(
    database: str, crowd: Place, undisturbed: Undisturbed, request: pytest.FixtureRequest
) -> None:
    if database == "postgresql":
        crowd.content["catalog"] = request.getfixturevalue("postgresql_url")
    run_together(_harvest_together, (crowd, 0), (crowd, 1), (crowd, 2))
    workspace = crowd.open(hours=3)
    assert evidence(workspace) == undisturbed.evidence
    assert_safe(workspace)
    assert harvest_all(workspace).packs == []


def _harvest_and_tell(place: Place, hours: float, about_to_pack: Any) -> None:
    turn = Catalog.turn

    def told(self: Catalog, *of: Any) -> Any:
        about_to_pack.set()
        return turn(self, *of)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Catalog, "turn", told)
        place.harvest(hours)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_harvest_that_finds_another_at_its_pack_waits_and_leaves_no_second_one(
    database: str,
    crowd: Place,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """What the archive takes, it may have to keep for years: nothing may lie there unnamed."""
    if database == "postgresql":
        crowd.content["catalog"] = request.getfixturevalue("postgresql_url")
    store_pack = longseal.harvest.store_pack
    fork = multiprocessing.get_context("fork")
    about_to_pack = fork.Event()
    others = [fork.Process(target=_harvest_and_tell, args=(crowd, 1, about_to_pack))]

    def slow(*pack: Any) -> None:
        if others[0].pid is None:
            others[0].start()
            assert about_to_pack.wait(60)
            # If it can, it is done now.
            others[0].join(2)
        store_pack(*pack)

    monkeypatch.setattr("longseal.harvest.store_pack", slow)
    crowd.harvest()
    others[0].join()
    assert others[0].exitcode == 0
    workspace = crowd.open(hours=2)
    assert evidence(workspace) == undisturbed.evidence
    assert_safe(workspace)
    named = {row.pack for row in workspace.catalog.evidence()}
    written = {path for path in crowd.archived() if path.endswith(".zip")}
    assert written == {f"archive/{pack_key(digest)}" for digest in named}


def _die(cases: Any) -> None:
    os._exit(9)


def test_a_verifier_that_dies_fails_the_task_and_the_next_finishes(
    crowd: Place, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("longseal.verify.pool._judge_all", _die)
        with pytest.raises(RetryableError, match="died"):
            crowd.harvest()
    workspace = crowd.open(hours=1)
    harvest_all(workspace)
    assert evidence(workspace) == undisturbed.evidence


# -- what cannot be reached, and settings that do not hold ---------------------------------------


def remote(url: str, name: str = "remote") -> dict[str, Any]:
    return {"name": name, "url": url, "repositories": ["corp/*"]}


def test_one_registry_of_several_that_is_silent_is_reported(lab: Place) -> None:
    with RegistryDouble(basic=("somebody", "secret")) as registry:
        lab.content["registries"].append(remote(registry.url))
        found = lab.harvest()
    assert found.total == Tally(found=100, verified=100)
    assert list(found.unreachable) == ["remote"]
    assert "401" in found.unreachable["remote"]
    assert found.findings


def test_where_no_registry_answers_the_setting_is_named(place: Place) -> None:
    with RegistryDouble(basic=("somebody", "secret")) as registry:
        place.content["registries"] = [remote(registry.url, "one"), remote(registry.url, "two")]
        with pytest.raises(SettingsError, match=r"no registry answered; one: .*401") as caught:
            place.harvest()
    assert caught.value.setting == "registries"


def test_a_repository_that_is_silent_is_reported_and_the_others_are_harvested(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v1")
    attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    image(place.registry, "v1", "corp/broken")
    (place.layouts / "corp/broken/index.json").write_text("{")
    found = place.harvest()
    assert found.total == Tally(found=1, verified=1)
    assert list(found.unreachable) == ["exported/corp/broken"]


@pytest.mark.parametrize(
    "root",
    [
        b"",
        b"{",
        b"{}",
        b"[" * 200_000,
        b'{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}',
    ],
    ids=["empty", "cut off", "no root", "nested", "no logs"],
)
def test_a_trusted_root_that_cannot_be_used_is_an_error_of_its_setting(
    root: bytes, place: Place
) -> None:
    image(place.registry, "v1")
    (place.folder / "trusted_root.json").write_bytes(root)
    with pytest.raises(SettingsError) as caught:
        place.harvest()
    assert caught.value.setting == "trust.trusted_root"
    assert "trusted_root.json" in str(caught.value)
    assert place.archived() == {}


# -- parts ---------------------------------------------------------------------------------------


def test_a_chunk_with_the_largest_evidence_fits_into_a_pack(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v1")
    attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    workspace = place.open()
    harvest_all(workspace)
    (small,) = load_pack(workspace.archive, workspace.catalog.evidence()[0].pack)
    large = replace(small, manifest=bytes(MAX_MANIFEST_BYTES), payload=bytes(MAX_JSON_BYTES))
    found = [_Kept(item, "default", SIGNED) for item in ([small] * 8 + [large] * 8) * 5]
    chunks = list(_chunks(found))
    assert [one for chunk in chunks for one in chunk] == found
    assert max(sum(one.evidence.size for one in chunk) for chunk in chunks) < MAX_PACK_BYTES
    assert len(chunks) < len(found) / 2


def test_evidence_beyond_one_pack_goes_into_several(
    place: Place, sigstore: SigstoreDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longseal.harvest, "_CHUNK_BYTES", 64 * 1024)
    subject = image(place.registry, "v1")
    for _ in range(30):
        attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    workspace = place.open()
    found = harvest_all(workspace)
    assert found.total.verified == 30
    assert len(found.packs) > 1
    assert_safe(workspace)


def test_a_pack_holds_one_verdict_and_its_date_is_pinned(
    place: Place, sigstore: SigstoreDouble
) -> None:
    place.content["retention"] = {"default": "24 months"}
    subject = image(place.registry, "v1")
    attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    attached(place.registry, subject, sigstore.attest(digest_of(b"another"), at=SIGNED))
    future = datetime(2034, 1, 1, tzinfo=UTC)
    attached(place.registry, subject, sigstore.attest(subject.digest, at=future))
    workspace = place.open()
    found = harvest_all(workspace)
    packs = {digest: workspace.catalog.pack(digest) for digest in found.packs}
    assert {pack.evidence_class for pack in packs.values()} == {
        "default.verified",
        "default.rejected",
    }
    for digest, pack in packs.items():
        assert pack.retain_until == datetime(2028, 12, 1, tzinfo=UTC)
        stored = workspace.archive.stat(pack_key(digest))
        assert stored is not None
        assert stored.retain_until == pack.retain_until


def test_the_completeness_records_are_archived_with_the_time_of_the_search(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v1")
    manifest = attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    place.harvest()
    kept = [data for name, data in place.archived().items() if name.endswith(".jsonl")]
    (line,) = (json.loads(data) for data in kept)
    assert (line["checkedAt"], line["found"], line["state"], line["vanished"]) == (
        "2026-11-25T00:00:00Z",
        [manifest],
        "whole",
        [],
    )


def test_a_record_is_archived_again_only_when_the_search_ends_otherwise(
    place: Place, sigstore: SigstoreDouble
) -> None:
    subject = image(place.registry, "v1")
    manifest = attached(place.registry, subject, sigstore.attest(subject.digest, at=SIGNED))
    searched = [("corp/app", subject.digest)]
    for hours in range(3):
        place.harvest(hours)
    assert [name for name, _ in records_of(place)] == searched
    detach(place.registry, APP, subject.digest, manifest)
    place.harvest(hours=3)
    place.harvest(hours=4)
    first, second = records_of(place)
    assert (first[1]["vanished"], second[1]["vanished"]) == ([], [manifest])
    assert second[1]["checkedAt"] == "2026-11-25T03:00:00Z"


@pytest.mark.parametrize("limit", ["_SLICE", "_CANDIDATES"])
def test_a_batch_is_worked_off_in_slices_and_nothing_is_lost_between(
    limit: str, crowd: Place, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longseal.harvest, limit, 2)
    workspace = crowd.open()
    found = harvest_all(workspace)
    assert evidence(workspace) == undisturbed.evidence
    assert len(found.images) == len(workspace.catalog.images()) == 7
    assert_safe(workspace)
    assert len(records_of(crowd)) == 7
    assert harvest_all(crowd.open(hours=1)).packs == []


def test_a_registry_of_many_repositories_is_divided_into_batches(place: Place) -> None:
    for n in range(600):
        folder = place.layouts / f"corp/{n:03}"
        folder.mkdir(parents=True)
        (folder / "oci-layout").write_text("{}")
    batches, silent = plan(place.open(), size=250)
    assert [len(batch.repositories) for batch in batches] == [250, 250, 100]
    assert silent == {}
    batches, _ = plan(place.open(), size=1)
    assert len(batches) <= MAX_BATCHES
    names = [name for batch in batches for name in batch.repositories]
    assert names == [f"corp/{n:03}" for n in range(600)]


def test_batches_and_counts_survive_json() -> None:
    batch = Batch("main", ("corp/a", "corp/b"))
    assert Batch.from_json(json.loads(json.dumps(batch.to_json()))) == batch
    tally = Tally(found=3, verified=1, rejected=Counter(subject=2))
    assert Tally.from_json(json.loads(json.dumps(tally.to_json()))) == tally
    one = Harvested({"image": tally}, ["pack"], {"main": "silent"})
    one.add(Harvested({"image": tally, "other": Tally(ignored=1)}, ["more"]))
    assert one.to_json() == {
        **Tally(found=6, verified=2, ignored=1, rejected=Counter(subject=4)).to_json(),
        "images": {
            "image": Tally(found=6, verified=2, rejected=Counter(subject=4)).to_json(),
            "other": Tally(ignored=1).to_json(),
        },
        "packs": ["pack", "more"],
        "unreachable": {"main": "silent"},
    }
