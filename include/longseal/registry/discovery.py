"""Finding what is attached to an image, in every place where it may be, and saying how that went.

The places are those that clients write to: the referrers API and the fallback tag of
distribution-spec 1.1, and cosign's older ``.att``, ``.sig`` and ``.sbom`` tags.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from longseal.canonical import hex_of
from longseal.errors import LongsealError, MalformedError, RegistryError
from longseal.registry.interface import Descriptor, Manifest, Registry
from longseal.registry.model import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    fallback_tag,
    is_index,
    parse_descriptor,
    parse_index,
)

REFERRERS: Final = "referrers"
FALLBACK: Final = "fallback-tag"
LEGACY: Final = (".att", ".sig", ".sbom")
INDEX: Final = "index"
"""BuildKit's place: unsigned attestations that the index itself lists; its digest vouches."""

NO_REFERRERS_API: Final = "no referrers API; asked for once a day"

MAX_CHILDREN: Final = 1_000
MAX_DEPTH: Final = 4
_REFERENCE_TYPE: Final = "vnd.docker.reference.type"

Outcome = Literal["found", "absent", "unknown"]
State = Literal["whole", "empty", "unknown"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one place said.

    :param place: ``referrers``, ``fallback-tag``, ``.att``, ``.sig`` or ``.sbom``; ``index`` for
        an index that lists attestations itself
    :param outcome: unknown is "could not look", never "nothing there"
    :param count: manifests that the place names
    :param detail: why it is absent or unknown, in words
    """

    place: str
    outcome: Outcome
    count: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CompletenessRecord:
    """How a subject's attestations were looked for, and whether every place answered.

    :param found: digests of all manifests that any place names, known ones too; sorted
    """

    registry: str
    repository: str
    subject: str
    answers: tuple[Answer, ...]
    found: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether every place answered; not that it answered honestly."""
        return all(answer.outcome != "unknown" for answer in self.answers)

    @property
    def state(self) -> State:
        """How discovery ended."""
        if not self.whole:
            return "unknown"
        return "whole" if self.found else "empty"

    def to_json(self) -> dict[str, Any]:
        """The record for canonical JSON. It holds no time: the same answers give the same bytes."""
        return {
            "registry": self.registry,
            "repository": self.repository,
            "subject": self.subject,
            "state": self.state,
            "answers": [
                {
                    "place": answer.place,
                    "outcome": answer.outcome,
                    "count": answer.count,
                    "detail": answer.detail,
                }
                for answer in self.answers
            ],
            "found": list(self.found),
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """A manifest that some place names as attached to ``subject``; not fetched yet.

    :param places: every place that names it
    """

    repository: str
    subject: str
    manifest: Descriptor
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discovery:
    """The record, and the candidates that were not known before."""

    record: CompletenessRecord
    candidates: tuple[Candidate, ...]


def discover(
    registry: Registry,
    repository: str,
    subject_digest: str,
    tags: Collection[str] | None,
    known: Collection[str] = (),
    own: Collection[str] = (),
    listed: Collection[Descriptor] = (),
    referrers_api: bool = True,
) -> Discovery:
    """Look in every place for what is attached to a subject. Never raises for what a place does.

    :param tags: the repository's tags, listed once for all its images (a set is fastest); None
        where they could not be listed, and then every tag is asked for
    :param known: manifest digests settled earlier for this subject here: they are in the record's
        ``found``, and are no candidates
    :param own: manifests that Longseal attached itself: no evidence, and in no record, so that a
        record says the same before and after
    :param listed: the attestations that the subject, an index, lists itself
    :param referrers_api: False where the repository was asked within a day, and has none
    """
    hex_of(subject_digest)
    answers = []
    manifests: dict[str, Descriptor] = {}
    places: dict[str, list[str]] = {}
    base = fallback_tag(subject_digest)

    def tagged(place: str) -> Callable[[], tuple[Descriptor, ...]]:
        tag = base if place == FALLBACK else base + place
        return lambda: _tagged(registry, repository, subject_digest, tag, place, tags)

    looks: list[tuple[str, Callable[[], tuple[Descriptor, ...]]]] = [
        (REFERRERS, lambda: _referrers(registry, repository, subject_digest, referrers_api)),
        *((place, tagged(place)) for place in (FALLBACK, *LEGACY)),
        *([(INDEX, lambda: tuple(listed))] if listed else []),
    ]
    for place, look in looks:
        try:
            named = [
                item for item in look() if item.digest != subject_digest and item.digest not in own
            ]
        except _Absent as reason:
            answers.append(Answer(place, "absent", detail=str(reason)))
        except LongsealError as err:
            answers.append(Answer(place, "unknown", detail=f"{type(err).__name__}: {err}"))
        else:
            answers.append(Answer(place, "found" if named else "absent", len(named)))
            for item in named:
                manifests.setdefault(item.digest, item)
                seen = places.setdefault(item.digest, [])
                if place not in seen:
                    seen.append(place)
    record = CompletenessRecord(
        registry.name, repository, subject_digest, tuple(answers), tuple(sorted(manifests))
    )
    candidates = tuple(
        Candidate(repository, subject_digest, manifests[digest], tuple(places[digest]))
        for digest in record.found
        if digest not in known
    )
    return Discovery(record, candidates)


def children(manifest: Manifest) -> tuple[Descriptor, ...]:
    """The images and indexes that an index lists, each once; nothing for an image.

    BuildKit's attestation manifests are listed beside the images, and are none.

    :raises MalformedError: more than :data:`MAX_CHILDREN`
    """
    if not is_index(manifest.media_type):
        return ()
    found = {
        item.digest: item
        for item in parse_index(manifest.data, manifest.media_type)
        if item.media_type in MANIFEST_TYPES | INDEX_TYPES
        and not _is_attestation(item)
        and item.digest != manifest.digest
    }
    if len(found) > MAX_CHILDREN:
        raise MalformedError(f"{manifest.digest} lists {len(found)} images, over {MAX_CHILDREN}")
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Structure:
    """What an index lists; nothing, for an image. A digest never comes to list anything else.

    :param attestations: what BuildKit put beside the images
    """

    children: tuple[Descriptor, ...] = ()
    attestations: tuple[Descriptor, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Structure:
        """Read ``manifest``.

        :raises MalformedError: it is none, or lists more than :data:`MAX_CHILDREN`
        """
        if not is_index(manifest.media_type):
            return _IMAGE
        beside = {
            item.digest: item
            for item in parse_index(manifest.data, manifest.media_type)
            if item.media_type in MANIFEST_TYPES and _is_attestation(item)
        }
        if len(beside) > MAX_CHILDREN:
            raise MalformedError(f"{manifest.digest} lists more than {MAX_CHILDREN} attestations")
        return cls(children(manifest), tuple(beside.values()))

    def dump(self) -> str:
        """As text, for :meth:`load`; empty for an image."""
        if self == _IMAGE:
            return ""
        return json.dumps(
            [[_described(one) for one in part] for part in (self.children, self.attestations)]
        )

    @classmethod
    def load(cls, text: str) -> Structure:
        """The inverse of :meth:`dump`."""
        if not text:
            return _IMAGE
        parts = (tuple(map(parse_descriptor, part)) for part in json.loads(text))
        return cls(*parts)


_IMAGE: Final = Structure()


def descendants(digest: str, look: Callable[[str], Structure]) -> dict[str, Structure]:
    """An image or index and all below it, each once, parents first.

    :param look: gives the structure of the digest of an index
    :raises MalformedError: deeper than :data:`MAX_DEPTH`, or more than :data:`MAX_CHILDREN`
    """
    found = {digest: look(digest)}
    level = [digest]
    for _ in range(MAX_DEPTH):
        below = []
        for parent in level:
            for child in found[parent].children:
                if child.digest not in found:
                    found[child.digest] = _IMAGE
                    if is_index(child.media_type):
                        below.append(child.digest)
        if len(found) > MAX_CHILDREN:
            raise MalformedError(f"{digest} has more than {MAX_CHILDREN} images in it")
        if not below:
            return found
        found |= {index: look(index) for index in below}
        level = below
    raise MalformedError(f"{digest} nests indexes deeper than {MAX_DEPTH} levels")


def _is_attestation(item: Descriptor) -> bool:
    return item.annotations.get(_REFERENCE_TYPE) == "attestation-manifest"


def _described(item: Descriptor) -> dict[str, Any]:
    return {"mediaType": item.media_type, "digest": item.digest, "size": item.size}


class _Absent(Exception):
    """The place answered, and has nothing; the message says how that is known."""


def _referrers(
    registry: Registry, repository: str, subject: str, api: bool
) -> tuple[Descriptor, ...]:
    named = registry.referrers(repository, subject) if api else None
    if named is None:
        raise _Absent(NO_REFERRERS_API)
    return named


def _tagged(
    registry: Registry,
    repository: str,
    subject: str,
    tag: str,
    place: str,
    tags: Collection[str] | None,
) -> tuple[Descriptor, ...]:
    if tags is not None and tag not in tags:
        raise _Absent("no such tag")
    manifest = registry.manifest(repository, tag)
    if manifest is None:
        if tags is not None:
            raise RegistryError(f"{repository}: the tag {tag} is listed and not there")
        raise _Absent("no such tag")
    if manifest.digest == subject:
        # GitLab answers so for any image; its children would look like referrers (oras-go#1396).
        raise _Absent("the tag leads to the subject itself")
    if place == FALLBACK:
        return parse_index(manifest.data, manifest.media_type)
    return (Descriptor(manifest.media_type, manifest.digest, len(manifest.data)),)
