import json

import pytest

from longseal.errors import MalformedError
from longseal.seal.statement import MAX_SUBJECTS, PAYLOAD_TYPE, Statement, Subject, pae

STATEMENT = Statement(
    (Subject.of(b"one", "checkpoint"), Subject.of(b"two")), "https://example/t/v1", {"n": 1}
)


def test_the_message_is_that_of_the_dsse_specification() -> None:
    # The example of DSSE's protocol.md.
    message = pae("http://example.com/HelloWorld", b"hello world")
    assert message == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_are_in_bytes() -> None:
    assert pae("é", "é".encode()) == b"DSSEv1 2 \xc3\xa9 2 \xc3\xa9"


def test_the_same_statement_has_the_same_bytes() -> None:
    document = json.loads(STATEMENT.format())
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert [each.get("name") for each in document["subject"]] == ["checkpoint", None]
    assert document["subject"][0]["digest"].keys() == {"sha256", "sha512"}
    assert Statement.parse(STATEMENT.format()) == STATEMENT
    assert Statement.parse(STATEMENT.format()).format() == STATEMENT.format()
    assert PAYLOAD_TYPE == "application/vnd.in-toto+json"


def test_a_statement_has_as_many_subjects_as_cosign_takes() -> None:
    subjects = [Subject.of(b"%d" % n) for n in range(MAX_SUBJECTS + 1)]
    assert Statement(tuple(subjects[:-1]), "t", {}).format()
    for bad in (subjects, []):
        with pytest.raises(MalformedError, match=f"not {len(bad)}"):
            Statement(tuple(bad), "t", {})


def test_two_files_of_one_name_are_refused() -> None:
    with pytest.raises(MalformedError, match="same name"):
        Statement((Subject.of(b"1", "a"), Subject.of(b"2", "a")), "t", {})


@pytest.mark.parametrize(
    ("digest", "name"),
    [
        ({}, None),
        ({"sha256": "AB"}, None),
        ({"sha256": "abc"}, None),
        ({"sha256": 1}, None),
        ({"sha256": "ab" * 65}, None),
        ({"sha256": "ab"}, ""),
    ],
)
def test_a_subject_that_names_nothing_is_refused(digest: dict, name: str | None) -> None:
    with pytest.raises(MalformedError):
        Subject(digest, name)


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": ""},
        {"predicateType": 1},
        {"predicate": None},
        {"subject": {}},
        {"subject": []},
        {"subject": [1]},
        {"subject": [{}]},
        {"subject": [{"digest": {"sha256": "ab"}, "uri": "x"}]},
        {"subject": [{"digest": ["ab"]}]},
        {"subject": [{"digest": {"sha256": "ab"}, "name": 1}]},
        {"subject": [{"digest": {"sha256": "ab"}, "name": "a"}] * 2},
        {"subject": [{"digest": {"sha256": "ab"}}] * 1025},
    ],
)
def test_what_longseal_would_not_write_is_not_read(change: dict) -> None:
    document = json.loads(STATEMENT.format()) | change
    with pytest.raises(MalformedError):
        Statement.parse(json.dumps(document).encode())


def test_a_predicate_with_a_float_is_refused() -> None:
    with pytest.raises(MalformedError, match="floats"):
        Statement((Subject.of(b"1"),), "t", {"share": 0.5}).format()
