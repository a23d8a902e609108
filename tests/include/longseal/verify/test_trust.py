import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from longseal.canonical import digest_of
from longseal.errors import MalformedError, UnsupportedError
from longseal.verify.trust import TrustMaterial, Window

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 2, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


def test_a_window_has_both_its_ends() -> None:
    window = Window(START, END)
    assert window.covers(START)
    assert window.covers(END)
    assert not window.covers(START - MOMENT)
    assert not window.covers(END + MOMENT)
    assert Window(START, None).covers(END)
    assert Window(None, END).covers(START)


def test_a_trusted_root_is_named_by_its_digest_and_tells_its_windows(lab_root: bytes) -> None:
    trust = TrustMaterial.parse(lab_root)
    assert trust.digest == digest_of(lab_root)
    since_2024 = Window(datetime(2024, 1, 1, tzinfo=UTC), None)
    assert [one.window for one in trust.authorities] == [since_2024]
    assert list(trust.rekor_windows.values()) == [since_2024]
    assert list(trust.certificate_log_windows.values()) == [since_2024]


INSTANCES = ("certificateAuthorities", "ctlogs", "tlogs", "timestampAuthorities")


@pytest.mark.parametrize("absent", INSTANCES)
@pytest.mark.parametrize("empty", [True, False])
def test_a_root_may_lack_a_kind_of_instance(lab_root: bytes, absent: str, empty: bool) -> None:
    root = json.loads(lab_root)
    del root[absent]
    if empty:
        root[absent] = []
    trust = TrustMaterial.parse(json.dumps(root).encode())
    held = (
        trust.authorities,
        trust.certificate_log_windows,
        trust.rekor_windows,
        trust.timestamp_authorities,
    )
    assert [bool(one) for one in held] == [name != absent for name in INSTANCES]


def test_a_root_without_any_instance_is_unsupported_and_not_bad(lab_root: bytes) -> None:
    root = json.loads(lab_root) | {name: [] for name in INSTANCES}
    with pytest.raises(UnsupportedError, match="trusts nobody"):
        TrustMaterial.parse(json.dumps(root).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}',
        b'{"mediaType":1}',
        b"\xff",
        b"[" * 200_000,
        b'{"tlogs":[],"tlogs":[]}',
    ],
)
def test_what_is_no_trusted_root_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        TrustMaterial.parse(data)


def test_a_trusted_root_past_the_limit_is_malformed(lab_root: bytes) -> None:
    with pytest.raises(MalformedError, match="more than"):
        TrustMaterial.parse(lab_root + b" " * 20_000_000)


def test_a_window_without_its_start_is_malformed_and_not_unbounded(lab_root: bytes) -> None:
    for section in ("tlogs", "ctlogs"):
        root = json.loads(lab_root)
        del root[section][0]["publicKey"]["validFor"]["start"]
        with pytest.raises(MalformedError, match="start"):
            TrustMaterial.parse(json.dumps(root).encode())
    for section in ("certificateAuthorities", "timestampAuthorities"):
        root = json.loads(lab_root)
        del root[section][0]["validFor"]["start"]
        with pytest.raises(MalformedError, match="start"):
            TrustMaterial.parse(json.dumps(root).encode())


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*at, key)
        if isinstance(item, dict | list):
            yield from paths(item, (*at, key))


def test_no_part_left_out_or_of_another_type_raises_anything_else(lab_root: bytes) -> None:
    root = json.loads(lab_root)
    for path in paths(root):
        for value in (None, "", "AAAA", "\ud800", 0, -1, [], {}, [None], [{}], {"a": 1}):
            changed = copy.deepcopy(root)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if value is None:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            try:
                TrustMaterial.parse(json.dumps(changed).encode())
            except (MalformedError, UnsupportedError) as err:
                assert str(err)
