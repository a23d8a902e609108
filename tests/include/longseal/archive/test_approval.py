"""Approval by a signed policy: only what it names, and only while it lasts."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation
from tests.retired import REPOSITORY, RULE, approval_policy, retire

from longseal.archive import prune
from longseal.archive.approval import policy_in_force, require_approved, sign_policy
from longseal.archive.document import Document
from longseal.archive.tombstones import tombstones
from longseal.cli import main
from longseal.errors import MalformedError, PermanentError, RefusedError, VerificationError
from longseal.seal.ceremony import BUNDLE, STATEMENT, Ceremony
from longseal.seal.organisation import signed_as
from longseal.seal.published import predicate_type, published
from longseal.seal.statement import Statement, Subject
from longseal.settings import load
from longseal.workspace import Workspace, utc_now


@pytest.fixture
def planned(tmp_path: Path, authority: TimestampAuthorityDouble) -> tuple[Installation, str, str]:
    """One attestation of 2023, sealed and planned; its manifest, and the plan's digest."""
    installation = Installation(tmp_path / "installation", authority)
    manifest = retire(installation)
    found = prune.plan(installation.workspace())
    assert found is not None
    return installation, manifest, found.digest


def test_a_plan_that_a_signed_policy_names_needs_nobody(
    planned: tuple[Installation, str, str],
) -> None:
    installation, manifest, digest = planned
    workspace = installation.workspace()
    signed = sign_policy(workspace, approval_policy(RULE))
    assert signed["key_operations"] == 1
    prune.execute(workspace, digest, None)
    assert installation.registry().manifest(REPOSITORY, manifest) is None
    approver = f"policy {signed['policy']} (version 1)"
    said = [
        entry.details["approver"]
        for entry in workspace.ledger.walk()
        if entry.action in ("prune.begun", "prune.deleted")
    ]
    assert said == [approver, approver]
    assert [one.approver for one in tombstones(workspace)] == [approver]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"repositories": ["other/*"]}, "no rule for"),
        ({"classes": ["default.rejected"]}, "no rule for"),
        ({"classes": ["cra.*"]}, "no rule for"),
    ],
)
def test_a_plan_that_no_rule_names_needs_somebody(
    planned: tuple[Installation, str, str], change: dict[str, Any], reason: str
) -> None:
    installation, manifest, digest = planned
    sign_policy(installation.workspace(), approval_policy(RULE | change))
    with pytest.raises(RefusedError, match=reason):
        prune.execute(installation.workspace(), digest, None)
    assert installation.registry().manifest(REPOSITORY, manifest) is not None
    assert prune.execute(installation.workspace(), digest, "grace")["deleted"] == 1


def test_counts_and_shares_are_bounds(planned: tuple[Installation, str, str]) -> None:
    installation, _, digest = planned
    workspace = installation.workspace()
    items = Document.parse(workspace.kept(digest)).items
    sign_policy(workspace, approval_policy(RULE | {"maxCount": 1}))
    require_approved(workspace, items)
    with pytest.raises(RefusedError, match="takes 1 at most, the plan has 2"):
        require_approved(workspace, [*items, *items])
    sign_policy(workspace, approval_policy(RULE | {"maxShare": 99}))
    with pytest.raises(RefusedError, match=r"99 % of a repository at most.* 1 of 1"):
        require_approved(workspace, items)


def test_a_policy_approves_nothing_after_its_date(planned: tuple[Installation, str, str]) -> None:
    installation, manifest, digest = planned
    sign_policy(installation.workspace(), approval_policy(RULE, days=2))
    later = Workspace(load(installation.config, {}), clock=lambda: utc_now() + timedelta(days=3))
    with pytest.raises(RefusedError, match="approval policy ended at"):
        prune.execute(later, digest, None)
    assert installation.registry().manifest(REPOSITORY, manifest) is not None


def test_the_newest_policy_counts_also_where_it_takes_all_back(
    planned: tuple[Installation, str, str],
) -> None:
    installation, _, digest = planned
    workspace = installation.workspace()
    first = approval_policy(RULE)
    assert sign_policy(workspace, first)["version"] == 1
    assert sign_policy(workspace, b" " + first)["key_operations"] == 0
    assert sign_policy(workspace, approval_policy())["version"] == 2
    with pytest.raises(RefusedError, match="no rule for"):
        prune.execute(workspace, digest, None)
    assert sign_policy(workspace, first)["version"] == 3
    assert prune.execute(workspace, digest, None)["deleted"] == 1


def test_a_policy_that_is_not_signed_approves_nothing(
    planned: tuple[Installation, str, str],
) -> None:
    installation, _, digest = planned
    workspace = installation.workspace()
    with pytest.raises(RefusedError, match="no approval policy is signed"):
        prune.execute(workspace, digest, None)
    sign_policy(workspace, approval_policy(RULE))
    bundle = installation.folder / "archive/approvals/0001/bundle.sigstore.json"
    forged = json.loads(bundle.read_bytes())
    forged["dsseEnvelope"]["signatures"][0]["sig"] = "MAUCAQECAAA="
    bundle.chmod(0o644)
    bundle.write_text(json.dumps(forged))
    with pytest.raises(PermanentError):
        prune.execute(workspace, digest, None)


def plant(installation: Installation, version: int, statement: bytes, bundle: bytes) -> None:
    """What somebody can do who writes into the archive and holds no key."""
    archive = installation.workspace().archive
    archive.put(f"approvals/{version:04}/{STATEMENT}", statement)
    archive.put(f"approvals/{version:04}/{BUNDLE}", bundle)


def test_a_policy_beside_a_bundle_of_something_else_approves_nothing(
    planned: tuple[Installation, str, str],
) -> None:
    installation, manifest, digest = planned
    workspace = installation.workspace()
    forged = workspace.keep(approval_policy(RULE))
    statement = Statement(
        (Subject.of(workspace.kept(forged)),),
        predicate_type(workspace, "approval-policy"),
        {"version": 1},
    )
    plant(installation, 1, statement.format(), published(workspace)[0].bundle)
    with pytest.raises(VerificationError, match="expected a approval-policy statement"):
        prune.execute(installation.workspace(), digest, None)
    assert installation.registry().manifest(REPOSITORY, manifest) is not None


@pytest.mark.parametrize("genuine", [True, False])
def test_an_earlier_policy_does_not_come_back_under_a_later_number(
    planned: tuple[Installation, str, str], genuine: bool
) -> None:
    installation, manifest, digest = planned
    workspace = installation.workspace()
    sign_policy(workspace, approval_policy(RULE))
    sign_policy(workspace, approval_policy())
    of = Ceremony(workspace, "approvals/0001" if genuine else "approvals/0002")
    earlier = Ceremony(workspace, "approvals/0001")
    plant(installation, 3, earlier.statement(), of.bundle())
    with pytest.raises(VerificationError, match="version"):
        prune.execute(installation.workspace(), digest, None)
    assert installation.registry().manifest(REPOSITORY, manifest) is not None


def test_a_policy_that_somebody_claimed_is_not_signed_for_him(
    planned: tuple[Installation, str, str],
) -> None:
    installation, _, digest = planned
    workspace = installation.workspace()
    document = workspace.kept(workspace.keep(approval_policy(RULE)))
    until = json.loads(document)["validUntil"]
    statement = Statement(
        (Subject.of(document, "approval-policy.json"),),
        predicate_type(workspace, "approval-policy"),
        {"version": 1, "validUntil": until, **signed_as(workspace)},
    )
    Ceremony(workspace, "approvals/0001").claim(statement.format())
    signed = sign_policy(workspace, approval_policy())
    assert (signed["version"], signed["key_operations"]) == (2, 1)
    assert not Ceremony(workspace, "approvals/0001").signed
    with pytest.raises(RefusedError, match="no rule for"):
        prune.execute(installation.workspace(), digest, None)


def test_nobody_passes_for_a_policy(planned: tuple[Installation, str, str]) -> None:
    installation, _, digest = planned
    with pytest.raises(RefusedError, match="nobody is called"):
        prune.execute(installation.workspace(), digest, f"policy {digest}")


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"{}",
        approval_policy(RULE, more=1),
        approval_policy({**RULE, "more": 1}),
        approval_policy({name: value for name, value in RULE.items() if name != "maxShare"}),
        approval_policy({**RULE, "repositories": []}),
        approval_policy({**RULE, "repositories": "*/*"}),
        approval_policy({**RULE, "classes": [""]}),
        approval_policy({**RULE, "maxCount": 0}),
        approval_policy({**RULE, "maxCount": True}),
        approval_policy({**RULE, "maxShare": 101}),
        approval_policy(*[RULE] * 101),
        approval_policy(RULE, validUntil="tomorrow"),
    ],
)
def test_what_is_no_policy_is_not_signed(installation: Installation, document: bytes) -> None:
    with pytest.raises(MalformedError):
        sign_policy(installation.workspace(), document)
    assert installation.key_operations() == 0


@pytest.mark.parametrize("days", [-1, 401])
def test_a_policy_ends_within_400_days(installation: Installation, days: int) -> None:
    with pytest.raises(RefusedError, match="validUntil"):
        sign_policy(installation.workspace(), approval_policy(RULE, days=days))


def test_the_command_signs_shows_and_goes_by_the_policy(
    planned: tuple[Installation, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    installation, _, digest = planned

    def printed() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    config = ["--config", str(installation.config)]
    file = installation.folder / "approval.json"
    file.write_bytes(approval_policy(RULE))
    assert main(["approval", "show", *config, "--json"]) == 0
    assert printed() == {"policy": None}
    assert main(["approval", "sign", str(file), *config, "--json"]) == 0
    signed = printed()
    assert main(["approval", "show", *config, "--json"]) == 0
    shown = printed()
    assert (shown["policy"], shown["in_force"]) == (signed["policy"], True)
    assert shown["document"]["rules"] == [RULE]
    assert main(["prune", "--approve", digest, "--by-policy", *config, "--json"]) == 0
    assert printed()["deleted"] == 1
    assert policy_in_force(installation.workspace()) is not None
