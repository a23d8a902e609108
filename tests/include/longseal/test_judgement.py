"""Stored evidence judged again: what changes, what does not, and what a seal makes of it."""

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.installation import IDENTITY, ISSUER, SIGNER, Installation, harvest_all, rule, seal

from longseal import harvest, judgement
from longseal.archive.interface import Archive
from longseal.archive.leaf import Leaf
from longseal.archive.pack import Evidence, load_pack
from longseal.canonical import canonical_json, digest_of, sha256_hex
from longseal.catalog.catalog import Catalog
from longseal.errors import SettingsError, VerificationError
from longseal.intake import intake
from longseal.seal.images import attach_images, sign_images
from longseal.seal.published import Published, published, read_lines
from longseal.seal.reseal import Reseal
from longseal.settings import policy_document, with_policy
from longseal.verify.engine import Judgement, Outcome
from longseal.verify.policy import Reason
from longseal.workspace import Workspace

RULE = rule(SIGNER)
OTHER = {**RULE, "identities": [{"issuer": ISSUER, "identity": "cd@stella.example"}]}
SBOM = "https://stella-ops.example/sbom-delta/v1"


def leaves(workspace: Workspace) -> list[Leaf]:
    return [Leaf.parse(row.leaf.encode()) for row in workspace.catalog.evidence()]


def lines(workspace: Workspace, sealed: Published | None, name: str) -> list[Leaf]:
    assert sealed is not None
    files = sealed.files(name)
    return [Leaf.parse(line) for line in read_lines(workspace, files.values())]


# -- pure parts ----------------------------------------------------------------------------------


def verified(leaf: Leaf) -> Judgement:
    assert leaf.signer is not None
    return Judgement(
        Outcome.VERIFIED,
        None,
        leaf.predicate_type,
        leaf.subject,
        leaf.signer.identity,
        leaf.signer.issuer,
        leaf.signed_at,
        leaf.time_source,
        "engine 2",
    )


@pytest.fixture
def leaf(harvested: Installation) -> Leaf:
    return leaves(harvested.workspace())[0]


def test_a_judgement_that_says_the_same_makes_no_leaf(leaf: Leaf) -> None:
    same = replace(verified(leaf), signed_at=leaf.signed_at + timedelta(microseconds=5))
    assert judgement.successor(leaf, same, digest_of(b"t"), digest_of(b"p")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "me"},
        {"issuer": "me"},
        {"predicate_type": "other"},
        {"subjects": ()},
        {"time_source": "rekor"},
        {"outcome": Outcome.REJECTED, "reason": Reason("identity", "no")},
        {"outcome": Outcome.UNKNOWN, "reason": Reason("unsupported", "no")},
    ],
)
def test_a_judgement_that_says_something_else_makes_a_leaf_that_supersedes(
    leaf: Leaf, change: dict[str, Any]
) -> None:
    trust, policy = digest_of(b"t"), digest_of(b"p")
    made = judgement.successor(leaf, replace(verified(leaf), **change), trust, policy)
    assert made is not None
    assert made.supersedes == sha256_hex(leaf.line())
    assert (made.trust, made.policy, made.engine) == (trust, policy, "engine 2")
    assert (made.sha256, made.manifest, made.collected_at) == (
        leaf.sha256,
        leaf.manifest,
        leaf.collected_at,
    )
    assert Leaf.parse(made.line()) == made


def test_another_wording_of_the_same_reason_is_no_change(leaf: Leaf) -> None:
    refused = Judgement(Outcome.REJECTED, Reason("identity", "expected a"), engine="e")
    first = judgement.successor(leaf, refused, leaf.trust, leaf.policy)
    assert first is not None
    again = replace(refused, reason=Reason("identity", "expected a; or b"))
    assert judgement.successor(first, again, leaf.trust, leaf.policy) is None
    other = replace(refused, reason=Reason("no-rule", "none"))
    assert judgement.successor(first, other, leaf.trust, leaf.policy) is not None


def test_what_cannot_be_written_down_is_rejected_and_not_an_error(leaf: Leaf) -> None:
    odd = replace(verified(leaf), subjects=("no subject at all",))
    made = judgement.successor(leaf, odd, leaf.trust, leaf.policy)
    assert made is not None
    assert (made.verdict, (made.reason or "").partition(":")[0]) == ("rejected", "malformed")


# -- stored evidence -----------------------------------------------------------------------------


def test_without_a_change_nothing_is_judged_and_nothing_written(harvested: Installation) -> None:
    before = harvested.files()
    assert judgement.apply(harvested.workspace()).judged == 0
    assert harvested.files() == before


def test_a_preview_says_what_would_change_and_changes_nothing(
    harvested: Installation, under: Callable[..., Workspace]
) -> None:
    before, rows = harvested.files(), harvested.workspace().catalog.counts()
    found = judgement.preview(under(OTHER), under(OTHER).policy)
    assert (found.judged, found.counts) == (100, {"verified to rejected": 100})
    shown = found.to_json()["changes"][0]
    assert shown["from"] == {"verdict": "verified", "reason": None}
    assert shown["to"]["reason"].startswith("identity: ")
    assert "cd@stella.example" in shown["to"]["reason"]
    assert IDENTITY in shown["to"]["reason"]
    assert shown["bundle"].startswith("sha256:")
    assert harvested.files() == before
    assert harvested.workspace().catalog.counts() == rows


def test_a_change_of_policy_moves_evidence_both_ways_and_downloads_nothing(
    harvested: Installation, under: Callable[..., Workspace]
) -> None:
    (harvested.folder / "registry").rename(harvested.folder / "elsewhere")
    (harvested.folder / "registry").mkdir()
    first = {leaf.sha256: leaf for leaf in leaves(harvested.workspace())}
    narrow = under({**RULE, "predicates": [SBOM]})
    outcomes = judgement.apply(narrow)
    assert outcomes.counts == {"verified to rejected": 80}
    assert narrow.catalog.counts() == {"rejected": 80, "verified": 20}
    second = {leaf.sha256: leaf for leaf in leaves(narrow)}
    for digest, leaf in second.items():
        if leaf.verdict == "verified":
            assert leaf == first[digest]
        else:
            assert leaf.supersedes == sha256_hex(first[digest].line())
            assert leaf.policy == digest_of(narrow.policy)
            assert (leaf.reason or "").startswith("no-rule: ")
    wide = under(RULE)
    assert judgement.apply(wide).counts == {"rejected to verified": 80}
    for digest, leaf in {one.sha256: one for one in leaves(wide)}.items():
        if second[digest].verdict == "rejected":
            assert leaf.supersedes == sha256_hex(second[digest].line())
    assert wide.catalog.counts() == {"verified": 100}
    assert judgement.apply(under(RULE)).judged == 0
    assert [one.action for one in wide.ledger.walk()].count("judgement.changed") == 2


def test_of_many_changes_all_are_counted_and_so_many_are_told(
    under: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgement, "MAX_SHOWN", 3)
    told = judgement.apply(under(OTHER)).to_json()
    assert (told["changed"], told["counts"]) == (100, {"verified to rejected": 100})
    assert len(told["changes"]) == 3
    assert under(OTHER).catalog.counts() == {"rejected": 100}


def test_packs_are_judged_one_after_the_other_and_none_is_held_on_to(
    harvested: Installation,
    under: Callable[..., Workspace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An archive may hold millions: of no more than two packs is anything in memory at once."""
    monkeypatch.setattr("longseal.harvest._CHUNK_MEMBERS", 10)
    shutil.rmtree(harvested.folder / "archive")
    (harvested.folder / "archive").mkdir()
    for file in harvested.folder.glob("catalog.db*"):
        file.unlink()
    assert len(harvest_all(harvested.workspace()).packs) == 10
    load = judgement.load_by_leaf
    alive = []

    def counted(archive: Archive, digest: str) -> dict[str, Evidence]:
        items = load(archive, digest)
        gc.collect()
        alive.append(sum(isinstance(one, Evidence) for one in gc.get_objects()))
        return items

    monkeypatch.setattr(judgement, "load_by_leaf", counted)
    workspace = under(OTHER)
    assert judgement.apply(workspace).counts == {"verified to rejected": 100}
    assert len(alive) == 10 and max(alive) <= 20


def test_superseding_leaves_lie_in_packs_of_their_own_beside_the_bytes_as_found(
    under: Callable[..., Workspace],
) -> None:
    workspace = under(OTHER)
    before = {row.pack for row in workspace.catalog.evidence()}
    outcomes = judgement.apply(workspace)
    packed = [item for one in outcomes.packs for item in load_pack(workspace.archive, one)]
    assert len(packed) == 100
    assert not before & set(outcomes.packs)
    for item in packed:
        assert sha256_hex(item.payload) == item.leaf.sha256
        assert item.leaf.verdict == "rejected"
    assert {row.pack for row in workspace.catalog.evidence()} == set(outcomes.packs)
    known = workspace.catalog.pack(outcomes.packs[0])
    assert (known.state, known.evidence_class) == ("stored", "default.rejected")


@pytest.mark.parametrize("step", ["claim_pack", "supersede", "mark_judged"])
def test_a_run_that_was_killed_is_taken_up_with_the_same_bytes(
    harvested: Installation,
    under: Callable[..., Workspace],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, step, _die)
        with pytest.raises(KeyboardInterrupt):
            judgement.apply(under(OTHER))
    there = {*(harvested.folder / "archive/packs/sha256").glob("*.zip")}
    workspace = under(OTHER)
    harvest.take_up(workspace)
    judgement.apply(workspace)
    assert workspace.catalog.counts() == {"rejected": 100}
    assert workspace.catalog.claimed_packs() == []
    after = {*(harvested.folder / "archive/packs/sha256").glob("*.zip")}
    assert len(after) == 2
    assert there <= after


def test_two_at_once_do_no_harm(
    under: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one does it all between this one's judging and its writing."""
    real = judgement.store_pack

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(judgement, "store_pack", real)
        judgement.apply(under(OTHER))
        return real(*arguments)

    monkeypatch.setattr(judgement, "store_pack", late)
    judgement.apply(under(OTHER))
    workspace = under(OTHER)
    assert workspace.catalog.counts() == {"rejected": 100}
    assert judgement.apply(workspace).judged == 0


def test_a_row_that_has_moved_on_meanwhile_stays_where_it_is(
    under: Callable[..., Workspace],
) -> None:
    workspace = under(RULE)
    row = workspace.catalog.evidence()[0]
    columns = harvest.catalog_row(Leaf.parse(row.leaf.encode()), row.pack) | {"verdict": "rejected"}
    workspace.catalog.supersede(row.pack, [(row.id, "0" * 64, columns)])
    assert workspace.catalog.counts() == {"verified": 100}
    workspace.catalog.supersede(row.pack, [(row.id, row.leaf_hash, columns)])
    assert workspace.catalog.counts() == {"verified": 99, "rejected": 1}


def test_a_row_whose_leaf_is_in_no_pack_is_counted_and_left(
    under: Callable[..., Workspace],
) -> None:
    workspace = under(OTHER)
    row = workspace.catalog.evidence()[0]
    with workspace.catalog.session() as session:
        found = session.get(type(row), row.id)
        assert found is not None
        found.leaf = found.leaf.replace(IDENTITY, "me@stella.example")
    outcomes = judgement.apply(workspace)
    assert (outcomes.missing, outcomes.judged) == (1, 99)
    assert workspace.catalog.counts() == {"rejected": 99, "verified": 1}


def test_what_is_no_attestation_needs_no_judge(
    harvested: Installation, under: Callable[..., Workspace]
) -> None:
    workspace = harvested.workspace()
    item = load_pack(workspace.archive, workspace.catalog.packs()[0])[0]
    ignored = replace(
        item.leaf,
        engine="none",
        verdict="ignored",
        reason="not-an-attestation: text/plain",
        signer=None,
        predicate_type=None,
        subject=(),
    )
    assert judgement._is_settled(ignored)
    assert not judgement._is_settled(item.leaf)
    assert not judgement._is_settled(replace(ignored, verdict="unknown", reason="unsupported"))


def test_evidence_taken_in_from_files_comes_out_as_before(
    harvested: Installation, tmp_path: Path
) -> None:
    workspace = harvested.workspace()
    files = tmp_path / "files"
    files.mkdir()
    for at, item in enumerate(load_pack(workspace.archive, workspace.catalog.packs()[0])[:3]):
        (files / f"{at}.json").write_bytes(item.payload)
    assert intake(workspace, files, "corp/other").total.verified == 3
    rows = workspace.catalog.evidence(repository="corp/other")
    outcomes = judgement.release(workspace, rows)
    assert (outcomes.judged, outcomes.changes) == (3, [])


# -- and the seal --------------------------------------------------------------------------------


def test_what_a_policy_refuses_before_the_seal_is_not_sealed_as_verified(
    harvested: Installation, under: Callable[..., Workspace]
) -> None:
    workspace = under({**RULE, "predicates": [SBOM]})
    sealed = seal(workspace, "r-one").sealed
    assert {leaf.predicate_type for leaf in lines(workspace, sealed, "leaves/")} == {SBOM}
    rejected = lines(workspace, sealed, "rejected.jsonl")
    assert len(rejected) == 80
    assert all(leaf.supersedes for leaf in rejected)
    assert sealed is not None
    assert len(sealed.files("policies/")) == 2
    assert harvested.key_operations() == 1


def test_what_a_policy_refuses_after_the_seal_is_listed_by_the_next(
    under: Callable[..., Workspace],
) -> None:
    workspace = under(RULE)
    first = seal(workspace, "r-one").sealed
    before = {sha256_hex(leaf.line()) for leaf in lines(workspace, first, "leaves/")}
    workspace = under({**RULE, "predicates": [SBOM]})
    second = seal(workspace, "r-two").sealed
    assert lines(workspace, second, "leaves/") == []
    fallen = {leaf.supersedes for leaf in lines(workspace, second, "rejected.jsonl")}
    assert len(fallen) == 80
    assert fallen < before
    third = seal(under({**RULE, "predicates": [SBOM]}), "r-three").sealed
    assert lines(workspace, third, "rejected.jsonl") == []


def test_what_a_new_rule_takes_is_sealed_by_the_next(under: Callable[..., Workspace]) -> None:
    workspace = under({**RULE, "predicates": [SBOM]})
    seal(workspace, "r-one")
    workspace = under(RULE)
    second = seal(workspace, "r-two").sealed
    found = lines(workspace, second, "leaves/")
    assert len(found) == 80
    assert all(leaf.supersedes for leaf in found)


def test_a_policy_that_changes_between_freeze_and_recheck_voids_the_attempt(
    harvested: Installation, under: Callable[..., Workspace]
) -> None:
    Reseal(under(RULE), "r-one").freeze()
    with pytest.raises(VerificationError, match="100 of the attestations"):
        Reseal(under(OTHER), "r-one").recheck()
    workspace = under(OTHER)
    sealed = seal(workspace, "r-one").sealed
    assert lines(workspace, sealed, "leaves/") == []
    assert len(lines(workspace, sealed, "rejected.jsonl")) == 100
    assert harvested.key_operations() == 1


def test_a_catalog_set_back_to_what_was_superseded_gets_nothing_signed(
    harvested: Installation, under: Callable[..., Workspace]
) -> None:
    workspace = under(RULE)
    seal(workspace, "r-one")
    rows = {row.id: row for row in workspace.catalog.evidence()}
    judgement.apply(under(OTHER))
    workspace = under(OTHER)
    with workspace.catalog.session() as session:
        for number, row in rows.items():
            found = session.get(type(row), number)
            assert found is not None
            found.leaf, found.leaf_hash, found.pack = row.leaf, row.leaf_hash, row.pack
            found.verdict, found.seal = "verified", None
    Reseal(workspace, "r-two").freeze()
    with pytest.raises(VerificationError, match="100 of the attestations"):
        Reseal(workspace, "r-two").recheck()
    assert len(published(workspace)) == 1
    assert harvested.key_operations() == 1


def test_an_image_whose_evidence_was_revoked_gets_no_further_statement(
    under: Callable[..., Workspace],
) -> None:
    workspace = under(RULE)
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    sign_images(workspace, sealed)
    workspace = under(OTHER)
    judgement.apply(workspace)
    assert attach_images(workspace, sealed)["attached"] == 0
    again = seal(workspace, "r-two").sealed
    assert again is not None
    assert sign_images(workspace, again) == {"image_statements": 0, "key_operations": 0}


# -- a policy in a file --------------------------------------------------------------------------


def test_a_policy_of_another_file_stands_in_for_that_of_the_settings(
    harvested: Installation, tmp_path: Path
) -> None:
    settings = harvested.workspace().settings
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump({"policy": [OTHER]}))
    changed = with_policy(settings, path)
    assert json.loads(policy_document(changed))["rules"][0]["identities"] == [
        {"identity": "cd@stella.example", "issuer": ISSUER}
    ]
    path.write_bytes(harvested.config.read_bytes())
    assert policy_document(with_policy(settings, path)) == policy_document(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: []", "trusts nobody"),
        ("{}", "missing"),
        ("[]", "missing"),
        ("policy: [{repositories: [a], predicates: [b], identities: [{issuer: c}]}]", "identity"),
        (canonical_json({"policy": [{**RULE, "extra": 1}]}).decode(), "unknown key"),
    ],
)
def test_a_policy_that_does_not_hold_is_refused(
    harvested: Installation, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        with_policy(harvested.workspace().settings, path)
    with pytest.raises(SettingsError, match="cannot be read"):
        with_policy(harvested.workspace().settings, tmp_path / "absent.yaml")


def _die(*_: object) -> None:
    raise KeyboardInterrupt
