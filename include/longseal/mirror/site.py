"""The site's own folder: what it was told beforehand, what it imported, and what it lets be seen.

::

    site.json      name, fingerprint of the organisation's key, timestamp roots, quorum
    key.pem        the site's own key: signs delivery receipts; key.pub is its public half
    age.key        opens encrypted parts, where the site asked for one
    images/, site/ what volumes brought, laid out as a volume is
    policies/      for other verifiers: cosign.sh
    receipts/      what the site answered
    state.json     the inventory imported last, and what is lacking of it

No Airflow, no database, no network. An import goes: kit checked; kit written; withdrawn images out
of sight; each image brought, verified and only then given its tags; ``state.json`` last. Each step
can be done again, so an import that was killed ends, run again, in the same bytes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from longseal.archive.leaf import Leaf
from longseal.canonical import canonical_json, digest_of, is_digest, parse_object
from longseal.errors import (
    ArchiveError,
    LongsealError,
    RefusedError,
    SettingsError,
    VerificationError,
)
from longseal.mirror.arrival import Signed, Vouched
from longseal.mirror.delivery import IMAGES, SITE, push_kit, put_tags, ship
from longseal.mirror.encryption import new_identity, recipient_of
from longseal.mirror.folder import TEMPORARY, read_file, write_file
from longseal.mirror.inventory import Inventory, Item
from longseal.mirror.kit import INVENTORY, INVENTORY_BUNDLE, KEY_SET
from longseal.mirror.parts import PARTS, check, unpack
from longseal.mirror.plan import Shipment
from longseal.mirror.policies import cosign_script
from longseal.mirror.receipt import MAX_RECEIPT_BYTES, Receipt, verify_receipt
from longseal.mirror.volume import Volume, check_item
from longseal.registry.copy import Copied
from longseal.registry.interface import Registry
from longseal.registry.layout import LayoutRegistry
from longseal.seal.keys import fingerprint, public_pem
from longseal.seal.published import TRUSTED_ROOT
from longseal.seal.signers.file import FileSigner
from longseal.seal.trusted_root import parse_trusted_root
from longseal.verify.report import Report, State

CONFIG: Final = "site.json"
STATE: Final = "state.json"
KEY: Final = "key.pem"
AGE: Final = "age.key"
INCOMING: Final = "incoming"
"""Where parts are put together, until they are imported."""

_LIMIT: Final = 16 * 1024 * 1024
_CUT_OFF: Final = "an import was cut off: run it again"


@dataclass(frozen=True, slots=True)
class Imported:
    """The import that came last.

    :param inventory: digest of the inventory's signed bundle
    :param skipped: inventories between it and the one before that never came
    :param lacking: images of the inventory that are kept out of sight, with why
    :param seal: sequence and digest of the newest seal that came; None before the first
    """

    sequence: int
    inventory: str
    skipped: tuple[int, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    seal: tuple[int, str] | None = None

    def format(self) -> bytes:
        """RFC 8785 JSON."""
        return canonical_json(
            {
                "sequence": self.sequence,
                "inventory": self.inventory,
                "skipped": list(self.skipped),
                "lacking": dict(self.lacking),
                "seal": None
                if self.seal is None
                else {"sequence": self.seal[0], "digest": self.seal[1]},
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Imported:
        """The inverse of :meth:`format`."""
        found = parse_object(data, STATE, _LIMIT)
        seal = found["seal"]
        return cls(
            found["sequence"],
            found["inventory"],
            tuple(found["skipped"]),
            found["lacking"],
            None if seal is None else (seal["sequence"], seal["digest"]),
        )


class Site:
    """A site's folder, made by :meth:`create`.

    :raises SettingsError: it is none
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            config = parse_object(read_file(root, CONFIG, _LIMIT), CONFIG)
        except VerificationError as err:
            raise SettingsError("DIR", f"{root} is no site: longseal site init {root}") from err
        self.name: str = config["name"]
        self.organisation_key: str = config["organisationKey"]
        roots = config["timestampRoots"]
        self.timestamp_roots = None if roots is None else frozenset(roots)
        self.quorum: int = config["quorum"]
        self.registry = LayoutRegistry(self.name, root / IMAGES)

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        organisation_key: str,
        timestamp_roots: frozenset[str] | None = None,
        quorum: int = 1,
    ) -> Site:
        """Make a site: what it is told now is what every volume is held against.

        :param organisation_key: the fingerprint, as it was told by other means than a volume
        :raises RefusedError: there is a site already; its anchors are never overwritten
        """
        for told in (organisation_key, *(timestamp_roots or ())):
            if not is_digest(told):
                raise RefusedError(f"expected a fingerprint sha256:<64 hex digits>, found {told!a}")
        if (root / CONFIG).exists():
            raise RefusedError(f"{root} is a site already: what it was told is never overwritten")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ArchiveError(f"{root} cannot be made: {err.strerror}") from err
        signer = FileSigner(root / KEY)
        if not signer.path.exists():
            FileSigner.create(signer.path)
        write_file(root / "key.pub", public_pem(signer.public_key).encode())
        config = {
            "name": name,
            "organisationKey": organisation_key,
            "timestampRoots": None if timestamp_roots is None else sorted(timestamp_roots),
            "quorum": quorum,
        }
        write_file(root / CONFIG, canonical_json(config))
        return cls(root)

    @property
    def signer(self) -> FileSigner:
        """The site's own key."""
        return FileSigner(self.root / KEY)

    @property
    def imported(self) -> Imported | None:
        """What was imported last; None before the first import ended."""
        if not (self.root / STATE).exists():
            return None
        return Imported.parse(read_file(self.root, STATE, _LIMIT))

    @property
    def inventory(self) -> Inventory:
        """The inventory that was imported last.

        :raises RefusedError: nothing was imported yet, or an import was cut off
        """
        return self._last()[1]

    def _last(self) -> tuple[Imported, Inventory]:
        imported = self.imported
        if imported is None:
            raise RefusedError(f"nothing was imported yet: longseal site import {self.root} VOLUME")
        volume = self._volume(self.root)
        if digest_of(volume.read(INVENTORY_BUNDLE)) != imported.inventory:
            raise RefusedError(_CUT_OFF)
        return imported, Inventory.parse(volume.read(INVENTORY))

    def verify(self, report: Report, now: datetime) -> Vouched | None:
        """Verify everything that was imported, as if it had just come."""
        vouched = self._volume(self.root).verify(report, now)
        imported = self.imported
        known = imported.inventory if imported else None
        if vouched is not None and vouched.signed.bundle != known:
            report.add(STATE, State.FAILED, _CUT_OFF)
        return vouched

    def take(self, volume: Path, report: Report, now: datetime) -> Imported | None:
        """Import a volume.

        :returns: None where the volume was refused; nothing was changed then
        :raises ArchiveError: the site's own folder cannot be written
        """
        with self._alone():
            self._sweep()
            if (volume / PARTS).exists():
                if not self._put_together(volume, report):
                    return None
                volume = self.root / INCOMING
            brought = self._volume(volume)
            before = self.imported
            skipped: list[int] = []

            def admit(signed: Signed) -> str:
                skipped.extend(follows(self.name, before, signed))
                missed = f"; never came: {', '.join(map(str, skipped))}" if skipped else ""
                last = f"follows {before.sequence}" if before else "the first here"
                return f"{signed.inventory.sequence}, {last}{missed}"

            vouched = brought.kit.vouch(report, now, admit, self._known_keys())
            if vouched is None:
                self._clear()
                return None
            if before is not None and before.sequence == vouched.signed.inventory.sequence:
                skipped = list(before.skipped)
            imported = self._admit(brought, vouched, tuple(skipped), report)
            self._clear()
            return imported

    def _put_together(self, folder: Path, report: Report) -> bool:
        """Unpack a volume that came in parts, all of them good."""
        if check(report, folder) is None or report.state is not State.PASSED:
            return False

        def unpacked() -> str:
            unpack(folder, self.root / INCOMING, self._identity())
            return "they are one volume"

        if report.attempt("parts", unpacked):
            return True
        self._clear()
        return False

    def _identity(self) -> str | None:
        path = self.root / AGE
        return read_file(self.root, AGE, _LIMIT).decode() if path.exists() else None

    def make_identity(self) -> str:
        """Make the site's age identity, unless it has one; returns the recipient ``age1…``."""
        found = self._identity()
        if found is None:
            found, _ = new_identity()
            descriptor = os.open(self.root / AGE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(found)
        return recipient_of(found)

    def _clear(self) -> None:
        if (self.root / INCOMING).exists():
            shutil.rmtree(self.root / INCOMING)

    def _admit(
        self, brought: Volume, vouched: Vouched, skipped: tuple[int, ...], report: Report
    ) -> Imported:
        inventory = vouched.signed.inventory
        self._keep_kit(brought, vouched.signed)
        for gone in inventory.withdrawn:
            if self.registry.forget(gone.repository, gone.image):
                report.passed(f"{gone.name} withdrawn", gone.reason)
        lacking: dict[str, str] = {}
        for item in inventory.images:
            why = self._bring(brought.registry, item, vouched, report)
            if why is not None:
                lacking[item.name] = why
        last = vouched.seals[-1] if vouched.seals else None
        imported = Imported(
            inventory.sequence,
            vouched.signed.bundle,
            skipped,
            lacking,
            None if last is None else (last.sequence, last.digest),
        )
        self._write_policies(inventory, lacking)
        write_file(self.root / STATE, imported.format())
        return imported

    def _write_policies(self, inventory: Inventory, lacking: Mapping[str, str]) -> None:
        """For the site's other verifiers, from the checked kit."""
        kit = self._volume(self.root)
        leaves = (
            Leaf.parse(line)
            for name in sorted(inventory.files)
            if name.startswith("seals/") and "/leaves/" in name
            for line in kit.read(name).splitlines()
        )
        _, log = parse_trusted_root(kit.read(TRUSTED_ROOT))
        script = cosign_script(inventory, leaves, lacking, log is not None)
        write_file(self.root / "policies/cosign.sh", script.encode())

    def _bring(self, source: Registry, item: Item, vouched: Vouched, report: Report) -> str | None:
        """Bring an image, verify it here, and only then let it be seen.

        :returns: why it is not
        """
        one, moved = Report(item.name), shipment(item)
        try:
            ship(source, self.registry, replace(moved, tags=()))
        except LongsealError as err:
            one.add(f"{item.name} import", State.FAILED, str(err))
        else:
            check_item(one, self.registry, item, vouched)
        if one.state is State.PASSED:
            put_tags(self.registry, moved)
        report.checks += one.checks
        bad = [check.detail for check in one.checks if check.state is not State.PASSED]
        return bad[0] if bad else None

    def _keep_kit(self, brought: Volume, signed: Signed) -> None:
        """Keep the checked kit, the inventory last."""
        names = signed.inventory.files
        for name in names:
            write_file(self.root / SITE / name, brought.kit.read(name))
        for name, data in signed.files.items():
            write_file(self.root / SITE / name, data)
        wanted = {self.root / SITE / name for name in (*names, *signed.files)}
        for path in (self.root / SITE).rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()

    def push(self, target: Registry) -> dict[str, Any]:
        """Bring what the site has verified into a registry of its own; withdrawn images go."""
        imported, inventory = self._last()
        copied, failed = Copied(), {}
        images = [one for one in inventory.images if one.name not in imported.lacking]
        for item in images:
            try:
                copied += ship(self.registry, target, shipment(item))
            except LongsealError as err:
                failed[item.name] = str(err)
        for gone in inventory.withdrawn:
            try:
                if target.manifest(gone.repository, gone.image) is not None:
                    target.delete_manifest(gone.repository, gone.image)
            except LongsealError as err:
                failed[f"{gone.name} (withdrawn)"] = str(err)
        names = [*inventory.files, INVENTORY, INVENTORY_BUNDLE]
        kit = self._volume(self.root)
        written = push_kit(target, {name: kit.read(name) for name in names})
        return {
            "images": len(images),
            **asdict(copied),
            "kit_files": written,
            "failed": failed,
        }

    def receipt(self, now: datetime) -> bytes:
        """The signed answer to the import that came last; asked again, the same bytes.

        :raises RefusedError: nothing was imported yet
        """
        imported, inventory = self._last()
        said = Receipt(
            self.name,
            imported.sequence,
            imported.inventory,
            imported.seal,
            imported.skipped,
            imported.lacking,
            now,
        )
        name = f"receipts/{imported.sequence:06}.sigstore.json"
        signer = self.signer
        key = fingerprint(signer.public_key)
        if (self.root / name).exists():
            data = read_file(self.root, name, MAX_RECEIPT_BYTES)
            if replace(verify_receipt(data, key)[0], signed_at=now) == said:
                return data
        data = said.sign(inventory.organisation, self._volume(self.root).read(INVENTORY), signer)
        write_file(self.root / name, data)
        return data

    def _volume(self, root: Path) -> Volume:
        return Volume(root, self.organisation_key, self.timestamp_roots, self.quorum)

    def _known_keys(self) -> bytes | None:
        path = self.root / SITE / KEY_SET
        return self._volume(self.root).read(KEY_SET) if path.exists() else None

    def _sweep(self) -> None:
        """Remove what a killed import left half written."""
        self._clear()
        for folder, _, files in os.walk(self.root):
            for name in files:
                if name.startswith(TEMPORARY):
                    Path(folder, name).unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One import at a time."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as err:
            raise ArchiveError(f"another import into {self.root} is under way") from err
        finally:
            os.close(descriptor)

    def status(self, now: datetime) -> dict[str, Any]:
        """What the site has, and until when that will do."""
        found: dict[str, Any] = {
            "site": self.name,
            "organisation_key": self.organisation_key,
            "site_key": fingerprint(self.signer.public_key),
            "sequence": None,
        }
        if self.imported is None:
            return found
        imported, inventory = self._last()
        return found | {
            "sequence": imported.sequence,
            "inventory": imported.inventory,
            "created_at": f"{inventory.created_at:%Y-%m-%d}",
            "refresh_by": f"{inventory.refresh_by:%Y-%m-%d}",
            "overdue": inventory.refresh_by < now,
            "images": len(inventory.images) - len(imported.lacking),
            "lacking": dict(imported.lacking),
            "withdrawn": {one.name: one.reason for one in inventory.withdrawn},
            "skipped": list(imported.skipped),
            "seal": None if imported.seal is None else imported.seal[0],
        }


def shipment(item: Item) -> Shipment:
    """An item of the inventory on its way at the site."""
    return Shipment("", item.repository, item.image, item.tags, item.referrers)


def follows(name: str, before: Imported | None, signed: Signed) -> list[int]:
    """Check that an inventory is the one to come next.

    :returns: those between that never came
    :raises VerificationError: it is another site's, older than what is here, or of another history
    """
    inventory = signed.inventory
    if inventory.site != name:
        raise VerificationError(f"the volume is for {inventory.site[:80]!a}, this site is {name}")
    last = before.sequence if before else 0
    if before is not None:
        if inventory.sequence < last:
            raise VerificationError(
                f"inventory {inventory.sequence} is older than {last}, which is here: refused"
            )
        known = {**inventory.predecessors, inventory.sequence: signed.bundle}.get(last)
        if known != before.inventory:
            raise VerificationError(
                f"inventory {inventory.sequence} does not follow the inventory {last} that is"
                " here: two histories; ask the organisation which one is its own"
            )
    return sorted(one for one in inventory.predecessors if last < one)
