"""Who may attest what: the organisation's policy, judged rule by rule.

Rules are OR-ed. What no rule speaks of is refused as ``no-rule``; there is no "any identity". The
policy in force is a canonical JSON document, archived under its digest, so that an auditor can
judge the same evidence by the same rules years later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from longseal.canonical import digest_of, parse_object
from longseal.errors import MalformedError
from longseal.patterns import matches_any

MAX_CERTIFICATE: Final = timedelta(minutes=10)
"""How long a keyless certificate may live where no rule says else."""

MAX_REASON: Final = 1_000
"""Longest text of a reason, in characters."""

MAX_IDENTITY: Final = 2_048
"""Longest identity or issuer that a pattern is tried on, in characters."""

_UNSAFE = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was not accepted: a slug to count by, and a sentence to act on."""

    slug: str
    text: str

    def __post_init__(self) -> None:
        # What was found may be quoted here, and whoever wrote that is a stranger: nothing of it
        # may steer a terminal, or be more than a database takes for text.
        shown = _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], " ".join(self.text.split()))
        object.__setattr__(self, "text", shown[:MAX_REASON])

    def __str__(self) -> str:
        return f"{self.slug}: {self.text}"


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is expected exactly, or by a pattern that must describe all of it."""

    exact: str | None
    pattern: str | None

    def accepts(self, name: str) -> bool:
        """Whether ``name`` is meant; one past :data:`MAX_IDENTITY` never is."""
        if len(name) > MAX_IDENTITY:
            return False
        if self.pattern is not None:
            return re.fullmatch(self.pattern, name) is not None
        return name == self.exact

    def __str__(self) -> str:
        return f"{self.exact}" if self.pattern is None else f"a match of {self.pattern}"


@dataclass(frozen=True, slots=True)
class Identity:
    """One accepted signer."""

    identity: Name
    issuer: Name

    def accepts(self, claim: Claim) -> bool:
        """Whether the certificate behind ``claim`` is this signer's."""
        return self.issuer.accepts(claim.issuer) and self.identity.accepts(claim.identity)

    def __str__(self) -> str:
        return f"{self.identity} of {self.issuer}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may attest these predicates in these repositories, and with how long a certificate."""

    repositories: tuple[str, ...]
    predicates: tuple[str, ...]
    identities: tuple[Identity, ...]
    max_certificate: timedelta


@dataclass(frozen=True, slots=True)
class Claim:
    """What a verified certificate and statement say, before anybody decides whether they may.

    :param lifetime: between the certificate's two dates
    """

    repository: str
    predicate_type: str
    identity: str
    issuer: str
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force, and the digest of the document they were read from."""

    digest: str
    rules: tuple[Rule, ...]

    @classmethod
    def parse(cls, document: bytes) -> Policy:
        """Read the canonical policy document (docs/formats/policy.md).

        :raises MalformedError: when it is not such a document, or trusts nobody
        """
        content = parse_object(document, "the policy")
        try:
            rules = tuple(_rule(item) for item in content["rules"])
        except (
            AttributeError,
            KeyError,
            OverflowError,
            RecursionError,
            TypeError,
            ValueError,
            re.error,
        ) as err:
            raise MalformedError(f"the policy document is not readable: {err!r}") from err
        if not rules or not all(rule.identities for rule in rules):
            raise MalformedError("the policy trusts nobody: every rule needs an identity")
        return cls(digest_of(document), rules)

    def refusal(self, claim: Claim) -> Reason | None:
        """Why ``claim`` is not accepted; None when a rule accepts it."""
        speaking = [
            rule
            for rule in self.rules
            if matches_any(rule.repositories, claim.repository)
            and matches_any(rule.predicates, claim.predicate_type)
        ]
        if not speaking:
            return Reason(
                "no-rule",
                f"no rule speaks of {claim.predicate_type} in {claim.repository};"
                " add one, or leave it in quarantine",
            )
        trusted = [
            rule for rule in speaking if any(known.accepts(claim) for known in rule.identities)
        ]
        if not trusted:
            expected = "; or ".join(str(known) for rule in speaking for known in rule.identities)
            return Reason(
                "identity",
                f"expected {expected}; found {claim.identity[:200]} of {claim.issuer[:200]}",
            )
        if not any(claim.lifetime <= rule.max_certificate for rule in trusted):
            longest = max(rule.max_certificate for rule in trusted)
            return Reason(
                "certificate-lifetime",
                f"expected a certificate of at most {longest}, found one of {claim.lifetime}",
            )
        return None


def _rule(item: dict[str, Any]) -> Rule:
    return Rule(
        repositories=_texts(item["repositories"]),
        predicates=_texts(item["predicates"]),
        identities=tuple(
            Identity(
                identity=_name(known.get("identity"), known.get("pattern")),
                issuer=_name(known.get("issuer"), known.get("issuerPattern")),
            )
            for known in item["identities"]
        ),
        max_certificate=timedelta(minutes=item["maxCertificateMinutes"]),
    )


def _texts(items: list[str]) -> tuple[str, ...]:
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise TypeError("expected a list of texts")
    return tuple(items)


def _name(exact: str | None, pattern: str | None) -> Name:
    if (exact is None) == (pattern is None):
        raise ValueError("a name is given exactly or by a pattern, one of the two")
    if pattern is not None:
        re.compile(pattern)
    return Name(exact, pattern)
