"""The ledger: a hash-chained record of every action that Longseal took.

Entry ``n`` is ``ledger/<n, 8 digits>.json`` in the archive, from 1 on, written by a conditional
write; it names the SHA-256 of the entry before it (``docs/formats/ledger.md``). Changed, inserted
or missing entries break the chain; entries cut off at the end are noticed by whoever knows a later
head, which every seal records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from longseal import __version__
from longseal.archive.interface import Archive
from longseal.canonical import (
    canonical_json,
    parse_object,
    parse_timestamp,
    sha256_hex,
    timestamp,
)
from longseal.errors import ConflictError, MalformedError, VerificationError

MAX_ENTRY_BYTES: Final = 1024 * 1024
MAX_SEQUENCE: Final = 99_999_999

_ACTION = re.compile(r"[a-z][a-z0-9.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One action on record.

    :param sequence: from 1 on, without gaps
    :param previous: hex SHA-256 of the preceding entry's bytes; None for the first
    :param at: when, in UTC with whole seconds
    :param actor: who: a user, or the run of a DAG
    :param action: what, as ``seal.signed``
    :param details: JSON of the action's own; never a secret
    :param software: name and version of what wrote the entry
    :raises MalformedError: when a field is of another form
    """

    sequence: int
    previous: str | None
    at: datetime
    actor: str
    action: str
    details: Mapping[str, Any]
    software: str
    data: bytes = field(init=False, repr=False)
    """The entry's bytes: RFC 8785 JSON."""

    def __post_init__(self) -> None:
        _require(type(self.sequence) is int and 0 < self.sequence <= MAX_SEQUENCE, "sequence")
        _require(
            self.previous is None
            if self.sequence == 1
            else isinstance(self.previous, str) and _SHA256.fullmatch(self.previous) is not None,
            "previous",
        )
        _require(isinstance(self.actor, str) and self.actor != "", "actor")
        _require(isinstance(self.action, str) and _ACTION.fullmatch(self.action), "action")
        _require(isinstance(self.details, Mapping), "details")
        _require(isinstance(self.software, str) and self.software != "", "software")
        _require(self.at.tzinfo, "at")
        object.__setattr__(self, "at", self.at.astimezone(UTC).replace(microsecond=0))
        data = canonical_json(
            {
                "action": self.action,
                "actor": self.actor,
                "at": timestamp(self.at),
                "details": self.details,
                "previous": self.previous,
                "sequence": self.sequence,
                "software": self.software,
            }
        )
        if len(data) > MAX_ENTRY_BYTES:
            raise MalformedError(
                f"a ledger entry of {len(data)} bytes: {MAX_ENTRY_BYTES} is the most, so name "
                "long lists by their digest"
            )
        object.__setattr__(self, "data", data)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the entry's bytes: what the next entry's ``previous`` is."""
        return sha256_hex(self.data)

    @classmethod
    def parse(cls, data: bytes) -> Entry:
        """The entry that ``data`` spells.

        :raises MalformedError: a key is missing, unknown or of another type, or ``data`` is not
            RFC 8785 JSON
        """
        found = parse_object(data, "a ledger entry", MAX_ENTRY_BYTES)
        try:
            entry = cls(
                sequence=found["sequence"],
                previous=found["previous"],
                at=parse_timestamp(found["at"]),
                actor=found["actor"],
                action=found["action"],
                details=found["details"],
                software=found["software"],
            )
        except KeyError as err:
            raise MalformedError(f"a ledger entry has no key {err}") from err
        except TypeError as err:
            raise MalformedError(f"a ledger entry holds a value of another type: {err}") from err
        if entry.data != data:
            raise MalformedError("a ledger entry has unknown keys, or another spelling")
        return entry


def entry_key(sequence: int, folder: str = "ledger") -> str:
    """Where entry ``sequence`` is archived."""
    return f"{folder}/{sequence:08}.json"


class Ledger:
    """The ledger of one archive; several writers may append at once.

    :param keep: for how long after its date an entry is locked against deletion, where the archive
        can lock; None leaves it to the archive's own rules
    :param folder: where the entries are; another one makes another chain
    :param name: what messages call it
    """

    def __init__(
        self,
        archive: Archive,
        keep: timedelta | None = None,
        folder: str = "ledger",
        name: str = "ledger",
    ) -> None:
        self._archive = archive
        self._keep = keep
        self._folder = folder
        self._name = name
        self._head: Entry | None = None

    def append(self, action: str, details: Mapping[str, Any], at: datetime, actor: str) -> Entry:
        """Record an action, after whatever other writers have recorded.

        An entry with the same content and second as the head-to-be counts as recorded, as after a
        lost answer: an action that must be counted on its own carries something of its own, such
        as a digest, in ``details``.

        :raises MalformedError: the details are no canonical JSON, or too long
        :raises ArchiveError: the archive could not be reached or would not write
        """
        while True:
            head = self.head()
            entry = Entry(
                sequence=head.sequence + 1 if head else 1,
                previous=head.sha256 if head else None,
                at=at,
                actor=actor,
                action=action,
                details=details,
                software=f"longseal {__version__}",
            )
            until = None if self._keep is None else entry.at + self._keep
            try:
                self._archive.put(self._key(entry.sequence), entry.data, until)
            except ConflictError:
                # Another writer was first: the ledger has become longer with each such turn.
                if not self._exists(entry.sequence):
                    raise
                continue
            self._head = entry
            return entry

    def head(self) -> Entry | None:
        """The newest entry; None while there is none.

        Found by doubling and halving steps from the newest that is known.

        :raises VerificationError: the entry is not what its name says
        """
        known = self._head.sequence if self._head else 0
        step = 1
        while self._exists(known + step):
            known += step
            step *= 2
        while step > 1:
            step //= 2
            if self._exists(known + step):
                known += step
        if known and (self._head is None or known > self._head.sequence):
            self._head = self._read(known)
        return self._head

    def newest_first(self) -> Iterator[Entry]:
        """Every entry from the head back, each the one that the later one names.

        :raises VerificationError: at the first that is not
        """
        entry = self.head()
        while entry is not None:
            yield entry
            if entry.sequence == 1:
                return
            before = self._read(entry.sequence - 1)
            if before.sha256 != entry.previous:
                raise VerificationError(
                    f"the {self._name}'s entry {entry.sequence} is not chained to entry "
                    f"{before.sequence}: one of the two was changed"
                )
            entry = before

    def walk(self, until: int | None = None) -> Iterator[Entry]:
        """Every entry from the first on, each checked against the one before it.

        :param until: last sequence wanted; None for all
        :raises VerificationError: at the first entry that is missing, unreadable, misplaced or not
            chained to the one before it, also where the ledger ends before ``until``
        """
        previous: Entry | None = None
        for key in self._archive.keys(f"{self._folder}/"):
            sequence = previous.sequence + 1 if previous else 1
            if until is not None and sequence > until:
                return
            if key != self._key(sequence):
                raise VerificationError(
                    f"the {self._name}'s entry {sequence} is missing: found {key}"
                )
            entry = self._read(sequence)
            if entry.previous != (previous.sha256 if previous else None):
                raise VerificationError(
                    f"the {self._name}'s entry {sequence} is not chained to entry {sequence - 1}: "
                    "one of the two was changed"
                )
            yield entry
            previous = entry
        length = previous.sequence if previous else 0
        if until is not None and length < until:
            raise VerificationError(
                f"the {self._name}'s entry {length + 1} is missing: it ends before {until}"
            )

    def _key(self, sequence: int) -> str:
        return entry_key(sequence, self._folder)

    def _exists(self, sequence: int) -> bool:
        return sequence <= MAX_SEQUENCE and self._archive.stat(self._key(sequence)) is not None

    def _read(self, sequence: int) -> Entry:
        try:
            entry = Entry.parse(self._archive.get(self._key(sequence), MAX_ENTRY_BYTES))
        except MalformedError as err:
            raise VerificationError(
                f"the {self._name}'s entry {sequence} is not readable: {err}"
            ) from err
        if entry.sequence != sequence:
            raise VerificationError(
                f"the {self._name}'s entry {sequence} says that it is {entry.sequence}"
            )
        return entry


def _require(holds: object, name: str) -> None:
    if not holds:
        raise MalformedError(f"a ledger entry cannot have this {name}")
