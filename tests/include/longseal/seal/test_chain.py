"""Months of seals, each made at its own time, with another key and another authority within.

The chain of 30 months that Airflow backfills is in tests/dags/test_chain.py.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.chain import QUORUM, Chain, aged
from tests.proven import Proven

from longseal.audit.audit import audit
from longseal.seal.proof import verify_chain
from longseal.seal.proof_folder import told
from longseal.seal.published import published
from longseal.verify.report import State

FIRST = datetime(2024, 11, 1, tzinfo=UTC)
MONTHS = 9
KEY_ROTATED = 3
AUTHORITY_CHANGED = 5
SHOWN = [1, KEY_ROTATED - 1, KEY_ROTATED, AUTHORITY_CHANGED, MONTHS]
"""The months whose attestations are proven, the first and the last among them."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """For tests that only read it."""
    folder = tmp_path_factory.mktemp("chain")
    with aged(folder, FIRST, MONTHS, KEY_ROTATED, AUTHORITY_CHANGED) as made:
        yield made


@pytest.fixture(scope="module")
def proofs(chain: Chain) -> dict[int, Proven]:
    return chain.proofs(SHOWN)


def test_the_chain_holds_from_the_newest_seal_back_to_the_first(chain: Chain) -> None:
    report = audit(chain.workspace())
    assert report.state is State.PASSED, report.to_json()
    seals = published(chain.workspace())
    verify_chain(seals)
    assert [seal.size for seal in seals] == [1] * MONTHS


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
