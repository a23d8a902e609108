"""Verifying one image where it is: each attestation keyless, and the organisation's statement."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from longseal.canonical import parse_object, parse_timestamp, sha256_hex
from longseal.errors import (
    LongsealError,
    MalformedError,
    RegistryError,
    UnsupportedError,
    VerificationError,
)
from longseal.registry.attachment import fetch
from longseal.registry.discovery import discover
from longseal.registry.interface import Registry
from longseal.seal.proof import Anchors, verify_statement
from longseal.verify.engine import Engine, Outcome
from longseal.verify.pool import Case, judge
from longseal.verify.report import Report, State

OWN_KIND: Final = re.compile(r"https://[^/]+/longseal/([a-z-]+)/v1")
"""Predicate types of the organisation's own statements (``docs/formats/statements.md``)."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What an image must have, as far as the verifier was given the means to check it.

    :param engine: judges keyless attestations; None: they are not looked at
    :param anchors: the organisation's key; None: its statements are not looked at
    :param trusted_root: the ``seal-trusted-root.json`` for those statements
    :param sealed: ``(bundle sha256 hex, image digest)`` of every leaf of the seals at hand; None
        where there is no seal to compare with
    """

    engine: Engine | None = None
    anchors: Anchors | None = None
    trusted_root: bytes | None = None
    sealed: Collection[tuple[str, str]] | None = None


@dataclass(slots=True)
class _Seen:
    verified: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)


def verify_image(
    report: Report,
    registry: Registry,
    repository: str,
    digest: str,
    expected: Expectations,
    now: datetime,
) -> None:
    """Check an image's manifest, and all that is attached to it, into ``report``."""
    name = f"{repository}@{digest}"
    before = len(report.checks)

    def present() -> str:
        if registry.manifest(repository, digest) is None:
            raise VerificationError(f"{name} is not there")
        return "the manifest has this digest"

    if not report.attempt(f"{name} manifest", present):
        return
    try:
        tags: tuple[str, ...] | None = registry.tags(repository)
    except RegistryError:
        tags = None
    found = discover(registry, repository, digest, tags)
    if not found.record.whole:
        silent = ", ".join(
            f"{answer.place}: {answer.detail}"
            for answer in found.record.answers
            if answer.outcome == "unknown"
        )
        report.add(f"{name} attachments", State.UNKNOWN, f"not every place answered: {silent}")
    seen = _Seen()
    for candidate in found.candidates:
        where = f"{name} {candidate.manifest.digest[:19]}"
        try:
            attachment = fetch(registry, candidate)
        except LongsealError as err:
            bad = isinstance(err, MalformedError | VerificationError)
            report.add(where, State.FAILED if bad else State.UNKNOWN, str(err))
            continue
        manifest = attachment.manifest.data
        layers = [one for one in attachment.layers if one.kind in ("bundle", "dsse")]
        for data in dict.fromkeys(one.data for one in layers):
            check = _LayerCheck(data, manifest, repository, digest, expected, seen, now)
            report.attempt(where, check)
    # What could not be looked at may have been the one that was missed.
    unsure = any(check.state is State.UNKNOWN for check in report.checks[before:])
    absent = State.UNKNOWN if unsure else State.FAILED
    if expected.engine is not None and not seen.verified:
        report.add(f"{name} attestations", absent, "no attestation of it verifies")
    if expected.anchors is not None and not seen.statements:
        text = "no statement of the organisation's key about it verifies"
        report.add(f"{name} statement", absent, text)


def is_own_statement(document: dict[str, Any]) -> bool:
    """Whether a bundle is one that Longseal makes: by a key, of a predicate type of its own."""
    try:
        if "publicKey" not in document["verificationMaterial"]:
            return False
        payload = base64.b64decode(document["dsseEnvelope"]["payload"], validate=True)
        kind = parse_object(payload, "the statement")["predicateType"]
        return OWN_KIND.fullmatch(kind) is not None
    except (KeyError, TypeError, ValueError, MalformedError):
        return False


@dataclass(frozen=True, slots=True)
class _LayerCheck:
    data: bytes
    manifest: bytes
    repository: str
    image: str
    expected: Expectations
    seen: _Seen
    now: datetime

    def __call__(self) -> str:
        document = parse_object(self.data, "the attachment")
        if is_own_statement(document):
            return self._statement()
        return self._attestation()

    def _attestation(self) -> str:
        engine = self.expected.engine
        if engine is None:
            return "a keyless attestation; no trusted root and policy were given to judge it by"
        judgement = judge(
            engine, Case(self.data, self.image, self.repository, self.now, self.manifest)
        )
        if judgement.outcome is Outcome.UNKNOWN:
            raise UnsupportedError(str(judgement.reason))
        if judgement.outcome is Outcome.REJECTED:
            raise VerificationError(str(judgement.reason))
        if judgement.outcome is Outcome.IGNORED:
            return f"an image signature by {judgement.signer}: genuine, and it attests nothing"
        key = (sha256_hex(self.data), self.image)
        if self.expected.sealed is not None and key not in self.expected.sealed:
            raise VerificationError("it verifies, and no seal at hand covers it")
        self.seen.verified.append(judgement.predicate_type or "")
        covered = "" if self.expected.sealed is None else ", sealed"
        return f"{judgement.predicate_type} by {judgement.signer}{covered}"

    def _statement(self) -> str:
        anchors, trusted_root = self.expected.anchors, self.expected.trusted_root
        if anchors is None:
            return "a statement by a key; no key was given to judge it by"
        if trusted_root is None:
            raise UnsupportedError("its timestamps cannot be checked without a seal-trusted-root")
        statement, stamped = verify_statement(self.data, anchors, trusted_root, "image")
        hexes = {subject.digest.get("sha256") for subject in statement.subjects}
        if self.image.removeprefix("sha256:") not in hexes:
            raise VerificationError("the statement does not speak of this image")
        expires = statement.predicate["expires"]
        if parse_timestamp(expires) < self.now:
            raise VerificationError(f"the statement expired on {expires}: refresh the site")
        self.seen.statements.append(statement.predicate["seal"])
        return f"seal {statement.predicate['sequence']}, stamped {stamped:%Y-%m-%d}, by our key"
