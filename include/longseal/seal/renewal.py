"""Until when each published seal stands, and which later seals carry it further.

A seal stands as long as a quorum of its timestamps can be checked. A later seal that was stamped
before then carries it on, since it names the seal's digest: "each Archive Timestamp must be valid
relative to the time of the following" (RFC 4998 section 5.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from longseal.canonical import timestamp
from longseal.errors import VerificationError
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.ceremony import authorities
from longseal.seal.keys import KeyEntry
from longseal.seal.organisation import key_set
from longseal.seal.published import published
from longseal.seal.timestamps import Authority, Token, verify_quorum
from longseal.workspace import Workspace

AHEAD: Final = timedelta(days=90)
"""How long before a seal ends it is said to be due."""

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class End(NamedTuple):
    """Until when something can be relied on, and what ends then."""

    at: datetime
    what: str


@dataclass(frozen=True, slots=True)
class Renewable:
    """A published seal, and what it rests on.

    :param tokens: its good timestamps, one of each authority that is believed
    :param key: the key that signed it, as the newest key set has it; None where it has not
    """

    sequence: int
    period: str
    tokens: tuple[Token, ...]
    key: KeyEntry | None

    @property
    def stamped(self) -> datetime | None:
        """When the last of its authorities saw it; None where no timestamp holds."""
        return max((token.gen_time for token in self.tokens), default=None)

    @property
    def sound(self) -> bool:
        """Whether it can carry others: stamped, within its key's window."""
        first = min((token.gen_time for token in self.tokens), default=None)
        return first is not None and self.key is not None and self.key.covers(first)

    def end(self, quorum: int) -> End:
        """When a quorum of its timestamps, or its signature, can no longer be checked.

        Of a seal with fewer timestamps than the quorum, when the first of them ends.
        """
        ends = sorted((authority_end(one.authority) for one in self.tokens), reverse=True)
        if not ends or self.key is None:
            return End(_NEVER, "nothing of it holds: longseal audit")
        return min(ends[:quorum][-1], key_end(self.key.key, "the key that signed it"))

    def carries(self, before: Renewable, quorum: int) -> bool:
        """Whether it was stamped while ``before`` stood by itself."""
        return self.stamped is not None and self.stamped <= before.end(quorum).at


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long a seal stands, with all that carries it.

    :param renewed_by: sequences of the seals that carry it, the newest last
    """

    sequence: int
    period: str
    end: End
    renewed_by: tuple[int, ...]

    def due(self, now: datetime) -> bool:
        """Whether a renewal is needed by :data:`AHEAD` from ``now``, or comes too late already."""
        return self.end.at - now <= AHEAD

    def to_json(self, now: datetime) -> dict[str, Any]:
        """One seal's line of a report."""
        return {
            "sequence": self.sequence,
            "period": self.period,
            "until": timestamp(self.end.at),
            "then": self.end.what,
            "renewed_by": list(self.renewed_by),
            "due": self.due(now),
        }


def key_end(key: object, whose: str) -> End:
    """Until when signatures by a kind of key are held to be safe.

    RSA below 3072 bits: NIST SP 800-57 part 1 rev. 5, table 4. The other kinds in use: NIST IR 8547
    (initial public draft), tables 2 and 4. A kind that is not among them is none to rely on.
    """
    match key:
        case rsa.RSAPublicKey() if key.key_size < 3072:
            return End(datetime(2031, 1, 1, tzinfo=UTC), f"{whose}: RSA of {key.key_size} bits")
        case rsa.RSAPublicKey():
            return End(datetime(2036, 1, 1, tzinfo=UTC), f"{whose}: RSA")
        case ec.EllipticCurvePublicKey() if key.curve.key_size >= 256:
            return End(datetime(2036, 1, 1, tzinfo=UTC), f"{whose}: ECDSA")
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return End(datetime(2036, 1, 1, tzinfo=UTC), f"{whose}: EdDSA")
    return End(datetime(2014, 1, 1, tzinfo=UTC), f"{whose}: {type(key).__name__}")


def authority_end(authority: Authority) -> End:
    """When the first certificate of an authority's chain ends, or is no longer safe."""
    ends = []
    for certificate in authority.certificates:
        name = certificate.subject.rfc4514_string()
        whose = f"the certificate {name} of {authority.url}"
        ends.append(End(certificate.not_valid_after_utc, f"{whose} ends"))
        ends.append(key_end(certificate.public_key(), whose))
        # A root is known by its fingerprint: its own signature says nothing.
        if certificate != authority.certificates[-1] and _weak_hash(certificate):
            ends.append(End(datetime(2014, 1, 1, tzinfo=UTC), f"{whose}: its hash"))
    return min(ends)


def _weak_hash(certificate: x509.Certificate) -> bool:
    """NIST SP 800-131A rev. 2, section 9: no SHA-1 under signatures from 2014 on."""
    return isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5)


def path(seals: Sequence[Renewable], start: Renewable, quorum: int) -> list[Renewable]:
    """The seals that carry ``start``, oldest first and the newest last: mostly the newest alone.

    Where none was made in time there is a gap, which is for a verifier to see and not to be spared.

    :param seals: all that are published, oldest first
    """
    found: list[Renewable] = []
    current = start
    later = [one for one in seals if one.sequence > start.sequence and one.sound]
    while later:
        in_time = [one for one in later if one.carries(current, quorum)]
        current = (in_time or later[:1])[-1]
        found.append(current)
        later = [one for one in later if one.sequence > current.sequence]
    return found


def forecast(seals: Sequence[Renewable], quorum: int) -> list[Forecast]:
    """How long each seal stands.

    :param seals: all that are published, oldest first
    :param quorum: how many timestamps are asked for
    """
    return [_forecast(one, path(seals, one, quorum), quorum) for one in seals]


def _forecast(seal: Renewable, carried: Sequence[Renewable], quorum: int) -> Forecast:
    last = [seal, *carried][-1]
    end = last.end(quorum)
    if last.key is not None and last.key.status == "active" and last.key.until is not None:
        end = min(end, End(last.key.until, "the window of the key that signs ends"))
    for before, after in pairwise([seal, *carried]):
        if not after.carries(before, quorum):
            at, what = before.end(quorum)
            end = End(at, f"{what}; no seal renewed it before")
            break
    return Forecast(seal.sequence, seal.period, end, tuple(one.sequence for one in carried))


def renewables(workspace: Workspace) -> list[Renewable]:
    """All published seals, oldest first, with what of them holds under the settings."""
    found = key_set(workspace)
    entries = {} if found is None else {entry.keyid: entry for entry in found[0].keys}
    known = authorities(workspace, retired=True)
    seals = []
    for seal in published(workspace):
        parts = parse_key_bundle(seal.bundle)
        tokens = verify_quorum(parts.timestamps, parts.signature, known, 0)
        key = entries.get(str(seal.statement.predicate.get("keyid")))
        seals.append(Renewable(seal.sequence, seal.period, tokens, key))
    return seals


def forecasts(workspace: Workspace) -> list[Forecast]:
    """How long each published seal stands, under the settings."""
    return forecast(renewables(workspace), workspace.settings.timestamp_quorum)


def require_time(found: Sequence[Forecast], now: datetime) -> str:
    """Check that no seal is due for renewal.

    :returns: until when all stand
    :raises VerificationError: naming the first that ends, and how many are due
    """
    if not found:
        return "nothing is sealed yet"
    first = min(found, key=lambda one: one.end)
    due = [one for one in found if one.due(now)]
    if due:
        raise VerificationError(
            f"{len(due)} seals are due for renewal, the first, seal {first.sequence} of"
            f" {first.period}, on {timestamp(first.end.at)}: {first.end.what}. See that the"
            " settings' authorities and key last longer, then: longseal reseal --renew"
        )
    return f"all {len(found)} seals stand until {first.end.at:%Y-%m-%d}: {first.end.what}"
