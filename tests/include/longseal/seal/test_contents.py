"""What a seal covers: the catalog says where to look, and the packs what is so."""

import pytest
from sqlalchemy import create_engine, text
from tests.installation import Installation

from longseal.archive.leaf import Leaf
from longseal.errors import VerificationError
from longseal.seal.contents import Contents
from longseal.seal.published import read_lines
from longseal.seal.tree import Tree, leaf_hash


def execute(installation: Installation, statement: str) -> None:
    """What a worker that may write the catalog could do."""
    with create_engine(f"sqlite:///{installation.folder}/catalog.db").begin() as connection:
        connection.execute(text(statement))


def files(contents: Contents) -> dict[str, str]:
    return {str(one.name): f"sha256:{one.digest['sha256']}" for one in contents.subjects}


def test_shards_hold_the_leaves_in_order_and_give_the_tree(
    harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longseal.seal.contents.SHARD_LINES", 32)
    workspace = harvested.workspace()
    contents = Contents(workspace, None)
    found = files(contents)
    names = [f"leaves/{number:04}.jsonl" for number in range(4)]
    assert list(found) == [*names, "rejected.jsonl", "ignored.jsonl", "unknown.jsonl"]
    shards = [list(read_lines(workspace, [found[name]])) for name in names]
    assert list(map(len, shards)) == [32, 32, 32, 4]
    lines = [line for shard in shards for line in shard]
    assert lines == sorted(row.leaf.encode() for row in workspace.catalog.evidence())
    assert contents.tree == Tree.of(map(leaf_hash, lines))


def test_a_full_last_shard_is_followed_by_no_empty_one(
    harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longseal.seal.contents.SHARD_LINES", 50)
    found = files(Contents(harvested.workspace(), None))
    assert [name for name in found if name.startswith("leaves/")] == [
        "leaves/0000.jsonl",
        "leaves/0001.jsonl",
    ]


def test_what_is_told_of_the_leaves_is_read_from_the_packs(harvested: Installation) -> None:
    workspace = harvested.workspace()
    leaves = [Leaf.parse(row.leaf.encode()) for row in workspace.catalog.evidence()]
    execute(harvested, "UPDATE evidence SET source = 'other', image = 'none', reason = 'none'")
    contents = Contents(workspace, None)
    assert contents.images == {(leaf.registry, leaf.repository, leaf.image) for leaf in leaves}
    assert contents.registries == {"exported": 100}
    assert contents.policies == {leaf.policy for leaf in leaves}
    assert contents.trusts == {leaf.trust for leaf in leaves}
    assert dict(contents.counts) == {"verified": 100, "rejected": 0, "ignored": 0, "unknown": 0}


@pytest.mark.parametrize("verdict", ["rejected", "unknown", "best"])
def test_a_verdict_that_the_pack_does_not_bear_out_is_refused(
    harvested: Installation, verdict: str
) -> None:
    execute(harvested, f"UPDATE evidence SET verdict = '{verdict}' WHERE id = 1")
    with pytest.raises(VerificationError, match="lists 1 leaves that are in no pack"):
        Contents(harvested.workspace(), None)


def test_a_leaf_that_stands_in_two_rows_is_sealed_once(harvested: Installation) -> None:
    workspace = harvested.workspace()
    columns = (
        "source, repository, image, manifest, verdict, signed_at, collected_at, leaf, leaf_hash,"
        " pack"
    )
    execute(
        harvested,
        f"INSERT INTO evidence ({columns}, bundle)"
        f" SELECT {columns}, 'again' FROM evidence WHERE id = 1",
    )
    contents = Contents(workspace, None)
    assert contents.tree.size == 100
    assert contents.counts["verified"] == 100
