import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longseal.archive.directory import DirectoryArchive
from longseal.archive.interface import Stored
from longseal.audit.ledger import Entry, Ledger, entry_key
from longseal.canonical import canonical_json, sha256_hex
from longseal.errors import ConflictError, MalformedError, VerificationError

PAGE = Path(__file__).parents[4] / "docs/formats/ledger.md"
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Counting(DirectoryArchive):
    """A directory that counts how often it was looked at."""

    looks = 0

    def stat(self, key: str) -> Stored | None:
        self.looks += 1
        return super().stat(key)


def filled(root: Path, length: int) -> Ledger:
    ledger = Ledger(DirectoryArchive(root))
    for number in range(length):
        ledger.append("seal.signed", {"number": number}, NOON, "tests")
    return ledger


def rewrite(root: Path, sequence: int, data: bytes) -> None:
    path = root / entry_key(sequence)
    path.chmod(0o644)
    path.write_bytes(data)


def test_an_empty_ledger_has_no_head_and_no_entries(tmp_path: Path) -> None:
    ledger = Ledger(DirectoryArchive(tmp_path))
    assert ledger.head() is None
    assert list(ledger.walk()) == []


def test_each_entry_names_the_one_before_it(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 3)
    entries = list(ledger.walk())
    assert [entry.sequence for entry in entries] == [1, 2, 3]
    assert [entry.previous for entry in entries] == [None, entries[0].sha256, entries[1].sha256]
    assert [entry.details["number"] for entry in entries] == [0, 1, 2]
    assert ledger.head() == entries[-1]
    assert (tmp_path / "ledger/00000003.json").read_bytes() == entries[-1].data


def test_the_way_back_is_checked_as_the_way_forth(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 3)
    assert list(ledger.newest_first()) == [*ledger.walk()][::-1]
    assert list(Ledger(DirectoryArchive(tmp_path), folder="other").newest_first()) == []
    entry = tmp_path / "ledger/00000001.json"
    rewrite(tmp_path, 1, entry.read_bytes().replace(b'"number":0', b'"number":9'))
    with pytest.raises(VerificationError, match="entry 2 is not chained to entry 1"):
        list(Ledger(DirectoryArchive(tmp_path)).newest_first())


def test_the_page_has_the_vector_that_the_code_makes() -> None:
    text = PAGE.read_text()
    first, second = re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)
    one, two = Entry.parse(first.encode()), Entry.parse(second.encode())
    assert two.previous == one.sha256
    assert set(json.loads(first)) == set(re.findall(r"(?m)^\| `(\w+)` ", text))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9, 20])
def test_the_head_is_found_by_whoever_comes_new(tmp_path: Path, length: int) -> None:
    expected = filled(tmp_path, length).head()
    assert Ledger(DirectoryArchive(tmp_path)).head() == expected
    assert expected is not None
    assert expected.sequence == length


def test_the_head_of_a_long_ledger_is_found_in_few_looks(tmp_path: Path) -> None:
    filled(tmp_path, 100)
    archive = Counting(tmp_path)
    ledger = Ledger(archive)
    ledger.head()
    assert archive.looks <= 16
    ledger.head()
    assert archive.looks <= 17


def test_writers_that_do_not_know_of_each_other_make_one_chain(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        ledger = Ledger(DirectoryArchive(tmp_path))
        for number in range(10):
            ledger.append("test", {"number": number, "writer": writer}, NOON, f"writer {writer}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    entries = list(Ledger(DirectoryArchive(tmp_path)).walk())
    assert len(entries) == 40
    for writer in range(4):
        mine = [e.details["number"] for e in entries if e.details["writer"] == writer]
        assert mine == list(range(10))


def test_a_lost_answer_makes_no_second_entry(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    stale = Ledger(DirectoryArchive(tmp_path))
    stale._head = Entry.parse((tmp_path / entry_key(1)).read_bytes())
    stale.head = lambda: stale._head  # type: ignore[method-assign]
    again = stale.append("seal.signed", {"number": 1}, NOON, "tests")
    assert again.sequence == 2
    assert len(list(Ledger(DirectoryArchive(tmp_path)).walk())) == 2


def test_a_name_that_can_never_be_written_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / entry_key(1)).mkdir(parents=True)
    with pytest.raises(ConflictError):
        Ledger(DirectoryArchive(tmp_path)).append("test", {}, NOON, "tests")


def test_entries_are_kept_for_as_long_as_asked(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    Ledger(archive, timedelta(days=3650)).append("test", {}, NOON, "tests")
    found = archive.stat(entry_key(1))
    assert found is not None
    assert found.retain_until == NOON + timedelta(days=3650)


def _reworded(data: bytes) -> bytes:
    return data.replace(b'"actor":"tests"', b'"actor":"other"')


@pytest.mark.parametrize(
    "change",
    [
        _reworded,
        lambda data: data.replace(b'"sequence":2', b'"sequence":4'),
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: b"",
        lambda data: b"x" * (2 * 1024 * 1024),
    ],
)
def test_a_changed_entry_breaks_the_chain_where_it_stands(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    ledger = filled(tmp_path, 4)
    rewrite(tmp_path, 2, change((tmp_path / entry_key(2)).read_bytes()))
    with pytest.raises(VerificationError, match=r"entry [23] "):
        list(ledger.walk())
    assert [entry.sequence for entry in ledger.walk(until=1)] == [1]


def test_an_entry_written_anew_with_the_right_predecessor_breaks_the_next(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 4)
    rewrite(tmp_path, 2, _reworded((tmp_path / entry_key(2)).read_bytes()))
    walked = ledger.walk()
    assert [next(walked).sequence, next(walked).sequence] == [1, 2]
    with pytest.raises(VerificationError, match="entry 3 is not chained to entry 2"):
        next(walked)


@pytest.mark.parametrize("gone", [1, 3])
def test_a_missing_entry_is_named(tmp_path: Path, gone: int) -> None:
    ledger = filled(tmp_path, 5)
    (tmp_path / entry_key(gone)).unlink()
    with pytest.raises(VerificationError, match=f"entry {gone} is missing"):
        list(ledger.walk())


def test_a_foreign_name_in_the_ledger_is_named(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 2)
    DirectoryArchive(tmp_path).put("ledger/00000001a.json", b"{}")
    with pytest.raises(VerificationError, match="00000001a"):
        list(ledger.walk())


def test_a_ledger_cut_short_is_found_by_whoever_knows_a_later_head(tmp_path: Path) -> None:
    ledger = filled(tmp_path, 5)
    (tmp_path / entry_key(5)).unlink()
    assert len(list(ledger.walk())) == 4
    with pytest.raises(VerificationError, match="entry 5 is missing"):
        list(ledger.walk(until=5))


@pytest.mark.parametrize(
    ("action", "details", "at", "actor"),
    [
        ("Not a slug", {}, NOON, "tests"),
        ("", {}, NOON, "tests"),
        ("test", {}, NOON, ""),
        ("test", {"rate": 0.5}, NOON, "tests"),
        ("test", {"ä": 1}, NOON, "tests"),
        ("test", {"text": "\ud800"}, NOON, "tests"),
        ("test", [], NOON, "tests"),
        ("test", {}, datetime(2026, 11, 1), "tests"),
        ("test", {"list": "x" * 1024 * 1024}, NOON, "tests"),
    ],
)
def test_what_cannot_be_an_entry_is_refused_and_not_written(
    tmp_path: Path, action: str, details: Any, at: datetime, actor: str
) -> None:
    with pytest.raises(MalformedError):
        Ledger(DirectoryArchive(tmp_path)).append(action, details, at, actor)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"sequence": 0},
        {"sequence": True},
        {"sequence": "2"},
        {"previous": "short"},
        {"previous": None},
        {"previous": 5},
        {"sequence": 1},
        {"details": []},
        {"at": "2026-11-01T12:00:00+00:00"},
        {"at": None},
        {"actor": 1},
        {"action": 1},
        {"software": ""},
    ],
    ids=str,
)
def test_an_entry_of_another_form_is_not_parsed(changes: dict[str, Any]) -> None:
    entry = Entry(2, sha256_hex(b""), NOON, "tests", "test", {"n": 1}, "longseal 0")
    assert Entry.parse(entry.data) == entry
    with pytest.raises(MalformedError):
        Entry.parse(canonical_json({**json.loads(entry.data), **changes}))
    for key in json.loads(entry.data):
        with pytest.raises(MalformedError):
            Entry.parse(
                canonical_json({k: v for k, v in json.loads(entry.data).items() if k != key})
            )
