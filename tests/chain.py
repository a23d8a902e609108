"""A chain of monthly seals, with another key and another authority within.

Made in one of two ways: month after month at its own time by the library's steps, so that
certificates end meanwhile; or when all months are over, by a backfill under Airflow's scheduler.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from longseal.registry.attach import attach
from longseal.seal.bundle import MEDIA_TYPE
from longseal.seal.key_history import rotate
from longseal.seal.proof_folder import prove
from longseal.seal.signers.file import FileSigner
from longseal.workspace import Workspace, utc_now
from tests.airflow_home import Airflow
from tests.doubles.sigstore import IDENTITY, ISSUER, PREDICATE
from tests.doubles.sigstore_v2 import SigstoreV2Double, Statement
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, rule, seal_with_images
from tests.proven import Proven
from tests.retired import put_image
from tests.scheduler import Run, scheduler

REPOSITORY: Final = "corp/app"
QUORUM: Final = 2
_YEARS: Final = timedelta(days=3650)
_PATIENCE: Final = 1200.0
"""Seconds for one backfill."""


@dataclass
class Clock:
    """What everything in a chain takes for the time."""

    at: datetime

    def __call__(self) -> datetime:
        return self.at


@dataclass
class Chain:
    """An installation that two authorities stamp for.

    :param first: when the first month begins
    :param clock: gives its time
    :param images: digests by month, oldest first
    """

    folder: Path
    first: datetime
    clock: Callable[[], datetime]
    stack: ExitStack
    authorities: list[TimestampAuthorityDouble] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sigstore = SigstoreV2Double(self.first)

    def month(self, number: int) -> datetime:
        """When the month with this number begins, counted from 1."""
        months = self.first.month - 1 + number - 1
        return self.first.replace(year=self.first.year + months // 12, month=months % 12 + 1)

    def period(self, number: int) -> str:
        """The name of the month with this number."""
        return f"{self.month(number):%Y-%m}"

    def workspace(self) -> Workspace:
        """Opened now, by the chain's clock."""
        return self.installation.workspace(self.clock)

    def proofs(self, numbers: Iterable[int]) -> dict[int, Proven]:
        """By month, the proof of its attestation."""
        workspace = self.workspace()
        return {
            number: Proven.of(
                prove(workspace, self.images[number - 1], self.folder / "proofs" / str(number))[0],
                workspace,
            )
            for number in numbers
        }

    def install(self, *lives: timedelta) -> None:
        """Install Longseal, with an authority for each of these lives."""
        for number, life in enumerate(lives, 1):
            self._open(f"authority-{number}", life)
        self.installation = Installation(self.folder / "installation", self.authorities[0])
        (self.installation.folder / "root.json").write_bytes(self._sigstore.trusted_root())
        FileSigner.create(self.installation.folder / "next.pem")
        self._write([one.listed() for one in self.authorities])

    def change_authority(self) -> None:
        """The first authority is asked no more; a new one is."""
        leaving, *staying = self.authorities
        staying.append(self._open("authority-new", _YEARS))
        self._write([leaving.listed(retired=True), *(one.listed() for one in staying)])

    def attest(self, number: int) -> None:
        """Put an image into the registry, attested on the eleventh of the month."""
        at = self.month(number) + timedelta(days=10)
        image, subject = put_image(self.installation, REPOSITORY, at)
        for bundle in self._sigstore.attest_all([Statement(image, PREDICATE)], at):
            attach(self.installation.registry(), REPOSITORY, subject, MEDIA_TYPE, bundle, {})
        self.images.append(image)

    def _open(self, name: str, life: timedelta) -> TimestampAuthorityDouble:
        double = TimestampAuthorityDouble(self.folder / name, name, life=life, clock=self.clock)
        self.authorities.append(self.stack.enter_context(double))
        return double

    def _write(self, timestamps: list[dict[str, Any]]) -> None:
        self.installation.write(
            trust={"trusted_root": "root.json"},
            policy=[rule({"issuer": ISSUER, "identity": IDENTITY}, "**", REPOSITORY)],
            timestamps=timestamps,
            timestamp_quorum=QUORUM,
            next_signer={"kind": "file", "path": "next.pem"},
        )


@contextmanager
def aged(
    folder: Path, first: datetime, months: int, key_rotated: int, authority_changed: int
) -> Iterator[Chain]:
    """A chain whose months were sealed as they ended; its authorities answer while it is open.

    The certificate of the authority that left ends two months after the change.
    """
    clock = Clock(first)
    with ExitStack() as stack:
        chain = Chain(folder, first, clock, stack)
        chain.install(chain.month(authority_changed + 3) - first, _YEARS)
        for number in range(1, months + 1):
            if number == authority_changed:
                clock.at = chain.month(number)
                chain.change_authority()
            clock.at = chain.month(number) + timedelta(days=10, hours=1)
            chain.attest(number)
            workspace = chain.workspace()
            harvest_all(workspace)
            clock.at = chain.month(number + 1) + timedelta(hours=1)
            if number == key_rotated:
                rotate(workspace)
            seal_with_images(workspace, chain.period(number))
        yield chain


@contextmanager
def backfilled(folder: Path, airflow: Airflow, months: int, changed: int) -> Iterator[Chain]:
    """A chain of the last months, all over, sealed today by two backfills of Airflow's own.

    :param changed: number of the first month of the second backfill; before it the key is rotated
        and the authority changed
    """
    this = utc_now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    back = this.year * 12 + this.month - 1 - months
    first = datetime(back // 12, back % 12 + 1, 1, tzinfo=UTC)
    with ExitStack() as stack:
        chain = Chain(folder, first, utc_now, stack)
        chain.install(_YEARS, _YEARS)
        for number in range(1, months + 1):
            chain.attest(number)
        harvest_all(chain.workspace())
        environment = {"LONGSEAL_CONFIG": str(chain.installation.config)}
        with scheduler(airflow, folder / "airflow", environment) as running:

            def backfill(start: int, end: int) -> None:
                running.backfill("longseal_reseal", chain.period(start), chain.period(end))
                _require_sealed(running.wait("longseal_reseal", _PATIENCE), end)

            backfill(1, changed - 1)
            rotate(chain.workspace())
            chain.change_authority()
            backfill(changed, months)
        yield chain


def _require_sealed(runs: list[Run], count: int) -> None:
    assert len(runs) == count
    assert {run.kind for run in runs} == {"backfill"}
    # Without a secret for receipts there is nothing to map a recheck over.
    assert {run.tasks.pop("recheck_packs") for run in runs} == {("skipped", 0)}
    assert {state for run in runs for state, _ in run.tasks.values()} == {"success"}
