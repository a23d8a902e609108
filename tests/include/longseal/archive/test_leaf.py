import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from longseal.archive.leaf import MAX_LEAF_BYTES, Leaf, Signer
from longseal.canonical import canonical_json, digest_of, sha256_hex
from longseal.errors import MalformedError

PAGE = Path(__file__).parents[4] / "docs/formats/leaf.md"
DIGEST = digest_of(b"")

MakeLeaf = Callable[..., Leaf]


def test_a_line_is_parsed_back_to_its_leaf(make_leaf: MakeLeaf) -> None:
    for leaf in (
        make_leaf(),
        make_leaf(material=tuple(sorted([DIGEST, digest_of(b"x")])), supersedes="0" * 64),
        make_leaf(verdict="rejected", reason="no-signature", signer=None, predicate_type=None),
        make_leaf(repository="corp/ä\n\u2028\U0001f980", subject=("gitCommit:" + "a" * 40,)),
    ):
        assert Leaf.parse(leaf.line()) == leaf
        assert b"\n" not in leaf.line()


def test_the_page_has_the_vector_that_the_code_makes() -> None:
    block = re.search(r"```json\n(.*?)\n```\n.*?`([0-9a-f]{64})`", PAGE.read_text(), re.DOTALL)
    assert block is not None
    line = block[1].encode()
    assert sha256_hex(line) == block[2]
    leaf = Leaf.parse(line)
    assert leaf.verdict == "verified"
    assert set(json.loads(line)) == set(re.findall(r"(?m)^\| `(\w+)` ", PAGE.read_text())) - {
        "supersedes"
    }


def test_times_are_cut_to_whole_seconds_in_utc(make_leaf: MakeLeaf) -> None:
    there = timezone(timedelta(hours=2))
    moment = datetime(2026, 10, 31, 13, 59, 59, 999_999, there)
    leaf = make_leaf(signed_at=moment)
    assert leaf.signed_at == datetime(2026, 10, 31, 11, 59, 59, tzinfo=UTC)
    assert b'"signedAt":"2026-10-31T11:59:59Z"' in leaf.line()


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": "A" * 64},
        {"sha256": DIGEST},
        {"sha512": "0" * 64},
        {"size": -1},
        {"size": True},
        {"size": "1"},
        {"size": 2**53},
        {"collected_at": datetime(2026, 10, 31)},
        {"engine": ""},
        {"image": "sha512:" + "0" * 128},
        {"policy": "0" * 64},
        {"policy": None},
        {"trust": "sha256:"},
        {"registry": ""},
        {"repository": "r" * 5000},
        {"time_source": "clock"},
        {"time_source": "collection"},
        {"verdict": "fine"},
        {"verdict": "rejected"},
        {"verdict": "rejected", "reason": "Not a slug"},
        {"verdict": "rejected", "reason": "slug:no-space"},
        {"verdict": "verified", "reason": "slug"},
        {"verdict": "verified", "signer": None},
        {"signer": Signer("", "https://issuer")},
        {"signer": Signer("someone", None)},
        {"signer": Signer(None, None)},
        {"signer": Signer(None, None, "key")},
        {"signer": Signer("someone", "https://issuer", f"sha256:{'a' * 64}")},
        {"predicate_type": ""},
        {"material": (digest_of(b"x"), digest_of(b"x"))},
        {"material": tuple(sorted([DIGEST, digest_of(b"x")], reverse=True))},
        {"material": ("sha1:" + "0" * 40,)},
        {"subject": (DIGEST, DIGEST)},
        {"subject": ("no colon",)},
        {"subject": ("sha256:",)},
        {"supersedes": DIGEST},
    ],
    ids=str,
)
def test_a_field_of_another_form_makes_no_leaf(make_leaf: MakeLeaf, fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        make_leaf(**fields)


def _altered(line: bytes, **changes: Any) -> bytes:
    return canonical_json({**json.loads(line), **changes})


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line + b"\n",
        lambda line: b" " + line,
        lambda line: line.replace(b'"engine"', b' "engine"'),
        lambda line: line.replace(b"longseal", rb"\u006congseal"),
        lambda line: line[:-1],
        lambda line: b"[" + line + b"]",
        lambda line: line.replace(b'"verdict":', b'"verdict":"verified","verdict":'),
        lambda line: line.replace(b'"size":6', b'"size":6.0'),
        lambda line: line.replace(b"11:59:00Z", b"11:59:00+00:00"),
        lambda line: line.replace(b"ci@stella", rb"\ud800"),
        lambda line: json.dumps(dict(reversed(json.loads(line).items()))).encode(),
        lambda line: _altered(line, extra=1),
        lambda line: _altered(line, supersedes=None),
        lambda line: _altered(line, bundle=[]),
        lambda line: _altered(line, bundle={**json.loads(line)["bundle"], "md5": ""}),
        lambda line: _altered(line, material=""),
        lambda line: _altered(line, material={}),
        lambda line: _altered(line, material=None),
        lambda line: _altered(line, signer="someone"),
        lambda line: _altered(line, signer={"identity": "x"}),
        lambda line: _altered(line, signedAt=0),
        lambda line: _altered(line, subject=[[]]),
        lambda line: canonical_json({k: v for k, v in json.loads(line).items() if k != "policy"}),
        lambda line: canonical_json({k: v for k, v in json.loads(line).items() if k != "reason"}),
        lambda line: b"",
        lambda line: b"[" * 100_000,
        lambda line: b"x" * (MAX_LEAF_BYTES + 1),
    ],
)
def test_a_line_spelled_otherwise_is_refused(
    make_leaf: MakeLeaf, change: Callable[[bytes], bytes]
) -> None:
    line = make_leaf().line()
    assert change(line) != line
    with pytest.raises(MalformedError):
        Leaf.parse(change(line))


def test_a_thousand_subjects_fit_and_far_more_do_not(make_leaf: MakeLeaf) -> None:
    def subjects(count: int) -> tuple[str, ...]:
        return tuple(sorted(f"sha512:{number:0128x}" for number in range(count)))

    leaf = make_leaf(subject=subjects(1024))
    assert Leaf.parse(leaf.line()) == leaf
    with pytest.raises(MalformedError, match="is the most"):
        make_leaf(subject=subjects(4096)).line()
