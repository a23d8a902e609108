"""Thirty months of seals, made one after the other at their own times by the library's steps.

Two authorities stamp each seal. In the tenth month the key is rotated; in the twentieth one of the
authorities gives way to another, and the certificate of the one that left ends soon after.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from longseal.registry.attach import attach
from longseal.seal.bundle import MEDIA_TYPE
from longseal.seal.images import attach_images, sign_images
from longseal.seal.key_history import rotate
from longseal.seal.signers.file import FileSigner
from longseal.workspace import Workspace
from tests.doubles.sigstore import IDENTITY, ISSUER, PREDICATE
from tests.doubles.sigstore_v2 import SigstoreV2Double, Statement
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, seal
from tests.retired import put_image

REPOSITORY: Final = "corp/app"
FIRST: Final = datetime(2024, 5, 1, tzinfo=UTC)
MONTHS: Final = 30
KEY_ROTATED: Final = 10
AUTHORITY_CHANGED: Final = 20
QUORUM: Final = 2
_YEARS: Final = timedelta(days=3650)


def month(number: int) -> datetime:
    """When the month with this number begins, counted from 1."""
    months = FIRST.month - 1 + number - 1
    return FIRST.replace(year=FIRST.year + months // 12, month=months % 12 + 1)


@dataclass
class Clock:
    """What everything in a chain takes for the time."""

    at: datetime

    def __call__(self) -> datetime:
        return self.at


@dataclass
class Chain:
    """:param images: digests by month, oldest first"""

    installation: Installation
    clock: Clock
    images: list[str]
    authorities: list[TimestampAuthorityDouble]

    def workspace(self) -> Workspace:
        """Opened an hour after the end of the last month."""
        return self.installation.workspace(self.clock)


@contextmanager
def chain_of(folder: Path, months: int = MONTHS) -> Iterator[Chain]:
    """Make a chain in ``folder``; its authorities answer while it is open."""
    clock = Clock(FIRST)
    with ExitStack() as stack:

        def authority(name: str, life: timedelta) -> TimestampAuthorityDouble:
            double = TimestampAuthorityDouble(folder / name, name, life=life, clock=clock)
            return stack.enter_context(double)

        leaving = authority("leaving", month(AUTHORITY_CHANGED + 3) - FIRST)
        staying = authority("staying", _YEARS)
        installation = Installation(folder / "installation", leaving)
        sigstore = SigstoreV2Double(FIRST)
        (installation.folder / "root.json").write_bytes(sigstore.trusted_root())
        FileSigner.create(installation.folder / "next.pem")
        changes: dict[str, Any] = {
            "trust": {"trusted_root": "root.json"},
            "policy": [
                {
                    "repositories": [REPOSITORY],
                    "predicates": ["**"],
                    "identities": [{"issuer": ISSUER, "identity": IDENTITY}],
                }
            ],
            "timestamps": [_listed(leaving), _listed(staying)],
            "timestamp_quorum": QUORUM,
            "next_signer": {"kind": "file", "path": "next.pem"},
        }
        chain = Chain(installation, clock, [], [leaving, staying])
        for number in range(1, months + 1):
            if number == AUTHORITY_CHANGED:
                clock.at = month(number)
                coming = authority("coming", _YEARS)
                chain.authorities.append(coming)
                changes["timestamps"] = [
                    {**_listed(leaving), "retired": True},
                    _listed(staying),
                    _listed(coming),
                ]
            installation.write(**changes)
            clock.at = month(number) + timedelta(days=10)
            image, subject = put_image(installation, REPOSITORY, clock.at)
            bundles = sigstore.attest_all(
                [Statement(image, PREDICATE, {"month": number})], clock.at
            )
            for bundle in bundles:
                attach(installation.registry(), REPOSITORY, subject, MEDIA_TYPE, bundle, {})
            chain.images.append(image)
            clock.at += timedelta(hours=1)
            workspace = installation.workspace(clock)
            harvest_all(workspace)
            clock.at = month(number + 1) + timedelta(hours=1)
            if number == KEY_ROTATED:
                rotate(workspace)
            sealed = seal(workspace, f"{month(number):%Y-%m}").sealed
            assert sealed is not None
            sign_images(workspace, sealed)
            attach_images(workspace, sealed)
        yield chain


def _listed(authority: TimestampAuthorityDouble) -> dict[str, Any]:
    return {"url": authority.url, "certificates": str(authority.chain_path)}
