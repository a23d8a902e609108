"""Image statements: the organisation's key says of many images at once that they were verified.

One statement, and one key operation, covers up to 1,000 images of one visibility group. It hangs
on each of them as a referrer, so that stock cosign finds it there. It says "verified by us then",
never "admit", names no repository, and expires.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

from longseal.canonical import (
    canonical_json,
    digest_of,
    hex_of,
    parse_object,
    sha256_hex,
    timestamp,
)
from longseal.catalog.models import ImageStatement
from longseal.errors import RegistryError, VerificationError
from longseal.registry.attach import attach, detach
from longseal.registry.interface import Descriptor, Registry
from longseal.seal.bundle import MEDIA_TYPE
from longseal.seal.ceremony import BUNDLE, Ceremony
from longseal.seal.organisation import signed_as
from longseal.seal.published import Published, predicate_type, read_lines, seal_folder
from longseal.seal.statement import Statement, Subject
from longseal.workspace import Workspace

MAX_IMAGES: Final = 1_000
KEPT: Final = 2
"""Statements that stay attached to one image; older ones live in the archive."""

ATTACHED: Final = "image-statements/"

_SIGNED: Final = "signed.json"
_HANGING: Final = "attached.json"
"""Beside a seal's image statements, once there is nothing left to do: a rerun reads no leaf."""

_CHANGES = re.compile(r"image-statements/\d{14}-[0-9a-f]{64}\.jsonl")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """An image where it is kept."""

    registry: str
    repository: str
    image: str


def places_of(workspace: Workspace, seal: Published) -> list[Place]:
    """The images that a seal's statements may name: verified evidence, and a whole record."""
    records = _parsed(workspace, [seal.files()["records.jsonl"]], "a completeness record")
    whole = {
        Place(record["registry"], record["repository"], record["subject"])
        for record in records
        if record["state"] == "whole" and not record["vanished"]
    }
    leaves = _parsed(workspace, seal.files("leaves/").values(), "a leaf")
    verified = {Place(leaf["registry"], leaf["repository"], leaf["image"]) for leaf in leaves}
    return sorted(whole & verified)


def _parsed(workspace: Workspace, digests: Iterable[str], what: str) -> Iterator[dict[str, Any]]:
    return (parse_object(line, what) for line in read_lines(workspace, digests))


def groups_of(workspace: Workspace, places: Iterable[Place]) -> list[list[str]]:
    """Digests by statement: at most 1,000 each, and never private images beside public ones."""
    visibility = {one.name: one.visibility for one in workspace.settings.registries}
    groups: dict[str, set[str]] = {}
    for place in places:
        # A registry that is no longer in the settings is taken for the stricter of the two.
        groups.setdefault(visibility.get(place.registry, "private"), set()).add(place.image)
    return [
        digests[at : at + MAX_IMAGES]
        for _, found in sorted(groups.items())
        for digests in [sorted(found)]
        for at in range(0, len(digests), MAX_IMAGES)
    ]


def sign_images(workspace: Workspace, seal: Published) -> dict[str, Any]:
    """Make the statements about a published seal's images, those that are not made yet."""
    folder = f"{seal_folder(seal.sequence)}/images"
    done = f"{folder}/{_SIGNED}"
    if workspace.archive.stat(done) is not None:
        made = parse_object(workspace.archive.get(done), done)
        return {"image_statements": int(made["statements"]), "key_operations": 0}
    operations = 0
    groups = groups_of(workspace, places_of(workspace, seal))
    ceremonies = [Ceremony(workspace, f"{folder}/{at:04}") for at in range(1, len(groups) + 1)]
    workspace.budget.require(sum(not ceremony.signed for ceremony in ceremonies))
    for ceremony, digests in zip(ceremonies, groups, strict=True):
        if ceremony.finished:
            continue
        finished = ceremony.run(_statement(workspace, seal, digests))
        operations += finished.operations
        workspace.note(
            "image-statement.signed", {"folder": ceremony.folder, "bundle": finished.digest}
        )
    workspace.store(done, canonical_json({"statements": len(groups)}))
    return {"image_statements": len(groups), "key_operations": operations}


def _statement(workspace: Workspace, seal: Published, digests: Sequence[str]) -> bytes:
    issued = workspace.now()
    expires = issued + timedelta(days=workspace.settings.image_statement_days)
    return Statement(
        tuple(Subject({"sha256": hex_of(digest)}) for digest in digests),
        predicate_type(workspace, "image"),
        {
            "seal": seal.digest,
            "sequence": seal.sequence,
            "images": len(digests),
            "issuedAt": timestamp(issued),
            "expires": timestamp(expires),
            **signed_as(workspace),
        },
    ).format()


def attach_images(workspace: Workspace, seal: Published, workers: int = 16) -> dict[str, Any]:
    """Attach each statement to its images, and take off what is older than the newest two.

    An image that is gone, or a registry that does not answer, is reported and tried again by the
    next run. An image whose evidence was revoked after the seal gets no statement.
    """
    done = f"{seal_folder(seal.sequence)}/images/{_HANGING}"
    if workspace.archive.stat(done) is not None:
        return {"attached": 0, "removed": 0, "failed": {}}
    by_image: dict[str, bytes] = {}
    for folder in statement_folders(workspace, seal.sequence):
        bundle = workspace.archive.get(f"{folder}/{BUNDLE}")
        statement = Statement.parse(Ceremony(workspace, folder).statement())
        by_image |= {one.sha256: bundle for one in statement.subjects}
    # A seal stands for ever; whoever fell since then is not recommended anew.
    still = workspace.catalog.verified_images(set(by_image))
    sealed = places_of(workspace, seal)
    places = [place for place in sealed if (place.registry, place.repository, place.image) in still]
    attached = {
        Place(row.source, row.repository, row.image)
        for row in workspace.catalog.image_statements({place.image for place in places})
        if row.seal == seal.sequence
    }
    apart = {
        (one.name, repository)
        for one in workspace.settings.registries
        for repository in one.attachment_repositories
    }
    missing = [
        place
        for place in places
        if place not in attached and (place.registry, place.repository) not in apart
    ]
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:

        def hang(place: Place) -> dict[str, Any] | tuple[Place, str]:
            try:
                return _attach(workspace, seal, place, by_image[place.image])
            except RegistryError as err:
                return place, str(err)

        for result in pool.map(hang, missing):
            if isinstance(result, tuple):
                failed[f"{result[0].repository}@{result[0].image}"] = result[1]
            else:
                rows.append(result)
    _archive_changes(workspace, rows, attached=True)
    workspace.catalog.add_image_statements(rows)
    removed = _take_off(workspace, {place.image for place in places})
    if rows or removed:
        workspace.note(
            "image-statement.attached",
            {"sequence": seal.sequence, "attached": len(rows), "removed": removed},
        )
    if not failed and len(places) == len(sealed):
        workspace.store(done, canonical_json({"images": len(places)}))
    return {"attached": len(rows), "removed": removed, "failed": failed}


def statement_folders(workspace: Workspace, sequence: int) -> list[str]:
    """The ceremonies of a seal's finished image statements."""
    prefix = f"{seal_folder(sequence)}/images/"
    return [
        key.removesuffix(f"/{BUNDLE}")
        for key in workspace.archive.keys(prefix)
        if key.endswith(f"/{BUNDLE}")
    ]


def _attach(workspace: Workspace, seal: Published, place: Place, bundle: bytes) -> dict[str, Any]:
    registry = workspace.registry(place.registry)
    manifest = attach(
        registry,
        place.repository,
        _subject(registry, place),
        MEDIA_TYPE,
        bundle,
        {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": predicate_type(workspace, "image"),
        },
    )
    return {
        "seal": seal.sequence,
        "source": place.registry,
        "repository": place.repository,
        "image": place.image,
        "bundle": digest_of(bundle),
        "manifest": manifest,
    }


def _subject(registry: Registry, place: Place) -> Descriptor:
    found = registry.manifest(place.repository, place.image)
    if found is None:
        raise RegistryError(f"{place.repository}@{place.image} is no longer in {place.registry}")
    return Descriptor(found.media_type, found.digest, len(found.data))


def _take_off(workspace: Workspace, images: set[str]) -> int:
    by_place: dict[Place, list[Any]] = {}
    for row in workspace.catalog.image_statements(images):
        by_place.setdefault(Place(row.source, row.repository, row.image), []).append(row)
    removed: list[ImageStatement] = []
    for place, rows in by_place.items():
        for row in rows[:-KEPT]:
            registry = workspace.registry(place.registry)
            detach(registry, place.repository, place.image, row.manifest)
            removed.append(row)
    names = ("seal", "source", "repository", "image", "bundle", "manifest")
    _archive_changes(
        workspace,
        [{name: getattr(row, name) for name in names} for row in removed],
        attached=False,
    )
    for row in removed:
        workspace.catalog.drop_image_statement(row.id)
    return len(removed)


def _archive_changes(
    workspace: Workspace, rows: Iterable[Mapping[str, Any]], attached: bool
) -> None:
    """What was attached or taken off: before the catalog, which is made again from it."""
    lines = sorted(canonical_json({**row, "attached": attached}) + b"\n" for row in rows)
    if lines:
        data = b"".join(lines)
        name = f"{workspace.now():%Y%m%d%H%M%S}-{sha256_hex(data)}.jsonl"
        workspace.store(f"{ATTACHED}{name}", data)


def attached_statements(workspace: Workspace) -> list[dict[str, Any]]:
    """The image statements that are attached, by the archive; columns of the catalog's table.

    :raises VerificationError: a file has other bytes than its name says
    """
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    keys = [key for key in workspace.archive.keys(ATTACHED) if _CHANGES.fullmatch(key)]
    for _, group in groupby(keys, key=lambda key: key[: len(ATTACHED) + 14]):
        changes = [change for key in group for change in _read_changes(workspace, key)]
        # Of the same second, what was taken off was attached before.
        for change in sorted(changes, key=lambda change: not change["attached"]):
            key = tuple(change[name] for name in ("source", "repository", "image", "seal"))
            if change.pop("attached"):
                found[key] = change
            else:
                found.pop(key, None)
    return list(found.values())


def _read_changes(workspace: Workspace, key: str) -> list[dict[str, Any]]:
    data = workspace.archive.get(key)
    if sha256_hex(data) != key[-70:-6]:
        raise VerificationError(f"{key} has other bytes, with SHA-256 {sha256_hex(data)}")
    return [parse_object(line, "an attached image statement") for line in data.splitlines()]
