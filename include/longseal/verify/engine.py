"""Judging one Sigstore bundle found on an image.

The cryptography is sigstore-python's; around it stand the checks that it leaves to the caller or
does not make: windows of every instance in the trusted root, the certificate's lifetime, the
statement's subject against the image, and the policy. The checks run in one order and the first
that fails gives the reason. A judgement ends in one of three ways, and "not supported" is never
"bad".
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from longseal.canonical import parse_object
from longseal.errors import MalformedError, UnsupportedError, VerificationError
from longseal.verify.certificate import identity_of, issuer_of
from longseal.verify.policy import MAX_IDENTITY, Claim, Policy, Reason
from longseal.verify.statement import IMAGE_SIGNATURE, PAYLOAD_TYPE, Statement
from longseal.verify.trust import TrustMaterial, Window

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse
    from sigstore._internal.timestamp import TimestampVerificationResult
    from sigstore.models import Bundle
    from sigstore.verify.verifier import Verifier

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


class Engine:
    """Judges bundles under one trusted root and one policy; keep one a process."""

    def __init__(self, trust: TrustMaterial, policy: Policy) -> None:
        import sigstore

        self.trust = trust
        self.policy = policy
        self.name = f"sigstore-python {sigstore.__version__}"
        self._verifier = _recording_verifier(trust)

    def judge(
        self, data: bytes, image: str | None, repository: str, collected_at: datetime
    ) -> Judgement:
        """Judge ``data``, a Sigstore bundle as found on ``image`` in ``repository``.

        Never raises for anything that ``data`` may hold.

        :param image: the digest that the statement must have as a subject; None where only the
            envelope is to be judged
        :param collected_at: when it was found, for attestations that nobody dated
        """
        found = Judgement(Outcome.UNKNOWN, None, signed_at=collected_at, engine=self.name)
        try:
            facts = self._verify(self._parse(data))
            found = replace(
                found,
                identity=facts.identity,
                issuer=facts.issuer,
                signed_at=facts.signed_at,
                time_source=facts.time_source,
            )
            statement = Statement.parse(facts.payload)
            found = replace(
                found, predicate_type=statement.predicate_type, subjects=statement.subjects
            )
        except _Refused as refusal:
            return replace(found, outcome=Outcome.REJECTED, reason=refusal.reason)
        except MalformedError as err:
            return replace(found, outcome=Outcome.REJECTED, reason=Reason("malformed", str(err)))
        except UnsupportedError as err:
            return replace(found, reason=Reason("unsupported", str(err)))
        except Exception as err:
            # Odd input raises TypeError, ValueError and pydantic's errors from within the
            # cryptography; nothing of it may kill a worker or pass for a verdict.
            text = f"{self.name} could not judge it: {type(err).__name__}: {_brief(err)}"
            return replace(found, reason=Reason("unsupported", text))
        refused = self._refusal(facts, statement, image, repository, collected_at)
        if refused is not None:
            return replace(found, outcome=Outcome.REJECTED, reason=refused)
        if statement.predicate_type == IMAGE_SIGNATURE:
            text = "an image signature is kept, and is not an attestation"
            return replace(found, outcome=Outcome.IGNORED, reason=Reason("image-signature", text))
        return replace(found, outcome=Outcome.VERIFIED)

    def _refusal(
        self,
        facts: _Facts,
        statement: Statement,
        image: str | None,
        repository: str,
        collected_at: datetime,
    ) -> Reason | None:
        if image is not None and image not in statement.subjects:
            listed = ", ".join(statement.subjects)[:300]
            return Reason("subject", f"expected the image {image} as a subject, found {listed}")
        if facts.signed_at > collected_at + MAX_AHEAD:
            return Reason(
                "future",
                f"signed at {facts.signed_at}, more than {MAX_AHEAD} after it was collected"
                f" at {collected_at}: check the clocks",
            )
        return self.policy.refusal(
            Claim(
                repository=repository,
                predicate_type=statement.predicate_type,
                identity=facts.identity,
                issuer=facts.issuer,
                lifetime=facts.lifetime,
            )
        )

    def _verify(self, bundle: Bundle) -> _Facts:
        from sigstore.errors import CertValidationError
        from sigstore.errors import VerificationError as SigstoreRefusal

        try:
            payload_type, payload = self._verifier.verify_dsse(bundle, _JudgedLater())
        except CertValidationError as err:
            raise _Refused("certificate-chain", str(err)) from err
        except SigstoreRefusal as err:
            raise _refusal_of(str(err)) from err
        if payload_type != PAYLOAD_TYPE:
            raise _Refused("payload-type", f"expected {PAYLOAD_TYPE}, found {payload_type[:100]}")
        times: list[TimestampVerificationResult] = self._verifier.times  # type: ignore[attr-defined]
        chain: list[x509.Certificate] = self._verifier.chain  # type: ignore[attr-defined]
        self._check_windows(bundle, chain, [result.time for result in times])
        first = min(times, key=lambda result: result.time)
        certificate = bundle.signing_certificate
        identity, issuer = identity_of(certificate), issuer_of(certificate)
        for name in (identity, issuer):
            if len(name) > MAX_IDENTITY or not name.isprintable():
                raise UnsupportedError(
                    f"the signer's name is over {MAX_IDENTITY} characters, or unprintable"
                )
        return _Facts(
            payload=payload,
            identity=identity,
            issuer=issuer,
            signed_at=first.time.astimezone(UTC),
            time_source="rfc3161" if "TIMESTAMP_AUTH" in first.source.name else "rekor",
            lifetime=certificate.not_valid_after_utc - certificate.not_valid_before_utc,
        )

    def _parse(self, data: bytes) -> Bundle:
        """Parse once: what is verified is made from the very object whose shape was checked."""
        from sigstore.errors import VerificationError as SigstoreRefusal
        from sigstore.models import Bundle, InvalidBundle

        document = parse_object(data, "the bundle")
        if not str(document.get("mediaType", "")).startswith("application/vnd.dev.sigstore.bundle"):
            raise UnsupportedError("not a Sigstore bundle")
        envelope = document.get("dsseEnvelope")
        if envelope is None:
            raise UnsupportedError("a bundle over a message signature carries no attestation")
        if isinstance(envelope, dict) and not envelope.get("signatures"):
            raise _Refused("signature", "the envelope has no signature")
        material = document.get("verificationMaterial")
        if not isinstance(material, dict):
            raise MalformedError("the bundle has no verificationMaterial")
        if "publicKey" in material:
            raise UnsupportedError("signed with a managed key, which no rule of the policy names")
        entries = material.get("tlogEntries")
        if not isinstance(entries, list) or not entries:
            raise _Refused("log-entry", "the bundle has no entry of a transparency log")
        for entry in entries:
            _restore_defaults(entry)
        if not self.trust.root.get_timestamp_authorities():
            # sigstore-python would refuse the bundle for a token that nobody here can judge,
            # also where the log's promise proves the time.
            material.pop("timestampVerificationData", None)
        if not _is_dated(material, entries):
            text = "neither a timestamp of a known authority nor a log's promise dates it"
            raise _Refused("time", text)
        try:
            return Bundle.from_json(json.dumps(document))
        except InvalidBundle as err:
            text = f"sigstore-python cannot read the bundle: {_brief(err)}"
            raise UnsupportedError(text) from err
        except SigstoreRefusal as err:
            raise _refusal_of(str(err)) from err

    def _check_windows(
        self, bundle: Bundle, chain: list[x509.Certificate], times: list[datetime]
    ) -> None:
        authorities = self.trust.authority_of(chain)
        if not any(all(one.window.covers(t) for t in times) for one in authorities):
            windows = "; ".join(str(one.window) for one in authorities) or "none"
            raise _Refused("ca-window", f"signed outside the CA's validity ({windows})")
        scts = bundle.signing_certificate.extensions.get_extension_for_oid(
            ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS
        ).value
        assert isinstance(scts, x509.PrecertificateSignedCertificateTimestamps)
        for sct in scts:
            moment = sct.timestamp.replace(tzinfo=UTC)
            _require(self.trust.certificate_log_windows, sct.log_id, [moment], "ct-log-window")
        log_id = bytes(bundle.log_entry._inner.log_id.key_id)
        _require(self.trust.rekor_windows, log_id, times, "log-window")


@dataclass(frozen=True, slots=True)
class _Facts:
    payload: bytes
    identity: str
    issuer: str
    signed_at: datetime
    time_source: str
    lifetime: timedelta


class _JudgedLater:
    """Lets any certificate pass sigstore-python: whether it may attest, our own policy says."""

    def verify(self, cert: x509.Certificate) -> None:
        return None


class _Refused(VerificationError):
    def __init__(self, slug: str, text: str) -> None:
        self.reason = Reason(slug, text)
        super().__init__(text)


def _require(windows: dict[bytes, Window], log_id: bytes, times: list[datetime], slug: str) -> None:
    window = windows.get(log_id)
    if window is None or not all(window.covers(moment) for moment in times):
        raise _Refused(slug, f"used outside the log's validity ({window or 'unknown log'})")


_STEPS: Final = (
    ("invalid log entry", "log-entry"),
    ("transparency log entry is inconsistent", "log-entry"),
    ("log entry", "log-entry"),
    ("failed to verify SCT", "certificate-log"),
    ("DSSE: invalid signature", "signature"),
    ("not enough sources of verified time", "time"),
    ("timestamp", "time"),
    ("invalid signing cert: expired", "certificate-expired"),
)


def _refusal_of(message: str) -> _Refused:
    if message.startswith(("Unsupported", "Integrated time only supported")):
        raise UnsupportedError(message)
    lowered = message.lower()
    slug = next((slug for text, slug in _STEPS if text.lower() in lowered), "verification")
    return _Refused(slug, message)


def _is_dated(material: dict[str, Any], entries: list[Any]) -> bool:
    tokens = material.get("timestampVerificationData")
    return bool(isinstance(tokens, dict) and tokens.get("rfc3161Timestamps")) or any(
        isinstance(entry, dict) and entry.get("inclusionPromise") for entry in entries
    )


def _restore_defaults(entry: Any) -> None:
    # Protobuf's JSON leaves zero out, so the very first entry of a log comes without its index,
    # which sigstore-python's model then takes for missing.
    if isinstance(entry, dict):
        entry.setdefault("logIndex", "0")
        proof = entry.get("inclusionProof")
        if isinstance(proof, dict):
            proof.setdefault("logIndex", "0")
            proof.setdefault("hashes", [])


def _brief(err: Exception) -> str:
    return " ".join(str(err).split())[:300]


def _recording_verifier(trust: TrustMaterial) -> Verifier:
    from sigstore._internal.timestamp import TimestampSource, TimestampVerificationResult
    from sigstore.verify.verifier import Verifier

    class RecordingVerifier(Verifier):
        """Keeps the times and the chain that a verification rested on, which it does not return,
        and checks a timestamp authority's chain once."""

        times: list[TimestampVerificationResult]
        chain: list[x509.Certificate]

        def _verify_signed_timestamp(
            self, timestamp_response: TimeStampResponse, message: bytes
        ) -> TimestampVerificationResult | None:
            moment = timestamp_response.tst_info.gen_time
            for authority, window in trust.timestamp_authorities:
                if window.covers(moment) and authority.accepts(timestamp_response, message):
                    return TimestampVerificationResult(
                        source=TimestampSource.TIMESTAMP_AUTHORITY, time=moment
                    )
            return None

        def _establish_time(self, bundle: Bundle) -> list[TimestampVerificationResult]:
            self.times = super()._establish_time(bundle)
            return self.times

        def _verify_chain_at_time(
            self, certificate: x509.Certificate, timestamp_result: TimestampVerificationResult
        ) -> list[x509.Certificate]:
            self.chain = super()._verify_chain_at_time(certificate, timestamp_result)
            return self.chain

    return RecordingVerifier(trusted_root=trust.root)  # type: ignore[arg-type]
