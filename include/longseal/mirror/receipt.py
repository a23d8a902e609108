"""Delivery receipts: a site's signed answer, and what the organisation learns from it.

A receipt names the newest seal that the site saw: two sites that are shown different histories are
found out when their receipts meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from longseal.canonical import digest_of, parse_timestamp, sha256_hex, timestamp
from longseal.errors import ArchiveError, MalformedError, VerificationError
from longseal.mirror.folder import read_file
from longseal.mirror.inventory import Inventory
from longseal.mirror.kit import INVENTORY, delivered_bundle, delivered_inventory
from longseal.seal.bundle import format_key_bundle, parse_key_bundle, verify_key_bundle
from longseal.seal.ceremony import BUNDLE, RECEIPTS
from longseal.seal.keys import fingerprint, keyid, load_public_pem, public_pem
from longseal.seal.published import read_seal
from longseal.seal.signers.interface import Signer
from longseal.seal.statement import PAYLOAD_TYPE, Statement, Subject, pae
from longseal.settings import SiteSettings, VolumeSiteSettings
from longseal.workspace import Workspace

RECEIPT: Final = "receipt.sigstore.json"
"""Where a receipt lies on a volume that comes back."""

RECEIVED: Final = "mirror.received"
"""The ledger's action of a receipt that holds."""

MAX_RECEIPT_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Receipt:
    """:param sequence: of the inventory that was imported
    :param inventory: digest of the inventory's signed bundle
    :param seal: sequence and digest of the newest seal that came
    :param skipped: inventories that never came
    :param lacking: images of the inventory that the site does not let be seen, with why
    :param signed_at: by the site's own clock, which nobody vouches for
    """

    site: str
    sequence: int
    inventory: str
    seal: tuple[int, str] | None
    skipped: tuple[int, ...]
    lacking: Mapping[str, str]
    signed_at: datetime

    def sign(self, organisation: str, inventory: bytes, signer: Signer) -> bytes:
        """The bundle: the subject is the inventory's file."""
        key = signer.public_key
        payload = Statement(
            (Subject.of(inventory, INVENTORY),),
            f"https://{organisation}/longseal/receipt/v1",
            {
                "keyid": keyid(key),
                "publicKey": public_pem(key),
                "site": self.site,
                "sequence": self.sequence,
                "inventory": self.inventory,
                "seal": self.seal and {"sequence": self.seal[0], "digest": self.seal[1]},
                "skipped": list(self.skipped),
                "lacking": dict(self.lacking),
                "signedAt": timestamp(self.signed_at),
            },
        ).format()
        return format_key_bundle(payload, signer.sign(pae(PAYLOAD_TYPE, payload)), key)


def verify_receipt(data: bytes, key: str) -> tuple[Receipt, Statement]:
    """A receipt, once its signature holds.

    :param key: fingerprint of the site's key, known beforehand
    :raises VerificationError: another key signed it, or it is no receipt
    """
    if len(data) > MAX_RECEIPT_BYTES:
        raise MalformedError(f"a receipt has at most {MAX_RECEIPT_BYTES} bytes")
    bundle = parse_key_bundle(data)
    named = Statement.parse(bundle.payload).predicate.get("publicKey")
    found = load_public_pem(str(named).encode(), "the receipt's publicKey")
    if fingerprint(found) != key:
        raise VerificationError(f"the receipt is signed by {fingerprint(found)}, not by {key}")
    statement = Statement.parse(verify_key_bundle(bundle, found))
    if not statement.predicate_type.endswith("/longseal/receipt/v1"):
        raise VerificationError(f"no receipt: {statement.predicate_type[:200]}")
    said = statement.predicate
    try:
        seal = said["seal"]
        receipt = Receipt(
            str(said["site"]),
            int(said["sequence"]),
            str(said["inventory"]),
            None if seal is None else (int(seal["sequence"]), str(seal["digest"])),
            tuple(map(int, said["skipped"])),
            {str(name): str(why) for name, why in said["lacking"].items()},
            parse_timestamp(said["signedAt"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise MalformedError("a receipt lacks what it should say") from err
    return receipt, statement


def receive(workspace: Workspace, site: SiteSettings, data: bytes) -> Receipt:
    """Take a site's receipt in: it closes every delivery up to the one that it names.

    :raises VerificationError: it is not the site's, or tells of what was never delivered to it
    """
    key = site.receipt_key if isinstance(site, VolumeSiteSettings) else None
    if key is None:
        raise VerificationError(
            f"the settings have no receipt_key for {site.name}: what longseal site init printed"
        )
    receipt, statement = verify_receipt(data, key)
    if receipt.site != site.name:
        raise VerificationError(f"the receipt is of {receipt.site[:80]!a}, not of {site.name}")
    try:
        bundle = delivered_bundle(workspace, site.name, receipt.sequence)
        inventory = delivered_inventory(workspace, site.name, receipt.sequence)
    except ArchiveError as err:
        raise VerificationError(f"no delivery {receipt.sequence} was made to {site.name}") from err
    hexes = statement.subjects[0].digest.get("sha256")
    if (receipt.inventory, hexes) != (digest_of(bundle), sha256_hex(inventory)):
        raise VerificationError(
            f"{site.name} was shown another inventory {receipt.sequence} than ours: sound the alarm"
        )
    if receipt.seal is not None:
        try:
            ours = read_seal(workspace, receipt.seal[0]).digest
        except ArchiveError:
            ours = "none"
        if ours != receipt.seal[1]:
            raise VerificationError(
                f"{site.name} was shown seal {receipt.seal[0]} as {receipt.seal[1]}, ours is"
                f" {ours}: sound the alarm"
            )
    folder = f"{RECEIPTS}{site.name}/{receipt.sequence:06}/{sha256_hex(data)}"
    if workspace.archive.stat(f"{folder}/{BUNDLE}") is None:
        workspace.store(f"{folder}/{BUNDLE}", data)
        workspace.note(
            RECEIVED,
            {
                "site": site.name,
                "sequence": receipt.sequence,
                "receipt": digest_of(data),
                "lacking": len(receipt.lacking),
            },
        )
    return receipt


def collect(workspace: Workspace, site: SiteSettings) -> str | None:
    """Take in the receipt that came back on the volume, where one did.

    :returns: why it does not count; None where it does, or none is there
    """
    if not isinstance(site, VolumeSiteSettings) or not (site.path / RECEIPT).exists():
        return None
    try:
        receive(workspace, site, read_file(site.path, RECEIPT, MAX_RECEIPT_BYTES))
    except (VerificationError, MalformedError) as err:
        return str(err)
    return None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a site stands, by its receipts.

    :param sequence: delivered last; None before the first delivery
    :param confirmed: what the newest receipt says; None before the first
    :param waiting: since when the oldest delivery without a receipt waits for one
    :param due: when that receipt should be here
    """

    site: str
    sequence: int | None
    confirmed: Receipt | None
    waiting: datetime | None = None
    due: datetime | None = None
    withdrawn: Mapping[str, str] = field(default_factory=dict)

    def overdue(self, now: datetime) -> bool:
        """Whether the receipt should have come."""
        return self.due is not None and self.due < now

    def to_json(self, now: datetime) -> dict[str, Any]:
        """For tables and reports."""
        confirmed = self.confirmed
        return {
            "delivered": self.sequence,
            "confirmed": None if confirmed is None else confirmed.sequence,
            "seal": None if confirmed is None or not confirmed.seal else confirmed.seal[0],
            "lacking": {} if confirmed is None else dict(confirmed.lacking),
            "never_came": [] if confirmed is None else list(confirmed.skipped),
            "withdrawn_unconfirmed": dict(self.withdrawn),
            "waiting_since": None if self.waiting is None else timestamp(self.waiting),
            "due": None if self.due is None else timestamp(self.due),
            "overdue": self.overdue(now),
        }


def newest_receipt(workspace: Workspace, site: SiteSettings) -> Receipt | None:
    """Of the receipts taken in, the one that tells of most."""
    if not isinstance(site, VolumeSiteSettings) or site.receipt_key is None:
        return None
    by_sequence: dict[str, list[str]] = {}
    for key in workspace.archive.keys(f"{RECEIPTS}{site.name}/"):
        by_sequence.setdefault(key.split("/")[2], []).append(key)
    found = []
    for key in by_sequence[max(by_sequence)] if by_sequence else ():
        try:
            found.append(verify_receipt(workspace.archive.get(key), site.receipt_key)[0])
        except VerificationError:
            # By a key that the site has no more.
            continue
    return max(found, key=lambda one: one.signed_at, default=None)


def standing(workspace: Workspace, site: SiteSettings) -> Standing:
    """What a site has, by its own word, and what it owes."""
    made = workspace.catalog.deliveries(site.name)
    receipt = newest_receipt(workspace, site)
    open_ = [one for one in made if receipt is None or one.sequence > receipt.sequence]
    last = made[-1].sequence if made else None
    if not isinstance(site, VolumeSiteSettings) or site.receipt_key is None or not open_:
        return Standing(site.name, last, receipt)
    since = open_[0].delivered_at
    inventory = Inventory.parse(delivered_inventory(workspace, site.name, open_[-1].sequence))
    known: set[str] = set()
    if receipt is not None:
        before = delivered_inventory(workspace, site.name, receipt.sequence)
        known = {one.name for one in Inventory.parse(before).withdrawn}
    withdrawn = {one.name: one.reason for one in inventory.withdrawn if one.name not in known}
    due = since + timedelta(days=site.receipt_days)
    return Standing(site.name, last, receipt, since, due, withdrawn)
