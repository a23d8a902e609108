"""A site's inventory: everything that it should have, in one document that the organisation signs.

It names every inventory before it, so that a site tells an older volume, a skipped one and another
history apart; and what was withdrawn, since a site hears of that in no other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from longseal.canonical import (
    canonical_json,
    digest_of,
    is_digest,
    parse_object,
    parse_timestamp,
    timestamp,
)
from longseal.errors import MalformedError
from longseal.registry.model import check_repository, is_tag

MAX_BYTES: Final = 128 * 1024 * 1024

_WHAT: Final = "the inventory"


@dataclass(frozen=True, slots=True)
class Item:
    """One image with what hangs on it.

    :param referrers: digests of the manifests that travelled with it
    """

    repository: str
    image: str
    tags: tuple[str, ...]
    referrers: tuple[str, ...]

    @property
    def name(self) -> str:
        """For reports and receipts."""
        return f"{self.repository}@{self.image}"

    def to_json(self) -> dict[str, Any]:
        """As the inventory has it."""
        return {
            "repository": self.repository,
            "image": self.image,
            "tags": sorted(self.tags),
            "referrers": list(self.referrers),
        }

    @classmethod
    def from_json(cls, value: object) -> Item:
        """The inverse of :meth:`to_json`, for what came from outside."""
        item = _object(value, "image")
        image, tags = _digest(item.get("image")), tuple(_texts(item, "tags"))
        if not all(map(is_tag, tags)):
            raise MalformedError(f"{_WHAT}: {image} has a tag that is none")
        referrers = tuple(map(_digest, _texts(item, "referrers")))
        return cls(check_repository(_text(item, "repository")), image, tags, referrers)


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An image that the site had to have once, and has to let go of.

    :param since: when an inventory first lacked it
    """

    repository: str
    image: str
    since: str
    reason: str

    @property
    def name(self) -> str:
        """As that of an :class:`Item`."""
        return f"{self.repository}@{self.image}"

    def to_json(self) -> dict[str, str]:
        """As the inventory has it."""
        return {
            "repository": self.repository,
            "image": self.image,
            "since": self.since,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Inventory:
    """:param sequence: of the site, growing
    :param predecessors: digest of the signed bundle of every inventory that was delivered before,
        by its sequence
    :param refresh_by: when the site has to have a newer one
    :param files: digest of every file below ``site/``, by name
    """

    organisation: str
    site: str
    sequence: int
    created_at: datetime
    refresh_by: datetime
    images: tuple[Item, ...]
    files: Mapping[str, str]
    predecessors: Mapping[int, str] = field(default_factory=dict)
    withdrawn: tuple[Withdrawn, ...] = ()

    @property
    def content(self) -> str:
        """Digest of what it lists, whatever its date and sequence."""
        return digest_of(canonical_json(self._content()))

    def _content(self) -> dict[str, Any]:
        return {
            "images": [one.to_json() for one in self.images],
            "files": dict(self.files),
        }

    def format(self) -> bytes:
        """RFC 8785 JSON, as ``docs/formats/statements.md`` says."""
        last = max(self.predecessors, default=None)
        return canonical_json(
            {
                **self._content(),
                "content": self.content,
                "createdAt": timestamp(self.created_at),
                "organisation": self.organisation,
                "predecessors": [
                    {"sequence": sequence, "digest": digest}
                    for sequence, digest in sorted(self.predecessors.items())
                ],
                "previous": None if last is None else self.predecessors[last],
                "refreshBy": timestamp(self.refresh_by),
                "sequence": self.sequence,
                "site": self.site,
                "withdrawn": [one.to_json() for one in self.withdrawn],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Inventory:
        """The inverse of :meth:`format`.

        :raises MalformedError: it is none, or names what no site could store
        """
        found = parse_object(data, _WHAT, MAX_BYTES)
        files = _object(found.get("files"), "files")
        for name, digest in files.items():
            if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
                raise MalformedError(f"{_WHAT} lists the file {name[:80]!a}")
            _digest(digest)
        sequence = found.get("sequence")
        if type(sequence) is not int or sequence < 1:
            raise MalformedError(f"{_WHAT}: its sequence is no number from 1")
        return cls(
            organisation=_text(found, "organisation"),
            site=_text(found, "site"),
            sequence=sequence,
            created_at=parse_timestamp(_text(found, "createdAt")),
            refresh_by=parse_timestamp(_text(found, "refreshBy")),
            images=tuple(map(Item.from_json, _list(found, "images"))),
            files=files,
            predecessors=dict(_predecessors(found, sequence)),
            withdrawn=tuple(map(_withdrawn, _list(found, "withdrawn"))),
        )


def _predecessors(found: Mapping[str, Any], sequence: int) -> Iterator[tuple[int, str]]:
    # An inventory of before they were listed names one at most, and not its sequence.
    for value in _list(found, "predecessors") if "predecessors" in found else ():
        one = _object(value, "predecessor")
        number = one.get("sequence")
        if type(number) is not int or not 1 <= number < sequence:
            raise MalformedError(f"{_WHAT} names a predecessor that is none")
        yield number, _digest(one.get("digest"))


def _withdrawn(value: object) -> Withdrawn:
    one = _object(value, "withdrawn")
    return Withdrawn(
        check_repository(_text(one, "repository")),
        _digest(one.get("image")),
        _text(one, "since"),
        _text(one, "reason"),
    )


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{_WHAT}: {what} is an object")
    return value


def _list(found: Mapping[str, Any], key: str) -> list[Any]:
    value = found.get(key)
    if not isinstance(value, list):
        raise MalformedError(f"{_WHAT}: {key} is a list")
    return value


def _texts(found: Mapping[str, Any], key: str) -> list[str]:
    values = _list(found, key)
    if not all(isinstance(one, str) for one in values):
        raise MalformedError(f"{_WHAT}: {key} is a list of texts")
    return values


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise MalformedError(f"{_WHAT}: {key} is a text")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not is_digest(value):
        raise MalformedError(f"{_WHAT}: expected a digest, found {str(value)[:80]!a}")
    return value
