"""The in-toto statement inside an envelope, as far as Longseal reads it.

sigstore-python's own model takes only ``Statement/v1`` with named sha256 or sha512 subjects;
cosign, npm and SLSA also sign ``v0.1``, subjects without a name, and other digests. So the envelope
is verified there, and its payload is read here (in-toto attestation spec, statement.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from longseal.canonical import parse_object
from longseal.errors import MalformedError

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
IMAGE_SIGNATURE: Final = "https://sigstore.dev/cosign/sign/v1"
"""Predicate type of cosign 3's image signatures: a signature, not an attestation."""

MAX_SUBJECTS: Final = 1_024
"""As many as cosign reads."""

MAX_PREDICATE_TYPE: Final = 1_024

_TYPES = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_ALGORITHM = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VALUE = re.compile(r"[A-Za-z0-9+/=_.:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement speaks of, and of what kind it is.

    :param predicate_type: may be empty: there are such
    :param subjects: ``algorithm:value`` for each digest of each subject, sorted, without repeats
    """

    predicate_type: str
    subjects: tuple[str, ...]

    @classmethod
    def parse(cls, payload: bytes) -> Statement:
        """Read the payload of a verified envelope.

        :raises MalformedError: not a statement, or past the bounds stated in this module
        """
        document = parse_object(payload, "the statement")
        if document.get("_type") not in _TYPES:
            raise MalformedError(f"expected an in-toto statement, found _type {_show(document)}")
        predicate_type = document.get("predicateType")
        if (
            not isinstance(predicate_type, str)
            or len(predicate_type) > MAX_PREDICATE_TYPE
            or not predicate_type.isprintable()
        ):
            raise MalformedError("the statement has no usable predicateType")
        subjects = document.get("subject")
        if not isinstance(subjects, list) or not 0 < len(subjects) <= MAX_SUBJECTS:
            raise MalformedError(f"the statement needs 1 to {MAX_SUBJECTS} subjects")
        found: set[str] = set()
        for subject in subjects:
            digests = subject.get("digest") if isinstance(subject, dict) else None
            if not isinstance(digests, dict) or not digests:
                raise MalformedError("a subject of the statement has no digest")
            for algorithm, value in digests.items():
                if (
                    not _ALGORITHM.fullmatch(algorithm)
                    or not isinstance(value, str)
                    or not _VALUE.fullmatch(value)
                ):
                    raise MalformedError("a subject of the statement has an unreadable digest")
                found.add(f"{algorithm}:{value}")
        return cls(predicate_type, tuple(sorted(found)))


def _show(document: dict[str, object]) -> str:
    return repr(document.get("_type"))[:80]
