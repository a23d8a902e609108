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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from longseal.audit.ledger import Entry
from longseal.canonical import digest_of, parse_object, timestamp
from longseal.catalog.models import Delivery
from longseal.mirror.inventory import MAX_BYTES, Inventory, Item, Withdrawn
from longseal.mirror.plan import Plan
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.ceremony import Ceremony, seal_trusted_root
from longseal.seal.key_history import history_files
from longseal.seal.keys import public_pem
from longseal.seal.organisation import keys_in_force, signed_as
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
KIT_REPOSITORY: Final = "longseal-site"
"""Where a site that is a registry finds the kit: one artifact, tagged ``latest``."""

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


def make_kit(workspace: Workspace, site: SiteSettings, planned: Plan) -> Kit:
    """Put the kit together; where nothing changed since the last one, that one again.

    A new inventory takes one key operation.
    """
    files = _files(workspace)
    before = workspace.catalog.deliveries(site.name)
    last = before[-1] if before else None
    now = workspace.now()
    fresh = Inventory(
        organisation=workspace.settings.organisation,
        site=site.name,
        sequence=last.sequence + 1 if last else 1,
        created_at=now,
        refresh_by=now + timedelta(days=workspace.settings.image_statement_days),
        images=tuple(
            sorted(
                (
                    Item(one.repository, one.image, one.tags, one.referrers)
                    for one in planned.shipments
                ),
                key=lambda one: (one.repository, one.image),
            )
        ),
        files={name: digest_of(data) for name, data in files.items()},
    )
    if last is not None and last.inventory == fresh.content:
        fresh = replace(fresh, sequence=last.sequence)
    latest = fresh.sequence - 1
    while (claimed := _claimed(workspace, site, fresh.sequence)) is not None:
        if parse_object(claimed, "an inventory", MAX_BYTES)["content"] == fresh.content:
            break
        # Claimed by a run that was killed, for a world that has changed since. It may have got as
        # far as the site.
        if Ceremony(workspace, _folder(site.name, fresh.sequence)).finished:
            latest = fresh.sequence
        fresh = replace(fresh, sequence=fresh.sequence + 1)
    if claimed is None and latest > 0:
        fresh = _following(workspace, site, latest, fresh, planned.withheld)
    inventory = claimed or fresh.format()
    workspace.keep(inventory)
    ceremony = Ceremony(workspace, _folder(site.name, fresh.sequence))
    finished = ceremony.run(_statement(workspace, site, fresh.sequence, inventory))
    files[INVENTORY] = inventory
    files[INVENTORY_BUNDLE] = finished.bundle
    return Kit(files, fresh.sequence, fresh.content, finished.operations)


def _following(
    workspace: Workspace,
    site: SiteSettings,
    last: int,
    fresh: Inventory,
    withheld: Mapping[str, str],
) -> Inventory:
    """``fresh`` with what it owes to the inventory delivered before it."""
    before = Inventory.parse(delivered_inventory(workspace, site.name, last))
    digest = digest_of(delivered_bundle(workspace, site.name, last))
    since = timestamp(fresh.created_at)
    gone = {(one.repository, one.image): one for one in before.withdrawn}
    for one in before.images:
        reason = withheld.get(one.name, "it is no longer among what the site is to have")
        gone[one.repository, one.image] = Withdrawn(one.repository, one.image, since, reason)
    for one in fresh.images:
        gone.pop((one.repository, one.image), None)
    return replace(
        fresh,
        predecessors={**before.predecessors, last: digest},
        withdrawn=tuple(gone[key] for key in sorted(gone)),
    )


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


def delivered_bundle(workspace: Workspace, site: str, sequence: int) -> bytes:
    """The signed bundle of an inventory.

    :raises ArchiveError: there is none
    """
    return Ceremony(workspace, _folder(site, sequence)).bundle()


def delivered_inventory(workspace: Workspace, site: str, sequence: int) -> bytes:
    """The inventory of that bundle."""
    payload = parse_key_bundle(delivered_bundle(workspace, site, sequence)).payload
    return workspace.kept(Statement.parse(payload).subjects[0].sha256)


def _folder(site: str, sequence: int) -> str:
    return f"deliveries/{site}/{sequence:06}"


def _claimed(workspace: Workspace, site: SiteSettings, sequence: int) -> bytes | None:
    """The inventory that an earlier run claimed this sequence for."""
    ceremony = Ceremony(workspace, _folder(site.name, sequence))
    return ceremony.document() if ceremony.claimed else None


def _statement(workspace: Workspace, site: SiteSettings, sequence: int, inventory: bytes) -> bytes:
    # The images are in the file, not among the subjects: `cosign verify --key` would take this for
    # a signature of each of them.
    return Statement(
        (Subject.of(inventory, INVENTORY),),
        predicate_type(workspace, "inventory"),
        {
            "site": site.name,
            "sequence": sequence,
            **signed_as(workspace),
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
