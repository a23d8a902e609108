"""The site's side: is what a volume brought whole, and does all of it verify with no network?"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from longseal.archive.leaf import Leaf
from longseal.canonical import digest_of, is_digest, parse_object, parse_timestamp
from longseal.errors import MalformedError, VerificationError
from longseal.mirror.delivery import IMAGES, KIT_REPOSITORY
from longseal.mirror.kit import INVENTORY, INVENTORY_BUNDLE, KEY_SET, ORGANISATION_KEY
from longseal.registry.artifact import TITLE
from longseal.registry.interface import Registry
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import check_repository, parse_manifest
from longseal.seal.key_history import read_history, successors
from longseal.seal.keys import KeySet, fingerprint, load_public_pem
from longseal.seal.proof import Anchors, verify_chain, verify_seal, verify_statement
from longseal.seal.published import TRUSTED_ROOT, Published
from longseal.seal.signers.interface import PublicKey
from longseal.verify.engine import Engine
from longseal.verify.image import Expectations, verify_image
from longseal.verify.policy import Policy
from longseal.verify.report import Report, State
from longseal.verify.trust import TrustMaterial

MAX_FILE_BYTES: Final = 128 * 1024 * 1024
_CHUNK: Final = 1024 * 1024


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
        self.read = read
        self._key = key
        self._timestamp_roots = timestamp_roots
        self._quorum = quorum

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

    def with_keys(self, anchors: Anchors) -> Anchors:
        """``anchors`` with the other keys of the key set, which the checked kit has."""
        return replace(anchors, keys=KeySet.parse(self.read(KEY_SET)))

    def inventory(self, anchors: Anchors) -> dict[str, Any]:
        """The inventory, once the organisation's signature over it holds.

        :raises VerificationError: it does not
        """
        data = self.read(INVENTORY)
        statement, _ = verify_statement(
            self.read(INVENTORY_BUNDLE), anchors, self.read(TRUSTED_ROOT), "inventory"
        )
        if statement.subjects[0].digest.get("sha256") != digest_of(data)[7:]:
            raise VerificationError(f"{INVENTORY} has other bytes than the signature says")
        return parse_object(data, INVENTORY, MAX_FILE_BYTES)

    def check(self, listed: Mapping[str, str]) -> str:
        """Compare every file with the inventory.

        :raises VerificationError: naming the first that differs
        """
        for name, digest in listed.items():
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise MalformedError(f"the inventory lists the file {name[:80]!r}")
            if digest_of(self.read(name)) != digest:
                raise VerificationError(f"site/{name} has other bytes than the inventory says")
        return f"{len(listed)} files are what the inventory says"

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


class Volume:
    """A volume as it arrived; every file of its kit is read bounded, and never through links.

    The parameters are those of :class:`SiteKit`.
    """

    def __init__(
        self,
        root: Path,
        key: PublicKey | str,
        timestamp_roots: frozenset[str] | None = None,
        quorum: int = 1,
    ) -> None:
        self._root = root
        self._kit = SiteKit(self.read, key, timestamp_roots, quorum)
        self.registry = LayoutRegistry("volume", root / IMAGES)

    def read(self, name: str) -> bytes:
        """A file of the kit.

        :raises VerificationError: it is not there
        :raises MalformedError: it is no plain file, or too large
        """
        path = self._root / "site" / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as err:
            raise VerificationError(f"site/{name} cannot be read: {err.strerror}") from err
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
                raise MalformedError(f"site/{name} is no file of at most {MAX_FILE_BYTES} bytes")
            return file.read()

    def verify(self, report: Report, now: datetime) -> None:
        """Check everything, the anchor first: what it does not vouch for is not looked at."""
        anchors: list[Anchors] = []
        inventory: dict[str, Any] = {}

        def key() -> str:
            anchors.append(self._kit.anchors())
            return f"the organisation's key is {fingerprint(anchors[0].key)}"

        def listed() -> str:
            inventory.update(self._kit.inventory(anchors[0]))
            return f"inventory {inventory['sequence']} for {inventory['site']}, signed by our key"

        if not report.attempt("key", key) or not report.attempt("inventory", listed):
            return
        refresh = parse_timestamp(inventory["refreshBy"])
        if refresh < now:
            report.add(
                "refresh", State.FAILED, f"the site had to be refreshed by {refresh:%Y-%m-%d}"
            )
        if not report.attempt("files", lambda: self._kit.check(inventory["files"])):
            return
        anchors[0] = self._kit.with_keys(anchors[0])
        seals: list[tuple[Published, list[bytes]]] = []
        folders = sorted(
            {"/".join(name.split("/")[:2]) for name in inventory["files"] if "seals/" in name}
        )
        for folder in folders:

            def sealed(folder: str = folder) -> str:
                seals.append(verify_seal(lambda name: self.read(f"{folder}/{name}"), anchors[0]))
                seal = seals[-1][0]
                return f"{seal.period}: {seal.size} attestations, root {seal.root[:16]}…"

            report.attempt(folder, sealed)
        report.attempt("chain", lambda: self._chain([seal for seal, _ in seals]))
        covered = {
            (leaf.sha256, leaf.image) for _, lines in seals for leaf in map(Leaf.parse, lines)
        }
        expected = self._kit.expectations(anchors[0], covered)
        for item in inventory["images"]:
            repository = check_repository(item["repository"])
            verify_image(report, self.registry, repository, item["image"], expected, now)
            self._attached(report, item)
        report.attempt("blobs", self._blobs)

    def _chain(self, seals: list[Published]) -> str:
        verify_chain(seals)
        return f"{len(seals)} seals follow each other"

    def _attached(self, report: Report, item: Mapping[str, Any]) -> None:
        """Everything that the inventory says travelled with an image is there."""
        repository = str(item["repository"])

        def present() -> str:
            for digest in item["referrers"]:
                if not is_digest(digest) or self.registry.manifest(repository, digest) is None:
                    raise VerificationError(f"{digest} is missing")
            for tag in item["tags"]:
                if self.registry.resolve(repository, tag) != item["image"]:
                    raise VerificationError(f"the tag {tag} names another image")
            return f"{len(item['referrers'])} attachments and {len(item['tags'])} tags"

        report.attempt(f"{repository}@{item['image']} inventory", present)

    def _blobs(self) -> str:
        """Every blob of the layouts has its name's digest."""
        import hashlib

        count = 0
        for path in sorted((self._root / IMAGES).rglob("blobs/sha256/*")):
            hasher = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    hasher.update(chunk)
            if hasher.hexdigest() != path.name:
                raise VerificationError(f"the blob {path.name} has other bytes")
            count += 1
        return f"{count} blobs have the digests that name them"
