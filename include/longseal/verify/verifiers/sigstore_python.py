"""The first verifier: sigstore-python, for all that it supports."""

from __future__ import annotations

import base64
import json
from datetime import UTC
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from longseal.errors import UnsupportedError, VerificationError, brief
from longseal.verify.bundle import Bundle, Envelope
from longseal.verify.timestamps import decoded
from longseal.verify.trust import TrustMaterial
from longseal.verify.verifiers.interface import Facts, Refused, Time

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse
    from sigstore import models
    from sigstore._internal.timestamp import TimestampVerificationResult
    from sigstore.verify.verifier import Verifier

_KINDS: Final = {
    True: (("dsse", "0.0.1"), ("hashedrekord", "0.0.2")),
    False: (("hashedrekord", "0.0.1"), ("hashedrekord", "0.0.2")),
}


class SigstorePython:
    """sigstore-python's ``Verifier`` under one trusted root."""

    def __init__(self, trust: TrustMaterial) -> None:
        import sigstore

        self.name = f"sigstore-python {sigstore.__version__}"
        self._trust = trust
        # It cannot do without any of these.
        needed = (trust.authorities, trust.rekor_windows, trust.certificate_log_windows)
        self._able = all(needed)
        self._verifier = _recording_verifier(trust) if self._able else None

    def supports(self, bundle: Bundle, digest: str | None) -> bool:
        """Certificates of P-256, one entry with a proof under a checkpoint, of the newer kinds."""
        if not self._able or bundle.certificate is None or len(bundle.entries) != 1:
            return False
        (entry,) = bundle.entries
        key = bundle.certificate.public_key()
        chain = "x509CertificateChain" in bundle.document["verificationMaterial"]
        return (
            isinstance(key, ec.EllipticCurvePublicKey)
            and isinstance(key.curve, ec.SECP256R1)
            and (entry.kind, entry.version) in _KINDS[isinstance(bundle.content, Envelope)]
            and entry.proof is not None
            and entry.proof.checkpoint is not None
            and (entry.promise is not None or bundle.version != "0.1")
            and (entry.promise is None) == (entry.integrated == 0)
            and chain == (bundle.version != "0.3")
            and (digest is None or digest.startswith("sha256:"))
        )

    def verify(self, bundle: Bundle, digest: str | None, artifact: bytes | None) -> Facts:
        """See :class:`~longseal.verify.verifiers.interface.Verifier`."""
        from sigstore.errors import CertValidationError
        from sigstore.errors import VerificationError as SigstoreRefusal

        assert self._verifier is not None and bundle.certificate is not None
        parsed = self._parsed(bundle)
        try:
            self._verify(parsed, bundle, digest)
        except CertValidationError as err:
            raise Refused("certificate-chain", str(err)) from err
        except SigstoreRefusal as err:
            raise _refusal_of(str(err)) from err
        times: list[TimestampVerificationResult] = self._verifier.times  # type: ignore[attr-defined]
        chain: list[x509.Certificate] = self._verifier.chain  # type: ignore[attr-defined]
        return Facts(
            certificate=bundle.certificate,
            issuers=tuple(chain),
            key=None,
            times=tuple(
                Time(
                    one.time.astimezone(UTC),
                    "rfc3161" if "TIMESTAMP_AUTH" in one.source.name else "rekor",
                )
                for one in times
            ),
            logs=(bundle.entries[0].log_id,),
            digest=digest,
        )

    def _verify(self, parsed: models.Bundle, bundle: Bundle, digest: str | None) -> None:
        assert self._verifier is not None
        if isinstance(bundle.content, Envelope):
            _, payload = self._verifier.verify_dsse(parsed, _JudgedLater())
            if payload != bundle.content.payload:
                raise VerificationError("the payload was read in two ways")
            return
        from sigstore.hashes import Hashed
        from sigstore_models.common.v1 import HashAlgorithm

        assert digest is not None
        hashed = Hashed(
            algorithm=HashAlgorithm.SHA2_256, digest=bytes.fromhex(digest.removeprefix("sha256:"))
        )
        self._verifier.verify_artifact(hashed, parsed, _JudgedLater())

    def _parsed(self, bundle: Bundle) -> models.Bundle:
        """sigstore-python's own view of the very object that was taken apart."""
        from sigstore.errors import VerificationError as SigstoreRefusal
        from sigstore.models import Bundle as Parsed
        from sigstore.models import InvalidBundle

        document = bundle.document
        tokens: tuple[bytes, ...] = ()
        if self._trust.timestamp_authorities:
            tokens = tuple(one for one in bundle.timestamps if decoded(one) is not None)
        if len(tokens) != len(bundle.timestamps):
            # It would refuse the bundle for a token that nobody here can judge, also where the
            # log's promise proves the time.
            listed = [{"signedTimestamp": base64.b64encode(one).decode()} for one in tokens]
            material = document["verificationMaterial"] | {
                "timestampVerificationData": {"rfc3161Timestamps": listed}
            }
            document = document | {"verificationMaterial": material}
        if not tokens and bundle.entries[0].promise is None:
            text = "neither a timestamp of a known authority nor a log's promise dates it"
            raise Refused("time", text)
        try:
            return Parsed.from_json(json.dumps(document))
        except InvalidBundle as err:
            text = f"{self.name} cannot read the bundle: {brief(err)}"
            raise UnsupportedError(text) from err
        except SigstoreRefusal as err:
            raise _refusal_of(str(err)) from err


class _JudgedLater:
    """Lets any certificate pass sigstore-python: whether it may attest, our own policy says."""

    def verify(self, cert: x509.Certificate) -> None:
        return None


_STEPS: Final = (
    ("invalid log entry", "log-entry"),
    ("transparency log entry is inconsistent", "log-entry"),
    ("log entry", "log-entry"),
    ("failed to verify SCT", "certificate-log"),
    ("DSSE: invalid signature", "signature"),
    ("Signature is invalid for input", "signature"),
    ("not enough sources of verified time", "time"),
    ("timestamp", "time"),
    ("invalid signing cert: expired", "certificate-expired"),
)


def _refusal_of(message: str) -> Refused:
    if message.startswith(("Unsupported", "Integrated time only supported")):
        raise UnsupportedError(message)
    lowered = message.lower()
    slug = next((slug for text, slug in _STEPS if text.lower() in lowered), "verification")
    return Refused(slug, message)


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

        def _establish_time(self, bundle: models.Bundle) -> list[TimestampVerificationResult]:
            self.times = super()._establish_time(bundle)
            return self.times

        def _verify_chain_at_time(
            self, certificate: x509.Certificate, timestamp_result: TimestampVerificationResult
        ) -> list[x509.Certificate]:
            self.chain = super()._verify_chain_at_time(certificate, timestamp_result)
            return self.chain

    return RecordingVerifier(trusted_root=trust.root)  # type: ignore[arg-type]
