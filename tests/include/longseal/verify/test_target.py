"""``longseal verify`` over bundles of public projects, with no settings at all."""

import csv
import json
from pathlib import Path

import pytest
from tests.doubles.sigstore import IDENTITY, ISSUER, SigstoreDouble
from tests.installation import Installation

from longseal.archive.pack import load_pack
from longseal.canonical import digest_of
from longseal.cli import main
from longseal.seal.keys import public_pem

IMAGE = digest_of(b"an image")


@pytest.fixture
def root(sigstore: SigstoreDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LONGSEAL_CONFIG", raising=False)
    file = tmp_path / "trusted_root.json"
    file.write_bytes(sigstore.trusted_root())
    return file


def verify(bundle: bytes, folder: Path, *arguments: object) -> int:
    file = folder / "bundle.json"
    file.write_bytes(bundle)
    return main(["verify", str(file), *map(str, arguments)])


def test_a_blob_is_verified_by_its_signature(
    sigstore: SigstoreDouble, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "blob").write_bytes(b"a blob")
    (tmp_path / "other").write_bytes(b"another")
    known = ("--trusted-root", root, "--identity", IDENTITY, "--issuer", ISSUER)
    for version in ("0.2", "0.3"):
        bundle = sigstore.sign(b"a blob", kind="hashedrekord 0.0.1", version=version)
        assert verify(bundle, tmp_path, *known, "--artifact", tmp_path / "blob") == 0
        assert verify(bundle, tmp_path, *known, "--artifact", digest_of(b"a blob")) == 0
        assert verify(bundle, tmp_path, *known, "--artifact", tmp_path / "other") == 1
        assert verify(bundle, tmp_path, *known, "--artifact", IMAGE) == 1


def test_a_bundle_by_the_key_of_another_is_verified_with_it_alone(
    sigstore: SigstoreDouble, root: Path, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    ours, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    for name, key in (("ours.pub", ours), ("other.pub", other)):
        (tmp_path / name).write_text(public_pem(key.public_key()))
    bundle = sigstore.attest(IMAGE, key=ours, managed=True, kind="intoto 0.0.2", version="0.1")
    known = ("--trusted-root", root, "--artifact", IMAGE)
    assert verify(bundle, tmp_path, *known, "--key", tmp_path / "ours.pub") == 0
    assert verify(bundle, tmp_path, *known, "--key", tmp_path / "other.pub") == 1
    assert verify(bundle, tmp_path, *known, "--identity", IDENTITY, "--issuer", ISSUER) == 2


def test_a_file_is_judged_by_the_policys_rules_for_the_repository_that_is_named(
    harvested: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = harvested.workspace()
    row = workspace.catalog.evidence()[0]
    items = load_pack(workspace.archive, row.pack)
    (item,) = (one for one in items if one.leaf.line().decode() == row.leaf)
    settings = ("--config", harvested.config)
    assert verify(item.payload, tmp_path, *settings) == 2
    assert "--repository" in capsys.readouterr().out
    assert verify(item.payload, tmp_path, *settings, "--repository", row.repository) == 0
    assert verify(item.payload, tmp_path, *settings, "--repository", "elsewhere/app") == 1


def test_npms_key_and_digests_are_taken(
    sigstore_bundles: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LONGSEAL_CONFIG", raising=False)
    with (sigstore_bundles / "MANIFEST.tsv").open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file, delimiter="\t")
            if row["key"].startswith("npm") and row["expectation"] != "unknown"
        ]
    assert len(rows) > 5
    for row in rows:
        argv = ["verify", str(sigstore_bundles / row["path"]), "--json"]
        for option in ("key", "trusted_root"):
            argv += [f"--{option.replace('_', '-')}", str(sigstore_bundles / row[option])]
        if row["digest"]:
            argv += ["--artifact", row["digest"]]
        code = main(argv)
        assert (code, row["id"]) == (0 if row["expectation"] == "pass" else 1, row["id"])
        assert json.loads(capsys.readouterr().out)["result"] in ("passed", "failed")
