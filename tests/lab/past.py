"""Sixty months of evidence in real registries, archived in a real S3 server.

Each month one image is pushed to one of the registries in turn, with a delta of its SBOM, which is
kept for 24 months, and a policy's result, which is kept for ten years. At the end of each year it
is harvested and sealed, by clocks that stand at that time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from longseal.registry.attach import attach
from longseal.registry.discovery import discover
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.model import parse_manifest
from longseal.seal.bundle import MEDIA_TYPE
from longseal.settings import Duration
from longseal.workspace import Workspace, utc_now
from tests.chain import Clock
from tests.doubles.sigstore import IDENTITY, ISSUER
from tests.doubles.sigstore_v2 import SigstoreV2Double, Statement
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal_with_images
from tests.lab.fixtures import Bucket
from tests.lab.lab import PREDICATE_TYPES
from tests.lab.registries import Registry, push_image
from tests.retired import harvest_all

REPOSITORY: Final = "corp/past"
MONTHS: Final = 60
KEPT: Final = Duration(24, "month")
SHORT, _, LONG = PREDICATE_TYPES
"""What is kept for 24 months, and what for ten years."""

_YEAR: Final = 12


Found = dict[str, tuple[Manifest, bytes]]
"""By digest, an attachment's manifest and its one layer."""


@dataclass(frozen=True)
class Dated:
    """An image and its two attestations.

    :param registry: its name in the settings
    :param attachments: by predicate type, the manifest that carries it
    """

    registry: str
    image: str
    at: datetime
    attachments: Mapping[str, Manifest]

    @property
    def due(self) -> bool:
        """Whether the short-lived one is past its retention."""
        return KEPT.after(self.at) <= utc_now()


@dataclass
class Past:
    """What there is at the end of it.

    :param registries: by their names in the settings
    """

    installation: Installation
    registries: Mapping[str, Registry]
    images: list[Dated]

    def workspace(self) -> Workspace:
        return self.installation.workspace()

    def attached(self) -> dict[str, Found]:
        """By image, what its registry lists as attached to it, and has."""
        found: dict[str, Found] = {}
        workspace = self.workspace()
        for dated in self.images:
            registry = workspace.registry(dated.registry)
            seen = discover(registry, REPOSITORY, dated.image, None).record
            assert seen.whole, seen
            of_image = found.setdefault(dated.image, {})
            for digest in seen.found:
                manifest = registry.manifest(REPOSITORY, digest)
                if manifest is not None:
                    (layer,) = parse_manifest(manifest.data).layers
                    blob = registry.blob(REPOSITORY, layer.digest, layer.size)
                    of_image[digest] = (manifest, blob)
        return found

    def reference(self, dated: Dated) -> str:
        return f"{self.registries[dated.registry].host}/{REPOSITORY}@{dated.image}"

    def verification(self, dated: Dated, predicate: str) -> list[str]:
        """The arguments with which stock cosign verifies one of its attestations, offline."""
        root = self.installation.folder / "root.json"
        who = [f"--certificate-identity={IDENTITY}", f"--certificate-oidc-issuer={ISSUER}"]
        what = [f"--trusted-root={root}", f"--type={predicate}", self.reference(dated)]
        return ["verify-attestation", *who, *what]


def month(number: int, now: datetime) -> datetime:
    """When one of the last 60 months began: 0 for the first, 60 for the one that is not over."""
    months = now.year * 12 + now.month - 1 - MONTHS + number
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


@contextmanager
def past(
    folder: Path, bucket: Bucket, registries: Mapping[str, Registry], months: int = MONTHS
) -> Iterator[Past]:
    """Make it in ``folder``; its timestamp authority answers while it is open.

    :param months: how many of the 60 there are, from the first on
    """
    now = utc_now()
    clock = Clock(month(0, now))
    clocks: list[Callable[[], datetime]] = [clock]
    names = list(registries)
    with ExitStack() as stack:
        stack.enter_context(bucket.logged_in())
        authority = stack.enter_context(
            TimestampAuthorityDouble(folder / "tsa", clock=lambda: clocks[-1]())
        )
        sigstore = SigstoreV2Double(clock.at)
        installation = Installation(
            folder / "installation",
            authority,
            {
                "archive": bucket.archive("compliance"),
                "trust": {"trusted_root": "root.json"},
                "registries": [
                    {"name": name, "url": registry.url, "repositories": [REPOSITORY]}
                    for name, registry in registries.items()
                ],
                "policy": [
                    {
                        "repositories": [REPOSITORY],
                        "predicates": [SHORT, LONG],
                        "identities": [{"issuer": ISSUER, "identity": IDENTITY}],
                    }
                ],
                "retention": {
                    "default": str(KEPT),
                    "archive": "10 years",
                    "max_share": 100,
                    "classes": {"results": {"keep": "10 years", "predicates": [LONG]}},
                },
            },
        )
        (installation.folder / "root.json").write_bytes(sigstore.trusted_root())
        made = Past(installation, registries, [])
        for year in range(0, months, _YEAR):
            end = min(year + _YEAR, months)
            for number in range(year, end):
                at = month(number, now) + timedelta(days=10)
                made.images.append(_push(made, sigstore, names[number % len(names)], at))
            clock.at = month(end, now) + timedelta(hours=1)
            workspace = installation.workspace(clock)
            harvest_all(workspace)
            seal_with_images(workspace, f"{month(end - 1, now):%Y-%m}")
        clocks.append(utc_now)
        yield made


def _push(made: Past, sigstore: SigstoreV2Double, name: str, at: datetime) -> Dated:
    digest = push_image(made.registries[name].url, REPOSITORY, f"v{at:%Y-%m}")
    registry = made.workspace().registry(name)
    image = registry.manifest(REPOSITORY, digest)
    assert image is not None
    subject = Descriptor(image.media_type, digest, len(image.data))
    types = (SHORT, LONG)
    bundles = sigstore.attest_all([Statement(digest, one) for one in types], at)
    attachments = {}
    for predicate, bundle in zip(types, bundles, strict=True):
        said: dict[str, Any] = {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": predicate,
        }
        manifest = registry.manifest(
            REPOSITORY, attach(registry, REPOSITORY, subject, MEDIA_TYPE, bundle, said)
        )
        assert manifest is not None
        attachments[predicate] = manifest
    return Dated(name, digest, at, attachments)
