"""Judging one Sigstore bundle: what it says, and whether it may say so.

The engine takes a bundle apart, has one of its verifiers check the cryptography
(:mod:`longseal.verify.verifiers`: sigstore-python for all that it supports, else the extension),
and then makes the checks that both leave to it, in one order: windows of every instance in the
trusted root, the signer's name, the statement, its subject against the image, the time, and the
policy. The first that fails gives the reason. A judgement ends in one of four ways, and "not
supported" is never "bad".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509

from longseal import __version__
from longseal.canonical import digest_of
from longseal.errors import MalformedError, UnsupportedError, brief
from longseal.verify.bundle import Bundle, Envelope, parse_bundle
from longseal.verify.certificate import identity_of, issuer_of
from longseal.verify.legacy import simple_signing
from longseal.verify.policy import MAX_IDENTITY, Claim, Policy, Reason
from longseal.verify.statement import IMAGE_SIGNATURE, PAYLOAD_TYPE, Statement
from longseal.verify.trust import TrustMaterial, Window
from longseal.verify.verifiers.extension import Extension
from longseal.verify.verifiers.interface import Facts, Refused, Time, Verifier
from longseal.verify.verifiers.sigstore_python import SigstorePython

MAX_AHEAD: Final = timedelta(minutes=5)
"""How far a signing time may lie after the collection: clocks differ, time does not run back."""


class Outcome(StrEnum):
    """How a judgement ended."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    IGNORED = "ignored"
    """Genuine and accepted, but not an attestation: an image signature."""
    UNKNOWN = "unknown"
    """Could not be checked here: neither fine nor bad."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found out about one attestation.

    :param reason: why it is not verified; None when it is
    :param signed_at: the earliest time that a trusted authority or log gives
    :param time_source: ``rfc3161``, ``rekor``, or ``collection`` where nobody gives a time
    :param engine: the verifier that checked the cryptography, name and version
    :param key: fingerprint of the key that signed, which then has neither identity nor issuer
    :param times: every time that was trusted
    """

    outcome: Outcome
    reason: Reason | None
    predicate_type: str | None = None
    subjects: tuple[str, ...] = ()
    identity: str | None = None
    issuer: str | None = None
    signed_at: datetime | None = None
    time_source: str = "collection"
    engine: str = ""
    key: str | None = None
    times: tuple[Time, ...] = ()

    @property
    def signer(self) -> str:
        """Who signed, for a message."""
        return self.identity or f"the key {self.key}"


class Engine:
    """Judges bundles under one trusted root and one policy; keep one a process."""

    def __init__(self, trust: TrustMaterial, policy: Policy) -> None:
        self.trust = trust
        self.policy = policy
        # In the order of preference; the last takes all that is left.
        self._verifiers: tuple[Verifier, ...] = (
            SigstorePython(trust),
            Extension(trust, policy.keys),
        )
        self.name = f"longseal {__version__}"
        self.software = [self.name, *(one.name for one in self._verifiers)]
        """All that a judgement may rest on, each with its version."""

    def judge(
        self,
        data: bytes,
        image: str | None,
        repository: str,
        collected_at: datetime,
        artifact: bytes | None = None,
    ) -> Judgement:
        """Judge ``data``, a Sigstore bundle as found on ``image`` in ``repository``.

        Never raises for anything that ``data`` or ``artifact`` may hold.

        :param image: the digest that it must speak of; None where the envelope alone is judged
        :param collected_at: when it was found, for attestations that nobody dated
        :param artifact: the bytes that a message signature is over, where they are at hand, and
            cosign's older envelope as stored. When they are not what ``image`` is the digest of,
            they are what older cosign signs of an image.
        """
        found = Judgement(Outcome.UNKNOWN, None, signed_at=collected_at, engine=self.name)
        try:
            bundle = parse_bundle(data)
            _require_one_signature(bundle)
            digest = _digest_signed(bundle, image, artifact)
            verifier = next(one for one in self._verifiers if one.supports(bundle, digest))
            found = replace(found, engine=verifier.name)
            facts = verifier.verify(bundle, digest, artifact)
            if isinstance(bundle.content, Envelope) and bundle.content.payload_type != PAYLOAD_TYPE:
                text = f"expected {PAYLOAD_TYPE}, found {bundle.content.payload_type[:100]}"
                raise Refused("payload-type", text)
            self._check_windows(facts, collected_at)
            identity, issuer = _names(facts)
            first = min(
                facts.times,
                key=lambda time: time.moment,
                default=Time(collected_at, "collection"),
            )
            found = replace(
                found,
                identity=identity,
                issuer=issuer,
                key=facts.key,
                signed_at=first.moment,
                time_source=first.source,
                times=facts.times,
            )
            statement = _statement(bundle, digest, image, artifact)
            found = replace(
                found,
                predicate_type=statement.predicate_type or None,
                subjects=statement.subjects,
            )
            refused = self._refusal(found, facts, image, repository, collected_at)
        except Refused as refusal:
            return replace(found, outcome=Outcome.REJECTED, reason=refusal.reason)
        except MalformedError as err:
            return replace(found, outcome=Outcome.REJECTED, reason=Reason("malformed", str(err)))
        except UnsupportedError as err:
            return replace(found, reason=Reason("unsupported", str(err)))
        except Exception as err:
            # Odd input raises TypeError, ValueError and pydantic's errors from within the
            # cryptography; nothing of it may kill a worker or pass for a verdict.
            text = f"{found.engine} could not judge it: {type(err).__name__}: {brief(err)}"
            return replace(found, reason=Reason("unsupported", text))
        if refused is not None:
            return replace(found, outcome=Outcome.REJECTED, reason=refused)
        if statement.predicate_type == IMAGE_SIGNATURE:
            text = "a signature is kept, and is not an attestation"
            return replace(found, outcome=Outcome.IGNORED, reason=Reason("image-signature", text))
        return replace(found, outcome=Outcome.VERIFIED)

    def _refusal(
        self,
        found: Judgement,
        facts: Facts,
        image: str | None,
        repository: str,
        collected_at: datetime,
    ) -> Reason | None:
        assert found.signed_at is not None
        if image is not None and image not in found.subjects:
            listed = ", ".join(found.subjects)[:300]
            return Reason("subject", f"expected {image} as a subject, found {listed}")
        if found.signed_at > collected_at + MAX_AHEAD:
            return Reason(
                "future",
                f"signed at {found.signed_at}, more than {MAX_AHEAD} after it was collected"
                f" at {collected_at}: check the clocks",
            )
        return self.policy.refusal(
            Claim(
                repository=repository,
                predicate_type=found.predicate_type or "",
                identity=found.identity,
                issuer=found.issuer,
                lifetime=facts.lifetime,
                key=found.key,
            )
        )

    def _check_windows(self, facts: Facts, collected_at: datetime) -> None:
        """Nothing counts that an instance of the trusted root vouches for outside its window."""
        times = [time.moment for time in facts.times] or [collected_at]
        if facts.certificate is not None:
            authorities = self.trust.authority_of(facts.issuers)
            if not any(all(one.window.covers(t) for t in times) for one in authorities):
                windows = "; ".join(str(one.window) for one in authorities) or "none"
                raise Refused("ca-window", f"signed outside the CA's validity ({windows})")
            if self.trust.certificate_log_windows:
                scts = facts.certificate.extensions.get_extension_for_class(
                    x509.PrecertificateSignedCertificateTimestamps
                ).value
                for sct in scts:
                    moment = sct.timestamp.replace(tzinfo=UTC)
                    _require(
                        self.trust.certificate_log_windows, sct.log_id, [moment], "ct-log-window"
                    )
        for log_id in facts.logs:
            _require(self.trust.rekor_windows, log_id, times, "log-window")


def _require_one_signature(bundle: Bundle) -> None:
    if isinstance(bundle.content, Envelope) and len(bundle.content.signatures) != 1:
        found = len(bundle.content.signatures)
        raise Refused("signature", f"expected exactly one signature in the envelope, found {found}")
    if not bundle.signature:
        raise Refused("signature", "the signature is empty")


def _digest_signed(bundle: Bundle, image: str | None, artifact: bytes | None) -> str | None:
    """Digest of what a message signature must be over; None for an envelope.

    :raises Refused: the bundle says that it is over something else than the artifact at hand
    """
    content = bundle.content
    if isinstance(content, Envelope):
        return None
    named = None
    if content.algorithm is not None:
        named = f"{content.algorithm}:{content.digest.hex()}"
    if artifact is None:
        digest = named or image
        if digest is None:
            raise UnsupportedError("the bundle does not say what it signs, and nobody else does")
        return digest
    actual = (
        f"{content.algorithm or 'sha256'}:"
        + hashlib.new(content.algorithm or "sha256", artifact).hexdigest()
    )
    if named not in (None, actual):
        raise Refused("artifact", f"the bundle signs {named}, and the artifact is {actual}")
    return actual


def _statement(
    bundle: Bundle, digest: str | None, image: str | None, artifact: bytes | None
) -> Statement:
    """What a verified bundle says: for a signature, the statement that cosign 3 would sign."""
    if isinstance(bundle.content, Envelope):
        return Statement.parse(bundle.content.payload)
    assert digest is not None
    if artifact is not None and image not in (digest, digest_of(artifact)):
        return simple_signing(artifact)
    # Only cosign's older attachments and attestations have no room for a proof, or did without.
    if not all(one.proof and one.proof.checkpoint for one in bundle.entries):
        raise Refused("log-entry", "a signature of a blob needs its inclusion proof and checkpoint")
    subjects = {digest} if artifact is None or image is None else {digest, image}
    return Statement(IMAGE_SIGNATURE, tuple(sorted(subjects)))


def _names(facts: Facts) -> tuple[str | None, str | None]:
    if facts.certificate is None:
        return None, None
    names = identity_of(facts.certificate), issuer_of(facts.certificate)
    for name in names:
        if len(name) > MAX_IDENTITY or not name.isprintable():
            raise UnsupportedError(
                f"the signer's name is over {MAX_IDENTITY} characters, or unprintable"
            )
    return names


def _require(
    windows: dict[bytes, Window], log_id: bytes, times: Sequence[datetime], slug: str
) -> None:
    window = windows.get(log_id)
    if window is None or not all(window.covers(moment) for moment in times):
        raise Refused(slug, f"used outside the log's validity ({window or 'unknown log'})")
