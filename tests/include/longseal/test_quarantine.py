"""What is held back, why, and how it comes free."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.installation import IDENTITY, ISSUER, Installation, seal

from longseal import judgement, quarantine
from longseal.archive.leaf import Leaf
from longseal.cli import main
from longseal.errors import RefusedError
from longseal.quarantine import Filter
from longseal.workspace import Workspace

Capture = pytest.CaptureFixture[str]
SBOM = "https://stella-ops.example/sbom-delta/v1"
ALL = "https://stella-ops.example/**"


def rule(predicate: str = ALL, repository: str = "corp/*", who: str = IDENTITY) -> dict[str, Any]:
    return {
        "repositories": [repository],
        "predicates": [predicate],
        "identities": [{"issuer": ISSUER, "identity": who}],
    }


@pytest.fixture
def held(under: Callable[..., Workspace]) -> Workspace:
    """80 pieces that no rule speaks of, and 20 whose signer is another one."""
    workspace = under(rule(SBOM, who="cd@stella.example"))
    judgement.apply(workspace)
    return workspace


def test_all_that_is_held_is_listed_and_counted_by_reason(held: Workspace) -> None:
    rows = list(quarantine.held(held))
    assert len(rows) == 100
    assert quarantine.counts(rows) == {"no-rule": 80, "identity": 20}
    assert list(quarantine.counts(rows)) == ["no-rule", "identity"]


def test_filters_narrow_the_list(held: Workspace) -> None:
    rows = list(quarantine.held(held))
    one = rows[0]

    def count(**wanted: str) -> int:
        return len(list(quarantine.held(held, Filter(**wanted))))

    assert count(reason="identity") == 20
    assert count(reason="nothing") == 0
    assert count(repository="corp/*") == 100
    assert count(repository=one.repository) == 20
    assert count(repository="*") == 0
    assert count(image=one.image) == 5
    for digest in (one.bundle, one.manifest, f"sha256:{one.leaf_hash}"):
        assert count(digest=digest) == 1
    assert count(digest=one.image, reason="no-rule") == 4
    for wanted in ({"image": "app"}, {"digest": "sha256:1"}):
        with pytest.raises(RefusedError, match="expected a digest"):
            count(**wanted)


def test_one_piece_is_shown_with_its_leaf_and_its_pack(held: Workspace) -> None:
    row = next(quarantine.held(held, Filter(reason="identity")))
    shown = quarantine.shown(row)
    assert shown["leaf"]["verdict"] == "rejected"
    assert shown["leaf"]["supersedes"]
    assert shown["pack"] == row.pack
    assert "cd@stella.example" in shown["reason"] and IDENTITY in shown["reason"]


def test_without_a_change_nothing_is_released(harvested: Installation, held: Workspace) -> None:
    before = harvested.files()
    document = quarantine.release(held)
    assert (document["judged"], document["released"]) == (100, 0)
    assert document["held"] == {"no-rule": 80, "identity": 20}
    assert harvested.files() == before


def test_what_a_new_rule_accepts_is_released_and_superseded(
    held: Workspace, under: Callable[..., Workspace]
) -> None:
    image = next(quarantine.held(held)).image
    workspace = under(rule(SBOM, who="cd@stella.example"), rule())
    document = quarantine.release(workspace, Filter(image=image))
    assert (document["judged"], document["released"], document["held"]) == (5, 5, {})
    assert {one["from"]["verdict"] for one in document["evidence"]} == {"rejected"}
    rows = workspace.catalog.evidence(image=image)
    assert {row.verdict for row in rows} == {"verified"}
    assert all(Leaf.parse(row.leaf.encode()).supersedes for row in rows)
    assert workspace.catalog.counts() == {"rejected": 95, "verified": 5}
    assert "quarantine.released" in [one.action for one in workspace.ledger.walk()]


def test_what_a_recheck_set_aside_is_listed_and_released_once_it_holds(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    hashes = [row.leaf_hash for row in workspace.catalog.evidence()[:3]]
    workspace.catalog.set_aside(hashes)
    assert quarantine.counts(quarantine.held(workspace)) == {"suspect": 3}
    packs = workspace.catalog.packs()
    document = quarantine.release(harvested.workspace())
    assert (document["released"], document["held"], document["evidence"]) == (3, {}, [])
    assert workspace.catalog.counts() == {"verified": 100}
    assert workspace.catalog.packs() == packs
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    assert sealed.size == 100


def test_a_row_that_no_pack_bears_out_is_never_released(harvested: Installation) -> None:
    workspace = harvested.workspace()
    row = workspace.catalog.evidence()[0]
    workspace.catalog.set_aside([row.leaf_hash])
    with workspace.catalog.session() as session:
        found = session.get(type(row), row.id)
        assert found is not None
        found.leaf = found.leaf.replace(IDENTITY, "me@stella.example")
    document = quarantine.release(workspace)
    assert (document["released"], document["missing"], document["held"]) == (0, 1, {"suspect": 1})


# -- the command ---------------------------------------------------------------------------------


def run(installation: Installation, capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    code = main([*words, "--config", str(installation.config), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_command_lists_shows_and_releases(
    harvested: Installation,
    held: Workspace,
    under: Callable[..., Workspace],
    capsys: Capture,
) -> None:
    code, found = run(harvested, capsys, "quarantine", "list", "--reason", "identity")
    assert (code, found["held"], found["reasons"]) == (1, 20, {"identity": 20})
    bundle = found["evidence"][0]["bundle"]
    code, found = run(harvested, capsys, "quarantine", "show", bundle)
    assert (code, found["evidence"][0]["bundle"]) == (1, bundle)
    assert (
        main(["quarantine", "show", "sha256:" + "0" * 64, "--config", str(harvested.config)]) == 2
    )
    assert "nothing with the digest" in capsys.readouterr().err
    under(rule())
    code, found = run(harvested, capsys, "quarantine", "release", bundle)
    assert (code, found["released"], found["held"]) == (0, 1, {})
    assert main(["quarantine", "list", "--config", str(harvested.config)]) == 1
    printed = capsys.readouterr().out
    assert "no-rule: 80" in printed
    assert "and 49 more" in printed


def test_the_command_tests_and_applies_a_policy(
    harvested: Installation, under: Callable[..., Workspace], capsys: Capture
) -> None:
    path = harvested.folder / "policy.yaml"
    path.write_text(json.dumps({"policy": [rule(SBOM)]}))
    before = harvested.files()
    code, found = run(harvested, capsys, "policy", "test", "--policy", str(path))
    assert (code, found["judged"], found["counts"]) == (1, 100, {"verified to rejected": 80})
    assert harvested.files() == before
    assert main(["policy", "test", "--policy", str(path), "--config", str(harvested.config)]) == 1
    printed = capsys.readouterr().out
    assert "verified -> rejected: no-rule: no rule speaks of" in printed
    assert "and 30 more" in printed
    assert run(harvested, capsys, "policy", "test")[0] == 0
    under(rule(SBOM))
    code, found = run(harvested, capsys, "policy", "apply")
    assert (code, found["counts"]) == (0, {"verified to rejected": 80})


def test_the_command_refuses_and_accepts_a_root(harvested: Installation, capsys: Capture) -> None:
    assert run(harvested, capsys, "trust", "refresh")[0] == 0
    document: Any = json.loads(harvested.workspace().trusted_root)
    document["timestampAuthorities"][0]["validFor"]["end"] = "2024-06-01T00:00:00Z"
    (harvested.folder / "root.json").write_text(json.dumps(document))
    harvested.write(trust={"trusted_root": "root.json"})
    config = ["--config", str(harvested.config)]
    assert main(["trust", "refresh", *config]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "stays in force" in said
    code, found = run(harvested, capsys, "harvest")
    assert (code, found["known"], found["verified"]) == (1, 100, 0)
    assert "stays in force" in found["trust"]["failed"]
    with pytest.raises(SystemExit):
        main(["trust", "accept", "--revoke", *config])
    capsys.readouterr()
    code, found = run(harvested, capsys, "trust", "accept", "--revoke", "--reason", "key leaked")
    assert (code, found["evidence"]["counts"]) == (1, {"verified to rejected": 100})
    code, found = run(harvested, capsys, "trust", "show")
    # A trusted root whose only authority has ended is something to look at.
    assert (code, found["revocation"]) == (1, "key leaked")
    assert found["ending"] == ["every timestamp authority has ended"]
