"""Thirty months that are over, sealed by Airflow's own backfill: what stands at the end.

Between the first half and the second the key is rotated and one authority gives way to another.
Marked `lab` for its length, and for cosign.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.airflow_home import Airflow
from tests.chain import QUORUM, Chain, backfilled
from tests.lab.processes import OFFLINE
from tests.lab.tools import tool
from tests.proven import Proven

from longseal.audit.audit import audit
from longseal.seal.bundle import KeyBundle, parse_key_bundle
from longseal.seal.ceremony import BUNDLE
from longseal.seal.images import statement_folders
from longseal.seal.keys import public_pem
from longseal.seal.organisation import anchors_of
from longseal.seal.proof import verify_chain
from longseal.seal.published import TRUSTED_ROOT, published, seal_folder
from longseal.seal.timestamps import verify_token
from longseal.seal.trusted_root import parse_trusted_root
from longseal.verify.report import State

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

MONTHS = int(os.environ.get("LONGSEAL_CHAIN_MONTHS", "30"))
"""Each takes some eight seconds of two processors: `.ci/run` has fewer made."""

CHANGED = MONTHS // 2 + 1
SHOWN = sorted({1, 2, *range(5, MONTHS, 5), CHANGED - 1, CHANGED, MONTHS - 1, MONTHS})
"""The months whose attestations are proven, ten of thirty."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, airflow: Airflow) -> Iterator[Chain]:
    """For tests that only read it."""
    with backfilled(tmp_path_factory.mktemp("chain"), airflow, MONTHS, CHANGED) as made:
        yield made


@pytest.fixture(scope="module")
def proofs(chain: Chain) -> dict[int, Proven]:
    return chain.proofs(SHOWN)


def test_the_chain_holds_from_the_newest_seal_back_to_the_first(chain: Chain) -> None:
    report = audit(chain.workspace())
    assert report.state is State.PASSED, report.to_json()
    seals = published(chain.workspace())
    verify_chain(seals)
    months = [chain.period(number) for number in range(1, MONTHS + 1)]
    assert [(seal.period, seal.size) for seal in seals] == [(month, 1) for month in months]
    newest = seals[-1]
    while newest.sequence > 1:
        before = seals[newest.sequence - 2]
        assert newest.statement.predicate["previous"] == before.digest
        newest = before


def test_another_key_signs_and_another_authority_stamps_from_the_change_on(chain: Chain) -> None:
    workspace = chain.workspace()
    found = [
        (
            seal.statement.predicate["keyid"],
            workspace.archive.get(f"{seal_folder(seal.sequence)}/{TRUSTED_ROOT}"),
        )
        for seal in published(workspace)
    ]
    before, after = found[: CHANGED - 1], found[CHANGED - 1 :]
    assert len(set(before)) == len(set(after)) == 1
    assert before[0][0] != after[0][0]
    assert before[0][1] != after[0][1]


def test_each_month_took_one_key_operation_for_its_seal_and_one_for_its_images(
    chain: Chain,
) -> None:
    # And each of the two keys signed the key set of the rotation.
    assert chain.installation.key_operations() == 2 * MONTHS + 2


@pytest.mark.parametrize("number", SHOWN)
def test_a_proof_holds_and_the_script_agrees_with_no_network(
    number: int, proofs: dict[int, Proven]
) -> None:
    assert proofs[number].check(), proofs[number].said
    assert proofs[number].script() == 0, proofs[number].said


@pytest.mark.parametrize("number", SHOWN)
def test_a_changed_byte_in_any_file_is_found_by_both(
    number: int, proofs: dict[int, Proven], tmp_path: Path
) -> None:
    changed = proofs[number].copy(tmp_path / "changed")
    for name in changed.files:
        kept = (changed.folder / name).read_bytes()
        changed.change(name)
        assert not changed.check(), name
        assert changed.script() == 1, name
        (changed.folder / name).write_bytes(kept)
    assert changed.check()


def verifies(folder: Path, argv: Sequence[str]) -> bool:
    """Whether a command that has no network ends well."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
    done = subprocess.run(
        [*OFFLINE, *argv], env=environment, cwd=folder, capture_output=True, text=True
    )
    return done.returncode == 0


def unpack(chain: Chain, number: int, bundle: bytes, folder: Path) -> KeyBundle:
    """Write what stock tools want of a bundle that was made with a month's seal."""
    workspace = chain.workspace()
    parts = parse_key_bundle(bundle)
    key = anchors_of(workspace).named(json.loads(parts.payload)["predicate"]["keyid"])
    files = {
        "bundle": bundle,
        "root": workspace.archive.get(f"{seal_folder(number)}/{TRUSTED_ROOT}"),
        "key": public_pem(key).encode(),
        "message": parts.message,
        "signature": parts.signature,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return parts


def cosign(kind: str, digest: str) -> list[str]:
    return [
        *(tool("cosign"), "verify-blob-attestation", "--bundle=bundle", "--key=key"),
        *("--trusted-root=root", f"--type=https://stella.example/longseal/{kind}/v1"),
        *("--use-signed-timestamps", "--insecure-ignore-tlog=true"),
        *(f"--digest={digest}", "--digestAlg=sha256"),
    ]


def require_openssl(parts: KeyBundle, folder: Path) -> None:
    """openssl takes the signature and each of its tokens."""
    openssl = ["openssl", "dgst", "-sha256", "-verify=key", "-signature=signature", "message"]
    assert verifies(folder, openssl)
    authorities, _ = parse_trusted_root((folder / "root").read_bytes())
    for token, authority in zip(parts.timestamps, authorities, strict=True):
        (folder / "token").write_bytes(token)
        chain_pem = b"".join(one.public_bytes(Encoding.PEM) for one in authority.certificates)
        (folder / "chain").write_bytes(chain_pem)
        stamped = verify_token(token, parts.signature, authority).gen_time
        openssl = ["openssl", "ts", "-verify", "-in", "token", "-data", "signature"]
        openssl += ["-CAfile", "chain", "-untrusted", "chain"]
        assert verifies(folder, [*openssl, "-attime", str(int(stamped.timestamp()))])


@pytest.mark.parametrize("number", SHOWN)
def test_cosign_and_openssl_verify_the_month_s_seal(
    number: int, chain: Chain, tmp_path: Path
) -> None:
    seal = published(chain.workspace())[number - 1]
    parts = unpack(chain, number, seal.bundle, tmp_path)
    checkpoint = seal.files()["checkpoint"].removeprefix("sha256:")
    assert verifies(tmp_path, cosign("seal", checkpoint))
    assert not verifies(tmp_path, cosign("seal", checkpoint[::-1]))
    require_openssl(parts, tmp_path)


@pytest.mark.parametrize("number", SHOWN)
def test_cosign_and_openssl_verify_the_image_s_statement(
    number: int, chain: Chain, tmp_path: Path
) -> None:
    workspace = chain.workspace()
    (folder,) = statement_folders(workspace, number)
    parts = unpack(chain, number, workspace.archive.get(f"{folder}/{BUNDLE}"), tmp_path)
    image = chain.images[number - 1].removeprefix("sha256:")
    assert verifies(tmp_path, cosign("image", image))
    require_openssl(parts, tmp_path)


@pytest.mark.parametrize("number", [1, MONTHS])
def test_what_was_sealed_today_still_verifies_thirty_months_later(
    number: int, chain: Chain, proofs: dict[int, Proven]
) -> None:
    """The clock of cosign stays: Go asks the kernel."""
    proof, later = proofs[number], chain.clock() + timedelta(days=913)
    faketime = [tool("faketime"), "-f", f"@{later:%Y-%m-%d %H:%M:%S}"]
    year = subprocess.run([*faketime, "date", "-u", "+%Y"], capture_output=True, text=True).stdout
    assert year.strip() == f"{later:%Y}"
    assert proof.script(wrapper=faketime) == 0, proof.said
    longseal = [sys.executable, "-m", "longseal.cli", "verify", str(proof.folder)]
    longseal += ["--key", proof.key, "--quorum", str(QUORUM)]
    for root in proof.roots:
        longseal += ["--timestamp-root", root]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*OFFLINE, *faketime, *longseal], capture_output=True, text=True, env=paths
    )
    assert done.returncode == 0, done.stdout + done.stderr
