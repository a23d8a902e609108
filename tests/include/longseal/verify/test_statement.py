import json
from typing import Any

import pytest

from longseal.errors import MalformedError
from longseal.verify.statement import MAX_PREDICATE_TYPE, MAX_SUBJECTS, Statement

SHA256 = "a" * 64


def written(**changed: Any) -> bytes:
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "image", "digest": {"sha256": SHA256}}],
        "predicateType": "https://stella-ops.example/sbom-delta/v1",
        "predicate": {"n": 1.5},
    }
    return json.dumps(statement | changed).encode()


@pytest.mark.parametrize("version", ["v1", "v0.1"])
def test_both_versions_of_a_statement_are_read(version: str) -> None:
    statement = Statement.parse(written(_type=f"https://in-toto.io/Statement/{version}"))
    assert statement.predicate_type == "https://stella-ops.example/sbom-delta/v1"
    assert statement.subjects == (f"sha256:{SHA256}",)


def test_subjects_need_no_name_and_may_have_any_digest() -> None:
    subjects = [
        {"digest": {"sha512": "b" * 128, "gitCommit": "c" * 40}},
        {"name": "again", "digest": {"sha512": "b" * 128}},
        {"digest": {"dirHash": "h1:AbC+/="}},
    ]
    assert Statement.parse(written(subject=subjects)).subjects == (
        "dirHash:h1:AbC+/=",
        f"gitCommit:{'c' * 40}",
        f"sha512:{'b' * 128}",
    )


def test_as_many_subjects_as_allowed_are_read_and_one_more_is_not() -> None:
    subjects = [{"digest": {"sha256": f"{n:064x}"}} for n in range(MAX_SUBJECTS + 1)]
    assert len(Statement.parse(written(subject=subjects[1:])).subjects) == MAX_SUBJECTS
    with pytest.raises(MalformedError, match="1 to 1024 subjects"):
        Statement.parse(written(subject=subjects))


@pytest.mark.parametrize(
    "changed",
    [
        {"_type": "https://in-toto.io/Statement/v2"},
        {"_type": None},
        {"_type": ["https://in-toto.io/Statement/v1"]},
        {"predicateType": 1},
        {"predicateType": "a\nb"},
        {"predicateType": "a\0"},
        {"predicateType": "\ud800"},
        {"predicateType": "a" * (MAX_PREDICATE_TYPE + 1)},
        {"subject": []},
        {"subject": {}},
        {"subject": None},
        {"subject": ["sha256"]},
        {"subject": [{"name": "image"}]},
        {"subject": [{"digest": {}}]},
        {"subject": [{"digest": [SHA256]}]},
        {"subject": [{"digest": {"sha256": 1}}]},
        {"subject": [{"digest": {"sha256": ""}}]},
        {"subject": [{"digest": {"sha256": "a" * 129}}]},
        {"subject": [{"digest": {"sha256": f"{SHA256}\n"}}]},
        {"subject": [{"digest": {"sha 256": SHA256}}]},
        {"subject": [{"digest": {"sha256:x": SHA256}}]},
        {"subject": [{"digest": {"": SHA256}}]},
        {"subject": [{"digest": {"sha256": SHA256}}, {}]},
    ],
)
def test_what_is_no_statement_is_malformed(changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        Statement.parse(written(**changed))


@pytest.mark.parametrize("data", [b"", b"[]", b'"text"', b'{"_type": 1, "_type": 2}', b"\xff"])
def test_a_payload_that_is_no_object_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Statement.parse(data)
