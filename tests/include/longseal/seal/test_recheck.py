"""Rechecking ahead of the seal: what its receipts save, and what they never vouch for."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.include.longseal.seal.forgery import a_leaf, forge_pack, forged_leaf, write_row
from tests.installation import Installation, seal

from longseal import cli, judgement
from longseal.archive.pack import Evidence
from longseal.errors import SettingsError, VerificationError
from longseal.seal.contents import Contents
from longseal.seal.recheck import Recheck, plan_recheck, recheck_ahead
from longseal.settings import load
from longseal.workspace import Workspace

SECRET, OTHER = "5" * 64, "6" * 64


@pytest.fixture
def installation(harvested: Installation) -> Installation:
    harvested.write(seal={"recheck_secret_env": "RECHECK"})
    return harvested


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many attestations each call judged again."""
    counts: list[int] = []
    real = judgement.judged

    def counting(pool: Any, evidence: Sequence[Evidence]) -> Iterator[Any]:
        counts.append(len(evidence))
        return real(pool, evidence)

    monkeypatch.setattr(judgement, "judged", counting)
    return counts


def signing(installation: Installation, secret: str = SECRET) -> Workspace:
    """What a signing worker works with."""
    return Workspace(load(installation.config, {}), environ={"RECHECK": secret})


def test_what_was_rechecked_ahead_is_not_judged_again_by_the_seal(
    installation: Installation, judged: list[int]
) -> None:
    found = recheck_ahead(signing(installation))
    assert found is not None
    assert (found.rechecked, found.known, found.failed) == (100, 0, {})
    assert sum(judged) == 100
    again = recheck_ahead(signing(installation))
    assert again is not None
    assert (again.rechecked, again.known) == (0, found.packs)
    sealed = seal(signing(installation), "r-one").sealed
    assert sealed is not None
    assert sealed.size == 100
    assert sum(judged) == 100


def test_batches_of_packs_are_rechecked_each_by_itself_and_the_seal_judges_none_again(
    installation: Installation, judged: list[int]
) -> None:
    packs = signing(installation).catalog.unsealed_packs()
    batches = plan_recheck(signing(installation), size=1)
    assert batches == [[pack] for pack in packs]
    assert plan_recheck(signing(installation)) == [packs]
    for batch in batches:
        found = recheck_ahead(signing(installation), batch)
        assert found is not None
        assert (found.packs, found.known) == (1, 0)
    assert sum(judged) == 100
    assert seal(signing(installation), "r-one").sealed is not None
    assert sum(judged) == 100
    assert plan_recheck(signing(installation)) == []


def test_what_is_sealed_is_not_rechecked(installation: Installation, judged: list[int]) -> None:
    seal(signing(installation), "r-one")
    assert sum(judged) == 100
    found = recheck_ahead(signing(installation))
    assert found is not None
    assert (found.rechecked, found.known) == (0, 0)


def test_a_receipt_by_another_secret_counts_for_nothing(
    installation: Installation, judged: list[int]
) -> None:
    recheck_ahead(signing(installation, OTHER))
    seal(signing(installation), "r-one")
    assert sum(judged) == 200


def test_a_receipt_by_another_version_counts_for_nothing(
    installation: Installation, judged: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("longseal.verify.engine.__version__", "0.0.0")
        recheck_ahead(signing(installation))
    seal(signing(installation), "r-one")
    assert sum(judged) == 200


def test_a_receipt_under_another_policy_counts_for_nothing(
    installation: Installation, judged: list[int]
) -> None:
    recheck_ahead(signing(installation))
    settings = load(installation.config, {})
    rule = {
        "repositories": ["corp/*"],
        "predicates": ["https://stella-ops.example/**"],
        "identities": [
            {"issuer": one.issuer, "identity": one.identity}
            for one in settings.policy[0].identities
        ],
    }
    installation.write(
        seal={"recheck_secret_env": "RECHECK"}, policy=[rule, {**rule, "repositories": ["lab/*"]}]
    )
    seal(signing(installation), "r-one")
    # Once by freeze, because the policy changed, and once by the recheck.
    assert sum(judged) == 300


def test_evidence_that_does_not_hold_gets_no_receipt_and_is_set_aside_by_the_seal(
    installation: Installation,
) -> None:
    forge_pack(signing(installation))
    found = recheck_ahead(signing(installation))
    assert found is not None
    (reason,) = found.failed.values()
    assert "identity" in reason
    assert len(list((installation.folder / "archive/rechecks/packs").iterdir())) == 2 * (
        found.packs - 1
    )
    with pytest.raises(VerificationError, match="set aside"):
        seal(signing(installation), "r-one")
    assert installation.key_operations() == 0


def test_whoever_writes_catalog_and_archive_without_the_secret_gets_nothing_sealed(
    installation: Installation,
) -> None:
    pack = forge_pack(signing(installation))
    with Recheck(signing(installation, OTHER)) as forger:
        forger.note(pack)
    with pytest.raises(VerificationError, match="set aside"):
        seal(signing(installation), "r-one")
    assert installation.key_operations() == 0


def test_a_receipt_vouches_for_no_leaf_that_is_not_in_its_pack(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = signing(installation)
    recheck_ahead(workspace)
    write_row(workspace, forged_leaf(workspace), a_leaf(workspace)[1])
    # Whoever froze it did not look.
    monkeypatch.setattr(Contents, "_require_packed", lambda *_: None)
    with pytest.raises(VerificationError, match="in no pack"):
        seal(workspace, "r-one")
    assert installation.key_operations() == 0


def test_without_a_secret_nothing_is_rechecked_ahead(
    harvested: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recheck_ahead(harvested.workspace()) is None
    assert cli.main(["reseal", "--recheck-ahead", "--config", str(harvested.config)]) == 2
    assert "seal.recheck_secret_env" in capsys.readouterr().err


def test_the_command_says_what_it_rechecked(
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RECHECK", SECRET)
    argv = ["reseal", "--recheck-ahead", "--config", str(installation.config), "--json"]
    assert cli.main(argv) == 0
    assert '"rechecked": 100' in capsys.readouterr().out
    forge_pack(signing(installation))
    assert cli.main(argv) == 1


@pytest.mark.parametrize(("secret", "said"), [("", "not set"), ("short", "under 32 characters")])
def test_a_secret_that_is_missing_or_could_be_guessed_is_refused(
    installation: Installation, secret: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        recheck_ahead(signing(installation, secret))
