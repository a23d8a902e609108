"""Thirty months of seals, with another key and another authority within: what stands at the end."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.chain import AUTHORITY_CHANGED, KEY_ROTATED, MONTHS, QUORUM, Chain, chain_of
from tests.lab.tools import tool
from tests.proven import Proven

from longseal.audit.audit import audit
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.ceremony import BUNDLE
from longseal.seal.images import statement_folders
from longseal.seal.keys import public_pem
from longseal.seal.organisation import anchors_of
from longseal.seal.proof import verify_chain
from longseal.seal.proof_folder import prove, told
from longseal.seal.published import TRUSTED_ROOT, published, seal_folder
from longseal.seal.timestamps import verify_token
from longseal.seal.trusted_root import parse_trusted_root
from longseal.verify.report import State

SHOWN = [
    1,
    2,
    5,
    KEY_ROTATED - 1,
    KEY_ROTATED,
    15,
    AUTHORITY_CHANGED - 1,
    AUTHORITY_CHANGED,
    29,
    30,
]
"""The months whose attestations are proven, the first and the last among them."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Thirty months of seals, for tests that only read them."""
    with chain_of(tmp_path_factory.mktemp("chain")) as made:
        yield made


@pytest.fixture(scope="module")
def proofs(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Proven]:
    """By month, the proof of its attestation."""
    folder, workspace = tmp_path_factory.mktemp("proofs"), chain.workspace()
    return {
        number: Proven.of(
            prove(workspace, chain.images[number - 1], folder / str(number))[0], workspace
        )
        for number in SHOWN
    }


def test_the_chain_holds_from_the_newest_seal_back_to_the_first(chain: Chain) -> None:
    report = audit(chain.workspace())
    assert report.state is State.PASSED, report.to_json()
    seals = published(chain.workspace())
    verify_chain(seals)
    assert [seal.size for seal in seals] == [1] * MONTHS
    newest = seals[-1]
    while newest.sequence > 1:
        before = seals[newest.sequence - 2]
        assert newest.statement.predicate["previous"] == before.digest
        newest = before


def test_another_key_signs_from_the_rotation_on(chain: Chain) -> None:
    keys = [seal.statement.predicate["keyid"] for seal in published(chain.workspace())]
    assert len(set(keys[: KEY_ROTATED - 1])) == len(set(keys[KEY_ROTATED - 1 :])) == 1
    assert keys[0] != keys[-1]


@pytest.mark.parametrize("number", SHOWN)
def test_a_proof_holds_by_itself_however_old(number: int, proofs: dict[int, Proven]) -> None:
    assert proofs[number].check(), proofs[number].said


@pytest.mark.lab
@pytest.mark.parametrize("number", SHOWN)
def test_the_script_agrees_with_no_network(number: int, proofs: dict[int, Proven]) -> None:
    assert proofs[number].script() == 0, proofs[number].said


@pytest.mark.parametrize("number", SHOWN)
def test_a_changed_byte_in_any_file_is_found(
    number: int, proofs: dict[int, Proven], tmp_path: Path
) -> None:
    changed = proofs[number].copy(tmp_path / "changed")
    for name in changed.files:
        kept = (changed.folder / name).read_bytes()
        changed.change(name)
        assert not changed.check(), name
        (changed.folder / name).write_bytes(kept)
    assert changed.check()


def test_what_prove_says_is_enough_for_the_oldest(chain: Chain, proofs: dict[int, Proven]) -> None:
    """The retired authority's root and the quorum among it."""
    key, *roots, quorum = told(chain.workspace())
    assert key == f"key={proofs[1].key}"
    assert {f"tsa={root}" for root in proofs[1].roots} == set(roots)
    assert len(roots) == len(chain.authorities)
    assert quorum == f"quorum={QUORUM}"


def test_the_oldest_rests_on_a_seal_that_was_made_before_its_authority_ended(
    proofs: dict[int, Proven],
) -> None:
    """The newest seal is too late for it: the first authority's certificate had ended by then."""
    renewals = sorted(path.name for path in (proofs[1].folder / "renewals").iterdir())
    assert renewals == [f"{AUTHORITY_CHANGED + 1:06}", f"{MONTHS:06}"]


def without_the_one_in_time(proof: Proven, to: Path) -> Proven:
    """The proof as somebody gives it who leaves out the seal that came in time."""
    copied = proof.copy(to)
    shutil.rmtree(copied.folder / "renewals" / f"{AUTHORITY_CHANGED + 1:06}")
    copied.list_again()
    return copied


def test_a_seal_that_came_too_late_renews_nothing(
    proofs: dict[int, Proven], tmp_path: Path
) -> None:
    late = without_the_one_in_time(proofs[1], tmp_path / "late")
    assert not late.check()
    assert "too late for seal" in late.said
    assert late.check(quorum=1), "the authority that stayed is enough for who asks for one"


@pytest.mark.lab
def test_the_script_finds_that_a_seal_came_too_late(
    proofs: dict[int, Proven], tmp_path: Path
) -> None:
    late = without_the_one_in_time(proofs[1], tmp_path / "late")
    assert late.script() == 1
    assert "1 of 2 timestamps that are needed" in late.said
    assert late.script("quorum=1") == 0


@pytest.mark.lab
@pytest.mark.parametrize("number", SHOWN)
def test_the_script_finds_a_changed_byte_in_any_file(
    number: int, proofs: dict[int, Proven], tmp_path: Path
) -> None:
    changed = proofs[number].copy(tmp_path / "changed")
    for name in changed.files:
        kept = (changed.folder / name).read_bytes()
        changed.change(name)
        assert changed.script() == 1, name
        (changed.folder / name).write_bytes(kept)


@pytest.mark.lab
@pytest.mark.parametrize("number", SHOWN)
def test_cosign_and_openssl_verify_the_image_s_statement(
    number: int, chain: Chain, tmp_path: Path
) -> None:
    workspace, folder = chain.workspace(), seal_folder(number)
    (images,) = statement_folders(workspace, number)
    bundle = workspace.archive.get(f"{images}/{BUNDLE}")
    parts = parse_key_bundle(bundle)
    key = anchors_of(workspace).named(json.loads(parts.payload)["predicate"]["keyid"])
    files = {
        "bundle": bundle,
        "root": workspace.archive.get(f"{folder}/{TRUSTED_ROOT}"),
        "key": public_pem(key).encode(),
        "message": parts.message,
        "signature": parts.signature,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    offline = ["unshare", "--user", "--map-root-user", "--net"]

    def verifies(argv: Sequence[str]) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
        done = subprocess.run(
            [*offline, *argv], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    cosign = [tool("cosign"), "verify-blob-attestation", "--bundle=bundle", "--key=key"]
    cosign += ["--trusted-root=root", "--type=https://stella.example/longseal/image/v1"]
    cosign += ["--use-signed-timestamps", "--insecure-ignore-tlog=true"]
    image = chain.images[number - 1].removeprefix("sha256:")
    verifies([*cosign, f"--digest={image}", "--digestAlg=sha256"])
    verifies(["openssl", "dgst", "-sha256", "-verify=key", "-signature=signature", "message"])
    authorities, _ = parse_trusted_root(files["root"])
    for token, authority in zip(parts.timestamps, authorities, strict=True):
        (tmp_path / "token").write_bytes(token)
        chain_pem = b"".join(one.public_bytes(Encoding.PEM) for one in authority.certificates)
        (tmp_path / "chain").write_bytes(chain_pem)
        stamped = verify_token(token, parts.signature, authority).gen_time
        openssl = ["openssl", "ts", "-verify", "-in", "token", "-data", "signature"]
        openssl += ["-CAfile", "chain", "-untrusted", "chain"]
        verifies([*openssl, "-attime", str(int(stamped.timestamp()))])


@pytest.mark.lab
@pytest.mark.parametrize("number", [1, MONTHS])
def test_what_was_sealed_last_still_verifies_thirty_months_later(
    number: int, chain: Chain, proofs: dict[int, Proven]
) -> None:
    """The clock of cosign stays: Go asks the kernel."""
    proof, later = proofs[number], chain.clock.at + timedelta(days=913)
    faketime = [tool("faketime"), "-f", f"@{later:%Y-%m-%d %H:%M:%S}"]
    year = subprocess.run([*faketime, "date", "-u", "+%Y"], capture_output=True, text=True).stdout
    assert year.strip() == "2029"
    assert proof.script(wrapper=faketime) == 0, proof.said
    longseal = [sys.executable, "-m", "longseal.cli", "verify", str(proof.folder)]
    longseal += ["--key", proof.key, "--quorum", str(QUORUM)]
    for root in proof.roots:
        longseal += ["--timestamp-root", root]
    done = subprocess.run(["unshare", "-rn", *faketime, *longseal], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
