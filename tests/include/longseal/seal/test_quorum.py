"""A quorum that is raised later: what was made before is judged as it was made."""

from pathlib import Path

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal
from tests.proven import Proven
from tests.retired import retire

from longseal.archive import prune
from longseal.audit.audit import audit
from longseal.errors import MalformedError, VerificationError
from longseal.rebuild import rebuild
from longseal.seal.bundle import format_key_bundle, parse_key_bundle
from longseal.seal.ceremony import check_bundle
from longseal.seal.key_report import key_standings
from longseal.seal.organisation import organisation_key
from longseal.seal.proof_folder import prove, told
from longseal.seal.published import published
from longseal.seal.statement import required
from longseal.verify.report import State


@pytest.fixture(scope="module")
def raised(
    tmp_path_factory: pytest.TempPathFactory, authority: TimestampAuthorityDouble
) -> Installation:
    """A seal and a deletion that one authority stamped, then one seal by a quorum of two."""
    folder = tmp_path_factory.mktemp("quorum")
    installation = Installation(folder / "installation", authority)
    retire(installation)
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    prune.execute(workspace, planned.digest, "grace")
    with TimestampAuthorityDouble(folder / "second", "second") as second:
        text = installation.config.read_text()
        one = f"- url: {authority.url}\n  certificates: {authority.chain_path}\n"
        two = f"- url: {second.url}\n  certificates: {second.chain_path}\n"
        assert one in text
        installation.config.write_text(text.replace(one, one + two) + "timestamp_quorum: 2\n")
        seal(installation.workspace(), "r-new")
    return installation


def test_the_audit_and_a_rebuild_take_what_was_made_under_a_smaller_quorum(
    raised: Installation,
) -> None:
    workspace = raised.workspace()
    made = [seal.statement.predicate["quorum"] for seal in published(workspace)]
    assert made == [1, 2]
    assert audit(workspace).state is State.PASSED
    assert rebuild(workspace).failed == {}
    (standing,) = key_standings(workspace)[1]
    assert (standing.seals, standing.doubtful) == ((1, 2), {})


def test_an_older_period_can_be_run_again(raised: Installation) -> None:
    before, operations = raised.files(), raised.key_operations()
    assert seal(raised.workspace(), "r-old").sealed is not None
    assert (raised.files(), raised.key_operations()) == (before, operations)


def test_what_is_made_later_needs_the_higher_quorum(raised: Installation) -> None:
    workspace = raised.workspace()
    parts = parse_key_bundle(published(workspace)[-1].bundle)
    key = organisation_key(workspace).key

    def stamped(times: int) -> bytes:
        tokens = parts.timestamps[:times]
        return format_key_bundle(parts.payload, parts.signature, key, tokens)

    check_bundle(workspace, stamped(2))
    with pytest.raises(VerificationError, match="1 of 2 timestamps"):
        check_bundle(workspace, stamped(1))


def test_a_reader_is_told_what_the_proof_can_meet_and_may_ask_for_more(
    raised: Installation, tmp_path: Path
) -> None:
    workspace = raised.workspace()
    (row, *_) = workspace.catalog.evidence()
    (folder,) = prove(workspace, row.image, tmp_path / "proof")
    assert told(workspace)[-1] == "quorum=2"
    assert told(workspace, folder)[-1] == "quorum=1"
    proof = Proven.of(folder, workspace)
    assert proof.check(quorum=1), proof.said
    assert not proof.check(quorum=2)


@pytest.mark.parametrize("made", [0, -1, True, "1", None, 1.5])
def test_a_quorum_that_is_no_number_is_refused(made: object) -> None:
    with pytest.raises(MalformedError):
        required({"quorum": made}, 2)


def test_a_statement_that_says_none_or_more_needs_what_is_asked_now() -> None:
    assert required({}, 2) == 2
    assert required({"quorum": 3}, 2) == 2
