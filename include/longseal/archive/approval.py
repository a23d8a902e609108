"""Approval by a policy: which plans need no human, in a document that the organisation's key signs.

The newest version that is signed counts, until its own date; one without rules approves nothing.
What it approves is found out when a plan is begun, from the signed document and the plan alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from longseal.archive.document import Item
from longseal.archive.due import attached
from longseal.canonical import canonical_json, digest_of, parse_object, parse_timestamp, timestamp
from longseal.errors import MalformedError, RefusedError, VerificationError
from longseal.patterns import matches, matches_any
from longseal.seal.ceremony import Ceremony, check_bundle
from longseal.seal.organisation import signed_as
from longseal.seal.published import predicate_type
from longseal.seal.statement import Statement, Subject
from longseal.workspace import Workspace

MAX_BYTES: Final = 64 * 1024
MAX_RULES: Final = 100
MAX_LIFE: Final = timedelta(days=400)
"""For how long a policy may approve, from its signing on."""

PREFIX: Final = "policy "
"""What an approver's name begins with where a policy approved, and no person's may."""

_FOLDER: Final = "approvals"
_NAME: Final = "approval-policy.json"
_RULE: Final = {"repositories", "classes", "maxCount", "maxShare"}


@dataclass(frozen=True, slots=True)
class Rule:
    """Attachments that need no human.

    :param classes: patterns of the classes of retention by which they are due, with the verdict:
        ``default.rejected``
    :param max_count: most attachments of one plan
    :param max_share: most of what is attached in a repository, in percent
    """

    repositories: tuple[str, ...]
    classes: tuple[str, ...]
    max_count: int
    max_share: int

    def takes(self, item: Item) -> bool:
        """Whether it speaks of this attachment: of every class by which it is due."""
        names = [rule.partition(": ")[0] for rule in item.rules]
        return (
            matches_any(self.repositories, item.repository)
            and bool(names)
            and all(any(matches(pattern, name) for pattern in self.classes) for name in names)
        )


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """What an approval policy says."""

    rules: tuple[Rule, ...]
    valid_until: datetime

    @classmethod
    def parse(cls, data: bytes) -> ApprovalPolicy:
        """The policy that ``data`` spells; a name that is not known is refused.

        :raises MalformedError: it is none
        """
        found = parse_object(data, "an approval policy", MAX_BYTES)
        if found.keys() != {"rules", "validUntil"} or not isinstance(found["rules"], list):
            raise MalformedError("an approval policy has rules and validUntil, and nothing else")
        if len(found["rules"]) > MAX_RULES:
            raise MalformedError(f"an approval policy has {MAX_RULES} rules at most")
        return cls(tuple(map(_rule, found["rules"])), parse_timestamp(found["validUntil"]))


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed policy in force.

    :param version: from 1
    :param digest: of its document
    """

    version: int
    digest: str
    policy: ApprovalPolicy

    @property
    def approver(self) -> str:
        """Its name in the ledger and in tombstones."""
        return f"{PREFIX}{self.digest} (version {self.version})"


def sign_policy(workspace: Workspace, document: bytes) -> dict[str, Any]:
    """Have the organisation's key sign a policy, which takes the place of the one before.

    The one in force given again is signed once. A version that was claimed and cut off is
    finished first.

    :raises MalformedError: it is no approval policy
    :raises RefusedError: its date is past, or too far away
    """
    policy, now = ApprovalPolicy.parse(document), workspace.now()
    # So that other white space is no other policy.
    document = canonical_json(parse_object(document, "an approval policy", MAX_BYTES))
    if not now < policy.valid_until <= now + MAX_LIFE:
        raise RefusedError(
            f"validUntil: expected a time within {MAX_LIFE.days} days, found"
            f" {timestamp(policy.valid_until)}"
        )
    version, operations = 1, 0
    while (ceremony := _ceremony(workspace, version)).claimed:
        # What was claimed with another document and not finished never comes into force.
        if ceremony.document() == document and not _ceremony(workspace, version + 1).claimed:
            if not ceremony.finished:
                _require_version(Statement.parse(ceremony.statement()), version)
                operations += ceremony.run(ceremony.statement()).operations
            break
        version += 1
    else:
        workspace.keep(document)
        statement = Statement(
            (Subject.of(document, _NAME),),
            predicate_type(workspace, "approval-policy"),
            {
                "version": version,
                "validUntil": timestamp(policy.valid_until),
                **signed_as(workspace),
            },
        )
        operations += ceremony.run(statement.format()).operations
        workspace.note("approval.signed", {"policy": digest_of(document), "version": version})
    return {"policy": digest_of(document), "version": version, "key_operations": operations}


def policy_in_force(workspace: Workspace) -> Signed | None:
    """The newest signed policy, also where its date is past; None where none was ever signed.

    :raises VerificationError: its signature does not hold
    """
    version, newest = 1, None
    while (ceremony := _ceremony(workspace, version)).claimed:
        if ceremony.finished:
            newest = version
        version += 1
    if newest is None:
        return None
    bundle = _ceremony(workspace, newest).bundle()
    statement = check_bundle(workspace, bundle, "approval-policy")
    _require_version(statement, newest)
    document = workspace.kept(statement.subjects[0].sha256)
    return Signed(newest, digest_of(document), ApprovalPolicy.parse(document))


def require_approved(workspace: Workspace, items: Sequence[Item]) -> Signed:
    """The signed policy by which all of ``items`` may go without a human.

    :raises RefusedError: there is none, with the first thing that it does not approve
    """
    signed = policy_in_force(workspace)
    if signed is None:
        raise RefusedError("no approval policy is signed: somebody has to approve this plan")
    if workspace.now() >= signed.policy.valid_until:
        raise RefusedError(
            f"the approval policy ended at {timestamp(signed.policy.valid_until)}: somebody has to"
            " approve this plan, or sign a new one"
        )
    counts: Counter[Rule] = Counter()
    shares: Counter[tuple[Rule, str, str]] = Counter()
    for item in items:
        rule = next((one for one in signed.policy.rules if one.takes(item)), None)
        if rule is None:
            raise RefusedError(
                f"the approval policy has no rule for {item.repository} and"
                f" {', '.join(item.rules)}: somebody has to approve this plan"
            )
        counts[rule] += 1
        shares[rule, item.registry, item.repository] += 1
    for rule, count in counts.items():
        if count > rule.max_count:
            raise RefusedError(
                f"the approval policy takes {rule.max_count} at most, the plan has {count}:"
                " somebody has to approve it"
            )
    rows = workspace.catalog.placed({item.repository for item in items})
    there = attached(row for row in rows if row.tombstone is None)
    for (rule, registry, repository), count in shares.items():
        if count * 100 > rule.max_share * there[registry, repository]:
            raise RefusedError(
                f"the approval policy takes {rule.max_share} % of a repository at most, the plan"
                f" has {count} of {there[registry, repository]} of {registry}/{repository}:"
                " somebody has to approve it"
            )
    return signed


def _require_version(statement: Statement, version: int) -> None:
    if statement.predicate.get("version") != version:
        raise VerificationError(
            f"expected version {version} of the approval policy in {_FOLDER}/{version:04}, found"
            " another: somebody put it there"
        )


def _ceremony(workspace: Workspace, version: int) -> Ceremony:
    return Ceremony(workspace, f"{_FOLDER}/{version:04}")


def _rule(value: Any) -> Rule:
    if not isinstance(value, Mapping) or value.keys() != _RULE:
        raise MalformedError(f"a rule of an approval policy has {', '.join(sorted(_RULE))}")
    lists = value["repositories"], value["classes"]
    if not all(
        isinstance(each, list) and each and all(isinstance(one, str) and one for one in each)
        for each in lists
    ):
        raise MalformedError("repositories and classes of a rule are lists of patterns")
    count, share = value["maxCount"], value["maxShare"]
    if type(count) is not int or count < 1 or type(share) is not int or not 1 <= share <= 100:
        raise MalformedError("maxCount of a rule is a number from 1, maxShare one from 1 to 100")
    return Rule(tuple(lists[0]), tuple(lists[1]), count, share)
