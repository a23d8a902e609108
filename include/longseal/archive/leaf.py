"""The leaf: one line that says what was found, where, and what was judged of it.

It is computed once, at harvest, stored in the pack and hashed into the period's tree; see
``docs/formats/leaf.md``. A :class:`Leaf` that exists is valid, and has exactly one spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from longseal.canonical import (
    canonical_json,
    is_digest,
    parse_object,
    parse_timestamp,
    timestamp,
)
from longseal.errors import MalformedError

MAX_LEAF_BYTES: Final = 256 * 1024
"""Longest line: room for over 1,024 subjects, the most that Sigstore's tools take."""

MAX_TEXT: Final = 4096
"""Most characters of a name, identity, predicate type or reason."""

TIME_SOURCES: Final = ("rfc3161", "rekor", "collection")
VERDICTS: Final = ("verified", "rejected", "ignored", "unknown")
"""``ignored``: no attestation; ``unknown``: nothing here can judge it, which is never "bad"."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA512 = re.compile(r"[0-9a-f]{128}")
_SUBJECT = re.compile(r"[A-Za-z0-9_.-]{1,64}:[A-Za-z0-9+/=_.:-]{1,128}")
_REASON = re.compile(r"[a-z][a-z0-9-]{0,63}(: .+)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed: by certificate, its subject alternative name and OIDC issuer; or by key.

    :param key: SHA-256 digest of the key's SubjectPublicKeyInfo; then there is no certificate
    """

    identity: str | None
    issuer: str | None
    key: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """As the leaf has it."""
        if self.key is not None:
            return {"key": self.key}
        return {"identity": self.identity, "issuer": self.issuer}

    @property
    def valid(self) -> bool:
        """Whether exactly one of certificate and key is named, and well-formed."""
        if self.key is None:
            return _text(self.identity) and _text(self.issuer)
        return _digest(self.key) and self.identity is None and self.issuer is None


@dataclass(frozen=True, slots=True)
class Leaf:
    """One attestation on one image, and the verdict on it.

    Times are kept in UTC with whole seconds. A verdict belongs to bytes, image and repository: the
    same bytes on another image are another leaf.

    :param sha256: hex digest of the bundle's bytes as found; ``sha512`` and ``size`` likewise
    :param collected_at: when it was fetched
    :param engine: what judged it, name and version
    :param image: digest of the image that it was found on
    :param manifest: digest of the OCI manifest that carried it
    :param material: digests of what was added for verification, sorted
    :param policy: digest of the policy document in force
    :param registry: the registry's name in the settings
    :param signed_at: earliest trusted time, or the collection time where ``time_source`` says so
    :param subject: ``algorithm:hex`` of the statement's subjects, sorted
    :param time_source: one of :data:`TIME_SOURCES`
    :param trust: digest of the trusted root in force
    :param verdict: one of :data:`VERDICTS`; a verified leaf has a signer and no reason
    :param predicate_type: None where the bytes hold no in-toto statement
    :param reason: why it is not verified, ``slug`` or ``slug: text``
    :param signer: None where no signer could be read
    :param supersedes: hex SHA-256 of the leaf line that this one replaces
    :raises MalformedError: when a field is of another form, or the line would be too long
    """

    sha256: str
    sha512: str
    size: int
    collected_at: datetime
    engine: str
    image: str
    manifest: str
    policy: str
    registry: str
    repository: str
    signed_at: datetime
    time_source: str
    trust: str
    verdict: str
    material: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    predicate_type: str | None = None
    reason: str | None = None
    signer: Signer | None = None
    supersedes: str | None = None
    _line: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("collected_at", "signed_at"):
            object.__setattr__(self, name, _whole_second(getattr(self, name), name))
        _require(_matches(_SHA256, self.sha256), "bundle.sha256", self.sha256)
        _require(_matches(_SHA512, self.sha512), "bundle.sha512", self.sha512)
        _require(type(self.size) is int and 0 <= self.size < 2**53, "bundle.size", self.size)
        for name in ("image", "manifest", "policy", "trust"):
            _require(_digest(getattr(self, name)), name, getattr(self, name))
        for name in ("engine", "registry", "repository"):
            _require(_text(getattr(self, name)), name, getattr(self, name))
        _require(_ascending(self.material, _digest), "material", self.material)
        _require(
            _ascending(self.subject, lambda item: _matches(_SUBJECT, item)), "subject", self.subject
        )
        _require(
            self.predicate_type is None or _text(self.predicate_type),
            "predicateType",
            self.predicate_type,
        )
        _require(
            self.signer is None or self.signer.valid,
            "signer",
            self.signer,
        )
        _require(
            self.supersedes is None or _matches(_SHA256, self.supersedes),
            "supersedes",
            self.supersedes,
        )
        _require(self.time_source in TIME_SOURCES, "timeSource", self.time_source)
        _require(
            self.time_source != "collection" or self.signed_at == self.collected_at,
            "signedAt of an attestation that only its collection dates",
            timestamp(self.signed_at),
        )
        _require(self.verdict in VERDICTS, "verdict", self.verdict)
        if self.verdict == "verified":
            _require(self.reason is None, "reason of a verified leaf", self.reason)
            _require(self.signer is not None, "signer of a verified leaf", self.signer)
        else:
            _require(
                _text(self.reason) and _matches(_REASON, self.reason),
                "reason of a leaf that is not verified",
                self.reason,
            )
        object.__setattr__(self, "_line", self._spelled())

    def line(self) -> bytes:
        """The leaf as RFC 8785 JSON, without a newline."""
        return self._line

    def _spelled(self) -> bytes:
        value: dict[str, Any] = {
            "bundle": {"sha256": self.sha256, "sha512": self.sha512, "size": self.size},
            "collectedAt": timestamp(self.collected_at),
            "engine": self.engine,
            "image": self.image,
            "manifest": self.manifest,
            "material": self.material,
            "policy": self.policy,
            "predicateType": self.predicate_type,
            "reason": self.reason,
            "registry": self.registry,
            "repository": self.repository,
            "signedAt": timestamp(self.signed_at),
            "signer": self.signer and self.signer.to_json(),
            "subject": self.subject,
            "timeSource": self.time_source,
            "trust": self.trust,
            "verdict": self.verdict,
        }
        if self.supersedes is not None:
            value["supersedes"] = self.supersedes
        line = canonical_json(value)
        if len(line) > MAX_LEAF_BYTES:
            raise MalformedError(f"a leaf of {len(line)} bytes: {MAX_LEAF_BYTES} is the most")
        return line

    @classmethod
    def parse(cls, line: bytes) -> Leaf:
        """The leaf that ``line`` spells.

        :raises MalformedError: a key is missing, unknown or of another type, or the line is not the
            one that :meth:`line` writes
        """
        found = parse_object(line, "a leaf", MAX_LEAF_BYTES)
        try:
            bundle, signer = found["bundle"], found["signer"]
            leaf = cls(
                sha256=bundle["sha256"],
                sha512=bundle["sha512"],
                size=bundle["size"],
                collected_at=parse_timestamp(found["collectedAt"]),
                engine=found["engine"],
                image=found["image"],
                manifest=found["manifest"],
                material=tuple(found["material"]),
                policy=found["policy"],
                predicate_type=found["predicateType"],
                reason=found["reason"],
                registry=found["registry"],
                repository=found["repository"],
                signed_at=parse_timestamp(found["signedAt"]),
                signer=None if signer is None else _signer(signer),
                subject=tuple(found["subject"]),
                time_source=found["timeSource"],
                trust=found["trust"],
                verdict=found["verdict"],
                supersedes=found.get("supersedes"),
            )
        except KeyError as err:
            raise MalformedError(f"a leaf has no key {err}") from err
        except TypeError as err:
            raise MalformedError(f"a leaf holds a value of another type: {err}") from err
        if leaf.line() != line:
            raise MalformedError("a leaf has unknown keys, or is not spelled as RFC 8785 spells it")
        return leaf


def _require(holds: bool, field: str, found: object) -> None:
    if not holds:
        raise MalformedError(f"a leaf cannot hold this {field}: {str(found)[:120]!a}")


def _whole_second(moment: datetime, name: str) -> datetime:
    if moment.tzinfo is None:
        raise MalformedError(f"a leaf's {name} needs a zone: give a time in UTC")
    return moment.astimezone(UTC).replace(microsecond=0)


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _digest(text: object) -> bool:
    return isinstance(text, str) and is_digest(text)


def _text(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_TEXT


def _ascending(items: tuple[str, ...], valid: Callable[[object], bool]) -> bool:
    return all(map(valid, items)) and all(a < b for a, b in pairwise(items))


def _signer(signer: dict[str, Any]) -> Signer:
    if "key" in signer:
        return Signer(None, None, signer["key"])
    return Signer(signer["identity"], signer["issuer"])
