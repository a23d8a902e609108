"""Completing proofs: what a log gives is verified, and stands beside the bytes found."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.attestations import policy
from tests.doubles.rekor_v1 import RekorV1Double, recorded
from tests.doubles.sigstore import IDENTITY, ISSUER, SIGNER, SigstoreDouble
from tests.installation import opened, settings

from longseal.archive.leaf import Leaf, Signer
from longseal.archive.pack import Evidence, load_pack, store_pack, write_pack
from longseal.canonical import canonical_json, digest_of, digest_set, sha256_hex
from longseal.completion import MAX_TRIES, Completed, complete
from longseal.harvest import Tally, catalog_row, claim_row, harvest, plan, take_up
from longseal.judgement import difference, preview
from longseal.registry.attach import attach
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from longseal.verify.engine import Engine, Outcome
from longseal.verify.formats import may_lack_proof
from longseal.verify.pool import Case, judge
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace

IMAGE = digest_of(b"image")
FOUND = datetime(2026, 11, 25, tzinfo=UTC)
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
V01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"


@dataclass(frozen=True)
class Place:
    """An installation with evidence, whose log is a double."""

    folder: Path
    log: RekorV1Double
    root: bytes

    def workspace(self, **changes: Any) -> Workspace:
        (self.folder / "trusted_root.json").write_bytes(self.root)
        content = settings(SIGNER, **{"complete_proofs": {"url": self.log.url}, **changes})
        return opened(self.folder, content, lambda: FOUND)

    def complete(self) -> Completed:
        found = complete(self.workspace())
        assert found is not None
        return found

    def keep(self, *payloads: bytes) -> None:
        """What a harvest leaves that verified ``payloads``."""
        workspace = self.workspace()
        items = [evidence(payload) for payload in payloads]
        pack = write_pack(items)
        claim = claim_row(pack, "default.verified", datetime(2028, 12, 1, tzinfo=UTC), FOUND)
        rows = [
            catalog_row(item.leaf, pack.digest)
            | {"proof_tries": 0 if may_lack_proof(item.payload, item.manifest) else None}
            for item in items
        ]
        workspace.catalog.claim_packs([claim], rows)
        store_pack(workspace.archive, pack, claim["retain_until"])
        take_up(workspace)

    def kept(self) -> list[Evidence]:
        """The evidence that the catalog's rows stand for."""
        workspace = self.workspace()
        found = []
        for row in workspace.catalog.evidence():
            items = {item.leaf.line(): item for item in load_pack(workspace.archive, row.pack)}
            found.append(items[row.leaf.encode()])
        return found


def evidence(payload: bytes) -> Evidence:
    layer = {"mediaType": BUNDLE, "digest": digest_of(payload), "size": len(payload)}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer]}
    ).encode()
    leaf = Leaf(
        sha256=sha256_hex(payload),
        sha512=digest_set(payload)["sha512"],
        size=len(payload),
        collected_at=FOUND,
        engine="test",
        image=IMAGE,
        manifest=digest_of(manifest),
        policy=digest_of(b"policy"),
        registry="exported",
        repository="corp/app",
        signed_at=datetime(2026, 11, 24, 10, tzinfo=UTC),
        time_source="rekor",
        trust=digest_of(b"root"),
        verdict="verified",
        subject=(IMAGE,),
        predicate_type="https://stella-ops.example/sbom-delta/v1",
        signer=Signer(IDENTITY, ISSUER),
    )
    return Evidence(leaf, manifest, payload)


def entry_of(bundle: bytes) -> dict[str, Any]:
    (entry,) = json.loads(bundle)["verificationMaterial"]["tlogEntries"]
    return entry  # type: ignore[no-any-return]


def without_proof(bundle: bytes, absent: object = None) -> bytes:
    document = json.loads(bundle)
    entry = document["verificationMaterial"]["tlogEntries"][0]
    del entry["inclusionProof"]
    if absent is not None:
        entry["inclusionProof"] = None
    return json.dumps(document).encode()


@pytest.fixture(scope="session")
def sigstore() -> SigstoreDouble:
    return SigstoreDouble()


@pytest.fixture
def log() -> Iterator[RekorV1Double]:
    with RekorV1Double() as double:
        yield double


@pytest.fixture
def place(tmp_path: Path, sigstore: SigstoreDouble, log: RekorV1Double) -> Place:
    return Place(tmp_path, log, sigstore.trusted_root())


@pytest.fixture
def whole(sigstore: SigstoreDouble) -> bytes:
    """A bundle with promise and proof; its entry is the first of its log."""
    return sigstore.attest(IMAGE)


@pytest.mark.parametrize("absent", [None, "null"])
def test_a_proof_that_the_log_gives_stands_beside_the_bytes_found(
    place: Place, whole: bytes, absent: object
) -> None:
    promised = without_proof(whole, absent)
    place.keep(promised)
    (before,) = place.kept()
    place.log.answers[0] = recorded(entry_of(whole))
    found = place.complete()
    assert (found.completed, found.failed, found.silent) == (1, {}, None)
    (after,) = place.kept()
    assert (after.payload, after.manifest) == (promised, before.manifest)
    assert after.leaf.supersedes == sha256_hex(before.leaf.line())
    assert after.leaf.material == tuple(map(digest_of, after.material))
    (material,) = map(json.loads, after.material)
    proof = entry_of(whole)["inclusionProof"]
    assert material["inclusionProof"]["checkpoint"] == proof["checkpoint"]
    assert material["canonicalizedBody"] == entry_of(whole)["canonicalizedBody"]
    assert [one.action for one in place.workspace().ledger.walk()] == ["proofs.completed"]


def test_a_judgement_rests_on_the_proof_as_soon_as_it_is_there(
    place: Place, whole: bytes, sigstore: SigstoreDouble
) -> None:
    place.keep(without_proof(whole).replace(b"version=0.3", b"version=0.1"))
    (before,) = place.kept()
    place.log.answers[0] = recorded(entry_of(whole))
    place.complete()
    (after,) = place.kept()
    engine = Engine(TrustMaterial.parse(place.root), policy())
    for one in (before, after):
        judgement = judge(engine, Case.kept(one))
        assert judgement.outcome is Outcome.VERIFIED
        assert not difference(one.leaf, judgement)

    def judged(material: dict[str, Any]) -> str | None:
        found = judge(engine, Case.kept(replace(after, material=(canonical_json(material),))))
        return found.reason and found.reason.slug

    proven = json.loads(after.material[0])
    assert judged(proven) is None
    root = base64.b64encode(bytes(32)).decode()
    bad = {**proven, "inclusionProof": {**proven["inclusionProof"], "rootHash": root}}
    assert judged(bad) == "log-entry"
    assert judged(entry_of(sigstore.attest(IMAGE))) == "malformed"


def test_what_is_complete_is_never_asked_for_again(place: Place, whole: bytes) -> None:
    place.keep(whole, without_proof(whole))
    place.log.answers[0] = recorded(entry_of(whole))
    assert place.complete().completed == 1
    before = sorted((place.folder / "archive").rglob("*"))
    assert place.complete() == Completed()
    assert place.log.asked == [0]
    assert sorted((place.folder / "archive").rglob("*")) == before


def test_nothing_is_asked_where_the_settings_name_no_log(place: Place, whole: bytes) -> None:
    place.keep(without_proof(whole))
    assert complete(place.workspace(complete_proofs=None)) is None
    assert place.log.asked == []


def test_a_log_that_does_not_answer_is_no_error_and_is_asked_by_the_next_run(
    place: Place, whole: bytes
) -> None:
    place.keep(without_proof(whole))
    place.log.answers[0] = recorded(entry_of(whole))
    for place.log.status in (500, 429, 302):
        for _ in range(MAX_TRIES):
            found = place.complete()
            assert (found.completed, found.failed) == (0, {})
            assert found.silent is not None and str(place.log.status) in found.silent
    place.log.status = 200
    assert place.complete().completed == 1


def test_an_entry_that_the_log_does_not_have_is_asked_for_so_often_and_no_more(
    place: Place, whole: bytes
) -> None:
    place.keep(without_proof(whole))
    for _ in range(MAX_TRIES):
        assert "no entry 0" in next(iter(place.complete().failed.values()))
    place.log.answers[0] = recorded(entry_of(whole))
    assert place.complete() == Completed()
    assert len(place.log.asked) == MAX_TRIES
    assert place.kept()[0].leaf.material == ()


def _said(answer: dict[str, Any]) -> dict[str, Any]:
    (said,) = answer.values()
    return said  # type: ignore[no-any-return]


def another_body(answer: dict[str, Any]) -> None:
    _said(answer)["body"] = base64.b64encode(b"{}").decode()


def another_time(answer: dict[str, Any]) -> None:
    _said(answer)["integratedTime"] += 1


def another_log(answer: dict[str, Any]) -> None:
    _said(answer)["logID"] = "00" * 32


def another_index(answer: dict[str, Any]) -> None:
    _said(answer)["logIndex"] = 7


def another_root(answer: dict[str, Any]) -> None:
    _said(answer)["verification"]["inclusionProof"]["rootHash"] = "00" * 32


def another_place(answer: dict[str, Any]) -> None:
    proof = _said(answer)["verification"]["inclusionProof"]
    proof["treeSize"], proof["hashes"] = 2, ["00" * 32]


def another_size(answer: dict[str, Any]) -> None:
    proof = _said(answer)["verification"]["inclusionProof"]
    proof["checkpoint"] = proof["checkpoint"].replace("\n1\n", "\n2\n", 1)


def another_signature(answer: dict[str, Any]) -> None:
    proof = _said(answer)["verification"]["inclusionProof"]
    text, _, signature = proof["checkpoint"].rpartition(" ")
    raw = bytearray(base64.b64decode(signature))
    raw[-1] ^= 1
    proof["checkpoint"] = f"{text} {base64.b64encode(raw).decode()}\n"


def no_checkpoint(answer: dict[str, Any]) -> None:
    _said(answer)["verification"]["inclusionProof"]["checkpoint"] = ""


def no_proof(answer: dict[str, Any]) -> None:
    del _said(answer)["verification"]["inclusionProof"]


def two_entries(answer: dict[str, Any]) -> None:
    answer["another"] = _said(answer)


@pytest.mark.parametrize(
    "change",
    [
        another_body,
        another_time,
        another_log,
        another_index,
        another_root,
        another_place,
        another_size,
        another_signature,
        no_checkpoint,
        no_proof,
        two_entries,
    ],
)
def test_a_proof_that_does_not_hold_is_not_stored(
    place: Place, whole: bytes, change: Callable[[dict[str, Any]], None]
) -> None:
    promised = without_proof(whole)
    place.keep(promised)
    answer = recorded(entry_of(whole))
    change(answer)
    place.log.answers[0] = answer
    found = place.complete()
    assert list(found.failed) == [digest_of(promised)]
    assert (found.completed, found.packs) == (0, [])
    assert place.kept()[0].leaf.material == ()


def in_a_tree_of_four(entry: dict[str, Any], sigstore: SigstoreDouble) -> dict[str, Any]:
    """The same entry in a larger tree, whose path for a tree of three would be as long."""
    first = sha256_of(b"\0", base64.b64decode(entry["canonicalizedBody"]))
    second, others = sha256_of(b"second"), sha256_of(b"third and fourth")
    root = sha256_of(b"\1", sha256_of(b"\1", first, second), others)
    checkpoint = sigstore.checkpoint(4, root)
    proof = {
        "checkpoint": {"envelope": checkpoint},
        "hashes": [base64.b64encode(one).decode() for one in (second, others)],
        "rootHash": base64.b64encode(root).decode(),
        "treeSize": "4",
    }
    return {**entry, "inclusionProof": proof}


def sha256_of(*parts: bytes) -> bytes:
    return bytes.fromhex(sha256_hex(b"".join(parts)))


@pytest.mark.parametrize(("size", "completed"), [("4", 1), ("3", 0)])
def test_a_proof_is_for_a_tree_of_the_size_that_the_log_signed(
    place: Place, whole: bytes, sigstore: SigstoreDouble, size: str, completed: int
) -> None:
    place.keep(without_proof(whole))
    entry = in_a_tree_of_four(entry_of(whole), sigstore)
    entry["inclusionProof"]["treeSize"] = size
    place.log.answers[0] = recorded(entry)
    assert place.complete().completed == completed


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[" * 200_000, b"[]", b"{}", b'{"a":7}', b"x" * 2_000_000]
)
def test_an_answer_that_is_none_ends_in_a_reason(place: Place, whole: bytes, answer: bytes) -> None:
    place.keep(without_proof(whole))
    place.log.answers[0] = answer
    found = place.complete()
    assert found.failed or found.silent
    assert found.completed == 0


def test_a_real_proof_of_the_public_log_completes_a_real_bundle(
    tmp_path: Path, log: RekorV1Double, sigstore_bundles: Path
) -> None:
    folder = sigstore_bundles / "mutations/pypi-publish"
    pristine = (folder / "00-pristine.sigstore.json").read_bytes()
    promised = (folder / "inclusion-proof-removed.sigstore.json").read_bytes()
    root = (sigstore_bundles / "trusted_roots/public-good.json").read_bytes()
    place = Place(tmp_path, log, root)
    place.keep(promised)
    entry = entry_of(pristine)
    log.answers[int(entry["logIndex"])] = recorded(entry)
    assert place.complete().completed == 1
    ((material,),) = [one.material for one in place.kept()]
    assert json.loads(material) == entry


def test_a_run_that_died_before_the_catalog_knew_is_done_again(
    place: Place, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.keep(without_proof(whole))
    place.log.answers[0] = recorded(entry_of(whole))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("supersede", "note_proofs"):
        with monkeypatch.context() as patch:
            patch.setattr(f"longseal.catalog.catalog.Catalog.{name}", killed)
            with pytest.raises(KeyboardInterrupt):
                place.complete()
    place.complete()
    (after,) = place.kept()
    assert len(after.material) == 1
    assert place.complete() == Completed()


def test_a_harvest_says_which_evidence_lacks_its_proof_and_a_later_one_knows_it_complete(
    place: Place, sigstore: SigstoreDouble
) -> None:
    workspace = place.workspace()
    registry = LayoutRegistry("writer", place.folder / "registry")
    config = {"mediaType": EMPTY_CONFIG, "digest": digest_of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    data = json.dumps(document).encode()
    image = Descriptor(OCI_MANIFEST, digest_of(data), len(data))
    registry.put_blob("corp/app", digest_of(b"{}"), 2, io.BytesIO(b"{}"))
    registry.put_manifest("corp/app", Manifest(image.digest, OCI_MANIFEST, data), "v1")
    whole = sigstore.attest(image.digest)
    old = json.loads(without_proof(whole)) | {"mediaType": V01}
    material = old["verificationMaterial"]
    material["x509CertificateChain"] = {"certificates": [material.pop("certificate")]}
    attach(registry, "corp/app", image, V01, json.dumps(old).encode(), {})
    attach(registry, "corp/app", image, BUNDLE, sigstore.attest(image.digest), {})
    (batch,) = plan(workspace)[0]
    assert harvest(workspace, batch).total == Tally(found=2, verified=2)
    place.log.answers[0] = recorded(entry_of(whole))
    assert place.complete().completed == 1
    assert place.log.asked == [0]
    assert sorted(len(one.material) for one in place.kept()) == [0, 1]
    assert harvest(place.workspace(), batch).total == Tally(found=2, known=2)
    assert preview(place.workspace(), workspace.policy).changes == []
