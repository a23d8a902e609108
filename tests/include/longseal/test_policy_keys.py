"""Attestations signed by a key that a rule names, from a registry or a file to a site."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.doubles.registry import RegistryDouble
from tests.doubles.sigstore import IDENTITY, ISSUER, Key, SigstoreDouble
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal, seal_with_images
from tests.lab.lab import Lab
from tests.lab.registries import Registry as LabRegistry
from tests.proven import Proven

from longseal import judgement
from longseal.archive.leaf import Leaf, Signer
from longseal.archive.pack import load_evidence, store_pack, write_pack
from longseal.canonical import digest_of
from longseal.cli import main
from longseal.errors import VerificationError
from longseal.harvest import catalog_row, claim_row, harvest, plan
from longseal.mirror.mirror import mirror
from longseal.registry.attach import attach
from longseal.registry.interface import Descriptor, Manifest, Registry
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from longseal.seal.keys import fingerprint, load_public_pem, public_pem
from longseal.seal.organisation import organisation_key
from longseal.seal.proof_folder import BUNDLE, SIGNER, prove
from longseal.seal.signers.interface import PublicKey
from longseal.verify.report import State
from longseal.verify.target import Given, verify
from longseal.workspace import Workspace

KEYS: dict[str, Key] = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p384": ec.generate_private_key(ec.SECP384R1()),
}
REPOSITORY = "corp/keys"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def push_image(registry: Registry) -> Descriptor:
    config = {"mediaType": EMPTY_CONFIG, "digest": digest_of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    data = json.dumps(document).encode()
    image = Descriptor(OCI_MANIFEST, digest_of(data), len(data))
    registry.put_blob(REPOSITORY, digest_of(b"{}"), 2, io.BytesIO(b"{}"))
    registry.put_manifest(REPOSITORY, Manifest(image.digest, OCI_MANIFEST, data), "v1")
    return image


def trusting(*names: str) -> list[dict[str, object]]:
    """A policy that trusts these keys and nobody else."""
    return [
        {
            "repositories": ["corp/*"],
            "predicates": ["https://stella-ops.example/**"],
            "keys": [{"file": f"{name}.pub"} for name in names],
        }
    ]


@pytest.fixture(scope="module")
def sigstore() -> SigstoreDouble:
    return SigstoreDouble()


@pytest.fixture(scope="module")
def harvested_once(
    sigstore: SigstoreDouble,
    authority: TimestampAuthorityDouble,
    tmp_path_factory: pytest.TempPathFactory,
) -> Installation:
    """An image with an attestation by each key of the policy and one by a stranger's, harvested."""
    folder = tmp_path_factory.mktemp("keys") / "installation"
    folder.mkdir()
    (folder / "trusted_root.json").write_bytes(sigstore.trusted_root())
    for name, key in KEYS.items():
        (folder / f"{name}.pub").write_text(public_pem(key.public_key()))
    changes = {"trust": {"trusted_root": "trusted_root.json"}, "policy": trusting(*KEYS)}
    installation = Installation(folder, authority, changes)
    registry = installation.registry()
    image = push_image(registry)
    for key in (*KEYS.values(), ec.generate_private_key(ec.SECP256R1())):
        bundle = sigstore.attest(image.digest, key=key, managed=True)
        attach(registry, REPOSITORY, image, BUNDLE_TYPE, bundle, {})
    attach(registry, REPOSITORY, image, BUNDLE_TYPE, sigstore.attest(image.digest), {})
    workspace = installation.workspace()
    (batch,) = plan(workspace)[0]
    found = harvest(workspace, batch).total
    assert (found.found, found.verified) == (6, 4)
    assert dict(found.rejected) == {"signature": 1, "identity": 1}
    return installation


@pytest.fixture
def harvested(harvested_once: Installation, tmp_path: Path) -> Installation:
    return harvested_once.copy(tmp_path / "installation")


def signers(workspace: Workspace) -> set[Signer | None]:
    rows = workspace.catalog.evidence(verdict="verified")
    return {Leaf.parse(row.leaf.encode()).signer for row in rows}


def of(*names: str) -> set[Signer]:
    return {Signer(None, None, fingerprint(KEYS[name].public_key())) for name in names}


def test_the_leaf_names_the_key_and_no_identity(harvested: Installation) -> None:
    assert signers(harvested.workspace()) == of(*KEYS)
    columns = {(row.identity, row.issuer) for row in harvested.workspace().catalog.evidence()}
    assert columns == {(None, None), (IDENTITY, ISSUER)}


def test_taken_in_from_a_file_it_is_judged_by_the_same_rule(
    harvested: Installation, sigstore: SigstoreDouble, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.json"
    image = digest_of(b"built elsewhere")
    bundle.write_bytes(sigstore.attest(image, key=KEYS["rsa"], managed=True))
    argv = ["harvest", "--config", str(harvested.config), "--from", str(bundle)]
    assert main([*argv, "--repository", "other/app"]) == 1
    assert main([*argv, "--repository", REPOSITORY]) == 0
    rows = harvested.workspace().catalog.about(image)
    assert sorted((row.repository, row.verdict) for row in rows) == [
        (REPOSITORY, "verified"),
        ("other/app", "rejected"),
    ]


def test_a_rule_that_names_another_key_no_longer_accepts_it(harvested: Installation) -> None:
    harvested.write(policy=trusting("p256", "ed25519"))
    workspace = harvested.workspace()
    assert judgement.apply(workspace).counts == {"verified to rejected": 2}
    assert signers(workspace) == of("p256", "ed25519")
    harvested.write()
    outcomes = judgement.apply(harvested.workspace())
    assert outcomes.counts == {"rejected to verified": 2}
    assert {change["key"] for change in outcomes.changes} == {
        signer.key for signer in of("rsa", "p384")
    }
    assert signers(harvested.workspace()) == of(*KEYS)


def test_recheck_seals_no_leaf_that_names_another_key(harvested: Installation) -> None:
    workspace = harvested.workspace()
    (row, *_) = workspace.catalog.evidence(verdict="verified")
    item = load_evidence(workspace.archive, row.pack, row.leaf)
    forged = replace(item.leaf, signer=Signer(None, None, digest_of(b"another")))
    pack = write_pack([replace(item, leaf=forged)])
    until = workspace.catalog.pack(row.pack).retain_until
    workspace.catalog.claim_pack(claim_row(pack, "default.verified", until, workspace.now()))
    store_pack(workspace.archive, pack, until)
    moved = (row.id, row.leaf_hash, catalog_row(forged, pack.digest))
    workspace.catalog.supersede(pack.digest, [moved])
    with pytest.raises(VerificationError, match="its key is"):
        seal(workspace, "r-one")


def sealed(installation: Installation) -> Workspace:
    workspace = installation.workspace()
    seal_with_images(workspace, "r-one")
    return workspace


@pytest.fixture(scope="module")
def sealed_once(
    harvested_once: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    folder = tmp_path_factory.mktemp("sealed") / "installation"
    copy = harvested_once.copy(folder)
    sealed(copy)
    return copy


def proof_by(installation: Installation, name: str, folder: Path) -> Proven:
    workspace = installation.workspace()
    (signer,) = of(name)
    (row,) = (
        row
        for row in workspace.catalog.evidence(verdict="verified")
        if Leaf.parse(row.leaf.encode()).signer == signer
    )
    (written,) = prove(workspace, row.bundle, folder / name)
    return Proven.of(written, workspace)


@pytest.mark.parametrize("name", KEYS)
def test_its_proof_has_the_key_and_holds_by_itself(
    name: str, sealed_once: Installation, tmp_path: Path
) -> None:
    proven = proof_by(sealed_once, name, tmp_path)
    assert proven.check(), proven.said
    assert f"signed by the key {fingerprint(KEYS[name].public_key())}" in proven.said
    pem = public_pem(KEYS[name].public_key()).encode()
    assert (proven.folder / SIGNER).read_bytes() == pem
    assert (proven.folder / BUNDLE).exists() is (name != "p384")
    other = "p256" if name == "rsa" else "rsa"
    (proven.folder / SIGNER).write_text(public_pem(KEYS[other].public_key()))
    proven.list_again()
    assert not proven.check()
    assert SIGNER in proven.said


@pytest.mark.lab
def test_the_script_says_what_cosign_cannot_check(
    sealed_once: Installation, tmp_path: Path
) -> None:
    proven = proof_by(sealed_once, "p384", tmp_path)
    assert proven.script() == 0, proven.said
    assert "cosign has no way" in proven.said


@pytest.fixture(scope="module")
def partner(
    lab: Lab,
    docker_registry: LabRegistry,
    authority: TimestampAuthorityDouble,
    tmp_path_factory: pytest.TempPathFactory,
) -> Installation:
    """One image that stock cosign attested by a key, harvested from a registry."""
    folder = tmp_path_factory.mktemp("partner") / "installation"
    folder.mkdir()
    lab.cosign("generate-key-pair", f"--output-key-prefix={folder}/partner")
    digest = lab.push_image(docker_registry.url, REPOSITORY, "v1")
    (folder / "predicate.json").write_text("{}")
    lab.cosign(
        "attest",
        "--yes",
        f"--key={folder}/partner.key",
        f"--trusted-root={lab.trusted_root}",
        f"--signing-config={lab.signing_config}",
        "--type=https://stella-ops.example/sbom-delta/v1",
        f"--predicate={folder}/predicate.json",
        f"{docker_registry.host}/{REPOSITORY}@{digest}",
    )
    changes = {
        "trust": {"trusted_root": str(lab.trusted_root)},
        "registries": [
            {"name": "main", "url": docker_registry.url, "repositories": [REPOSITORY]},
        ],
        "policy": trusting("partner"),
    }
    installation = Installation(folder, authority, changes)
    workspace = installation.workspace()
    (batch,) = plan(workspace)[0]
    found = harvest(workspace, batch).total
    assert (found.found, found.verified) == (1, 1), found
    seal(workspace, "r-one")
    return installation


@pytest.mark.lab
def test_stock_tools_check_the_proof_of_what_stock_tools_signed(
    partner: Installation, tmp_path: Path
) -> None:
    workspace = partner.workspace()
    (row,) = workspace.catalog.evidence()
    (folder,) = prove(workspace, row.bundle, tmp_path / "proof")
    proven = Proven.of(folder, workspace)
    assert proven.check(), proven.said
    assert proven.script() == 0, proven.said
    key = load_public_pem((partner.folder / "partner.pub").read_bytes(), "partner.pub")
    assert f"signed by the key {fingerprint(key)}" in proven.said
    (proven.folder / SIGNER).write_text(public_pem(organisation_key_of(partner)))
    proven.list_again()
    assert proven.script() == 1
    assert SIGNER in proven.said


def organisation_key_of(installation: Installation) -> PublicKey:
    return organisation_key(installation.workspace()).key


def test_evidence_by_a_key_verifies_by_its_digest_and_at_the_site(
    harvested: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = sealed(harvested)
    (row, *_) = workspace.catalog.evidence(verdict="verified")
    argv = ["verify", row.bundle, "--config", str(harvested.config), "--json"]
    assert main(argv) == 0
    assert "by the key sha256:" in capsys.readouterr().out
    with RegistryDouble() as double:
        site = {"name": "plant", "kind": "registry", "url": double.url, "repositories": ["corp/*"]}
        harvested.write(sites=[site])
        workspace = harvested.workspace()
        done = mirror(workspace, workspace.settings.site("plant"))
        assert (done["images"], done["failed"]) == (1, {})
        target = f"{double.url.removeprefix('http://')}/{REPOSITORY}@{row.image}"
        report = verify(Given(target, key=fingerprint(organisation_key_of(harvested))), no_settings)
        assert report.state is State.PASSED, report.to_json()
        said = str(report.to_json())
        assert all(f"by the key {one.key}" in said for one in of(*KEYS))


def no_settings() -> Workspace:
    raise AssertionError("nothing of the settings is needed")
