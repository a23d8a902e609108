"""Taking attachments off an image: never an image, and never what something else refers to."""

from __future__ import annotations

import io
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Final

from longseal.canonical import digest_of, parse_object
from longseal.errors import MalformedError, RefusedError, RegistryError
from longseal.registry.attach import ATTEMPTS, drop_from_fallback
from longseal.registry.discovery import LEGACY
from longseal.registry.interface import Manifest, Registry
from longseal.registry.model import (
    MAX_MANIFEST_BYTES,
    fallback_tag,
    is_index,
    parse_index,
    parse_manifest,
    parse_subject,
)

READERS: Final = 8
"""Tags of a repository that are read at once."""


@dataclass(frozen=True, slots=True)
class _Names:
    """What a repository's tags lead to.

    :param by_digest: the tags that lead to it, or to an index that lists it
    """

    by_digest: Mapping[str, set[str]]
    tags: frozenset[str]


class Removal:
    """Takes attachments off the images of one registry; thread-safe.

    What refers to what in a repository is looked up once, before the first of its attachments goes.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._references: dict[str, _Names] = {}
        self._immutable: set[str] = set()
        self._lock = Lock()

    def check(self, repository: str) -> None:
        """Find out, on a digest that nothing has, whether the registry deletes at all.

        :raises RefusedError: it does not (405)
        """
        self.registry.delete_manifest(repository, digest_of(os.urandom(32)))

    def remove(
        self, repository: str, image: str, found: Manifest, layers: Collection[str] = ()
    ) -> None:
        """Remove an attachment, which is to be followed by one :meth:`mend` for all of its image.

        :param layers: of one of cosign's older tags, the layers that go alone: the tag is written
            anew without them
        :raises RefusedError: the registry does not delete, its tags cannot be changed, or it is no
            attachment of this image, or something else refers to it; it is still there then
        """
        tag = self._require_attachment(repository, image, found, layers)
        self._require_unreferenced(repository, image, found.digest)
        if layers and tag is not None:
            self._rewrite(repository, tag, found, layers)
        elif not layers and repository in self._immutable:
            raise RefusedError(f"{repository}: its tags cannot be changed, so nothing is deleted")
        self.registry.delete_manifest(repository, found.digest)

    def mend(self, repository: str, image: str, removed: Mapping[str, Manifest | None]) -> None:
        """Have the fallback index of an image no longer name what was removed from it.

        :param removed: by digest, what was there; None for what a run before, or somebody else,
            has removed
        :raises RefusedError: the index cannot be changed: what was there is there again
        """
        try:
            drop_from_fallback(self.registry, repository, image, removed.keys())
        except RefusedError:
            there = [found for found in removed.values() if found is not None]
            for found in there:
                self.registry.put_manifest(repository, found)
            if there:
                self._immutable.add(repository)
                raise

    def _require_attachment(
        self, repository: str, image: str, found: Manifest, layers: Collection[str]
    ) -> str | None:
        """The older tag that it has; None for a referrer, and where the tag was written anew."""
        subject = parse_subject(found.data)
        if subject is not None and subject.digest == image and found.digest != image:
            if layers:
                raise RefusedError(f"{found.digest} has a subject: it goes whole or not at all")
            return None
        older = _tags_of(image) - {fallback_tag(image)}
        named = self._names(repository).by_digest.get(found.digest, set()) & older
        if subject is None and found.digest != image:
            if named:
                return min(named)
            # A run before may have written the tag anew, and been killed.
            if layers and not is_index(found.media_type):
                staying = _layers(found) - set(layers)
                if staying and any(map(staying.__le__, self._older(repository, older))):
                    return None
        raise RefusedError(f"{found.digest} is no attachment of {image}: it stays")

    def _older(self, repository: str, tags: Collection[str]) -> Iterator[set[str]]:
        for tag in sorted(tags):
            manifest = self.registry.manifest(repository, tag)
            if manifest is not None:
                yield _layers(manifest)

    def _require_unreferenced(self, repository: str, image: str, digest: str) -> None:
        names = self._names(repository)
        others = names.by_digest.get(digest, set()) - _tags_of(image)
        if others:
            raise RefusedError(f"{digest} is what {min(others)} names as well: it stays")
        if self.registry.referrers(repository, digest) or names.tags & _tags_of(digest):
            raise RefusedError(f"{digest} has attachments of its own: it stays")

    def _names(self, repository: str) -> _Names:
        with self._lock:
            if repository not in self._references:
                tags = self.registry.tags(repository)
                by_digest: dict[str, set[str]] = defaultdict(set)
                with ThreadPoolExecutor(READERS) as pool:
                    read = partial(self.registry.manifest, repository)
                    for tag, manifest in zip(tags, pool.map(read, tags), strict=True):
                        if manifest is None:
                            continue
                        by_digest[manifest.digest].add(tag)
                        if is_index(manifest.media_type):
                            for child in parse_index(manifest.data, manifest.media_type):
                                by_digest[child.digest].add(tag)
                self._references[repository] = _Names(dict(by_digest), frozenset(tags))
            return self._references[repository]

    def _rewrite(
        self, repository: str, tag: str, planned: Manifest, layers: Collection[str]
    ) -> None:
        """Write an older tag anew without ``layers``; another writer may be there."""
        for _ in range(ATTEMPTS):
            current = self.registry.manifest(repository, tag)
            if current is None:
                raise RefusedError(f"{repository}: the tag {tag} is gone: nothing is rewritten")
            document = parse_object(current.data, "manifest", MAX_MANIFEST_BYTES)
            going = [layer.get("digest") in layers for layer in document["layers"]]
            if not any(going):
                break
            if all(going):
                raise RefusedError(f"{repository}: {tag} would be left with nothing: plan again")
            config = self.registry.blob(
                repository, document["config"]["digest"], MAX_MANIFEST_BYTES
            )
            lighter = _without(config, going)
            self.registry.put_blob(
                repository, digest_of(lighter), len(lighter), io.BytesIO(lighter)
            )
            changed = {
                **document,
                "config": {
                    **document["config"],
                    "digest": digest_of(lighter),
                    "size": len(lighter),
                },
                "layers": [
                    one for one, goes in zip(document["layers"], going, strict=True) if not goes
                ],
            }
            data = json.dumps(changed, separators=(",", ":")).encode()
            written = Manifest(digest_of(data), current.media_type, data)
            self.registry.put_manifest(repository, written, tag)
        else:
            raise RegistryError(f"{repository}: others keep changing the tag {tag}; try later")
        if not _layers(planned) - set(layers) <= _layers(current):
            raise RefusedError(f"{repository}: {tag} lacks a layer that is to stay: plan again")


def _tags_of(digest: str) -> set[str]:
    """The tags under which clients attach something to a manifest."""
    return {fallback_tag(digest), *(fallback_tag(digest) + kind for kind in LEGACY)}


def _layers(manifest: Manifest) -> set[str]:
    return {layer.digest for layer in parse_manifest(manifest.data, manifest.media_type).layers}


def _without(config: bytes, going: list[bool]) -> bytes:
    """An image config without what it says of these layers, where it says it of each."""
    try:
        document: dict[str, Any] = parse_object(config, "config", MAX_MANIFEST_BYTES)
    except MalformedError:
        return config
    rootfs, history = document.get("rootfs"), document.get("history")
    for holder, key in ((rootfs, "diff_ids"), (document, "history")):
        listed = history if key == "history" else isinstance(rootfs, dict) and rootfs.get(key)
        if isinstance(holder, dict) and isinstance(listed, list) and len(listed) == len(going):
            holder[key] = [one for one, goes in zip(listed, going, strict=True) if not goes]
    return json.dumps(document, separators=(",", ":")).encode()
