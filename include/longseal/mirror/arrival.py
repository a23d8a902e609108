"""A site's kit as it arrived, checked from the known key on: what that does not vouch for is not
looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from longseal.archive.leaf import Leaf
from longseal.canonical import digest_of, sha256_hex, timestamp
from longseal.errors import VerificationError
from longseal.mirror.inventory import MAX_BYTES, Inventory
from longseal.mirror.kit import (
    INVENTORY,
    INVENTORY_BUNDLE,
    KEY_SET,
    KIT_REPOSITORY,
    ORGANISATION_KEY,
)
from longseal.registry.artifact import TITLE
from longseal.registry.interface import Registry
from longseal.registry.model import parse_manifest
from longseal.seal.key_history import read_history, successors, verify_history
from longseal.seal.keys import KeySet, fingerprint, load_public_pem
from longseal.seal.proof import Anchors, verify_chain, verify_seal, verify_statement
from longseal.seal.published import TRUSTED_ROOT, Published
from longseal.seal.signers.interface import PublicKey
from longseal.verify.engine import Engine
from longseal.verify.image import Expectations
from longseal.verify.policy import Policy
from longseal.verify.report import Report, State
from longseal.verify.trust import TrustMaterial

MAX_FILE_BYTES: Final = MAX_BYTES

_ROOM: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Signed:
    """An inventory whose signature holds.

    :param files: the inventory and its signed bundle as read, by name
    :param bundle: digest of the signed bundle: what the inventories after it name it by
    :param stamped: when an authority saw the signature: the site's clock cannot be behind it
    """

    inventory: Inventory
    files: Mapping[str, bytes]
    bundle: str
    stamped: datetime


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a kit whose every file was checked says.

    :param seals: in their order, all of them good
    :param now: the clock, or the inventory's timestamp where that is later
    """

    signed: Signed
    expected: Expectations
    seals: tuple[Published, ...]
    now: datetime


class SiteKit:
    """A site's kit as it arrived: nothing in it counts before the inventory vouches for it.

    :param read: gives a file of the kit by name
    :param key: the organisation's key as known beforehand: a public key, or its fingerprint
    :param timestamp_roots: fingerprints of the timestamp roots that are believed; None to believe
        those that the verified inventory lists
    """

    def __init__(
        self,
        read: Callable[[str], bytes],
        key: PublicKey | str,
        timestamp_roots: frozenset[str] | None = None,
        quorum: int = 1,
    ) -> None:
        self._read = read
        self._listed: Mapping[str, str] = {}
        self._key = key
        self._timestamp_roots = timestamp_roots
        self._quorum = quorum

    def read(self, name: str) -> bytes:
        """A file of the kit; once the inventory holds, with no other bytes than it says.

        :raises VerificationError: it is not there, or has other bytes
        """
        data = self._read(name)
        if name in self._listed and digest_of(data) != self._listed[name]:
            raise VerificationError(f"site/{name} has other bytes than the inventory says")
        return data

    def anchors(self) -> Anchors:
        """The organisation's key, once it is the one that was known beforehand.

        :raises VerificationError: the kit brings another one
        """
        found = load_public_pem(self.read(ORGANISATION_KEY), f"site/{ORGANISATION_KEY}")
        expected = self._key if isinstance(self._key, str) else fingerprint(self._key)
        anchors = Anchors(found, self._timestamp_roots, self._quorum)
        if fingerprint(found) != expected:
            self._require_successor(found, expected, anchors)
        return anchors

    def _require_successor(self, found: PublicKey, expected: str, anchors: Anchors) -> None:
        """The key has changed since: that counts where the one known before signed for it."""
        try:
            keys = successors(read_history(self.read), expected, anchors, self.read(TRUSTED_ROOT))
        except VerificationError as err:
            raise VerificationError(
                f"expected the organisation's key {expected}, found {fingerprint(found)}: {err}"
            ) from err
        if not any(one.key == found and one.status == "active" for one in keys.keys):
            raise VerificationError(f"the key set does not let {fingerprint(found)} sign")

    def inventory(self, anchors: Anchors) -> Signed:
        """The inventory, once the organisation's signature over it holds.

        :raises VerificationError: it does not
        """
        data, bundle = self.read(INVENTORY), self.read(INVENTORY_BUNDLE)
        statement, stamped = verify_statement(bundle, anchors, self.read(TRUSTED_ROOT), "inventory")
        if statement.subjects[0].digest.get("sha256") != sha256_hex(data):
            raise VerificationError(f"{INVENTORY} has other bytes than the signature says")
        found = Inventory.parse(data)
        told = (statement.predicate.get("site"), statement.predicate.get("sequence"))
        if told != (found.site, found.sequence):
            raise VerificationError(f"{INVENTORY} is of another delivery than its signature says")
        self._listed = found.files
        files = {INVENTORY: data, INVENTORY_BUNDLE: bundle}
        return Signed(found, files, digest_of(bundle), stamped)

    def check(self, listed: Collection[str]) -> str:
        """Read every file that the inventory lists.

        :raises VerificationError: naming the first that differs
        """
        for name in listed:
            self.read(name)
        return f"{len(listed)} files are what the inventory says"

    def keys(self, anchors: Anchors, signed: Signed, known: bytes | None = None) -> KeySet:
        """The key set of the checked kit, once it lets the inventory's key sign.

        :param known: the key set that the site had before: the kit's follows from it
        :raises VerificationError: the key was revoked, or another history of keys is told
        """
        found = KeySet.parse(self.read(KEY_SET))
        if known is not None:
            before = KeySet.parse(known)
            versions = read_history(self.read)
            if not before.version <= found.version <= len(versions):
                raise VerificationError(
                    f"the site knows key set {before.version}, this one is {found.version}"
                )
            if versions[before.version - 1].data != known:
                raise VerificationError(
                    f"key set {before.version} is another one than the site knows"
                )
            last = verify_history(versions[before.version - 1 :], anchors, self.read(TRUSTED_ROOT))
            if last != found:
                raise VerificationError(f"{KEY_SET} is not the last of its history")
        replace(anchors, keys=found).require_window(anchors.key, signed.stamped)
        return found

    def vouch(
        self,
        report: Report,
        now: datetime,
        admit: Callable[[Signed], str] | None = None,
        known: bytes | None = None,
    ) -> Vouched | None:
        """Check the kit, the anchor first.

        :param admit: says whether this inventory is the one to come next
        :param known: the key set that the site had before
        :returns: None where something in it does not hold
        """
        anchors: list[Anchors] = []
        signed: list[Signed] = []
        keys: list[KeySet] = []

        def key() -> str:
            anchors.append(self.anchors())
            return f"the organisation's key is {fingerprint(anchors[0].key)}"

        def listed() -> str:
            signed.append(self.inventory(anchors[0]))
            inventory = signed[0].inventory
            return f"inventory {inventory.sequence} for {inventory.site}, signed by our key"

        if not report.attempt("key", key) or not report.attempt("inventory", listed):
            return None
        inventory = signed[0].inventory
        if admit is not None and not report.attempt("sequence", lambda: admit(signed[0])):
            return None
        _clock(report, now, signed[0])
        if not report.attempt("files", lambda: self.check(inventory.files)):
            return None

        def counts() -> str:
            keys.append(self.keys(anchors[0], signed[0], known))
            return f"key set {keys[0].version} lets the key sign"

        if not report.attempt("keys", counts):
            return None
        with_keys = replace(anchors[0], keys=keys[0])
        before = len(report.checks)
        seals, covered = self._seals(report, inventory, with_keys)
        if any(check.state is not State.PASSED for check in report.checks[before:]):
            return None
        expected = self.expectations(with_keys, covered)
        return Vouched(signed[0], expected, seals, max(now, signed[0].stamped))

    def _seals(
        self, report: Report, inventory: Inventory, anchors: Anchors
    ) -> tuple[tuple[Published, ...], set[tuple[str, str]]]:
        seals: list[Published] = []
        covered: set[tuple[str, str]] = set()
        folders = {
            "/".join(name.split("/")[:2]) for name in inventory.files if name.startswith("seals/")
        }
        for folder in sorted(folders):

            def sealed(folder: str = folder) -> str:
                seal, lines = verify_seal(lambda name: self.read(f"{folder}/{name}"), anchors)
                seals.append(seal)
                covered.update((leaf.sha256, leaf.image) for leaf in map(Leaf.parse, lines))
                return f"{seal.period}: {seal.size} attestations, root {seal.root[:16]}…"

            report.attempt(folder, sealed)

        def chain() -> str:
            verify_chain(seals)
            return f"{len(seals)} seals follow each other"

        report.attempt("chain", chain)
        return tuple(seals), covered

    def expectations(
        self, anchors: Anchors, sealed: Collection[tuple[str, str]] | None = None
    ) -> Expectations:
        """What the kit, checked before, says that an image must have."""
        engine = Engine(
            TrustMaterial.parse(self.read("trusted_root.json")),
            Policy.parse(self.read("policy.json")),
        )
        return Expectations(engine, anchors, self.read(TRUSTED_ROOT), sealed)


def kit_of_registry(registry: Registry) -> Callable[[str], bytes] | None:
    """Reads the kit that a site's registry holds; None where it holds none.

    :raises RegistryError: it could not be looked for
    """
    found = registry.manifest(KIT_REPOSITORY, "latest")
    if found is None:
        return None
    layers = {
        layer.annotations.get(TITLE, ""): layer
        for layer in parse_manifest(found.data, found.media_type).layers
    }

    def read(name: str) -> bytes:
        if name not in layers:
            raise VerificationError(f"site/{name} is missing at {registry.name}")
        return registry.blob(KIT_REPOSITORY, layers[name].digest, MAX_FILE_BYTES)

    return read


def _clock(report: Report, now: datetime, signed: Signed) -> None:
    """What the site's clock makes of the inventory; an authority's timestamp is surer."""
    refresh, stamped = signed.inventory.refresh_by, signed.stamped
    if now < stamped - _ROOM:
        report.add(
            "clock",
            State.FAILED,
            f"the clock says {timestamp(now)}, and an authority stamped this volume at"
            f" {timestamp(stamped)}: set the clock; that time is gone by",
        )
    if refresh < now:
        report.add(
            "refresh",
            State.FAILED,
            f"the site had to be refreshed by {refresh:%Y-%m-%d}; its clock says {now:%Y-%m-%d}"
            f" (the volume was stamped on {stamped:%Y-%m-%d})",
        )
