"""The trusted root in force: which one it is, since when, and how another takes its place.

The settings name a file, or a TUF repository. Either gives a candidate; what is in force is the
newest adoption in the archive (``docs/formats/trust.md``), so that every task judges by one root
and none but :func:`refresh` touches the network. A candidate that takes from stored evidence what
it rests on is refused, unless somebody accepts it as a revocation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from longseal.canonical import (
    canonical_json,
    digest_of,
    is_digest,
    parse_object,
    parse_timestamp,
    sha256_hex,
    timestamp,
)
from longseal.errors import (
    ConflictError,
    MalformedError,
    RefusedError,
    RetryableError,
    SettingsError,
    UnsupportedError,
    VerificationError,
)
from longseal.verify import roots, tuf
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace

MAX_ADOPTION_BYTES: Final = 1024 * 1024
MAX_REASON: Final = 1_000
"""Longest reason of a revocation, in characters."""

_NAMED: Final = 100
"""Most dependent leaves that a refusal names."""

_KEY = re.compile(r"trust/([0-9]{6})\.json")
_METADATA = re.compile(r"(root_history/[0-9]{1,9}\.root|timestamp|snapshot|targets)\.json")
_OFFLINE: Final = ("root", "targets")
"""TUF roles that people sign by hand; the others are renewed by a machine every few days."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """A trusted root that came into force, or newer TUF metadata for the same one.

    :param sequence: from 1 on, without gaps
    :param previous: hex SHA-256 of the adoption before; None for the first
    :param root: digest of the trusted root
    :param source: ``file``, or the URL of the TUF repository
    :param metadata: digests of the TUF metadata by name; None for a file
    :param reason: of a revocation
    :raises MalformedError: when a field is of another form
    """

    sequence: int
    previous: str | None
    at: datetime
    actor: str
    root: str
    source: str
    metadata: Mapping[str, str] | None = None
    reason: str | None = None
    data: bytes = field(init=False, repr=False)
    """RFC 8785 JSON."""

    def __post_init__(self) -> None:
        names = self.metadata if self.metadata is not None else {}
        for name, digest in names.items():
            if _METADATA.fullmatch(name) is None or not is_digest(digest):
                raise MalformedError(f"an adoption cannot name TUF metadata {name[:80]!a}")
        if not is_digest(self.root):
            raise MalformedError("an adoption names no trusted root")
        object.__setattr__(
            self,
            "data",
            canonical_json(
                {
                    "actor": self.actor,
                    "at": timestamp(self.at),
                    "metadata": self.metadata,
                    "previous": self.previous,
                    "reason": self.reason,
                    "root": self.root,
                    "sequence": self.sequence,
                    "source": self.source,
                }
            ),
        )

    @classmethod
    def parse(cls, data: bytes) -> Adoption:
        """The adoption that ``data`` spells.

        :raises MalformedError: it is none, or spelled in another way
        """
        found = parse_object(data, "an adoption", MAX_ADOPTION_BYTES)
        try:
            adoption = cls(**{**found, "at": parse_timestamp(found["at"])})
        except (KeyError, TypeError, AttributeError) as err:
            raise MalformedError(f"an adoption has another key, or none: {err}") from err
        if adoption.data != data:
            raise MalformedError("an adoption is not spelled as RFC 8785 spells it")
        return adoption


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the settings' source gives now.

    :param metadata: of the TUF repository, by name; None for a file
    """

    root: bytes
    source: str
    metadata: Mapping[str, bytes] | None = None


def newest(workspace: Workspace) -> Adoption | None:
    """The adoption in force; None before the first.

    :raises VerificationError: it is unreadable, or does not follow the one before it
    """
    keys = [key for key in workspace.archive.keys("trust/") if _KEY.fullmatch(key)]
    if not keys:
        return None
    if keys[-1] != _key(len(keys)):
        raise VerificationError(f"adoptions of trusted roots are missing before {keys[-1]}")
    newest, before = _read(workspace, len(keys)), None
    if newest.sequence > 1:
        before = _read(workspace, newest.sequence - 1)
    if newest.previous != (before and sha256_hex(before.data)):
        raise VerificationError(f"{keys[-1]} does not name the adoption before it")
    return newest


def in_force(workspace: Workspace) -> bytes:
    """The trusted root that everything is judged by.

    Before the first adoption it is the settings' file. One from a TUF repository is verified here,
    from the root metadata that the settings name, without network and clock.

    :raises SettingsError: no root was ever there
    :raises VerificationError: what the archive has is not what the repository's keys signed
    """
    adopted = newest(workspace)
    settings = workspace.settings
    if isinstance(settings.trust, Path):
        return _file(workspace) if adopted is None else workspace.kept(adopted.root)
    if adopted is None or adopted.metadata is None:
        raise SettingsError(
            "trust.tuf", "nothing was brought from there yet: longseal trust refresh"
        )
    root = workspace.kept(adopted.root)
    named = _verified(workspace, adopted)
    assert named is not None
    named.check(root)
    return root


def vouched(workspace: Workspace) -> bytes:
    """The trusted root in force, where the settings of this very worker bear it out.

    Whoever can write into the archive can write an adoption there: what is about to be signed is
    judged by nothing that rests on the archive alone.

    :raises RefusedError: the settings name another file than the one in force
    """
    if isinstance(workspace.settings.trust, Path):
        theirs = digest_of(_file(workspace))
        if theirs != digest_of(workspace.trusted_root):
            raise RefusedError(
                f"the settings' trusted root is {theirs}, in force is"
                f" {digest_of(workspace.trusted_root)}: longseal trust refresh says why"
            )
    return workspace.trusted_root


def refresh(workspace: Workspace) -> dict[str, Any]:
    """Look at the source, and adopt what is new there.

    :returns: :func:`show`'s document, with ``adopted``
    :raises RefusedError: it would take from stored evidence what it rests on
    :raises VerificationError: what the TUF repository has does not hold
    :raises RetryableError: the repository did not answer
    """
    return _adopt(workspace, _candidate(workspace))


def accept(workspace: Workspace, reason: str, root: str | None = None) -> dict[str, Any]:
    """Adopt what is there as a revocation: evidence that rests on what it takes away falls.

    The caller judges that evidence again (:func:`longseal.judgement.apply`); until then, and after
    a crash, the next harvest does.

    :param reason: for the ledger
    :param root: digest of the root that is meant; None for whatever is there
    :raises RefusedError: no reason, or another root than the one meant
    """
    if not 0 < len(reason.strip()) <= MAX_REASON:
        raise RefusedError(f"a revocation needs a reason, of {MAX_REASON} characters at most")
    candidate = _candidate(workspace)
    if root is not None and digest_of(candidate.root) != root:
        raise RefusedError(f"the source has {digest_of(candidate.root)} now, and not {root}")
    return _adopt(workspace, candidate, reason.strip())


def show(workspace: Workspace) -> dict[str, Any]:
    """What is in force, since when, and what of it ends soon; touches no network.

    ``pending`` is a root in the settings' file that is not in force: not looked at yet, or refused.
    """
    adopted = newest(workspace)
    root = workspace.trusted_root
    named = _verified(workspace, adopted)
    now = workspace.now()
    path = workspace.settings.trust
    theirs = digest_of(_file(workspace)) if isinstance(path, Path) else digest_of(root)
    return {
        "root": digest_of(root),
        "pending": None if theirs == digest_of(root) else theirs,
        "source": "file" if adopted is None else adopted.source,
        "since": None if adopted is None else timestamp(adopted.at),
        "by": None if adopted is None else adopted.actor,
        "revocation": None if adopted is None else adopted.reason,
        "instances": [
            f"{one}: from {one.start:%Y-%m-%d}" + (f" to {one.end:%Y-%m-%d}" if one.end else "")
            for one in roots.instances(root)
        ],
        "metadata": {role: timestamp(end) for role, end in named.expires.items()} if named else {},
        "ending": [*roots.ending(root, now), *(_stale(named, now) if named else ())],
    }


def _adopt(workspace: Workspace, candidate: Candidate, reason: str | None = None) -> dict[str, Any]:
    before = newest(workspace)
    root = digest_of(candidate.root)
    files = candidate.metadata
    metadata = None if files is None else {n: digest_of(data) for n, data in sorted(files.items())}
    if before and (before.root, before.metadata, before.source) == (
        root,
        metadata,
        candidate.source,
    ):
        return {**show(workspace), "adopted": False}
    changed = before is None or before.root != root
    gone: tuple[str, ...] = ()
    if before is not None and changed:
        gone = roots.lost(workspace.kept(before.root), candidate.root)
        if gone and reason is None:
            _require_nothing_rests_on(workspace, before, candidate.root, gone)
    for data in (candidate.root, *(files or {}).values()):
        workspace.keep(data)
    if changed:
        workspace.note(
            "trust.revoked" if reason else "trust.adopted",
            {
                "root": root,
                "before": before and before.root,
                "source": candidate.source,
                "lost": list(gone),
                **({"reason": reason} if reason else {}),
            },
        )
    adoption = Adoption(
        sequence=before.sequence + 1 if before else 1,
        previous=sha256_hex(before.data) if before else None,
        at=workspace.now(),
        actor=workspace.actor,
        root=root,
        source=candidate.source,
        metadata=metadata,
        reason=reason,
    )
    try:
        workspace.store(_key(adoption.sequence), adoption.data)
    except ConflictError as err:
        raise RetryableError("another task adopted a trusted root at this moment") from err
    workspace.__dict__.pop("trusted_root", None)
    return {**show(workspace), "adopted": changed, "lost": list(gone)}


def _require_nothing_rests_on(
    workspace: Workspace, before: Adoption, root: bytes, gone: tuple[str, ...]
) -> None:
    """Refuse a root that verified evidence does not verify under any more.

    The refusal is kept with some of that evidence: while one piece of it is still there, the same
    root is refused again without judging everything.
    """
    from longseal.judgement import dependents

    digest = digest_of(root)
    key = f"refusals/{before.root[7:]}/{digest[7:]}.json"
    if workspace.archive.stat(key) is not None:
        kept = parse_object(workspace.archive.get(key, MAX_ADOPTION_BYTES), "a refusal")
        if any(
            row.verdict == "verified"
            for leaf in kept["leaves"]
            for row in workspace.catalog.evidence(leaf_hash=leaf)
        ):
            raise RefusedError(kept["refusal"])
    rows = dependents(workspace, root)
    if not rows:
        return
    first = rows[0]
    refusal = (
        f"the new trusted root {digest} takes away what {len(rows)} verified attestations rest on"
        f" ({'; '.join(gone)}), the first on {first.repository}@{first.image}: {before.root} stays"
        f" in force. Give the old entries back with their ends, or revoke them:"
        f' longseal trust accept --revoke --reason "…" {digest}'
    )
    leaves = [row.leaf_hash for row in rows[:_NAMED]]
    if workspace.archive.stat(key) is None:
        workspace.store(key, canonical_json({"leaves": leaves, "refusal": refusal}))
        workspace.note("trust.refused", {"root": digest, "lost": list(gone), "evidence": len(rows)})
    raise RefusedError(refusal)


def _candidate(workspace: Workspace) -> Candidate:
    source = workspace.settings.trust
    if isinstance(source, Path):
        return Candidate(_file(workspace), "file")
    adopted = newest(workspace)
    known = adopted.metadata if adopted and adopted.source == source.url else None
    files, root = tuf.fetch(
        source,
        workspace.read_setting("trust.tuf.root", source.root),
        {name: workspace.kept(digest) for name, digest in (known or {}).items()},
    )
    try:
        TrustMaterial.parse(root)
    except (MalformedError, UnsupportedError) as err:
        raise VerificationError(f"{source.url} names {source.target}, and it is: {err}") from err
    return Candidate(root, source.url, files)


def _file(workspace: Workspace) -> bytes:
    path = workspace.settings.trust
    assert isinstance(path, Path)
    data = workspace.read_setting("trust.trusted_root", path)
    try:
        TrustMaterial.parse(data)
    except (MalformedError, UnsupportedError) as err:
        raise SettingsError("trust.trusted_root", f"{path}: {err}") from err
    return data


def _verified(workspace: Workspace, adopted: Adoption | None) -> tuf.Named | None:
    """What the adoption's TUF metadata names, not older than what was adopted before it."""
    source = workspace.settings.trust
    if adopted is None or adopted.metadata is None or isinstance(source, Path):
        return None
    bootstrap = workspace.read_setting("trust.tuf.root", source.root)

    def named(one: Adoption) -> tuf.Named:
        files = {name: workspace.kept(digest) for name, digest in (one.metadata or {}).items()}
        return tuf.verify(bootstrap, files, source.target)

    found = named(adopted)
    if adopted.sequence > 1:
        before = _read(workspace, adopted.sequence - 1)
        if before.metadata is not None and before.source == adopted.source:
            older = named(before).versions
            if any(now < then for now, then in zip(found.versions, older, strict=True)):
                raise VerificationError(
                    f"{_key(adopted.sequence)} has older TUF metadata than the adoption before it"
                )
    return found


def _stale(named: tuf.Named, now: datetime) -> list[str]:
    return [
        f"the TUF repository's {role} ends on {end:%Y-%m-%d}"
        for role, end in named.expires.items()
        if end <= now + (roots.AHEAD if role in _OFFLINE else timedelta(0))
    ]


def _read(workspace: Workspace, sequence: int) -> Adoption:
    try:
        found = Adoption.parse(workspace.archive.get(_key(sequence), MAX_ADOPTION_BYTES))
    except MalformedError as err:
        raise VerificationError(f"{_key(sequence)} is not readable: {err}") from err
    if found.sequence != sequence:
        raise VerificationError(f"{_key(sequence)} says that it is {found.sequence}")
    return found


def _key(sequence: int) -> str:
    return f"trust/{sequence:06}.json"
