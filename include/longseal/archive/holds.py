"""Legal holds: what is not deleted, whatever its retention says, until the hold ends or is lifted.

The register is a hash-chained list of its own in the archive, ``holds/<n, 8 digits>.json``, whose
entries have the ledger's form (``docs/formats/holds.md``). A hold counts from the moment at which
its entry is written; the ledger records it as well, and every seal takes the register along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from longseal.archive.pack import pack_key
from longseal.audit.ledger import Entry, Ledger
from longseal.canonical import hex_of, is_digest, parse_timestamp, timestamp
from longseal.errors import MalformedError, RefusedError, VerificationError
from longseal.patterns import matches
from longseal.seal.published import published
from longseal.settings import Duration
from longseal.workspace import SEALS_KEPT, Workspace

SET: Final = "hold.set"
LIFTED: Final = "hold.lifted"

MAX_CASE: Final = 200
MAX_REASON: Final = 2000

_PERIOD = re.compile(r"(\d{4}-(?:0[1-9]|1[0-2]))(?:\.\.(\d{4}-(?:0[1-9]|1[0-2])))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a hold is on: evidence for which all of the given holds.

    :param image: digest of the image that it hangs on
    :param repository: pattern of its repository's name
    :param digest: of the attestation, or of the manifest that carries it
    :param since: signed then or later
    :param before: signed before
    """

    image: str | None = None
    repository: str | None = None
    digest: str | None = None
    since: datetime | None = None
    before: datetime | None = None

    @classmethod
    def of(
        cls,
        image: str | None = None,
        repository: str | None = None,
        digest: str | None = None,
        period: str | None = None,
    ) -> Scope:
        """The scope that somebody asks for.

        :param period: ``YYYY-MM``, or ``YYYY-MM..YYYY-MM`` with both months in it
        :raises RefusedError: it would hold nothing in particular
        :raises MalformedError: something is no digest or period
        """
        if not any((image, repository, digest, period)):
            raise RefusedError(
                "say what is held: an image, a repository, a digest or a period"
                " (the repository '**' is everything)"
            )
        for given in filter(None, (image, digest)):
            hex_of(given)
        since = before = None
        if period is not None:
            named = _PERIOD.fullmatch(period)
            if named is None or (named[2] or named[1]) < named[1]:
                raise MalformedError(f"expected YYYY-MM or YYYY-MM..YYYY-MM, found {period[:40]!a}")
            since = datetime.strptime(named[1], "%Y-%m").replace(tzinfo=UTC)
            last = datetime.strptime(named[2] or named[1], "%Y-%m").replace(tzinfo=UTC)
            before = Duration(1, "month").after(last)
        return cls(image=image, repository=repository, digest=digest, since=since, before=before)

    def covers(self, evidence: Any) -> bool:
        """Whether ``evidence``, a row of the catalog, is in it."""
        return (
            (self.image is None or self.image == evidence.image)
            and (self.repository is None or matches(self.repository, evidence.repository))
            and (self.digest is None or self.digest in (evidence.bundle, evidence.manifest))
            and (self.since is None or evidence.signed_at >= self.since)
            and (self.before is None or evidence.signed_at < self.before)
        )

    def to_json(self) -> dict[str, str]:
        """What is given, by name."""
        found = {
            "image": self.image,
            "repository": self.repository,
            "digest": self.digest,
            "since": self.since and timestamp(self.since),
            "before": self.before and timestamp(self.before),
        }
        return {name: text for name, text in found.items() if text}

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> Scope:
        """The inverse of :meth:`to_json`.

        :raises MalformedError: a name is unknown or a value of another form: a hold that cannot be
            read must not be taken for one on nothing
        """
        moments = {"since", "before"} & value.keys()
        if not value or value.keys() - {"image", "repository", "digest", "since", "before"}:
            raise MalformedError(f"a hold's scope cannot have the names {sorted(value)}")
        if any(not is_digest(value[name]) for name in {"image", "digest"} & value.keys()):
            raise MalformedError("a hold's scope names something that is no digest")
        return cls(**{**value, **{name: parse_timestamp(value[name]) for name in moments}})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold on record.

    :param number: of its entry in the register
    :param case: what people call the matter; several holds may be of one
    :param who: who set it
    :param until: when it ends by itself; None for when it is lifted
    :param lifted: when, by whom and why it was lifted
    """

    number: int
    case: str
    scope: Scope
    who: str
    reason: str
    set_at: datetime
    until: datetime | None
    lifted: tuple[datetime, str, str] | None = None

    def in_force(self, now: datetime) -> bool:
        """Whether it holds."""
        return self.lifted is None and (self.until is None or now < self.until)

    def to_json(self, now: datetime) -> dict[str, Any]:
        """For a report."""
        return {
            "hold": self.number,
            "case": self.case,
            "on": self.scope.to_json(),
            "who": self.who,
            "reason": self.reason,
            "set_at": timestamp(self.set_at),
            "until": self.until and timestamp(self.until),
            "lifted": self.lifted
            and {"at": timestamp(self.lifted[0]), "who": self.lifted[1], "reason": self.lifted[2]},
            "in_force": self.in_force(now),
        }


class Holds:
    """The register of holds of one archive."""

    def __init__(self, workspace: Workspace) -> None:
        now = workspace.now()
        self._workspace = workspace
        self._chain = Ledger(
            workspace.archive, SEALS_KEPT.after(now) - now, "holds", "hold register"
        )
        self._read: list[Entry] = []
        self._all: tuple[Hold, ...] = ()

    def entries(self) -> list[Entry]:
        """Every entry, oldest first; one look at the archive where none is new.

        :raises VerificationError: the chain is broken, or shorter than the newest seal says
        """
        head = self._chain.head()
        if not self._read:
            self._read = list(self._chain.walk())
            self._require_sealed()
        elif head is not None and head.sequence > len(self._read):
            self._read = list(self._chain.walk())
        return self._read

    def _require_sealed(self) -> None:
        """Entries cut off at the end break no chain: whoever sealed them knows better."""
        for seal in reversed(published(self._workspace)):
            if (digest := seal.files().get("holds.jsonl")) is not None:
                sealed = self._workspace.kept(digest)
                found = b"".join(entry.data + b"\n" for entry in self._read)
                if not found.startswith(sealed):
                    raise VerificationError(
                        f"the hold register lacks entries that seal {seal.sequence} has: restore"
                        " holds/ in the archive; nothing is deleted meanwhile"
                    )
                return

    def all(self) -> tuple[Hold, ...]:
        """Every hold that was ever set.

        :raises VerificationError: an entry cannot be read as a hold, or the register is damaged
        """
        entries = self.entries()
        if len(self._all) != len(entries):
            found: dict[int, Hold] = {}
            for entry in entries:
                _take(found, entry)
            self._all = tuple(found.values())
        return self._all

    def in_force(self) -> tuple[Hold, ...]:
        """The holds that stop something now."""
        now = self._workspace.now()
        return tuple(hold for hold in self.all() if hold.in_force(now))

    def set(
        self, scope: Scope, case: str, reason: str, until: datetime | None = None
    ) -> dict[str, Any]:
        """Set a hold; the same one again is the one there is.

        :raises RefusedError: no case or reason is given, or it would end before it begins
        """
        workspace = self._workspace
        _require_text("case", case, MAX_CASE)
        _require_text("reason", reason, MAX_REASON)
        if until is not None and until <= workspace.now():
            raise RefusedError(f"the hold would end at {timestamp(until)}, which is past")
        details = {
            "case": case,
            "scope": scope.to_json(),
            "reason": reason,
            "until": until and timestamp(until),
        }
        wanted = (case, scope.to_json(), reason, details["until"])
        for hold in self.in_force():
            until_then = hold.until and timestamp(hold.until)
            if (hold.case, hold.scope.to_json(), hold.reason, until_then) == wanted:
                number = hold.number
                break
        else:
            number = self._append(SET, details)
        self._note(SET, {"hold": number, **details})
        return {"hold": number, "held_packs": self.secure()}

    def lift(self, reason: str, case: str | None = None, number: int | None = None) -> list[int]:
        """Lift the holds of a case, or one hold by its number.

        :returns: their numbers
        :raises RefusedError: no such hold is in force, or no reason is given
        """
        _require_text("reason", reason, MAX_REASON)
        if (case is None) == (number is None):
            raise RefusedError("say which: a case, or the number of a hold")
        found = [
            hold.number for hold in self.in_force() if case == hold.case or number == hold.number
        ]
        if not found:
            raise RefusedError("no such hold is in force: longseal hold list has those that are")
        for one in found:
            # The ledger first: a hold that no longer holds is never missing from it.
            details = {"hold": one, "reason": reason}
            self._note(LIFTED, details)
            self._append(LIFTED, details)
        self.secure()
        return found

    def secure(self) -> int:
        """Have the store hold the packs of held evidence, and no longer those of holds that ended.

        :returns: how many packs are held
        """
        if not (every := self.all()):
            return 0
        now = self._workspace.now()
        scopes = [hold.scope for hold in every if hold.in_force(now)]
        ended = [hold.scope for hold in every if not hold.in_force(now)]
        held: set[str] = set()
        released: set[str] = set()
        for row in self._workspace.catalog.placed():
            if row.pack not in held:
                if any(scope.covers(row) for scope in scopes):
                    held.add(row.pack)
                elif any(scope.covers(row) for scope in ended):
                    released.add(row.pack)
        stored = set(self._workspace.catalog.packs())
        for pack in sorted(stored & (held | released)):
            self._workspace.archive.hold(pack_key(pack), pack in held)
        return len(stored & held)

    def _append(self, action: str, details: Mapping[str, Any]) -> int:
        workspace = self._workspace
        return self._chain.append(action, details, workspace.now(), workspace.actor).sequence

    def _note(self, action: str, details: Mapping[str, Any]) -> None:
        """Into the ledger, unless it is there: a run that was killed may have come this far."""
        if not any(
            entry.action == action and entry.details == details
            for entry in self._workspace.ledger.walk()
        ):
            self._workspace.note(action, details)


def holding(holds: Sequence[Hold], evidence: Iterable[Any]) -> Hold | None:
    """The first of ``holds`` that covers one of these rows of the catalog."""
    rows = list(evidence)
    return next((hold for hold in holds if any(map(hold.scope.covers, rows))), None)


def _take(found: dict[int, Hold], entry: Entry) -> None:
    details = entry.details
    try:
        if entry.action == SET:
            until = details["until"]
            found[entry.sequence] = Hold(
                entry.sequence,
                details["case"],
                Scope.from_json(details["scope"]),
                entry.actor,
                details["reason"],
                entry.at,
                None if until is None else parse_timestamp(until),
            )
            return
        if entry.action == LIFTED:
            hold = found[details["hold"]]
            lifted = (entry.at, entry.actor, details["reason"])
            found[hold.number] = replace(hold, lifted=hold.lifted or lifted)
            return
    except (KeyError, TypeError, AttributeError, MalformedError) as err:
        raise VerificationError(
            f"entry {entry.sequence} of the hold register is no hold: {err}"
        ) from err
    raise VerificationError(
        f"entry {entry.sequence} of the hold register is a {entry.action}, which this version"
        " does not know: use a newer one"
    )


def _require_text(name: str, text: str, most: int) -> None:
    if not text.strip() or len(text) > most:
        raise RefusedError(f"a hold needs a {name} of 1 to {most} characters")
