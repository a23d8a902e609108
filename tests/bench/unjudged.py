"""Evidence in bulk that no verifier has judged: archived, listed and recorded as a harvest does.

Whoever seals it must leave out the verification. Everything else is the real thing: leaves, packs,
completeness records, and the catalog's rows.
"""

import hashlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import create_engine

from longseal.archive.leaf import Leaf, Signer
from longseal.archive.pack import Evidence as Packed
from longseal.archive.pack import store_pack, write_pack
from longseal.archive.records import record_files, record_line
from longseal.archive.retention import class_of, retain_until
from longseal.canonical import digest_of, digest_set
from longseal.catalog.models import Evidence
from longseal.harvest import catalog_row, claim_row
from longseal.registry.discovery import Answer, CompletenessRecord
from longseal.workspace import Workspace
from tests.bench.bulk import AN_IMAGE
from tests.installation import IDENTITY, ISSUER

REGISTRY = "exported"
PACK = 2_560
"""Attestations of a pack: those of 512 images, as a harvest packs them."""

IMAGES = 20
"""Images of a repository."""

Row = dict[str, Any]


def fill(workspace: Workspace, attestations: int, *signed_at: datetime) -> None:
    """Archive so many attestations, five an image, and list them in the catalog.

    Every core makes packs. The catalog, which SQLite must keep, does without its indexes until all
    is in it.

    :param attestations: a multiple of five
    :param signed_at: when; the packs take turns
    """
    trust, policy = workspace.keep(workspace.trusted_root), workspace.keep(workspace.policy)
    catalog = workspace.catalog
    engine = create_engine(workspace.settings.catalog)
    table = Evidence.metadata.tables["evidence"]
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    for index in indexes:
        index.drop(engine)
    firsts = range(0, attestations // AN_IMAGE, PACK // AN_IMAGE)
    with ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("fork"),
        initializer=_adopt,
        initargs=(workspace, trust, policy),
    ) as processes:
        moments = [signed_at[at % len(signed_at)] for at in range(len(firsts))]
        ends = [min(first + firsts.step, attestations // AN_IMAGE) for first in firsts]
        for pack, evidence, images in processes.map(_store, firsts, ends, moments):
            catalog.claim_packs([pack], evidence)
            catalog.mark_stored(pack["digest"])
            catalog.record_images(images)
    for index in indexes:
        index.create(engine)
    engine.dispose()


_workspace: Workspace
_trust: str
_policy: str


def _adopt(workspace: Workspace, trust: str, policy: str) -> None:
    global _workspace, _trust, _policy
    _workspace, _trust, _policy = workspace, trust, policy


def _store(first: int, end: int, signed_at: datetime) -> tuple[Row, list[Row], list[Row]]:
    """Archive one pack and the records of its images.

    :returns: the catalog's rows of the pack, of its evidence and of its images
    """
    images = {_place(number): _digest(f"image {number}") for number in range(first, end)}
    evidence = [
        _evidence(place[0], image, f"{place} {order}", order, signed_at)
        for place, image in images.items()
        for order in range(AN_IMAGE)
    ]
    leaf = evidence[0].leaf
    kept = class_of(_workspace.settings.retention, leaf)
    until = retain_until(kept, leaf)
    pack = write_pack(evidence)
    store_pack(_workspace.archive, pack, until)
    records = {
        image: record_line(_record(place[0], image), signed_at) for place, image in images.items()
    }
    for key, data in record_files(records.values(), signed_at + timedelta(seconds=first)):
        _workspace.store(key, data)
    return (
        claim_row(pack, kept.name, until, leaf.collected_at),
        [catalog_row(item.leaf, pack.digest) | {"proof_tries": None} for item in evidence],
        [
            {
                "source": REGISTRY,
                "repository": place[0],
                "digest": image,
                "state": "whole",
                "record": records[image].decode(),
                "checked_at": signed_at,
            }
            for place, image in images.items()
        ],
    )


def _evidence(
    repository: str,
    image: str,
    name: str,
    order: int,
    signed_at: datetime,
) -> Packed:
    payload, manifest = f"bundle {name}".encode(), f"manifest {name}".encode()
    digests = digest_set(payload)
    leaf = Leaf(
        sha256=digests["sha256"],
        sha512=digests["sha512"],
        size=len(payload),
        collected_at=signed_at,
        engine="none judged it",
        image=image,
        manifest=digest_of(manifest),
        policy=_policy,
        registry=REGISTRY,
        repository=repository,
        signed_at=signed_at,
        time_source="collection",
        trust=_trust,
        verdict="verified",
        subject=(image,),
        predicate_type=f"https://stella-ops.example/kind-{order}/v1",
        signer=Signer(IDENTITY, ISSUER),
    )
    return Packed(leaf, manifest, payload)


def _record(repository: str, image: str) -> dict[str, object]:
    found = tuple(sorted(_digest(f"{image} {order}") for order in range(AN_IMAGE)))
    answers = (Answer("referrers", "found", AN_IMAGE), Answer("fallback-tag", "absent"))
    record = CompletenessRecord(REGISTRY, repository, image, answers, found)
    return {**record.to_json(), "vanished": []}


def _place(number: int) -> tuple[str, int]:
    return f"corp/service-{number // IMAGES}", number


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
