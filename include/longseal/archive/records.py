"""Completeness records in the archive: how each image's attestations were looked for.

A run archives the records that differ from the ones before in files of its own, named by its time,
so that the newest is found first (``docs/formats/record.md``). What a seal says of an image is read
from here; the catalog's copy only saves the next harvest from writing the same again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from longseal.archive.interface import Archive
from longseal.canonical import (
    canonical_json,
    parse_object,
    parse_timestamp,
    sha256_hex,
    timestamp,
)
from longseal.errors import MalformedError, VerificationError

PREFIX: Final = "records/"

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
_FULL: Final = MAX_FILE_BYTES // 4
"""A file that has so many bytes takes no further record."""

_KEY = re.compile(r"records/(\d{14})-([0-9a-f]{64})\.jsonl")

Place = tuple[str, str, str]
"""Registry, repository and image."""


@dataclass(frozen=True, slots=True)
class Record:
    """A completeness record as archived.

    :param state: ``whole``, ``empty`` or ``unknown``, as the search ended; or ``vanished``, where
        known evidence was gone without a tombstone
    :param line: canonical JSON, without a newline
    """

    place: Place
    state: str
    line: bytes

    @property
    def checked_at(self) -> datetime:
        """When a search first ended so."""
        return parse_timestamp(parse_object(self.line, "a record", MAX_FILE_BYTES)["checkedAt"])

    @classmethod
    def parse(cls, line: bytes) -> Record:
        """The record that ``line`` spells.

        :raises MalformedError: it is none
        """
        found = parse_object(line, "a completeness record", MAX_FILE_BYTES)
        try:
            place = (found["registry"], found["repository"], found["subject"])
            state = "vanished" if found["vanished"] else found["state"]
        except KeyError as err:
            raise MalformedError(f"a completeness record has no key {err}") from err
        if not all(isinstance(text, str) for text in (*place, state)):
            raise MalformedError("a completeness record names its image and state in text")
        return cls(place, state, line)

    @property
    def alarming(self) -> bool:
        """Whether the search was not whole, or evidence was gone."""
        return self.state not in ("whole", "empty")


def record_line(content: Mapping[str, Any], checked_at: datetime) -> bytes:
    """The line of a search's outcome, with the time of the run that first found it so."""
    return canonical_json({**content, "checkedAt": timestamp(checked_at)})


def record_files(lines: Iterable[bytes], checked_at: datetime) -> Iterator[tuple[str, bytes]]:
    """Keys and content of the files that hold ``lines``, all of one run."""
    part: list[bytes] = []
    size = 0
    for line in sorted(lines):
        part.append(line + b"\n")
        size += len(part[-1])
        if size >= _FULL:
            yield _file(part, checked_at)
            part, size = [], 0
    if part:
        yield _file(part, checked_at)


def _file(lines: list[bytes], checked_at: datetime) -> tuple[str, bytes]:
    data = b"".join(lines)
    return f"{PREFIX}{checked_at.astimezone(UTC):%Y%m%d%H%M%S}-{sha256_hex(data)}.jsonl", data


def newest_records(
    archive: Archive, places: Collection[Place] | None = None
) -> dict[Place, Record]:
    """The newest archived record of each of ``places`` that has one.

    :param places: None for all that have one

    Of two from the same second, by two runs at once, the alarming one counts.

    :raises VerificationError: a file has other bytes than its name says
    """
    missing = None if places is None else set(places)
    found: dict[Place, Record] = {}
    for _, keys in groupby(_newest_first(archive), key=lambda key: key[: len(PREFIX) + 14]):
        if missing is not None and not missing:
            break
        of_second: dict[Place, Record] = {}
        for record in (record for key in keys for record in _read(archive, key)):
            wanted = record.place not in found if missing is None else record.place in missing
            if wanted and (record.place not in of_second or record.alarming):
                of_second[record.place] = record
        found.update(of_second)
        if missing is not None:
            missing -= of_second.keys()
    return found


def not_archived(archive: Archive, lines: Collection[bytes]) -> set[bytes]:
    """Those of ``lines`` that no run has archived.

    :raises VerificationError: a file has other bytes than its name says
    """
    missing = set(lines)
    for key in _newest_first(archive):
        if not missing:
            break
        missing.difference_update(record.line for record in _read(archive, key))
    return missing


def _newest_first(archive: Archive) -> list[str]:
    return sorted((key for key in archive.keys(PREFIX) if _KEY.fullmatch(key)), reverse=True)


def _read(archive: Archive, key: str) -> Iterator[Record]:
    named = _KEY.fullmatch(key)
    assert named is not None
    data = archive.get(key, MAX_FILE_BYTES)
    if sha256_hex(data) != named[2]:
        raise VerificationError(f"{key} has other bytes, with SHA-256 {sha256_hex(data)}")
    return map(Record.parse, data.splitlines())
