"""What a verifier is asked, and what it finds out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography import x509

from longseal.errors import VerificationError
from longseal.verify.bundle import Bundle
from longseal.verify.policy import Reason


class Refused(VerificationError):
    """The bundle is bad, and this is why."""

    def __init__(self, slug: str, text: str) -> None:
        self.reason = Reason(slug, text)
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Time:
    """A time at which the signature was there, by one that the trusted root knows.

    :param source: ``rfc3161`` or ``rekor``
    """

    moment: datetime
    source: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds of a bundle, as far as cryptography goes; nobody said yet who may sign what.

    :param issuers: the certificate's chain to the trusted root, without itself
    :param key: fingerprint of the key that signed, where that is not in a certificate
    :param times: all that the trusted root lets one believe; empty only for a key
    :param logs: ids of the logs whose entries were verified
    :param digest: of what a message signature signs, as in an OCI digest
    """

    certificate: x509.Certificate | None
    issuers: tuple[x509.Certificate, ...]
    key: str | None
    times: tuple[Time, ...]
    logs: tuple[bytes, ...]
    digest: str | None = None

    @property
    def lifetime(self) -> timedelta | None:
        """Between the certificate's two dates."""
        if self.certificate is None:
            return None
        return self.certificate.not_valid_after_utc - self.certificate.not_valid_before_utc


class Verifier(Protocol):
    """Verifies bundles under one trusted root."""

    @property
    def name(self) -> str:
        """Name and version, as evidence states them."""

    def supports(self, bundle: Bundle, digest: str | None) -> bool:
        """Whether it can judge bundles of this shape at all, told without any cryptography.

        :param digest: of what a message signature signs, where that is known
        """

    def verify(self, bundle: Bundle, digest: str | None, artifact: bytes | None) -> Facts:
        """Verify signature, certificate or key, timestamps and log entries.

        :param digest: of what a message signature must sign; None: what the bundle says it does
        :param artifact: what was signed, as far as it is at hand
        :raises Refused: something in it does not hold
        :raises UnsupportedError: it cannot be judged here; that is not to say that it is bad
        """
