from pathlib import Path

import pytest
from tests.installation import Installation, seal
from tests.proven import Proven

from longseal import cli
from longseal.errors import RefusedError
from longseal.seal.key_history import rotate
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key
from longseal.seal.proof_folder import SUMS, prove, told, verify_proof
from longseal.seal.signers.file import FileSigner
from longseal.verify.report import Report


@pytest.fixture(scope="module")
def proven_once(harvested_once: Installation, tmp_path_factory: pytest.TempPathFactory) -> Proven:
    """The proof of one attestation, in a seal that a later one renews."""
    installation = harvested_once.copy(tmp_path_factory.mktemp("proven") / "installation")
    workspace = installation.workspace()
    seal(workspace, "r-one")
    seal(workspace, "r-two")
    digest = workspace.catalog.evidence()[3].bundle
    (written,) = prove(workspace, digest, installation.folder.parent / "proof")
    return Proven.of(written, workspace)


@pytest.fixture
def proven(proven_once: Proven, tmp_path: Path) -> Proven:
    return proven_once.copy(tmp_path / "proof")


def test_a_proof_holds_by_itself(proven: Proven) -> None:
    assert proven.check()


def test_a_proof_holds_only_under_the_key_and_the_authority_that_its_reader_knows(
    proven: Proven,
) -> None:
    other = "sha256:" + "0" * 64
    assert not proven.check(key=other)
    assert not proven.check(root=other)
    assert not proven.check(quorum=2)


def test_a_changed_byte_in_any_file_is_found(proven_once: Proven, tmp_path: Path) -> None:
    for number, name in enumerate(proven_once.files):
        changed = proven_once.copy(tmp_path / str(number))
        changed.change(name)
        assert not changed.check(), name


COVERED_BY_NO_SIGNATURE = (
    "tsa/0/chain.pem",  # for openssl; Longseal reads seal-trusted-root.json
    "tsa/0/root.pem",
)


def test_who_lists_the_changed_file_again_is_found_as_well(
    proven_once: Proven, tmp_path: Path
) -> None:
    for number, name in enumerate(proven_once.files):
        if name == SUMS or name.endswith(COVERED_BY_NO_SIGNATURE):
            continue
        changed = proven_once.copy(tmp_path / str(number))
        changed.change(name)
        changed.list_again()
        assert not changed.check(), name


@pytest.mark.parametrize("name", ["leaf.json", "seal/key.pub", "seal/renewal.sha512", SUMS])
def test_a_missing_file_is_named(name: str, proven: Proven) -> None:
    (proven.folder / name).unlink()
    report = Report("proof")
    verify_proof(report, proven.folder, proven.key, None, 1)
    assert report.exit_code == 1
    assert name in str(report.to_json())


def test_a_file_that_nobody_listed_is_found(proven: Proven) -> None:
    (proven.folder / "renewals" / "more.json").write_bytes(b"{}")
    assert not proven.check()


def test_what_is_not_sealed_yet_has_no_proof(harvested: Installation, tmp_path: Path) -> None:
    workspace = harvested.workspace()
    digest = workspace.catalog.evidence()[0].bundle
    with pytest.raises(RefusedError, match="the next seal"):
        prove(workspace, digest, tmp_path / "proof")
    with pytest.raises(RefusedError, match="nothing is known"):
        prove(workspace, "sha256:" + "0" * 64, tmp_path / "proof")
    assert not (tmp_path / "proof").exists()


def test_an_image_has_a_proof_for_each_of_its_attestations(
    harvested: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    image = workspace.catalog.evidence()[0].image
    arguments = ["--config", str(harvested.config), image, "--to", str(tmp_path / "proof")]
    assert cli.main(["prove", *arguments]) == 0
    assert len(list((tmp_path / "proof").iterdir())) == 5
    assert "verify.sh" in capsys.readouterr().out
    for folder in (tmp_path / "proof").iterdir():
        key = fingerprint(organisation_key(workspace).key)
        assert cli.main(["verify", str(folder), "--key", key]) == 0


def test_the_key_to_check_with_is_the_newest_seal_s_even_after_a_rotation(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    before = told(workspace)
    FileSigner.create(harvested.folder / "next.pem")
    harvested.write(next_signer={"kind": "file", "path": "next.pem"})
    rotate(harvested.workspace())
    assert told(harvested.workspace()) == before
    seal(harvested.workspace(), "r-two")
    assert told(harvested.workspace())[0] != before[0]


@pytest.mark.lab
def test_the_script_agrees_with_no_network_and_without_longseal(proven: Proven) -> None:
    assert proven.script() == 0, proven.said
    assert "verified" in proven.said


@pytest.mark.lab
def test_the_script_asks_for_what_its_reader_knows(proven: Proven) -> None:
    other = "sha256:" + "0" * 64
    assert proven.script(key=other) == 1
    assert "was not given" in proven.said
    assert proven.script(roots=[other]) == 1
    assert "timestamps" in proven.said
    assert proven.script("quorum=2") == 1
    assert proven.script("colour=red") == 2


@pytest.mark.lab
def test_the_script_finds_a_changed_byte_in_any_file(proven_once: Proven, tmp_path: Path) -> None:
    for number, name in enumerate(proven_once.files):
        changed = proven_once.copy(tmp_path / str(number))
        changed.change(name)
        assert changed.script() != 0, name
        if name != SUMS and not name.endswith(COVERED_BY_NO_SIGNATURE[:1]):
            changed.list_again()
            assert changed.script() != 0, name
