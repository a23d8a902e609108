"""In-toto statements (v1) and the DSSE message that is signed over them (DSSE v1, PAE)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from longseal.canonical import canonical_json, digest_set, parse_object
from longseal.errors import MalformedError, VerificationError

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"

MAX_SUBJECTS: Final = 1024
"""Most subjects that sigstore-go, and with it cosign, accepts in one statement."""

_HEX = re.compile(r"(?:[0-9a-f]{2}){1,64}")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement speaks of.

    :param digest: algorithm to lower-case hex, at least one
    :param name: file name within what is signed; None where digests must not be tied to names
    """

    digest: Mapping[str, str]
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.digest or not all(
            isinstance(value, str) and _HEX.fullmatch(value) for value in self.digest.values()
        ):
            raise MalformedError("a subject has digests in lower-case hex, at least one")
        if self.name is not None and not self.name:
            raise MalformedError("a subject's name is not empty; leave it out instead")

    @classmethod
    def of(cls, data: bytes, name: str | None = None) -> Subject:
        """The subject for a file's bytes."""
        return cls(digest_set(data), name)

    @property
    def sha256(self) -> str:
        """The digest by which the archive keeps it."""
        return f"sha256:{self.digest['sha256']}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of Longseal's: its subjects' names, where given, differ from each other."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    def __post_init__(self) -> None:
        _check_subjects(self.subjects)
        if not self.predicate_type:
            raise MalformedError("a statement has a predicateType")

    def require_kind(self, kind: str) -> None:
        """Check what it is: ``seal``, ``image``, ``inventory``, …

        :raises VerificationError: it is something else
        """
        if not self.predicate_type.endswith(f"/longseal/{kind}/v1"):
            raise VerificationError(
                f"expected a {kind} statement, found {self.predicate_type[:200]}"
            )

    def format(self) -> bytes:
        """The payload to sign: RFC 8785 JSON, subjects in the order given."""
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [_subject(each) for each in self.subjects],
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> Statement:
        """The statement in a payload whose signature was checked.

        :raises MalformedError: not a v1 statement, or one that Longseal would not have written
        """
        what = "in-toto statement"
        document = parse_object(payload, what)
        if document.get("_type") != STATEMENT_TYPE:
            raise MalformedError(f"{what}: expected _type {STATEMENT_TYPE}")
        subjects, kind = document.get("subject"), document.get("predicateType")
        predicate = document.get("predicate")
        if not isinstance(subjects, list) or not isinstance(kind, str):
            raise MalformedError(f"{what}: expected a list of subjects and a predicateType")
        if not isinstance(predicate, dict):
            raise MalformedError(f"{what}: expected a predicate that is an object")
        _check_subjects(subjects)
        return cls(tuple(_parse_subject(each) for each in subjects), kind, predicate)


def required(predicate: Mapping[str, Any], asked: int) -> int:
    """How many timestamps a statement of the organisation's needs, where ``asked`` are asked now.

    No more than were asked when it was made, which its predicate says: a quorum that is raised
    later takes nothing from what was good before.

    :raises MalformedError: it says no number
    """
    made = predicate.get("quorum", asked)
    if type(made) is not int or made < 1:
        raise MalformedError("a predicate's quorum is a number from 1 on")
    return min(asked, made)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the message that is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _check_subjects(subjects: Sequence[object]) -> None:
    if not 1 <= len(subjects) <= MAX_SUBJECTS:
        raise MalformedError(f"a statement has 1 to {MAX_SUBJECTS} subjects, not {len(subjects)}")
    names = [each.name for each in subjects if isinstance(each, Subject) and each.name is not None]
    if len(set(names)) != len(names):
        raise MalformedError("two subjects of a statement have the same name")


def _subject(subject: Subject) -> dict[str, Any]:
    named = {} if subject.name is None else {"name": subject.name}
    return {**named, "digest": dict(subject.digest)}


def _parse_subject(value: object) -> Subject:
    if not isinstance(value, dict) or value.keys() - {"name", "digest"}:
        raise MalformedError("a subject is an object with a digest and at most a name beside it")
    digest, name = value.get("digest"), value.get("name")
    if not isinstance(digest, dict) or not (name is None or isinstance(name, str)):
        raise MalformedError("a subject has a digest set, and a name that is text")
    return Subject(digest, name)
