import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.installation import Installation, seal
from tests.lab.tools import tool

from longseal import cli
from longseal.canonical import sha256_hex
from longseal.errors import RefusedError
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key
from longseal.seal.proof_folder import SUMS, VERIFY, prove, verify_proof
from longseal.seal.timestamps import Authority
from longseal.verify.report import Report


class Proven:
    """A proof folder, and what its reader was told."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        self.folder = folder
        self.key = fingerprint(organisation_key(installation.workspace()).key)
        authority = installation.authority
        self.root = Authority.load(authority.url, authority.pem, "chain.pem").root_fingerprint

    def copy(self, to: Path) -> "Proven":
        copied = object.__new__(Proven)
        copied.key, copied.root = self.key, self.root
        copied.folder = Path(shutil.copytree(self.folder, to))
        return copied

    @property
    def files(self) -> list[str]:
        """Names of all files but the script."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted({path.relative_to(self.folder).as_posix() for path in paths} - {VERIFY})

    def change(self, name: str) -> None:
        """Flip a bit in the middle of a file; an empty one gets a byte."""
        path = self.folder / name
        data = bytearray(path.read_bytes()) or bytearray(b"!")
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def list_again(self) -> None:
        """What somebody does who changes files and their list together."""
        named = [name for name in self.files if name != SUMS]
        lines = [f"{sha256_hex((self.folder / name).read_bytes())}  {name}\n" for name in named]
        (self.folder / SUMS).write_text("".join(lines))

    def check(self, key: str | None = None, root: str | None = None, quorum: int = 1) -> bool:
        """What `longseal verify` says, without settings, catalog or archive."""
        report = Report(str(self.folder))
        roots = frozenset({root or self.root})
        verify_proof(report, self.folder, key or self.key, roots, quorum)
        return report.exit_code == 0

    def script(self, *more: str, key: str | None = None, root: str | None = None) -> int:
        """What `verify.sh` says where there is no network."""
        argv = ["unshare", "--user", "--map-root-user", "--net", "sh", self.folder / VERIFY]
        argv += [f"key={key or self.key}", f"tsa={root or self.root}", *more]
        environment = {"PATH": os.environ["PATH"], "COSIGN": tool("cosign"), "HOME": "/nowhere"}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True)
        self.said = done.stdout + done.stderr
        return done.returncode


@pytest.fixture(scope="module")
def proven_once(harvested_once: Installation, tmp_path_factory: pytest.TempPathFactory) -> Proven:
    """The proof of one attestation, in a seal that a later one renews."""
    folder = tmp_path_factory.mktemp("proven") / "installation"
    shutil.copytree(harvested_once.folder, folder)
    installation = object.__new__(Installation)
    installation.folder, installation.changes = folder, {}
    installation.authority = harvested_once.authority
    workspace = installation.workspace()
    seal(workspace, "r-one")
    seal(workspace, "r-two")
    digest = workspace.catalog.evidence()[3].bundle
    (written,) = prove(workspace, digest, folder.parent / "proof")
    return Proven(written, installation)


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
    "seal-trusted-root.json",  # its authorities count by their fingerprints only
    "tsa/0/chain.pem",  # for openssl; Longseal reads the one above
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


@pytest.mark.lab
def test_the_script_agrees_with_no_network_and_without_longseal(proven: Proven) -> None:
    assert proven.script() == 0, proven.said
    assert "verified" in proven.said


@pytest.mark.lab
def test_the_script_asks_for_what_its_reader_knows(proven: Proven) -> None:
    other = "sha256:" + "0" * 64
    assert proven.script(key=other) == 1
    assert "was not given" in proven.said
    assert proven.script(root=other) == 1
    assert "timestamps" in proven.said
    assert proven.script("quorum=2") == 1
    assert proven.script("colour=red") == 2


@pytest.mark.lab
def test_the_script_finds_a_changed_byte_in_any_file(proven_once: Proven, tmp_path: Path) -> None:
    for number, name in enumerate(proven_once.files):
        changed = proven_once.copy(tmp_path / str(number))
        changed.change(name)
        assert changed.script() != 0, name
        if name != SUMS and not name.endswith(COVERED_BY_NO_SIGNATURE[:2]):
            changed.list_again()
            assert changed.script() != 0, name
