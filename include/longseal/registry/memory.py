"""What repositories said before, so that they need not be asked again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Final

from longseal.errors import RegistryError
from longseal.registry.discovery import Structure, descendants
from longseal.registry.interface import Registry

if TYPE_CHECKING:
    from longseal.catalog.catalog import Catalog

ASKED_AGAIN: Final = timedelta(days=1)
"""How long a repository is believed not to have what it did not have."""

_ABSENT: Final = "absent"
_REFERRERS_API: Final = "referrers-api"


class Memory:
    """What some repositories of one registry said, kept in the catalog. Thread-safe.

    A digest lists the same for ever; what was absent is asked for once a day.
    """

    def __init__(
        self, catalog: Catalog, registry: Registry, repositories: Sequence[str], now: datetime
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._now = now
        self._structures: dict[str, dict[str, Structure]] = {name: {} for name in repositories}
        self._absent: set[tuple[str, str]] = set()
        self._new: dict[tuple[str, str], str] = {}
        self._lock = Lock()
        for repository, key, value, noted_at in catalog.remembered(registry.name, repositories):
            if value != _ABSENT:
                self._structures[repository][key] = Structure.load(value)
            elif now - noted_at < ASKED_AGAIN:
                self._absent.add((repository, key))
        # Where nothing was read before, a HEAD is a request more.
        self._seen = {name for name, known in self._structures.items() if known}

    def resolve(self, repository: str, tag: str) -> str:
        """The digest that a tag leads to: a HEAD is enough where that digest was read before.

        :raises RegistryError: it is listed and not there
        """
        if repository in self._seen:
            resolved = self._registry.resolve(repository, tag)
            if resolved is not None and resolved in self._structures[repository]:
                return resolved
        return self._read(repository, tag)

    def below(self, repository: str, digest: str) -> dict[str, Structure]:
        """A manifest, with all below it; nothing where it is not there.

        :raises RegistryError: what an index lists is not there
        :raises MalformedError: something is no image or index, or beyond the limits
        """
        known = digest in self._structures[repository] or self._found(repository, digest)
        if not known:
            return {}
        found = descendants(digest, lambda index: self._structure(repository, index))
        for child, structure in found.items():
            if child not in self._structures[repository]:
                # The index said that it is an image: it need not be read.
                self._learn(repository, child, structure)
        return found

    def may_have_referrers_api(self, repository: str) -> bool:
        """Whether asking may be worth it."""
        return (repository, _REFERRERS_API) not in self._absent

    def note_no_referrers_api(self, repository: str) -> None:
        """It was asked for, and is not there."""
        self._note(repository, _REFERRERS_API, _ABSENT)

    def save(self) -> None:
        """Write what is new into the catalog."""
        with self._lock:
            new, self._new = self._new, {}
        self._catalog.remember(
            [
                {
                    "source": self._registry.name,
                    "repository": repository,
                    "key": key,
                    "value": value,
                    "noted_at": self._now,
                }
                for (repository, key), value in sorted(new.items())
            ]
        )

    def _structure(self, repository: str, digest: str) -> Structure:
        structures = self._structures[repository]
        if digest not in structures:
            self._read(repository, digest)
        return structures[digest]

    def _found(self, repository: str, digest: str) -> bool:
        """Read a digest that nothing but an attachment's tag or the catalog speaks of."""
        if (repository, digest) in self._absent:
            return False
        manifest = self._registry.manifest(repository, digest)
        if manifest is None:
            self._note(repository, digest, _ABSENT)
            return False
        self._learn(repository, digest, Structure.of(manifest))
        return True

    def _read(self, repository: str, reference: str) -> str:
        manifest = self._registry.manifest(repository, reference)
        if manifest is None:
            raise RegistryError(f"{repository}: {reference} is listed and not there")
        self._learn(repository, manifest.digest, Structure.of(manifest))
        return manifest.digest

    def _learn(self, repository: str, digest: str, structure: Structure) -> None:
        self._structures[repository][digest] = structure
        self._note(repository, digest, structure.dump())

    def _note(self, repository: str, key: str, value: str) -> None:
        with self._lock:
            self._new[repository, key] = value
