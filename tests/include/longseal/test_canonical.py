import json
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone

import pytest
import rfc8785

from longseal.canonical import (
    MAX_JSON_DEPTH,
    canonical_json,
    digest_of,
    digest_set,
    hex_of,
    is_digest,
    parse_json,
    parse_object,
    parse_timestamp,
    timestamp,
)
from longseal.errors import MalformedError

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digests_are_those_of_the_bytes() -> None:
    assert digest_of(b"") == f"sha256:{EMPTY_SHA256}"
    assert hex_of(digest_of(b"")) == EMPTY_SHA256
    assert digest_set(b"")["sha256"] == EMPTY_SHA256
    assert digest_set(b"")["sha512"].startswith("cf83e1357eefb8bd")


@pytest.mark.parametrize(
    "text",
    [
        "",
        EMPTY_SHA256,
        f"sha256:{EMPTY_SHA256[:-1]}",
        f"sha256:{EMPTY_SHA256}0",
        f"sha256:{EMPTY_SHA256.upper()}",
        f"sha512:{EMPTY_SHA256}",
        f"sha256:{EMPTY_SHA256}\n",
        f"sha256:../{EMPTY_SHA256[3:]}",
    ],
)
def test_anything_but_a_lower_case_sha256_is_no_digest(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(MalformedError, match="64 hex digits"):
        hex_of(text)


def test_canonical_json_sorts_keys_and_leaves_no_space() -> None:
    value = {"b": [1, True, None, "é\u2028"], "a": {"z": (), "B": 2}}
    assert canonical_json(value) == '{"a":{"B":2,"z":[]},"b":[1,true,null,"é\u2028"]}'.encode()


def test_canonical_json_has_the_bytes_of_rfc_8785() -> None:
    every_character = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    ascii_keys = {chr(code): code for code in reversed(range(128))}
    numbers = [0, -1, 2**53 - 1, 1 - 2**53, True, False, None]
    value = {"text": every_character, "keys": ascii_keys, "more": [numbers, [], {}, ("", {"": 1})]}
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        {"a": [0.5]},
        float("nan"),
        {"schlüssel": 1},
        {1: "a"},
        "\ud800",
        {"a": "\udfff"},
        2**53,
        -(2**53),
        10**400,
        object(),
        {"a": {1}},
        b"bytes",
    ],
)
def test_what_cannot_be_repeated_is_not_written(value: object) -> None:
    with pytest.raises(MalformedError):
        canonical_json(value)


def test_json_is_parsed_as_it_stands() -> None:
    value = {"a": [1, '\\"[{', {"b": None}], "c": 1.5}
    assert parse_json(json.dumps(value).encode(), "it") == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": 1',
        b'{"a": "',
        b'"\\',
        b"[1,]",
        b"{} {}",
        b"{}x",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        "{}".encode("utf-16"),
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"9" * 5000,
    ],
)
def test_what_is_not_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match="the thing is not JSON"):
        parse_json(data, "the thing")


@pytest.mark.parametrize("data", [b'{"a":1,"a":1}', b'[{"x":{"b":1,"\\u0062":2}}]'])
def test_a_key_given_twice_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match="twice"):
        parse_json(data, "it")


def test_one_byte_past_the_limit_is_refused() -> None:
    assert parse_json(b'"123456"', "it", limit=8) == "123456"
    with pytest.raises(MalformedError, match="8 bytes, more than the 7"):
        parse_json(b'"123456"', "it", limit=7)


def test_depth_is_bounded_at_the_level_stated() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":[' * (depth // 2) + b"]}" * (depth // 2)

    assert parse_json(nested(MAX_JSON_DEPTH), "it")
    with pytest.raises(MalformedError, match="deeper than 64"):
        parse_json(nested(MAX_JSON_DEPTH + 2), "it")


def test_brackets_within_text_nest_nothing() -> None:
    text = '[{"\\' * 1000
    assert parse_json(json.dumps([text]).encode(), "it") == [text]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"a":' * 200_000,
        b"[" * 16_000_000,
        b'"' + b'\\"' * 8_000_000,
        b'"' * 16_000_001,
        b'"\\' * 8_000_000,
    ],
    ids=["arrays", "closed", "objects", "16 MB", "open text", "quotes", "backslashes"],
)
def test_hostile_nesting_and_quoting_is_refused_in_linear_time(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_json(data, "it")


@pytest.mark.parametrize("data", [b"[]", b"1", b'"text"', b"null"])
def test_a_document_that_must_be_an_object_is_one(data: bytes) -> None:
    with pytest.raises(MalformedError, match="not a JSON object"):
        parse_object(data, "it")


def test_times_are_utc_with_whole_seconds_and_four_digits_of_year() -> None:
    east = timezone(timedelta(hours=2))
    assert timestamp(datetime(2026, 11, 1, 1, 30, 5, 999_999, east)) == "2026-10-31T23:30:05Z"
    assert timestamp(datetime(999, 1, 2, tzinfo=UTC)) == "0999-01-02T00:00:00Z"
    with pytest.raises(MalformedError, match="zone"):
        timestamp(datetime(2026, 1, 1))


def test_a_time_is_read_back_whatever_its_offset() -> None:
    moment = datetime(2026, 10, 31, 23, 30, 5, tzinfo=UTC)
    assert parse_timestamp(timestamp(moment)) == moment
    assert parse_timestamp("2026-11-01T01:30:05+02:00") == moment
    assert parse_timestamp("2026-10-31T23:30:05.5Z") == moment + timedelta(seconds=0.5)
    assert parse_timestamp("2026-11-01T01:30:05+02:00").tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "today",
        "2026-10-31",
        "2026-10-31T23:30:05",
        "2026-10-31 23:30:05Z",
        "20261031T233005Z",
        "2026-W44-6T23:30:05Z",
        "2026-02-30T00:00:00Z",
        "2026-10-31T23:59:60Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-01:00",
        "\N{FULLWIDTH DIGIT TWO}026-10-31T23:30:05Z",
        None,
        20261031,
    ],
)
def test_any_other_spelling_of_a_time_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError, match="RFC 3339"):
        parse_timestamp(text)


@pytest.mark.parametrize(
    "data",
    [b"[" + b"[]," * 5_000_000 + b"[]]", b"[" + b"1," * 8_000_000 + b"1]", b"{},{" * 4_000_000],
)
def test_more_values_than_a_document_has_are_refused_before_they_fill_the_memory(
    data: bytes,
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="values"):
            parse_json(data, "this")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(data)


def test_brackets_and_commas_in_texts_are_no_values() -> None:
    assert parse_json(b'["[{,,,,", "\\",[{"]', "this", values=3) == ["[{,,,,", '",[{']
    with pytest.raises(MalformedError, match="more than the 3 values"):
        parse_json(b"[1, 2, 3, 4]", "this", values=3)
