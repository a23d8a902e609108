import base64
import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.doubles.sigstore import IDENTITY, ISSUER, SigstoreDouble
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, opened, rule, seal, settings
from tests.retired import REPOSITORY, retire

from longseal.archive import prune
from longseal.archive.pack import load_pack
from longseal.canonical import MAX_JSON_BYTES, digest_of
from longseal.cli import main
from longseal.errors import MalformedError, RefusedError, SettingsError
from longseal.harvest import Tally
from longseal.intake import intake
from longseal.mirror.plan import plan as mirror_plan
from longseal.settings import parse
from longseal.verify.documents import MAX_BROKEN, evidence_in
from longseal.verify.engine import Engine
from longseal.verify.policy import Policy
from longseal.verify.pool import Case, judge
from longseal.verify.target import Given, verify
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace

APP = "corp/app"
IMAGE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture(scope="module")
def sigstore() -> SigstoreDouble:
    return SigstoreDouble()


@pytest.fixture
def workspace(tmp_path: Path, sigstore: SigstoreDouble) -> Workspace:
    root = tmp_path / "trusted_root.json"
    root.write_bytes(sigstore.trusted_root())
    return make_workspace(tmp_path, root, identity=IDENTITY, issuer=ISSUER)


def make_workspace(folder: Path, root: Path, **signer: str) -> Workspace:
    content = settings(
        signer, trust={"trusted_root": str(root)}, policy=[rule(signer, "https://**")]
    )
    for name in ("key.pem", "tsa.pem"):
        (folder / name).touch()
    # The command reads it from there.
    (folder / "longseal.yaml").write_text(yaml.safe_dump(content))
    return opened(folder, content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a CI run left behind."""
    made = tmp_path / "ci"
    made.mkdir()
    return made


def stored(workspace: Workspace) -> dict[str, tuple[str, bytes]]:
    """By image, how its evidence was judged, and the bytes that are archived of it."""
    packs = {digest: load_pack(workspace.archive, digest) for digest in workspace.catalog.packs()}
    return {
        item.leaf.image: (item.leaf.reason or item.leaf.verdict, item.payload)
        for items in packs.values()
        for item in items
    }


def test_every_file_of_a_folder_is_taken_in_and_bytes_are_kept_as_found(
    workspace: Workspace, folder: Path, sigstore: SigstoreDouble
) -> None:
    bundles = [sigstore.attest(f"sha256:{number:064}") for number in range(5)]
    pretty = json.dumps(json.loads(bundles[0]), indent=2).encode()
    (folder / "one.json").write_bytes(pretty)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "lines.jsonl").write_bytes(bundles[1] + b"\n\r\n" + bundles[2])
    answer = b'{"attestations": [{"bundle": ' + bundles[3] + b"}]}"
    (folder / "deep" / "answer").write_bytes(answer)
    (folder / "array.json").write_bytes(b"[" + bundles[4] + b"]\n")
    (folder / "package.json").write_bytes(b'{"name": "app"}')
    (folder / "log.jsonl").write_bytes(b'{"level": "info"}\n' * 500)
    (folder / "binary").write_bytes(b"\x7fELF" + bytes(100))
    (folder / "empty").touch()
    found = intake(workspace, folder, APP)
    assert found.total == Tally(found=5, verified=5)
    assert not found.findings
    expected = [pretty, *bundles[1:]]
    assert stored(workspace) == {
        f"sha256:{number:064}": ("verified", data) for number, data in enumerate(expected)
    }
    rows = workspace.catalog.evidence()
    assert {(row.source, row.repository, row.verdict) for row in rows} == {
        ("intake", APP, "verified")
    }
    (entry,) = workspace.ledger.walk()
    assert (entry.action, entry.details["registry"]) == ("harvest.stored", "intake")


def test_what_is_known_is_neither_judged_nor_stored_again(
    workspace: Workspace, folder: Path, sigstore: SigstoreDouble
) -> None:
    bundle = sigstore.attest(IMAGE)
    (folder / "a.json").write_bytes(bundle)
    (folder / "again.jsonl").write_bytes(bundle + b"\n" + bundle + b"\n")
    assert intake(workspace, folder, APP).total == Tally(found=1, verified=1)
    late = sigstore.attest(IMAGE)
    (folder / "b.json").write_bytes(late)
    (folder / "a.json").rename(folder / "renamed.json")
    found = intake(workspace, folder, APP)
    assert found.total == Tally(found=2, verified=1, known=1)
    assert len(found.packs) == 1
    assert intake(workspace, folder, APP).packs == []
    assert len(workspace.catalog.evidence()) == 2


def test_evidence_is_filed_under_every_image_that_it_speaks_of(
    workspace: Workspace, sigstore: SigstoreDouble
) -> None:
    statement = json.loads(_payload(sigstore.attest(IMAGE)))
    statement["subject"].append({"name": "other", "digest": {"sha256": OTHER[7:]}})
    statement["subject"].append({"name": "commit", "digest": {"gitCommit": "3" * 40}})
    bundle = sigstore.sign(json.dumps(statement).encode())
    assert intake(workspace, io.BytesIO(bundle), APP).total == Tally(found=2, verified=2)
    assert set(stored(workspace)) == {IMAGE, OTHER}


def test_evidence_that_names_no_image_is_filed_under_its_own_digest(
    workspace: Workspace, sigstore: SigstoreDouble
) -> None:
    bundle = sigstore.attest("gitCommit:" + "3" * 40)
    assert intake(workspace, io.BytesIO(bundle), APP).total == Tally(found=1, verified=1)
    assert stored(workspace) == {digest_of(bundle): ("verified", bundle)}
    (row,) = workspace.catalog.evidence()
    (item,) = load_pack(workspace.archive, row.pack)
    engine = Engine(TrustMaterial.parse(workspace.trusted_root), Policy.parse(workspace.policy))
    assert judge(engine, Case.kept(item)).outcome == "verified"
    elsewhere = Case(bundle, IMAGE, APP, item.leaf.collected_at, item.manifest)
    assert str(judge(engine, elsewhere).reason).startswith("subject:")


def test_evidence_must_speak_of_the_artifact_that_is_given(
    workspace: Workspace, sigstore: SigstoreDouble
) -> None:
    lines = sigstore.attest(IMAGE) + b"\n" + sigstore.attest(OTHER)
    found = intake(workspace, io.BytesIO(lines), APP, IMAGE)
    assert found.total == Tally(found=2, verified=1, rejected=Counter(subject=1))
    assert set(found.images) == {IMAGE}


def test_the_policys_rules_are_those_of_the_repository_that_is_named(
    workspace: Workspace, sigstore: SigstoreDouble
) -> None:
    bundle = sigstore.attest(IMAGE)
    found = intake(workspace, io.BytesIO(bundle), "else/app")
    assert found.total == Tally(found=1, rejected=Counter({"no-rule": 1}))
    stranger = sigstore.attest(OTHER, identity="stranger@else.example")
    found = intake(workspace, io.BytesIO(stranger), APP)
    assert found.total == Tally(found=1, rejected=Counter(identity=1))


@pytest.mark.parametrize("repository", ["../app", "corp/../app", "/corp", "", "Corp", "a" * 256])
def test_a_name_that_is_no_repositorys_is_refused(workspace: Workspace, repository: str) -> None:
    with pytest.raises(MalformedError, match="not a repository name"):
        intake(workspace, io.BytesIO(b"{}"), repository)


# -- hostile files -------------------------------------------------------------------------------


def _payload(bundle: bytes) -> bytes:
    return base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"])


def test_what_is_broken_is_quarantined_and_the_rest_goes_on(
    workspace: Workspace, folder: Path, sigstore: SigstoreDouble
) -> None:
    fine = sigstore.attest(IMAGE)
    broken = {
        "truncated.json": fine[:-20],
        "nested.json": b"[" * 200_000,
        "closed.json": b"[" * 200_000 + b"]" * 200_000,
        "bom.json": b"\xef\xbb\xbf" + fine,
        "twice.json": b'{"verificationMaterial": {}, ' + fine[1:],
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    (folder / "lines.jsonl").write_bytes(b"[[[\n" + fine + b'\n{"a": 1}\n' + fine[:100] + b"\n")
    found = intake(workspace, folder, APP)
    assert found.total == Tally(found=9, verified=1, rejected=Counter(malformed=8))
    kept = stored(workspace)
    assert kept.pop(IMAGE) == ("verified", fine)
    assert {data for _, data in kept.values()} == {
        *broken.values(),
        b"[[[",
        b'{"a": 1}',
        fine[:100],
    }
    assert all(reason.startswith("malformed: ") for reason, _ in kept.values())
    reasons = {data: reason for reason, data in kept.values()}
    assert "a key is given twice" in reasons[broken["twice.json"]]
    assert "none of the known shapes" in reasons[b'{"a": 1}']


def test_a_payload_that_was_rewritten_is_rejected(
    workspace: Workspace, sigstore: SigstoreDouble
) -> None:
    bundle = json.loads(sigstore.attest(IMAGE))
    changed = _payload(json.dumps(bundle).encode()).replace(IMAGE[7:].encode(), OTHER[7:].encode())
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
    found = intake(workspace, io.BytesIO(json.dumps(bundle).encode()), APP)
    assert found.images == {OTHER: Tally(found=1, rejected=Counter(signature=1))}


class Watched(io.BytesIO):
    """Counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data

    def readline(self, size: int | None = -1) -> bytes:
        data = super().readline(size)
        self.taken += len(data)
        return data


@pytest.mark.parametrize(
    "start",
    [b'{"verificationMaterial": {}, "x": "', b"[", b'{"verificationMaterial": {}}\n{"x": "'],
)
def test_eighty_megabytes_that_pose_as_a_bundle_are_not_read_to_their_end(
    start: bytes, workspace: Workspace, folder: Path, sigstore: SigstoreDouble
) -> None:
    file = Watched(start + b"A" * (80 * 1024 * 1024))
    with pytest.raises(MalformedError, match="more than"):
        list(evidence_in(file))
    assert file.taken <= 2 * MAX_JSON_BYTES + 2
    with (folder / "huge.json").open("wb") as large:
        large.write(start)
        large.truncate(80 * 1024 * 1024)
    (folder / "fine.json").write_bytes(sigstore.attest(IMAGE))
    found = intake(workspace, folder, APP)
    assert found.total.verified == 1
    assert found.findings
    (reason,) = found.unreachable.values()
    assert list(found.unreachable) == ["intake:huge.json"]
    assert f"more than {MAX_JSON_BYTES} bytes" in reason


def test_lines_may_be_more_than_a_document_holds(sigstore: SigstoreDouble) -> None:
    bundle = sigstore.attest(IMAGE)
    lines = bundle + b"\n" + (json.dumps({"a": "A" * 1_000_000}).encode() + b"\n") * 20 + bundle
    found = [piece.format for piece in evidence_in(io.BytesIO(lines))]
    assert found == ["sigstore-bundle", *["unreadable"] * 20, "sigstore-bundle"]


def test_too_many_lines_that_are_no_evidence_end_a_file(sigstore: SigstoreDouble) -> None:
    bundle = sigstore.attest(IMAGE)
    file = io.BytesIO(bundle + b"\n" + b"{}\n" * (MAX_BROKEN + 1) + bundle)
    found = []
    with pytest.raises(MalformedError, match=f"more than {MAX_BROKEN} lines"):
        for piece in evidence_in(file):
            found.append(piece.format)
    assert found == ["sigstore-bundle", *["unreadable"] * MAX_BROKEN]


def test_links_pipes_and_devices_are_passed_over_with_a_reason(
    workspace: Workspace, folder: Path, tmp_path: Path, sigstore: SigstoreDouble
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_bytes(sigstore.attest(OTHER))
    (folder / "link.json").symlink_to(outside / "secret.json")
    (folder / "linked").symlink_to(outside)
    (folder / "dangling.json").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.json")
    (folder / "..json").write_bytes(sigstore.attest(IMAGE))
    found = intake(workspace, folder, APP)
    assert found.total == Tally(found=1, verified=1)
    assert found.unreachable == {
        "intake:link.json": "a link: not followed",
        "intake:linked": "a link: not followed",
        "intake:dangling.json": "a link: not followed",
        "intake:pipe.json": "expected a plain file",
    }


def test_names_cannot_steer_a_terminal(workspace: Workspace, folder: Path) -> None:
    os.mkfifo(folder / "\x1b[2J\udcff.json")
    assert list(intake(workspace, folder, APP).unreachable) == ["intake:\\x1b[2J\\udcff.json"]


def test_folders_without_end_are_left(
    workspace: Workspace, folder: Path, sigstore: SigstoreDouble
) -> None:
    deep = folder
    for _ in range(80):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "one.json").write_bytes(sigstore.attest(IMAGE))
    found = intake(workspace, folder, APP)
    assert found.total == Tally()
    assert [*found.unreachable.values()] == ["folders deeper than 64 are not read"]


def test_a_pipe_or_nothing_at_all_in_place_of_a_file_is_refused(
    workspace: Workspace, folder: Path
) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(RefusedError, match="give - to read from a pipe"):
        intake(workspace, folder / "pipe", APP)
    with pytest.raises(RefusedError, match="No such file"):
        intake(workspace, folder / "none", APP)


# -- the rest of the way -------------------------------------------------------------------------


def test_no_registry_may_be_called_intake(workspace: Workspace) -> None:
    content = yaml.safe_load(workspace.settings.path.read_text())
    content["registries"][0]["name"] = "intake"
    with pytest.raises(SettingsError, match="'intake' is taken already"):
        parse(yaml.safe_dump(content).encode(), workspace.settings.path)


def test_evidence_taken_in_is_sealed_and_no_registry_is_told_to_delete_it(
    authority: TimestampAuthorityDouble, tmp_path: Path
) -> None:
    """An attestation past its retention, found in a registry and once more in a file."""
    installation = Installation(tmp_path / "installation", authority)
    manifest = retire(installation)
    workspace = installation.workspace()
    (row,) = workspace.catalog.evidence()
    (item,) = load_pack(workspace.archive, row.pack)
    found = intake(workspace, io.BytesIO(item.payload), REPOSITORY)
    assert found.total == Tally(found=1, verified=1)
    sealed = seal(workspace, "r-late").sealed
    assert sealed is not None
    assert sealed.statement.predicate["counts"]["registries"] == {"intake": 1}
    assert {row.source for row in workspace.catalog.placed()} == {
        "exported",
        "intake",
    }
    planned = prune.plan(workspace)
    assert planned is not None
    assert [(one.registry, one.manifest) for one in planned.items] == [("exported", manifest)]
    prune.execute(workspace, planned.digest, "grace")
    report = verify(Given(row.bundle), lambda: workspace)
    assert report.exit_code == 0, report.to_json()
    assert len(report.checks) == 2


def test_evidence_taken_in_does_not_travel_as_if_it_were_attached(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    before = mirror_plan(workspace, workspace.settings.site("ship"))
    (row, *_) = workspace.catalog.evidence()
    payload = load_pack(workspace.archive, row.pack)[0].payload
    assert intake(workspace, io.BytesIO(payload), row.repository).total.verified == 1
    assert mirror_plan(workspace, workspace.settings.site("ship")) == before


def test_pep_740_objects_of_real_projects_agree_with_the_manifest(
    sigstore_bundles: Path, tmp_path: Path
) -> None:
    github = "https://github.com/pypa/sampleproject/.github/workflows/release.yml@refs/heads/main"
    cases = {
        "warehouse/tests/_fixtures/sampleproject-4.0.0.tar.gz.provenance": {
            "identity": github,
            "issuer": "https://token.actions.githubusercontent.com",
        },
        "warehouse/tests/functional/_fixtures/sampleproject-3.0.0.tar.gz.publish.attestation": {
            "identity": "919436158236-compute@developer.gserviceaccount.com",
            "issuer": "https://accounts.google.com",
        },
        "carabiner-pypi-attestations/testdata/pypi.attestation.json": {
            "identity": "https://github.com/pypi/pypi-attestations/.github/workflows/release.yml"
            "@refs/tags/v0.0.28",
            "issuer": "https://token.actions.githubusercontent.com",
        },
    }
    for number, (name, signer) in enumerate(cases.items()):
        place = tmp_path / str(number)
        place.mkdir()
        root = sigstore_bundles / "trusted_roots/public-good.json"
        workspace = make_workspace(place, root, **signer)
        found = intake(workspace, sigstore_bundles / name, APP)
        assert found.total == Tally(found=1, verified=1), name
        (image,) = found.images
        digests = {row["digest"] for row in _manifest(sigstore_bundles) if name in row["path"]}
        digests.discard("")
        assert digests == {image}


def _manifest(bundles: Path) -> list[dict[str, Any]]:
    with (bundles / "MANIFEST.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_command_takes_in_a_file_or_standard_input(
    workspace: Workspace,
    folder: Path,
    sigstore: SigstoreDouble,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact = folder / "app.tar"
    artifact.write_bytes(b"app")
    bundle = sigstore.attest(digest_of(b"app"))
    file = folder / "app.sigstore.json"
    file.write_bytes(bundle)
    config = ["--config", str(workspace.settings.path), "--json"]
    given = ["harvest", *config, "--repository", APP, "--artifact", str(artifact), "--from"]
    assert main([*given, str(file)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["found"], document["verified"], document["known"]) == (1, 1, 0)
    assert document["images"][digest_of(b"app")]["verified"] == 1

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bundle)))
    assert main([*given, "-"]) == 0
    assert json.loads(capsys.readouterr().out)["known"] == 1
    assert main(["harvest", *config, "--from", str(file)]) == 2
    assert main(["harvest", *config, "--repository", APP]) == 2
    assert "--from" in capsys.readouterr().err


def test_a_file_of_many_pieces_is_verified_piece_by_piece(
    workspace: Workspace,
    folder: Path,
    sigstore: SigstoreDouble,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = workspace.settings.path.parent / "trusted_root.json"
    given = ["verify", "--json", "--trusted-root", str(root), "--issuer", ISSUER]

    def results(data: bytes, *more: str) -> tuple[int, list[str]]:
        (folder / "file").write_bytes(data)
        code = main([*given, "--identity", IDENTITY, *more, str(folder / "file")])
        return code, [one["result"] for one in json.loads(capsys.readouterr().out)["checks"]]

    first, second = sigstore.attest(IMAGE), sigstore.attest(OTHER)
    assert results(first) == (0, ["passed"])
    assert results(first + b"\n" + second) == (0, ["passed", "passed"])
    assert results(first + b"\n" + second, "--artifact", IMAGE) == (1, ["passed", "failed"])
    assert results(b"[" + first + b", 1]") == (2, ["passed", "unknown"])
    assert results(first[:-9]) == (2, ["unknown"])
    assert results(b"no evidence") == (2, ["unknown"])


def test_a_pep_740_attestation_is_verified_by_the_command(
    sigstore_bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = sigstore_bundles / "warehouse/tests/functional/_fixtures"
    given = [
        "--trusted-root",
        str(sigstore_bundles / "trusted_roots/public-good.json"),
        "--identity",
        "919436158236-compute@developer.gserviceaccount.com",
        "--issuer",
        "https://accounts.google.com",
        str(assets / "sampleproject-3.0.0.tar.gz.publish.attestation"),
    ]
    assert main(["verify", *given]) == 0
    assert "https://docs.pypi.org/attestations/publish/v1" in capsys.readouterr().out
    assert main(["verify", "--artifact", IMAGE, *given]) == 1


def test_signatures_over_files_are_kept_and_are_no_attestations(
    sigstore_bundles: Path, tmp_path: Path
) -> None:
    with gzip.open(sigstore_bundles / "corpus/cpython.jsonl.gz", "rt") as lines:
        rows = [json.loads(next(lines)) for _ in range(3)]
    signer = {"identity": rows[0]["cert_identity"], "issuer": rows[0]["cert_issuer"]}
    root = sigstore_bundles / "trusted_roots/public-good.json"
    workspace = make_workspace(tmp_path, root, **signer)
    bundles = b"\n".join(json.dumps(row["bundle"]).encode() for row in rows)
    found = intake(workspace, io.BytesIO(bundles), APP)
    assert found.total == Tally(found=3, ignored=3)
    assert set(found.images) == {row["digest"] for row in rows}


def test_npms_answer_is_judged_bundle_by_bundle(sigstore_bundles: Path, tmp_path: Path) -> None:
    name = "npm-cli/test/fixtures/sigstore/valid-tuf-js-attestations"
    (row,) = (
        row for row in _manifest(sigstore_bundles) if row["path"].startswith(f"{name}.derived.0")
    )
    root = sigstore_bundles / row["trusted_root"]
    workspace = make_workspace(tmp_path, root, identity=row["identity"], issuer=row["issuer"])
    found = intake(workspace, sigstore_bundles / f"{name}.json", APP)
    assert (found.total.found, found.total.verified) == (2, 1)
    rows = workspace.catalog.evidence()
    assert {(one.predicate_type, one.verdict) for one in rows if one.verdict == "verified"} == {
        ("https://slsa.dev/provenance/v0.2", "verified")
    }
    (other,) = (one for one in rows if one.verdict != "verified")
    assert (other.verdict, (other.reason or "").partition(":")[0]) == ("unknown", "unsupported")
    assert all(one.image == one.bundle for one in rows)
