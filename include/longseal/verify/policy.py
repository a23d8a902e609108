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
from longseal.verify.keys import load_key

MAX_CERTIFICATE: Final = timedelta(minutes=10)
"""How long a keyless certificate may live where no rule says else."""

MAX_REASON: Final = 1_000
"""Longest text of a reason, in characters."""

MAX_IDENTITY: Final = 2_048
"""Longest identity or issuer that a pattern is tried on, in characters."""

MAX_KEYS: Final = 64
"""Most keys that a policy names: each may have to be tried on a signature."""

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
        if claim.issuer is None or claim.identity is None:
            return False
        return self.issuer.accepts(claim.issuer) and self.identity.accepts(claim.identity)

    def __str__(self) -> str:
        return f"{self.identity} of {self.issuer}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may attest these predicates in these repositories, and with how long a certificate.

    :param keys: keys that may, without any certificate: in DER (SubjectPublicKeyInfo)
    """

    repositories: tuple[str, ...]
    predicates: tuple[str, ...]
    identities: tuple[Identity, ...]
    max_certificate: timedelta
    keys: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        """Named by what it speaks of: the document has rules in another order than the settings."""
        spoken = f"{', '.join(self.predicates)} in {', '.join(self.repositories)}"
        return f"the rule for {spoken if len(spoken) <= 200 else f'{spoken[:200]}…'}"

    @property
    def signers(self) -> list[str]:
        """Who may attest, for a message."""
        return [str(known) for known in self.identities] + [
            f"the key {digest_of(key)}" for key in self.keys
        ]

    def trusts(self, claim: Claim) -> bool:
        """Whether the signer behind ``claim`` is one of the rule's."""
        if claim.key is not None:
            return any(digest_of(key) == claim.key for key in self.keys)
        return any(known.accepts(claim) for known in self.identities)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a verified signature and statement say, before anybody decides whether they may.

    :param lifetime: between the certificate's two dates
    :param key: fingerprint of the key that signed without a certificate; then there is no identity,
        issuer and lifetime
    """

    repository: str
    predicate_type: str
    identity: str | None
    issuer: str | None
    lifetime: timedelta | None
    key: str | None = None

    @property
    def signer(self) -> str:
        """Who signed, for a message."""
        if self.key is not None:
            return f"the key {self.key}"
        return f"{str(self.identity)[:200]} of {str(self.issuer)[:200]}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force, and the digest of the document they were read from."""

    digest: str
    rules: tuple[Rule, ...]

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Every key that some rule names."""
        return tuple(dict.fromkeys(key for rule in self.rules for key in rule.keys))

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
        if not rules or not all(rule.identities or rule.keys for rule in rules):
            raise MalformedError("the policy trusts nobody: every rule needs an identity or a key")
        if len({key for rule in rules for key in rule.keys}) > MAX_KEYS:
            raise MalformedError(f"the policy names more than {MAX_KEYS} keys")
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
        trusted = [rule for rule in speaking if rule.trusts(claim)]
        if not trusted:
            expected = "; or ".join(f"{' or '.join(rule.signers)}, by {rule}" for rule in speaking)
            return Reason("identity", f"found {claim.signer}; expected {expected}")
        lifetime = claim.lifetime or timedelta()
        if not any(lifetime <= rule.max_certificate for rule in trusted):
            longest = max(trusted, key=lambda rule: rule.max_certificate)
            return Reason(
                "certificate-lifetime",
                f"expected a certificate of at most {longest.max_certificate}, found one of"
                f" {lifetime}, by {longest}",
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
        keys=tuple(_key(known) for known in item.get("keys", ())),
    )


def _key(item: dict[str, Any]) -> bytes:
    key = load_key(item["pem"].encode(), "a key of the policy")
    if digest_of(key) != item["sha256"]:
        raise ValueError(f"a key of the policy is {digest_of(key)}, not {item['sha256']!r}")
    return key


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
