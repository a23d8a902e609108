"""What a site needs beside the images: trust material, seals, and the inventory that vouches.

Files of the kit, below ``site/`` of a volume:

``org.pub``                      the organisation's key; to be compared with a known fingerprint
``trusted_root.json``            for the keyless attestations
``policy.json``, ``key-set.json``
``seal-trusted-root.json``       for the organisation's statements
``seals/<sequence>/…``           each seal, with every file that it speaks of, by name
``inventory.json``               everything that travelled, with its digest
``inventory.sigstore.json``      the organisation's signature over the inventory
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from longseal.audit.ledger import Entry
from longseal.canonical import canonical_json, digest_of, parse_object, timestamp
from longseal.catalog.models import Delivery
from longseal.mirror.plan import Shipment
from longseal.seal.ceremony import Ceremony, seal_trusted_root
from longseal.seal.key_history import history_files
from longseal.seal.keys import public_pem
from longseal.seal.organisation import keys_in_force, organisation_key
from longseal.seal.published import (
    SEAL,
    TRUSTED_ROOT,
    predicate_type,
    published,
    seal_folder,
)
from longseal.seal.revocation import REVOCATION
from longseal.seal.statement import Statement, Subject
from longseal.settings import SiteSettings
from longseal.workspace import Workspace

KIT_TYPE: Final = "application/vnd.longseal.site.v1"
INVENTORY: Final = "inventory.json"
INVENTORY_BUNDLE: Final = "inventory.sigstore.json"
ORGANISATION_KEY: Final = "org.pub"
KEY_SET: Final = "key-set.json"

DELIVERED: Final = "mirror.delivered"
"""The ledger's action of a kit that arrived whole."""


@dataclass(frozen=True, slots=True)
class Kit:
    """A site's files by name, the inventory's signature last.

    :param sequence: of the inventory; grows by one with each change
    :param content: digest of what the inventory lists, whatever its date and sequence
    :param key_operations: that this run took for it
    """

    files: dict[str, bytes]
    sequence: int
    content: str
    key_operations: int


def make_kit(workspace: Workspace, site: SiteSettings, shipments: Sequence[Shipment]) -> Kit:
    """Put the kit together; where nothing changed since the last one, that one again.

    A new inventory takes one key operation.
    """
    files = _files(workspace)
    content = {
        "images": sorted(
            (
                {
                    "repository": one.repository,
                    "image": one.image,
                    "tags": sorted(one.tags),
                    "referrers": list(one.referrers),
                }
                for one in shipments
            ),
            key=lambda one: (one["repository"], one["image"]),
        ),
        "files": {name: digest_of(data) for name, data in files.items()},
    }
    digest = digest_of(canonical_json(content))
    before = workspace.catalog.deliveries(site.name)
    last = before[-1] if before else None
    if last is not None and last.inventory == digest:
        sequence = last.sequence
    else:
        sequence = last.sequence + 1 if last else 1
    while (claimed := _claimed(workspace, site, sequence)) is not None:
        if parse_object(claimed, "an inventory")["content"] == digest:
            break
        # Claimed by a run that was killed, for a world that has changed since: it stays unused.
        sequence += 1
    inventory = claimed or canonical_json(
        {
            **content,
            "content": digest,
            "createdAt": timestamp(workspace.now()),
            "organisation": workspace.settings.organisation,
            "previous": None if last is None else _bundle_digest(workspace, site, last.sequence),
            "refreshBy": timestamp(
                workspace.now() + timedelta(days=workspace.settings.image_statement_days)
            ),
            "sequence": sequence,
            "site": site.name,
            "withdrawn": [],
        }
    )
    workspace.keep(inventory)
    ceremony = Ceremony(workspace, _folder(site, sequence))
    finished = ceremony.run(_statement(workspace, site, sequence, inventory))
    files[INVENTORY] = inventory
    files[INVENTORY_BUNDLE] = finished.bundle
    return Kit(files, sequence, digest, finished.operations)


def note_delivery(workspace: Workspace, site: SiteSettings, kit: Kit, images: int) -> None:
    """Note that a kit arrived whole; the next one follows it."""
    before = workspace.catalog.deliveries(site.name)
    if before and before[-1].sequence == kit.sequence:
        return
    # The ledger first: the catalog is made again from it.
    noted = workspace.note(
        DELIVERED,
        {"site": site.name, "sequence": kit.sequence, "inventory": digest_of(kit.files[INVENTORY])},
    )
    workspace.catalog.add_delivery(
        Delivery(
            site=site.name,
            sequence=kit.sequence,
            inventory=kit.content,
            images=images,
            delivered_at=noted.at,
        )
    )


def deliveries(workspace: Workspace, entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The deliveries that ledger ``entries`` tell of; columns of the catalog's table."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in entries:
        if entry.action != DELIVERED:
            continue
        site, sequence = entry.details["site"], entry.details["sequence"]
        inventory = parse_object(workspace.kept(entry.details["inventory"]), "an inventory")
        row = {
            "site": site,
            "sequence": sequence,
            "inventory": inventory["content"],
            "images": len(inventory["images"]),
            "delivered_at": entry.at,
        }
        # A run that was killed before the catalog had it noted it twice.
        found[site, sequence] = row
    return list(found.values())


def _folder(site: SiteSettings, sequence: int) -> str:
    return f"deliveries/{site.name}/{sequence:06}"


def _claimed(workspace: Workspace, site: SiteSettings, sequence: int) -> bytes | None:
    """The inventory that an earlier run claimed this sequence for."""
    ceremony = Ceremony(workspace, _folder(site, sequence))
    if not ceremony.claimed:
        return None
    subject = Statement.parse(ceremony.statement()).subjects[0]
    return workspace.kept(f"sha256:{subject.digest['sha256']}")


def _bundle_digest(workspace: Workspace, site: SiteSettings, sequence: int) -> str:
    return digest_of(Ceremony(workspace, _folder(site, sequence)).bundle())


def _statement(workspace: Workspace, site: SiteSettings, sequence: int, inventory: bytes) -> bytes:
    # The images are in the file, not among the subjects: `cosign verify --key` would take this for
    # a signature of each of them.
    return Statement(
        (Subject.of(inventory, INVENTORY),),
        predicate_type(workspace, "inventory"),
        {
            "site": site.name,
            "sequence": sequence,
            "keyid": organisation_key(workspace).keyid,
        },
    ).format()


def _files(workspace: Workspace) -> dict[str, bytes]:
    _, key_set, signing = keys_in_force(workspace)
    files = {
        ORGANISATION_KEY: public_pem(signing.key).encode(),
        "trusted_root.json": workspace.trusted_root,
        "policy.json": workspace.policy,
        TRUSTED_ROOT: seal_trusted_root(workspace, retired=True),
        KEY_SET: key_set,
    }
    files |= history_files(workspace)
    for seal in published(workspace):
        folder = seal_folder(seal.sequence)
        files[f"{folder}/{SEAL}"] = seal.bundle
        for name in (TRUSTED_ROOT, "renewal.sha512", "renewal.tokens.json"):
            files[f"{folder}/{name}"] = workspace.archive.get(f"{folder}/{name}")
        told = workspace.archive.keys(f"{folder}/{REVOCATION}/")
        files |= {name: workspace.archive.get(name) for name in told}
        for name, digest in seal.files().items():
            files[f"{folder}/{name}"] = workspace.kept(digest)
    return files
