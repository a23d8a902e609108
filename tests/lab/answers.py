"""What a catalog answers to everything that it can be asked."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import inspect

from longseal.catalog import models
from longseal.catalog.catalog import Catalog

EVER: Final = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

TABLES: Final = (
    models.Pack,
    models.Image,
    models.Evidence,
    models.Seal,
    models.ImageStatement,
    models.Delivery,
)

WRITES: Final = frozenset(
    {
        *("open", "session", "replaced"),
        *("claim_packs", "claim_pack", "turn", "mark_stored", "adopt", "supersede"),
        *("record_images", "remember", "mark_judged", "note_proofs", "restore", "set_aside"),
        *(
            "add_seal",
            "add_image_statements",
            "drop_image_statement",
            "add_delivery",
            "bury",
            "dispose",
        ),
    }
)

NOT_IN_THE_ARCHIVE: Final = frozenset({"remembered", "packs_judged_otherwise"})
"""What registries said, and under what evidence was judged last: asked and done again."""

# Numbers of rows, and when a pack was claimed, are nobody's business but the catalog's.
_OWN: Final = {"id", "claimed_at", "judged"}


def answers(catalog: Catalog) -> dict[str, Any]:
    """By the name of each reading function, what it says of all that there is."""
    evidence = list(catalog.every(models.Evidence))
    images = {row.image for row in evidence}
    places = {(row.source, row.repository) for row in evidence}
    digests = {one for row in evidence for one in (row.bundle, row.manifest, row.image)}
    signers = {(row.identity, row.issuer) for row in evidence if row.identity and row.issuer}
    verdicts = ("verified", "rejected", "ignored", "unknown", "suspect")
    sources = sorted({source for source, _ in places})

    def by_place(ask: Callable[..., Any]) -> dict[Any, Any]:
        return {place: _plain(ask(*place, images)) for place in places}

    asked: dict[str, Any] = {
        "known_manifests": by_place(catalog.known_manifests),
        "held_manifests": by_place(catalog.held_manifests),
        "records": by_place(catalog.records),
        "stored_evidence": {
            source: catalog.stored_evidence(source, {row.bundle for row in evidence})
            for source in sources
        },
        "held_images": {source: catalog.held_images(source) for source in sources},
        "own_manifests": {source: catalog.own_manifests(source, images) for source in sources},
        "pack": {digest: _plain(catalog.pack(digest)) for digest in catalog.packs()},
        "packs": catalog.packs(),
        "claimed_packs": catalog.claimed_packs(),
        "every": {table.__tablename__: _plain(catalog.every(table)) for table in TABLES},
        "unproven": _plain(catalog.unproven(9, 10_000)),
        "packs_signed_by": {
            signer: catalog.packs_signed_by(*signer, *EVER, None) for signer in signers
        },
        "held": _plain(catalog.held(verdicts)),
        "unsealed": [tuple(row) for row in catalog.unsealed(None)],
        "unsealed_packs": catalog.unsealed_packs(),
        "packs_of": {row.leaf_hash: catalog.packs_of([row.leaf_hash]) for row in evidence},
        "records_of": dict(
            catalog.records_of(
                (source, repository, image) for source, repository in places for image in images
            )
        ),
        "alarming_images": catalog.alarming_images(),
        "verified_images": catalog.verified_images(images),
        "seals": _plain(catalog.seals()),
        "image_statements": _plain(catalog.image_statements()),
        "placed": [
            {name: value for name, value in row._mapping.items() if name not in _OWN}
            for row in catalog.placed()
        ],
        "evidence": {image: _plain(catalog.evidence(image=image)) for image in images},
        "about": {digest: _plain(catalog.about(digest)) for digest in digests},
        "images": _plain(catalog.images()),
        "counts": catalog.counts(),
        "deliveries": {
            site: _plain(catalog.deliveries(site))
            for site in {row.site for row in catalog.every(models.Delivery)}
        },
    }
    return asked


def _plain(found: Any) -> Any:
    """Rows as what they say, in an order that does not hang on when they were written."""
    if isinstance(found, models.Base):
        columns = [column.key for column in inspect(type(found)).columns]
        return {name: getattr(found, name) for name in columns if name not in _OWN}
    if isinstance(found, Iterable) and not isinstance(found, str | dict):
        return sorted(map(_plain, found), key=str)
    return found
