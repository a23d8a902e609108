"""Evidence in bulk that no verifier has judged: archived, listed and recorded as a harvest does.

Whoever seals it must leave out the verification. Everything else is the real thing: leaves, packs,
completeness records, and the catalog's rows.
"""

import hashlib
from datetime import datetime, timedelta

from longseal.archive.leaf import Leaf, Signer
from longseal.archive.pack import Evidence, store_pack, write_pack
from longseal.archive.records import record_files, record_line
from longseal.archive.retention import class_of, retain_until
from longseal.canonical import digest_of, digest_set
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


def fill(workspace: Workspace, attestations: int, signed_at: datetime) -> None:
    """Archive so many attestations, five an image, and list them in the catalog.

    :param attestations: a multiple of five
    """
    trust, policy = workspace.keep(workspace.trusted_root), workspace.keep(workspace.policy)
    for first in range(0, attestations // AN_IMAGE, PACK // AN_IMAGE):
        numbers = range(first, min(first + PACK // AN_IMAGE, attestations // AN_IMAGE))
        images = {_place(number): _digest(f"image {number}") for number in numbers}
        evidence = [
            _evidence(place[0], image, f"{place} {order}", order, signed_at, trust, policy)
            for place, image in images.items()
            for order in range(AN_IMAGE)
        ]
        _store(workspace, evidence)
        records = {
            image: record_line(_record(place[0], image), signed_at)
            for place, image in images.items()
        }
        for key, data in record_files(records.values(), signed_at + timedelta(seconds=first)):
            workspace.store(key, data)
        workspace.catalog.record_images(
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
            ]
        )


def _store(workspace: Workspace, evidence: list[Evidence]) -> None:
    leaf = evidence[0].leaf
    kept = class_of(workspace.settings.retention, leaf)
    until = retain_until(kept, leaf)
    pack = write_pack(evidence)
    workspace.catalog.claim_packs(
        [claim_row(pack, kept.name, until, leaf.collected_at)],
        [catalog_row(item.leaf, pack.digest) | {"proof_tries": None} for item in evidence],
    )
    store_pack(workspace.archive, pack, until)
    workspace.catalog.mark_stored(pack.digest)


def _evidence(
    repository: str,
    image: str,
    name: str,
    order: int,
    signed_at: datetime,
    trust: str,
    policy: str,
) -> Evidence:
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
        policy=policy,
        registry=REGISTRY,
        repository=repository,
        signed_at=signed_at,
        time_source="collection",
        trust=trust,
        verdict="verified",
        subject=(image,),
        predicate_type=f"https://stella-ops.example/kind-{order}/v1",
        signer=Signer(IDENTITY, ISSUER),
    )
    return Evidence(leaf, manifest, payload)


def _record(repository: str, image: str) -> dict[str, object]:
    found = tuple(sorted(_digest(f"{image} {order}") for order in range(AN_IMAGE)))
    answers = (Answer("referrers", "found", AN_IMAGE), Answer("fallback-tag", "absent"))
    record = CompletenessRecord(REGISTRY, repository, image, answers, found)
    return {**record.to_json(), "vanished": []}


def _place(number: int) -> tuple[str, int]:
    return f"corp/service-{number // IMAGES}", number


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
