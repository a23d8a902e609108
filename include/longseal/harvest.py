"""Harvest: find every attestation, judge it, and keep it with all that its proof needs later.

:func:`plan` divides the registries' repositories into batches; :func:`harvest` works one off. A
batch can be killed anywhere and run again: evidence counts as known only once its pack is read in
the archive, and what a claim left half done is taken up or taken over.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final, TypeVar

from longseal import __version__
from longseal.archive.leaf import Leaf, Signer
from longseal.archive.pack import (
    Evidence,
    Label,
    Pack,
    pack_key,
    store_index,
    store_label,
    store_pack,
    write_pack,
)
from longseal.archive.records import MAX_FILE_BYTES, record_files, record_line
from longseal.archive.retention import class_of, cold_days, retain_until
from longseal.batches import divided
from longseal.canonical import digest_of, is_digest, parse_object, sha256_hex
from longseal.errors import (
    LongsealError,
    MalformedError,
    PermanentError,
    RefusedError,
    RegistryError,
    RetryableError,
    SettingsError,
)
from longseal.patterns import matches_any
from longseal.registry.attachment import IN_INDEX, Attachment, fetch
from longseal.registry.discovery import (
    NO_REFERRERS_API,
    Candidate,
    CompletenessRecord,
    Structure,
    discover,
)
from longseal.registry.interface import Descriptor, Manifest, Registry
from longseal.registry.memory import Memory
from longseal.registry.model import subject_in_tag
from longseal.seal.tree import leaf_hash
from longseal.settings import EVERYTHING
from longseal.verify.engine import Judgement, Outcome
from longseal.verify.formats import may_lack_proof
from longseal.verify.policy import Reason
from longseal.verify.pool import Case, Judging, VerifierPool
from longseal.workspace import Workspace

FETCHERS: Final = 32
"""Requests under way at once in one task; a registry's own budget comes on top."""

_CHUNK_BYTES: Final = 32 * 1024 * 1024
_CHUNK_MEMBERS: Final = 4_096
"""How much is packed and claimed together: what a killed task has to do again."""

_SLICE: Final = 512
"""Images looked for, judged and recorded together: a batch holds no more of them at once."""

_CANDIDATES: Final = 8_192
"""Attachments of one slice at which it is settled early: one image may have thousands."""

_CASES: Final = 8
"""Attestations handed to a verifying process at once."""

_WAITING_CASES: Final = 128
_WAITING_BYTES: Final = 64 * 1024 * 1024
"""How much may be under way through the verifying processes before the oldest is waited for."""

_COUNTS: Final = ("found", "verified", "ignored", "unknown", "known", "vanished")

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one task harvests: some repositories of one registry."""

    registry: str
    repositories: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For an XCom."""
        return {"registry": self.registry, "repositories": list(self.repositories)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Batch:
        """The inverse of :meth:`to_json`."""
        return cls(value["registry"], tuple(value["repositories"]))


@dataclass(slots=True)
class Tally:
    """Counts for one image, or for all.

    :param found: attachments seen, known ones included
    :param ignored: what is no attestation: image signatures, unsigned documents
    :param unknown: what could not be read or judged, and places that did not answer
    :param known: attachments whose evidence was in the archive already
    :param vanished: known evidence that is gone from the registry without a tombstone
    """

    found: int = 0
    verified: int = 0
    ignored: int = 0
    unknown: int = 0
    known: int = 0
    vanished: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count ``other`` in."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.rejected.update(other.rejected)

    def to_json(self) -> dict[str, Any]:
        """Counts by name; ``rejected`` by reason."""
        return {
            "found": self.found,
            "verified": self.verified,
            "rejected": dict(sorted(self.rejected.items())),
            "ignored": self.ignored,
            "unknown": self.unknown,
            "known": self.known,
            "vanished": self.vanished,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tally:
        """The inverse of :meth:`to_json`; what else is in ``value`` is left aside."""
        return cls(**{name: value[name] for name in _COUNTS}, rejected=Counter(value["rejected"]))


@dataclass(slots=True)
class Harvested:
    """How a harvest went: by image, and what was written."""

    images: dict[str, Tally] = field(default_factory=dict)
    packs: list[str] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    """registries or repositories that did not answer, with what they said"""

    def of(self, image: str) -> Tally:
        """The counts of ``image``."""
        return self.images.setdefault(image, Tally())

    @property
    def total(self) -> Tally:
        """The counts of all images."""
        total = Tally()
        for tally in self.images.values():
            total.add(tally)
        return total

    @property
    def findings(self) -> bool:
        """Whether somebody should look: rejected, unknown or vanished evidence, silent places."""
        total = self.total
        return bool(total.unknown or total.vanished or total.rejected or self.unreachable)

    def add(self, other: Harvested) -> None:
        """Count another batch in."""
        for image, tally in other.images.items():
            self.of(image).add(tally)
        self.packs += other.packs
        self.unreachable |= other.unreachable

    def to_json(self) -> dict[str, Any]:
        """One JSON document: totals, and the counts by image."""
        return {
            **self.total.to_json(),
            "images": {image: tally.to_json() for image, tally in sorted(self.images.items())},
            "packs": self.packs,
            "unreachable": self.unreachable,
        }


def plan(workspace: Workspace, size: int = 25) -> tuple[list[Batch], dict[str, str]]:
    """The repositories to harvest, ``size`` in a batch, or more where that makes too many batches.

    :returns: the batches, and the registries that did not answer with what they said
    :raises SettingsError: no registry answered at all
    """
    found: list[Batch] = []
    silent: dict[str, str] = {}
    for chosen in workspace.settings.registries:
        try:
            listed = set(workspace.registry(chosen.name).repositories())
        except (RetryableError, MalformedError, RefusedError) as err:
            silent[chosen.name] = str(err)
            continue
        # A repository that is gone is looked for as well: its evidence has vanished.
        held = workspace.catalog.held_images(chosen.name)
        patterns = (*chosen.repositories, *chosen.attachment_repositories)
        names = sorted(
            (listed | {name for name in held if matches_any(patterns, name)})
            - _own_repositories(workspace, chosen.name)
        )
        found += [Batch(chosen.name, tuple(part)) for part in divided(names, size)]
    if silent and len(silent) == len(workspace.settings.registries):
        name, reason = next(iter(silent.items()))
        raise SettingsError("registries", f"no registry answered; {name}: {reason}")
    return found, silent


def _own_repositories(workspace: Workspace, registry: str) -> set[str]:
    """Where Longseal keeps its own artifacts: they are no images without attestations."""
    artifact = workspace.settings.seal.artifact
    return {artifact.repository} if artifact and artifact.registry == registry else set()


def harvest(workspace: Workspace, batch: Batch) -> Harvested:
    """Harvest ``batch``: discover, fetch what is not known, judge, pack, archive.

    A rejected or unreadable attestation is evidence with a reason, never an error.

    :raises RetryableError: the archive did not take what was found
    """
    # The processes are forked first: a fork beside running threads may copy a held lock.
    with judging(workspace) as pool, ThreadPoolExecutor(FETCHERS) as fetchers:
        return _Run(workspace, batch.registry, pool, fetchers).harvest(batch.repositories)


@contextmanager
def judging(workspace: Workspace) -> Iterator[VerifierPool]:
    """The processes that judge, under what is in force, which is archived."""
    with VerifierPool(
        workspace.trusted_root, workspace.policy, workspace.settings.harvest_workers
    ) as pool:
        workspace.keep(workspace.trusted_root)
        workspace.keep(workspace.policy)
        take_up(workspace)
        yield pool


def take_up(workspace: Workspace) -> None:
    """Finish what a killed run left: a claimed pack that did reach the archive is stored."""
    for digest in workspace.catalog.claimed_packs():
        if workspace.archive.stat(pack_key(digest)) is not None:
            pack = workspace.catalog.pack(digest)
            store_index(workspace.archive, digest, pack.retain_until)
            store_label(workspace.archive, digest, Label(pack.evidence_class, pack.retain_until))
            workspace.catalog.mark_stored(digest)


@dataclass(frozen=True, slots=True)
class _Listing:
    """A repository's tags.

    :param images: tags of images
    :param special: tags that name what is attached to an image
    """

    repository: str
    images: tuple[str, ...]
    special: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Subject:
    """An image to look at.

    :param repository: where its attachments are looked for
    :param tags: those there that name what is attached; None where they could not be listed
    :param listed: the attestations that it lists itself, where it is an index
    """

    repository: str
    digest: str
    tags: frozenset[str] | None
    listed: tuple[Descriptor, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of evidence to judge.

    :param image: what it was found on
    :param manifest: the bytes that carried it
    :param settled: what became of it, where that needs no look into the payload
    """

    repository: str
    image: str
    manifest: bytes
    payload: bytes
    settled: tuple[Outcome, Reason] | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """What goes through one verifying process together; what needs none is alone."""

    found: list[Found]
    judging: Judging | None

    @property
    def size(self) -> int:
        """Bytes as found."""
        return sum(len(one.payload) + len(one.manifest) for one in self.found)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Judged, with its leaf: what goes into the pack of one class and month of retention."""

    evidence: Evidence
    evidence_class: str
    retain_until: datetime


class _Run:
    """One batch under way."""

    def __init__(
        self,
        workspace: Workspace,
        registry: str,
        pool: VerifierPool,
        fetchers: ThreadPoolExecutor,
    ) -> None:
        self._workspace = workspace
        self._registry: Registry = workspace.registry(registry)
        self._chosen = next(item for item in workspace.settings.registries if item.name == registry)
        self._collector = Collector(workspace, registry, pool)
        self._result = self._collector.result
        self._fetchers = fetchers
        self._own: set[str] = set()

    def harvest(self, repositories: Sequence[str]) -> Harvested:
        asked = sorted({*repositories, *self._chosen.attachment_repositories})
        self._memory = Memory(self._workspace.catalog, self._registry, asked, self._workspace.now())
        subjects = self._subjects(repositories)
        while part := list(islice(subjects, _SLICE)):
            self._harvest(part)
        self._memory.save()
        self._collector.note()
        return self._result

    def _harvest(self, subjects: Sequence[_Subject]) -> None:
        self._own = self._workspace.catalog.own_manifests(
            self._registry.name, {subject.digest for subject in subjects}
        )
        candidates: list[Candidate] = []
        records: list[CompletenessRecord] = []
        for record, unknown in self._ahead(self._discover, subjects):
            records.append(record)
            candidates += unknown
            if len(candidates) >= _CANDIDATES:
                self._settle(records, candidates)
                records, candidates = [], []
        self._settle(records, candidates)
        self._memory.save()

    def _settle(
        self, records: Sequence[CompletenessRecord], candidates: Iterable[Candidate]
    ) -> None:
        """Take in what is not known yet, then keep how it was looked for."""
        wanted = self._without_known(records, candidates)
        self._collector.collect(self._fetched(wanted))
        self._record(records)

    def _ahead(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """What ``work`` makes of each item, in order; no more is under way than is taken soon."""
        pending: deque[Future[Made]] = deque()
        for item in items:
            pending.append(self._fetchers.submit(work, item))
            if len(pending) == FETCHERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _subjects(self, repositories: Sequence[str]) -> Iterator[_Subject]:
        """Every image, once: tagged, in an index, named by a fallback tag, or held.

        Held are images whose evidence should still be there, whatever a tag or a filter says. A
        repository of attachments has images of its own batch by what it holds, and by its tags;
        those of the others are looked for there once each until then.
        """
        apart = self._chosen.attachment_repositories
        held = self._workspace.catalog.held_images(self._registry.name, {*repositories, *apart})
        elsewhere = [(name, self._listing(name), set(held.get(name, ()))) for name in apart]
        listings = self._ahead(self._listing, repositories)
        named = (
            (listing, tag)
            for listing in listings
            if listing is not None
            for tag in (*listing.images, None)
        )
        seen: set[str] = set()
        for listing, tag, found in self._ahead(self._images, named):
            kept = held.get(listing.repository, set())
            untagged: set[str] = set()
            if tag is None:
                untagged |= kept
                if self._chosen.tags == EVERYTHING:
                    untagged.update(filter(None, map(subject_in_tag, listing.special)))
                untagged -= seen
            more = self._ahead(self._images, ((listing, digest) for digest in sorted(untagged)))
            for digest, structure in chain(found.items(), *(below.items() for *_, below in more)):
                if digest not in seen and (digest in kept or self._chosen.digests.takes(digest)):
                    yield _Subject(
                        listing.repository, digest, listing.special, structure.attestations
                    )
                    for name, there, looked in elsewhere:
                        if listing.repository not in apart and digest not in looked:
                            looked.add(digest)
                            yield _Subject(name, digest, there.special if there else None)
                seen.add(digest)
            if tag is None:
                seen = set()

    def _listing(self, repository: str) -> _Listing | None:
        try:
            tags = self._registry.tags(repository)
        except (RegistryError, PermanentError) as err:
            self._result.unreachable[f"{self._registry.name}/{repository}"] = str(err)
            return None
        special = frozenset(tag for tag in tags if subject_in_tag(tag))
        images = filter(self._chosen.tags.takes, sorted(set(tags) - special))
        return _Listing(repository, tuple(images), special)

    def _images(
        self, named: tuple[_Listing, str | None]
    ) -> tuple[_Listing, str | None, dict[str, Structure]]:
        """The images behind one tag or digest. One that cannot be read hides no other."""
        listing, reference = named
        found: dict[str, Structure] = {}
        if reference is not None:
            repository, digest = listing.repository, reference
            try:
                if not is_digest(reference):
                    digest = self._memory.resolve(repository, reference)
                found[digest] = Structure()  # looked at, whatever is below it
                found |= self._memory.below(repository, digest)
            except (RegistryError, PermanentError) as err:
                sign = "@" if is_digest(reference) else ":"
                place = f"{self._registry.name}/{repository}{sign}{reference}"
                self._result.unreachable[place] = str(err)
        return listing, reference, found

    def _discover(self, subject: _Subject) -> tuple[CompletenessRecord, tuple[Candidate, ...]]:
        api = self._memory.may_have_referrers_api(subject.repository)
        found = discover(
            self._registry,
            subject.repository,
            subject.digest,
            subject.tags,
            own=self._own,
            listed=subject.listed,
            referrers_api=api,
        )
        if api and any(answer.detail == NO_REFERRERS_API for answer in found.record.answers):
            self._memory.note_no_referrers_api(subject.repository)
        return found.record, found.candidates

    def _without_known(
        self, records: Iterable[CompletenessRecord], candidates: Iterable[Candidate]
    ) -> list[Candidate]:
        known: dict[tuple[str, str], set[str]] = {}
        for repository, group in _by_repository(records).items():
            images = [record.subject for record in group]
            found = self._workspace.catalog.known_manifests(self._registry.name, repository, images)
            known.update({(repository, image): digests for image, digests in found.items()})
        for record in records:
            tally = self._result.of(record.subject)
            tally.found += len(record.found)
            if record.state == "unknown":
                tally.unknown += 1
        wanted = []
        for candidate in candidates:
            if candidate.manifest.digest in known.get(
                (candidate.repository, candidate.subject), ()
            ):
                self._result.of(candidate.subject).known += 1
            else:
                wanted.append(candidate)
        return wanted

    def _fetched(self, candidates: Iterable[Candidate]) -> Iterator[Found]:
        """What the candidates hold, in order."""
        for candidate, found in self._ahead(lambda one: (one, self._fetch(one)), candidates):
            if found is None:
                # Not read is not judged: it stays unknown, and the next harvest asks again.
                self._result.of(candidate.subject).unknown += 1
            else:
                yield from found

    def _fetch(self, candidate: Candidate) -> list[Found] | None:
        try:
            try:
                return _speaking(fetch(self._registry, candidate))
            except PermanentError as err:
                manifest = self._registry.manifest(candidate.repository, candidate.manifest.digest)
                if manifest is None:
                    raise
                settled = (Outcome.REJECTED, Reason("malformed", str(err)))
                return [_whole(candidate, manifest, settled)]
        except LongsealError:
            return None

    def _record(self, records: Sequence[CompletenessRecord]) -> None:
        """Keep each completeness record that differs from the one before, and sound the alarm."""
        catalog, name, at = (
            self._workspace.catalog,
            self._registry.name,
            self._collector.collected_at,
        )
        rows: list[dict[str, Any]] = []
        for repository, group in _by_repository(records).items():
            images = [record.subject for record in group]
            before = catalog.records(name, repository, images)
            held = catalog.held_manifests(name, repository, images)
            for record in group:
                gone = held.get(record.subject, set()) - set(record.found)
                vanished = self._vanished(record, gone) if gone and record.whole else set()
                self._result.of(record.subject).vanished += len(vanished)
                content = {**record.to_json(), "vanished": sorted(vanished)}
                if content != _without_time(before.get(record.subject)):
                    rows.append(
                        {
                            "source": name,
                            "repository": repository,
                            "digest": record.subject,
                            "state": "vanished" if vanished else record.state,
                            "record": record_line(content, at).decode(),
                            "checked_at": at,
                        }
                    )
        # The archive first: what the catalog says of an image, some file in the archive proves.
        for key, data in record_files((row["record"].encode() for row in rows), at):
            self._workspace.store(key, data)
        catalog.record_images(rows)

    def _vanished(self, record: CompletenessRecord, gone: set[str]) -> set[str]:
        """Of the attachments that are ``gone``, those that took evidence with them.

        Older cosign adds an attestation by writing a new manifest with all of them in it. What is
        there as it was, and judged as it was, has not vanished with the manifest before.
        """
        rows = self._workspace.catalog.evidence(
            source=record.registry, repository=record.repository, image=record.subject
        )
        there = {(row.bundle, row.verdict) for row in rows if row.manifest in record.found}
        return {
            row.manifest
            for row in rows
            if row.manifest in gone
            and row.tombstone is None
            and (row.bundle, row.verdict) not in there
        }


class Collector:
    """Judges what is found, makes its leaves, and packs it into the archive.

    :param source: the name of the place that it is found in, for the leaves
    """

    def __init__(self, workspace: Workspace, source: str, pool: VerifierPool) -> None:
        self._workspace = workspace
        self._source = source
        self._pool = pool
        self.result = Harvested()
        self.collected_at = workspace.now().replace(microsecond=0)

    def collect(self, found: Iterable[Found]) -> None:
        """Take in what is ``found``, chunk by chunk while it comes."""
        for chunk in _chunks(self._kept(self._settled(self._judged(found)))):
            self._archive(chunk)

    def note(self) -> None:
        """Write into the ledger what was stored."""
        if self.result.packs:
            self._workspace.note(
                "harvest.stored",
                {"registry": self._source, "packs": self.result.packs}
                | self.result.total.to_json(),
            )

    def _judged(self, fetched: Iterable[Found]) -> Iterator[_Group]:
        """Groups on their way through the verifying processes, while fetching goes on."""
        waiting: list[Found] = []
        for found in fetched:
            if found.settled is not None:
                yield _Group([found], None)
                continue
            waiting.append(found)
            if len(waiting) == _CASES:
                yield _Group(waiting, self._submit(waiting))
                waiting = []
        if waiting:
            yield _Group(waiting, self._submit(waiting))

    def _submit(self, found: Sequence[Found]) -> Judging:
        return self._pool.submit(
            Case(
                one.payload,
                one.image,
                one.repository,
                self.collected_at,
                one.manifest,
            )
            for one in found
        )

    def _settled(self, groups: Iterable[_Group]) -> Iterator[tuple[Found, Judgement]]:
        """Each with its judgement, in order, while those behind it are judged."""
        waiting: deque[_Group] = deque()
        cases = size = 0
        for group in groups:
            waiting.append(group)
            cases += len(group.found)
            size += group.size
            while cases > _WAITING_CASES or size > _WAITING_BYTES:
                oldest = waiting.popleft()
                cases -= len(oldest.found)
                size -= oldest.size
                yield from self._judgements(oldest)
        for group in waiting:
            yield from self._judgements(group)

    def _judgements(self, group: _Group) -> Iterator[tuple[Found, Judgement]]:
        if group.judging is not None:
            yield from zip(group.found, group.judging.result(), strict=True)
        for found in group.found:
            if found.settled is not None:
                outcome, reason = found.settled
                at = self.collected_at
                yield found, Judgement(outcome, reason, signed_at=at, engine="none")

    def _kept(self, settled: Iterable[tuple[Found, Judgement]]) -> Iterator[_Kept]:
        for found, judgement in settled:
            try:
                leaf = self._leaf(found, judgement)
            except MalformedError as err:
                reason = Reason("malformed", f"what it says cannot be written down: {err}")
                judgement = Judgement(Outcome.REJECTED, reason, engine=judgement.engine)
                leaf = self._leaf(found, judgement)
            self._count(found, judgement)
            kept = class_of(self._workspace.settings.retention, leaf)
            evidence = Evidence(leaf, found.manifest, found.payload)
            yield _Kept(evidence, kept.name, retain_until(kept, leaf))

    def _archive(self, chunk: Iterable[_Kept]) -> None:
        """Pack what was judged: one pack for each class and month of retention."""
        kept = list(chunk)
        repositories = {one.evidence.leaf.repository for one in kept}
        with self._workspace.catalog.turn(self._source, repositories):
            self._pack(kept)

    def _pack(self, chunk: Sequence[_Kept]) -> None:
        groups: dict[tuple[str, datetime], list[Evidence]] = {}
        for kept in self._not_stored(chunk):
            key = (kept.evidence_class, kept.retain_until)
            groups.setdefault(key, []).append(kept.evidence)
        if not groups:
            return
        packs = [
            (name, until, write_pack(members), members)
            for (name, until), members in sorted(groups.items(), key=lambda group: group[0])
        ]
        # All at once: an attachment whose layers go into two packs is known only with both.
        self._workspace.catalog.claim_packs(
            [claim_row(pack, name, until, self.collected_at) for name, until, pack, _ in packs],
            [
                catalog_row(item.leaf, pack.digest)
                | {"proof_tries": 0 if may_lack_proof(item.payload, item.manifest) else None}
                for *_, pack, members in packs
                for item in members
            ],
        )
        for name, until, pack, _ in packs:
            cold = cold_days(self._workspace.settings.retention, name)
            store_pack(self._workspace.archive, pack, until, name, cold)
            self._workspace.catalog.mark_stored(pack.digest)
            self.result.packs.append(pack.digest)

    def _not_stored(self, chunk: Sequence[_Kept]) -> Iterator[_Kept]:
        """Without what another harvest stored meanwhile, or a killed one before it was done.

        What the archive takes, it may have to keep for years: nothing may lie there unnamed.
        """
        bundles = {f"sha256:{kept.evidence.leaf.sha256}" for kept in chunk}
        stored = self._workspace.catalog.stored_evidence(self._source, bundles)
        for kept in chunk:
            leaf = kept.evidence.leaf
            place = (leaf.repository, leaf.image, leaf.manifest, f"sha256:{leaf.sha256}")
            if place not in stored:
                yield kept

    def _count(self, found: Found, judgement: Judgement) -> None:
        tally = self.result.of(found.image)
        if judgement.outcome is Outcome.REJECTED:
            assert judgement.reason is not None
            tally.rejected[judgement.reason.slug] += 1
        else:
            name = judgement.outcome.value
            setattr(tally, name, getattr(tally, name) + 1)

    def _leaf(self, found: Found, judgement: Judgement) -> Leaf:
        return Leaf(
            sha256=sha256_hex(found.payload),
            sha512=hashlib.sha512(found.payload).hexdigest(),
            size=len(found.payload),
            collected_at=self.collected_at,
            engine=judgement.engine,
            image=found.image,
            manifest=digest_of(found.manifest),
            policy=self._pool.policy_digest,
            registry=self._source,
            repository=found.repository,
            signed_at=judgement.signed_at or self.collected_at,
            time_source=judgement.time_source,
            trust=self._pool.trust_digest,
            verdict=judgement.outcome.value,
            subject=judgement.subjects,
            predicate_type=judgement.predicate_type,
            reason=None if judgement.reason is None else str(judgement.reason),
            signer=signer_of(judgement),
        )


def _by_repository(records: Iterable[CompletenessRecord]) -> dict[str, list[CompletenessRecord]]:
    groups: dict[str, list[CompletenessRecord]] = {}
    for record in records:
        groups.setdefault(record.repository, []).append(record)
    return groups


def _without_time(line: str | None) -> dict[str, Any] | None:
    if line is None:
        return None
    content = parse_object(line.encode(), "a completeness record", MAX_FILE_BYTES)
    content.pop("checkedAt", None)
    return content


def signer_of(judgement: Judgement) -> Signer | None:
    """Who signed, as a leaf says it."""
    if judgement.key is not None:
        return Signer(None, None, judgement.key)
    if judgement.identity is None or judgement.issuer is None:
        return None
    return Signer(judgement.identity, judgement.issuer)


def regime(trust: str, policy: str) -> str:
    """What a judgement rests on besides the evidence, in one name.

    :param trust: digest of the trusted root; ``policy`` likewise
    """
    return sha256_hex(f"{trust} {policy} {__version__}".encode())


def claim_row(pack: Pack, evidence_class: str, until: datetime, at: datetime) -> dict[str, Any]:
    """The catalog's columns of a pack that is about to be written."""
    return {
        "digest": pack.digest,
        "state": "claimed",
        "evidence_class": evidence_class,
        "retain_until": until,
        "claimed_at": at,
        "size": len(pack.data),
        "members": len(pack.leaves),
    }


def catalog_row(leaf: Leaf, pack: str) -> dict[str, Any]:
    """The catalog's columns of one piece of evidence."""
    line = leaf.line()
    return {
        "source": leaf.registry,
        "repository": leaf.repository,
        "image": leaf.image,
        "manifest": leaf.manifest,
        "bundle": f"sha256:{leaf.sha256}",
        "verdict": leaf.verdict,
        "reason": leaf.reason,
        "predicate_type": leaf.predicate_type,
        "identity": leaf.signer and leaf.signer.identity,
        "issuer": leaf.signer and leaf.signer.issuer,
        "signed_at": leaf.signed_at,
        "collected_at": leaf.collected_at,
        "leaf": line.decode(),
        "leaf_hash": leaf_hash(line).hex(),
        "pack": pack,
        "judged": regime(leaf.trust, leaf.policy),
    }


def _chunks(kept: Iterable[_Kept]) -> Iterator[list[_Kept]]:
    """What is packed and claimed together."""
    chunk: list[_Kept] = []
    size = 0
    for one in kept:
        chunk.append(one)
        size += one.evidence.size
        if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_MEMBERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _speaking(attachment: Attachment) -> list[Found]:
    """What of an attachment is evidence: each layer that speaks, else the manifest itself."""
    # The same bytes under two names are one piece of evidence.
    speaking = dict.fromkeys(layer.data for layer in attachment.layers if layer.kind != "other")
    if not speaking:
        slug, text = "not-an-attestation", f"no attestation: {_types(attachment)}"
        if attachment.in_index:
            slug, text = IN_INDEX, f"unsigned, listed by an index itself: {_types(attachment)}"
        settled = (Outcome.IGNORED, Reason(slug, text))
        return [_whole(attachment.candidate, attachment.manifest, settled)]
    candidate, manifest = attachment.candidate, attachment.manifest.data
    return [Found(candidate.repository, candidate.subject, manifest, data) for data in speaking]


def _whole(candidate: Candidate, manifest: Manifest, settled: tuple[Outcome, Reason]) -> Found:
    """An attachment of which no layer is judged: its manifest is the evidence."""
    data = manifest.data
    return Found(candidate.repository, candidate.subject, data, data, settled)


def _types(attachment: Attachment) -> str:
    """What the layers are called; of an attachment without layers, what it is called itself."""
    layers = (*(layer.descriptor for layer in attachment.layers), *attachment.ignored)
    descriptor = attachment.candidate.manifest
    named = sorted({layer.media_type for layer in layers})
    return ", ".join(named) or descriptor.artifact_type or descriptor.media_type
