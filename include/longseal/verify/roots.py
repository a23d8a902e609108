"""Two trusted roots compared, and what of one ends soon: nothing here reads a clock or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509

from longseal.canonical import sha256_hex
from longseal.errors import MalformedError
from longseal.verify.trust import TrustMaterial

AHEAD: Final = timedelta(days=30)
"""How long before its end an instance is warned of."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One authority or log of a trusted root.

    :param kind: what it is, in words
    :param name: what people call it
    :param key: hex SHA-256 of what makes it one: its certificates, or a log's id and public key
    :param end: the last moment that it may be believed; None where the root gives none
    :param expires: when the first of its certificates ends; None for a log
    """

    kind: str
    name: str
    key: str
    start: datetime
    end: datetime | None
    expires: datetime | None = None

    def covers(self, other: Instance) -> bool:
        """Whether whatever ``other`` vouches for, this one vouches for too."""
        return (
            (self.kind, self.key) == (other.kind, other.key)
            and self.start <= other.start
            and (self.end is None or (other.end is not None and self.end >= other.end))
        )

    @property
    def last(self) -> datetime | None:
        """The last moment at which it can sign."""
        return min((one for one in (self.end, self.expires) if one is not None), default=None)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def instances(root: bytes) -> tuple[Instance, ...]:
    """What a ``trusted_root.json`` vouches for.

    :raises MalformedError: not a trusted root
    :raises UnsupportedError: a trusted root that attestations cannot be judged by
    """
    found = TrustMaterial.parse(root).root._inner
    try:
        return (
            *_authorities("CA", found.certificate_authorities),
            *_logs("CT log", found.ctlogs),
            *_logs("Rekor log", found.tlogs),
            *_authorities("timestamp authority", found.timestamp_authorities),
        )
    except ValueError as err:
        raise MalformedError(f"the trusted root has a certificate that is none: {err}") from err


def lost(old: bytes, new: bytes) -> tuple[str, ...]:
    """What of ``old`` is not in ``new``, or is there for a shorter time: a sentence each."""
    there = instances(new)
    found = []
    for one in instances(old):
        if any(other.covers(one) for other in there):
            continue
        same = [other for other in there if (other.kind, other.key) == (one.kind, one.key)]
        found.append(
            f"{one} is shortened to {_span(same[0])} from {_span(one)}"
            if same
            else f"{one} is dropped"
        )
    return tuple(found)


def ending(root: bytes, now: datetime) -> tuple[str, ...]:
    """What of ``root`` ends within :data:`AHEAD`, and kinds of which nothing is left."""
    found = []
    valid: set[str] = set()
    kinds = dict.fromkeys(one.kind for one in instances(root))
    for one in instances(root):
        if one.start > now or (one.last is not None and one.last < now):
            continue
        valid.add(one.kind)
        if one.last is not None and one.last <= now + AHEAD:
            found.append(f"{one} ends on {one.last:%Y-%m-%d}")
    found += [f"every {kind} has ended" for kind in kinds if kind not in valid]
    return tuple(found)


def _authorities(kind: str, found: Any) -> Iterator[Instance]:
    for one in found or ():
        chain = [bytes(item.raw_bytes) for item in one.cert_chain.certificates]
        certificates = [x509.load_der_x509_certificate(data) for data in chain]
        yield Instance(
            kind,
            one.uri or (one.subject and one.subject.common_name) or sha256_hex(chain[0])[:16],
            sha256_hex(b"".join(sorted(chain))),
            *_window(one.valid_for),
            min(certificate.not_valid_after_utc for certificate in certificates),
        )


def _logs(kind: str, found: Any) -> Iterator[Instance]:
    for one in found or ():
        ids = [item.key_id if item else b"" for item in (one.log_id, one.checkpoint_key_id)]
        yield Instance(
            kind,
            one.base_url or bytes(ids[0]).hex()[:16],
            sha256_hex(b"\0".join((*map(bytes, ids), bytes(one.public_key.raw_bytes)))),
            *_window(one.public_key.valid_for),
        )


def _window(valid_for: Any) -> tuple[datetime, datetime | None]:
    start = getattr(valid_for, "start", None)
    return _utc(start or datetime.min), _utc(getattr(valid_for, "end", None))


def _utc(moment: Any) -> Any:
    return moment.replace(tzinfo=moment.tzinfo or UTC) if moment else None


def _span(one: Instance) -> str:
    end = "without end" if one.end is None else f"{one.end:%Y-%m-%dT%H:%MZ}"
    return f"{one.start:%Y-%m-%d} to {end}"
