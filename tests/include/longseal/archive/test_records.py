"""Completeness records in the archive: the newest counts, and what nobody archived does not."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import longseal.archive.records
from longseal.archive.directory import DirectoryArchive
from longseal.archive.interface import Archive
from longseal.archive.records import (
    Place,
    Record,
    newest_records,
    not_archived,
    record_files,
    record_line,
)
from longseal.canonical import sha256_hex
from longseal.errors import MalformedError, VerificationError

PAGE = Path(__file__).parents[4] / "docs" / "formats" / "record.md"
AT = datetime(2026, 10, 31, 12, tzinfo=UTC)
FOUND = "sha256:" + "1" * 64


def content(image: str, state: str = "whole", **changed: Any) -> dict[str, Any]:
    return {
        "registry": "main",
        "repository": "corp/app",
        "subject": image,
        "state": state,
        "answers": [{"place": "referrers", "outcome": "found", "count": 1, "detail": ""}],
        "found": [FOUND],
        "vanished": [],
    } | changed


def place(image: str) -> Place:
    return ("main", "corp/app", image)


def search(archive: Archive, hours: float, *contents: dict[str, Any]) -> list[bytes]:
    """What a run archives that starts so many hours later."""
    at = AT + timedelta(hours=hours)
    lines = [record_line(each, at) for each in contents]
    for key, data in record_files(lines, at):
        archive.put(key, data)
    return lines


def test_the_vector_in_the_page_is_what_the_code_makes() -> None:
    blocks = re.findall(r"```(?:json)?\n(.*?)\n```", PAGE.read_text().partition("## Test")[2])
    image = "sha256:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    line = record_line(content(image), AT)
    ((key, data),) = record_files([line], AT)
    assert [line.decode(), key] == blocks
    assert data == line + b"\n"


def test_the_newest_record_of_an_image_counts(archive: Archive) -> None:
    search(archive, 0, content("a"), content("b"))
    (_, later) = search(archive, 1, content("c"), content("a", "unknown"))
    found = newest_records(archive, [place("a"), place("b"), place("nobody's")])
    assert set(found) == {place("a"), place("b")}
    assert found[place("a")].line == later
    assert found[place("a")].state == "unknown"
    assert found[place("b")].state == "whole"


@pytest.mark.parametrize("alarm", [{"state": "unknown"}, {"vanished": [FOUND]}])
def test_of_two_runs_in_one_second_the_alarm_counts(archive: Archive, alarm: Any) -> None:
    for note in ("1", "2", "3"):
        answers = [{"place": note, "outcome": "absent", "count": 0, "detail": ""}]
        search(archive, 0, content("a", answers=answers))
    search(archive, 0, content("a") | alarm)
    assert newest_records(archive, [place("a")])[place("a")].alarming


def test_files_older_than_the_newest_of_every_image_are_not_read(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in range(20):
        search(archive, hours, content("a", answers=[hours]))
    read: list[str] = []
    original = type(archive).get

    def watched(self: Archive, key: str, limit: int | None = None) -> bytes:
        read.append(key)
        return original(self, key, limit)

    monkeypatch.setattr(type(archive), "get", watched)
    newest_records(archive, [place("a")])
    assert len(read) == 1


def test_without_names_the_newest_record_of_every_image_is_given(archive: Archive) -> None:
    search(archive, 0, content("a"), content("b"))
    search(archive, 1, content("a", "unknown"))
    found = newest_records(archive)
    assert {place[2]: record.state for place, record in found.items()} == {
        "a": "unknown",
        "b": "whole",
    }
    assert found[place("a")].checked_at == AT + timedelta(hours=1)


def test_what_no_run_archived_is_told_from_what_one_did(archive: Archive) -> None:
    old, new = search(archive, 0, content("a")) + search(archive, 5, content("a", "unknown"))
    forged = record_line(content("a"), AT + timedelta(hours=6))
    assert not_archived(archive, [old, new, forged]) == {forged}
    assert not_archived(archive, []) == set()


def test_a_file_with_other_bytes_than_its_name_says_is_refused(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    search(archive, 0, content("a", "unknown"))
    (path,) = (tmp_path / "records").glob("*.jsonl")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"unknown", b"whole"))
    with pytest.raises(VerificationError, match="other bytes"):
        newest_records(archive, [place("a")])
    with pytest.raises(VerificationError, match="other bytes"):
        not_archived(archive, [b"{}"])


def test_many_records_go_into_several_files_and_none_is_lost(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longseal.archive.records, "_FULL", 1000)
    lines = search(archive, 0, *(content(f"{n}") for n in range(30)))
    assert len(list(archive.keys("records/"))) > 5
    assert not_archived(archive, lines) == set()
    assert list(record_files([], AT)) == []


def test_the_order_of_records_makes_no_difference() -> None:
    lines = [record_line(content(f"{n}"), AT) for n in range(5)]
    ((key, data),) = record_files(lines, AT)
    assert list(record_files(reversed(lines), AT)) == [(key, data)]
    assert key == f"records/20261031120000-{sha256_hex(data)}.jsonl"


@pytest.mark.parametrize("name", ["registry", "repository", "subject", "state", "vanished"])
def test_a_record_without_one_of_its_keys_is_none(name: str) -> None:
    broken = {key: value for key, value in content("a").items() if key != name}
    with pytest.raises(MalformedError, match=name):
        Record.parse(json.dumps(broken).encode())
    if name != "vanished":
        with pytest.raises(MalformedError):
            Record.parse(json.dumps(content("a") | {name: 7}).encode())
