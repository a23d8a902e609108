"""What left the registries by a plan, and what of it was put back: the archive's own account.

A deletion statement has a line in ``tombstones.jsonl`` for each attachment; a restoration has one
in ``restorations/``. The newest of both says whether an attachment should be there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from longseal.archive.leaf import Leaf
from longseal.canonical import canonical_json, digest_of, parse_object, sha256_hex
from longseal.catalog.models import Evidence
from longseal.errors import MalformedError, VerificationError
from longseal.seal.ceremony import BUNDLE, check_bundle
from longseal.seal.published import read_lines
from longseal.workspace import Workspace

RESTORATIONS: Final = "restorations/"

_KEY = re.compile(r"restorations/\d{14}-([0-9a-f]{64})\.jsonl")

Place = tuple[str, str, str, str, str]
"""Registry, repository, image, manifest and bundle: what makes a piece of evidence one."""


def place_of(row: Evidence) -> Place:
    """What makes a row of the catalog one piece of evidence."""
    return (row.source, row.repository, row.image, row.manifest, row.bundle)


def place_of_leaf(leaf: Leaf) -> Place:
    """What makes the evidence of ``leaf`` one."""
    return (leaf.registry, leaf.repository, leaf.image, leaf.manifest, f"sha256:{leaf.sha256}")


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One piece of evidence that went from a registry, or from the archive.

    :param at: when, ``YYYY-MM-DDTHH:MM:SSZ``
    :param deletion: digest of the deletion statement
    :param seals: that have the leaf of some evidence of its attachment
    :param disposed: whether it went from the archive
    """

    place: Place
    at: str
    deletion: str
    approver: str
    seals: tuple[int, ...] = ()
    disposed: bool = False


def tombstones(workspace: Workspace, deletions: Collection[str] | None = None) -> list[Tombstone]:
    """All tombstones, each under a deletion statement that holds.

    :param deletions: digests of the statements that are read; None for all
    :raises VerificationError: a deletion does not hold under the organisation's key
    """
    found: list[Tombstone] = []
    for key in workspace.archive.keys("deletions/"):
        if not key.endswith(f"/{BUNDLE}"):
            continue
        bundle = workspace.archive.get(key)
        digest = digest_of(bundle)
        if deletions is not None and digest not in deletions:
            continue
        statement = check_bundle(workspace, bundle, "deletion")
        named = [one.sha256 for one in statement.subjects if one.name == "tombstones.jsonl"]
        for line in read_lines(workspace, named):
            said = parse_object(line, "a tombstone")
            found += [
                Tombstone(
                    place,
                    said["deletedAt"],
                    digest,
                    said["approver"],
                    tuple(said["seals"]),
                    said.get("from") == "archive",
                )
                for place in _places(said)
            ]
    return found


def buried(workspace: Workspace) -> dict[Place, str]:
    """By place, the deletion under which the registry's copy went, unless it was put back since.

    :raises VerificationError: a deletion does not hold, or a restoration has other bytes than its
        name says
    """
    newest: dict[Place, tuple[str, str]] = {}
    for tombstone in tombstones(workspace):
        if tombstone.disposed:
            continue
        said = (tombstone.at, tombstone.deletion)
        newest[tombstone.place] = max(newest.get(tombstone.place, said), said)
    back = restored(workspace)
    return {
        place: deletion
        for place, (_, deletion) in newest.items()
        if deletion not in {one["deletion"] for one in back.get(place, ())}
    }


def restored(workspace: Workspace) -> dict[Place, list[Mapping[str, Any]]]:
    """By place, the lines of what was put back, oldest first.

    :raises VerificationError: a file has other bytes than its name says
    """
    found: dict[Place, list[Mapping[str, Any]]] = {}
    for key in workspace.archive.keys(RESTORATIONS):
        named = _KEY.fullmatch(key)
        if named is None:
            continue
        data = workspace.archive.get(key)
        if sha256_hex(data) != named[1]:
            raise VerificationError(f"{key} has other bytes, with SHA-256 {sha256_hex(data)}")
        for line in data.splitlines():
            said = parse_object(line, "a restoration")
            for place in _places(said):
                found.setdefault(place, []).append(said)
    return found


def note_restored(workspace: Workspace, lines: Iterable[Mapping[str, Any]]) -> str:
    """Archive what was put back; returns the key."""
    data = b"".join(sorted(canonical_json(line) + b"\n" for line in lines))
    key = f"{RESTORATIONS}{workspace.now():%Y%m%d%H%M%S}-{sha256_hex(data)}.jsonl"
    workspace.store(key, data)
    return key


def _places(said: Mapping[str, Any]) -> Iterator[Place]:
    try:
        where = [said[name] for name in ("registry", "repository", "image", "manifest")]
        for bundle in said["bundles"]:
            yield (where[0], where[1], where[2], where[3], f"sha256:{bundle}")
    except KeyError as err:
        raise MalformedError(f"a tombstone has no key {err}") from err
