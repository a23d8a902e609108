"""A volume as it arrived, or a site's own copy of it: is it whole, and does all of it verify?"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from longseal.errors import VerificationError
from longseal.mirror.arrival import MAX_FILE_BYTES, SiteKit, Vouched
from longseal.mirror.delivery import IMAGES, SITE
from longseal.mirror.folder import file_digest, read_file
from longseal.mirror.inventory import Item
from longseal.registry.interface import Registry
from longseal.registry.layout import LayoutRegistry
from longseal.seal.signers.interface import PublicKey
from longseal.verify.image import verify_image
from longseal.verify.report import Report


class Volume:
    """``images/`` and ``site/`` below ``root``; read bounded, and never through links.

    The other parameters are those of :class:`~longseal.mirror.arrival.SiteKit`.
    """

    def __init__(
        self,
        root: Path,
        key: PublicKey | str,
        timestamp_roots: frozenset[str] | None = None,
        quorum: int = 1,
    ) -> None:
        self._root = root
        self.kit = SiteKit(self.read, key, timestamp_roots, quorum)
        self.registry = LayoutRegistry("volume", root / IMAGES)

    def read(self, name: str) -> bytes:
        """A file of the kit; see :func:`~longseal.mirror.folder.read_file`."""
        return read_file(self._root, f"{SITE}/{name}", MAX_FILE_BYTES)

    def verify(self, report: Report, now: datetime) -> Vouched | None:
        """Check everything, the anchor first: what it does not vouch for is not looked at."""
        vouched = self.kit.vouch(report, now)
        if vouched is None:
            return None
        for item in vouched.signed.inventory.images:
            check_item(report, self.registry, item, vouched)
            check_tags(report, self.registry, item)
        report.attempt("blobs", self._blobs)
        return vouched

    def _blobs(self) -> str:
        """Every blob of the layouts has its name's digest."""
        count = 0
        for path in sorted((self._root / IMAGES).rglob("blobs/sha256/*")):
            if file_digest(path) != f"sha256:{path.name}":
                raise VerificationError(f"the blob {path.name} has other bytes")
            count += 1
        return f"{count} blobs have the digests that name them"


def check_item(report: Report, registry: Registry, item: Item, vouched: Vouched) -> None:
    """Verify an image where it is, and look for everything that travelled with it."""
    verify_image(report, registry, item.repository, item.image, vouched.expected, vouched.now)

    def present() -> str:
        for digest in item.referrers:
            if registry.manifest(item.repository, digest) is None:
                raise VerificationError(f"{digest} is missing")
        return f"{len(item.referrers)} attachments"

    report.attempt(f"{item.name} inventory", present)


def check_tags(report: Report, registry: Registry, item: Item) -> None:
    """Whether the image has the tags of the inventory."""

    def named() -> str:
        for tag in item.tags:
            if registry.resolve(item.repository, tag) != item.image:
                raise VerificationError(f"the tag {tag} names another image")
        return ", ".join(item.tags)

    if item.tags:
        report.attempt(f"{item.name} tags", named)
