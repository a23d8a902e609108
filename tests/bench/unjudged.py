"""Evidence in bulk that no verifier has judged: archived, listed and recorded as a harvest does.

Whoever seals it must leave out the verification. Everything else is the real thing: leaves, packs,
completeness records, and the catalog's rows.
"""

import hashlib
import multiprocessing
from collections import defaultdict
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
from longseal.catalog.catalog import Catalog
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
Rows = tuple[Row, list[Row], list[Row]]


def fill(workspace: Workspace, attestations: int, *signed_at: datetime) -> None:
    """Archive so many attestations, five an image, and list them in the catalog.

    Every core makes packs. The catalog, which SQLite must keep, does without its indexes until all
    is in it.

    :param attestations: a multiple of five
    :param signed_at: when; the packs take turns
    """
    trust, policy = workspace.keep(workspace.trusted_root), workspace.keep(workspace.policy)
    assert workspace.catalog  # its tables are made
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
        for rows in processes.map(_store, firsts, ends, moments):
            listed(workspace.catalog, rows)
    for index in indexes:
        index.create(engine)
    engine.dispose()


_workspace: Workspace
_trust: str
_policy: str


def _adopt(workspace: Workspace, trust: str, policy: str) -> None:
    global _workspace, _trust, _policy
    _workspace, _trust, _policy = workspace, trust, policy


def _store(first: int, end: int, signed_at: datetime) -> Rows:
    """Archive one pack and the records of its images."""
    evidence = []
    for number in range(first, end):
        repository, image = f"corp/service-{number // IMAGES}", _digest(f"image {number}")
        for order in range(AN_IMAGE):
            name = f"{repository} {number} {order}".encode()
            manifest, bundle = b"manifest " + name, b"bundle " + name
            kind = f"https://stella-ops.example/kind-{order}/v1"
            evidence.append(
                packed(repository, image, manifest, bundle, kind, signed_at, _trust, _policy)
            )
    return archived(_workspace, evidence, signed_at + timedelta(seconds=first))


def packed(
    repository: str,
    image: str,
    manifest: bytes,
    bundle: bytes,
    predicate_type: str,
    signed_at: datetime,
    trust: str,
    policy: str,
) -> Packed:
    """One piece of evidence, as a harvest has it."""
    digests = digest_set(bundle)
    leaf = Leaf(
        sha256=digests["sha256"],
        sha512=digests["sha512"],
        size=len(bundle),
        collected_at=signed_at,
        engine="none judged it",
        image=image,
        manifest=digest_of(manifest),
        policy=policy,
        registry=REGISTRY,
        repository=repository,
        signed_at=signed_at,
        time_source="collection",
        trust=trust,
        verdict="verified",
        subject=(image,),
        predicate_type=predicate_type,
        signer=Signer(IDENTITY, ISSUER),
    )
    return Packed(leaf, manifest, bundle)


def archived(workspace: Workspace, evidence: list[Packed], checked_at: datetime) -> Rows:
    """Archive evidence as one pack, and the records of the images that it is of.

    :returns: the catalog's rows of the pack, of its evidence and of its images
    """
    leaf = evidence[0].leaf
    kept = class_of(workspace.settings.retention, leaf)
    until = retain_until(kept, leaf)
    pack = write_pack(evidence)
    store_pack(workspace.archive, pack, until)
    attached: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for item in evidence:
        attached[item.leaf.repository, item.leaf.image].append(item.leaf.manifest)
    records = {place: _record(*place, found, checked_at) for place, found in attached.items()}
    for key, data in record_files(records.values(), checked_at):
        workspace.store(key, data)
    return (
        claim_row(pack, kept.name, until, leaf.collected_at),
        [catalog_row(item.leaf, pack.digest) | {"proof_tries": None} for item in evidence],
        [
            {
                "source": REGISTRY,
                "repository": repository,
                "digest": image,
                "state": "whole",
                "record": record.decode(),
                "checked_at": checked_at,
            }
            for (repository, image), record in records.items()
        ],
    )


def listed(catalog: Catalog, rows: Rows) -> None:
    """Have the catalog list what is archived."""
    pack, evidence, images = rows
    catalog.claim_packs([pack], evidence)
    catalog.mark_stored(pack["digest"])
    catalog.record_images(images)


def _record(repository: str, image: str, manifests: list[str], checked_at: datetime) -> bytes:
    answers = (
        Answer("referrers", "found", len(manifests)),
        Answer("fallback-tag", "absent"),
    )
    record = CompletenessRecord(REGISTRY, repository, image, answers, tuple(sorted(manifests)))
    return record_line({**record.to_json(), "vanished": []}, checked_at)


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
