"""What goes wrong while a month is sealed: each a clear error, and nothing worse than that.

No other bytes than the claimed ones are ever signed, each key operation is in the ledger, nothing
is published that did not check, and the run after it ends as if nothing had happened.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.doubles.kms import KmsDouble
from tests.doubles.rekor_v2 import Mode as LogMode
from tests.doubles.rekor_v2 import RekorV2Double
from tests.doubles.timestamp_authority import Mode as StampMode
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import STEPS, Installation, seal
from tests.retired import SIGNED_AT, harvest_image, trust_double

from longseal.archive.directory import DirectoryArchive
from longseal.archive.interface import Stored
from longseal.audit.audit import audit
from longseal.errors import (
    ArchiveError,
    LogError,
    LongsealError,
    RetryableError,
    SignerError,
    TimestampError,
    VerificationError,
)
from longseal.seal.ceremony import Ceremony
from longseal.seal.images import sign_images
from longseal.seal.keys import public_pem, verify_signature
from longseal.seal.organisation import organisation_key
from longseal.seal.published import published
from longseal.seal.reseal import Reseal
from longseal.seal.signers.file import FileSigner
from longseal.seal.statement import PAYLOAD_TYPE, pae
from longseal.settings import load
from longseal.verify.report import State
from longseal.workspace import Workspace, utc_now

PERIOD = "r-one"


class Killed(BaseException):
    """The process is gone: no handler of the code under test takes this."""


class DyingArchive(DirectoryArchive):
    """An archive in a process that is killed before its nth write, not counting documents."""

    def __init__(self, root: Path, before: int) -> None:
        super().__init__(root)
        self.before = before
        self.writes: list[str] = []

    def put(
        self, key: str, data: bytes, retain_until: object = None, cold_days: int | None = None
    ) -> Stored:
        if not key.startswith("objects/"):
            if len(self.writes) >= self.before:
                raise Killed(key)
            self.writes.append(key)
        return super().put(key, data, retain_until, cold_days)  # type: ignore[arg-type]


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the key was made to sign, in order."""
    messages: list[bytes] = []
    sign = FileSigner.sign

    def noted(self: FileSigner, message: bytes) -> bytes:
        messages.append(message)
        return sign(self, message)

    monkeypatch.setattr(FileSigner, "sign", noted)
    return messages


@pytest.fixture(scope="module")
def one_image_once(
    tmp_path_factory: pytest.TempPathFactory, authority: TimestampAuthorityDouble
) -> Installation:
    """One attested image, harvested; nothing was signed yet, and no key set is there."""
    installation = Installation(tmp_path_factory.mktemp("one") / "installation", authority)
    harvest_image(installation, trust_double(installation, SIGNED_AT), SIGNED_AT)
    return installation


def claimed(installation: Installation) -> set[bytes]:
    """The messages of all statements that are claimed in the archive."""
    workspace = installation.workspace()
    return {
        pae(PAYLOAD_TYPE, workspace.archive.get(key))
        for key in workspace.archive.keys("seals/")
        if key.endswith("/statement.json")
    }


def begun(installation: Installation) -> int:
    walk = installation.workspace().ledger.walk()
    return sum(entry.action == "key.operation.begun" for entry in walk)


def run(workspace: Workspace) -> None:
    reseal = seal(workspace, PERIOD)
    assert reseal.sealed is not None
    sign_images(workspace, reseal.sealed)


def test_a_run_killed_before_any_write_is_finished_by_the_next(
    one_image_once: Installation, tmp_path: Path, signed: list[bytes]
) -> None:
    before, writes = 0, 0
    while True:
        signed.clear()
        installation = one_image_once.copy(tmp_path / str(before))
        workspace = installation.workspace()
        archive = DyingArchive(installation.folder / "archive", before)
        workspace.__dict__["archive"] = archive
        try:
            run(workspace)
        except Killed:
            pass
        else:
            break
        killed_at = f"write {before} ({archive.writes[-1:]})"
        assert set(signed) <= claimed(installation), killed_at
        assert begun(installation) >= len(signed), killed_at
        run(installation.workspace())
        seals = published(installation.workspace())
        assert [one.period for one in seals] == [PERIOD], killed_at
        assert set(signed) <= claimed(installation), killed_at
        assert begun(installation) >= len(signed), killed_at
        report = audit(installation.workspace())
        assert report.state is State.PASSED, (killed_at, report.to_json())
        again = installation.files()
        run(installation.workspace())
        assert installation.files() == again, killed_at
        before, writes = before + 1, len(archive.writes)
        shutil.rmtree(installation.folder)
    # Key set, claim, recheck, signature, timestamps, bundle, seal, renewal, the same of the image
    # statement, and the ledger between them.
    assert writes > 20


def test_two_runs_at_once_make_one_seal(harvested: Installation, signed: list[bytes]) -> None:
    start = threading.Barrier(2)
    failures: list[BaseException] = []

    def one_of_them() -> None:
        start.wait()
        try:
            run(harvested.workspace())
        except RetryableError:
            # What a task does then.
            run(harvested.workspace())
        except BaseException as err:
            failures.append(err)

    threads = [threading.Thread(target=one_of_them) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [one.period for one in published(harvested.workspace())] == [PERIOD]
    assert set(signed) <= claimed(harvested)
    assert harvested.key_operations() == len(signed)
    assert audit(harvested.workspace()).state is State.PASSED


def test_a_run_that_another_overtakes_while_it_freezes_seals_nothing_a_second_time(
    harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked, and found nothing sealed; then it judged old evidence again, for minutes."""
    from longseal import judgement

    apply = judgement.apply
    overtaken: list[Reseal] = []

    def slowly(workspace: Workspace) -> object:
        if not overtaken:
            overtaken.append(None)  # type: ignore[arg-type]
            overtaken[0] = seal(harvested.workspace(), PERIOD)
        return apply(workspace)

    monkeypatch.setattr("longseal.seal.reseal.judgement.apply", slowly)
    late = seal(harvested.workspace(), PERIOD)
    assert late.sealed is not None and overtaken[0].sealed is not None
    assert late.sealed.digest == overtaken[0].sealed.digest
    assert len(published(harvested.workspace())) == 1
    assert harvested.key_operations() == 1
    claims = [e for e in harvested.workspace().ledger.walk() if e.action == "seal.claimed"]
    assert len(claims) == 1


@pytest.mark.parametrize("refused", ["signature.json", "seal.sigstore.json", "renewal.sha512"])
def test_an_archive_that_refuses_a_write_is_named_and_the_next_run_ends_well(
    harvested: Installation, refused: str, signed: list[bytes]
) -> None:
    workspace = harvested.workspace()
    put = workspace.archive.put

    def refusing(key: str, data: bytes, retain_until: object = None) -> Stored:
        if key.endswith(f"/{refused}"):
            raise ArchiveError(f"{key}: the archive refused the write: AccessDenied")
        return put(key, data, retain_until)  # type: ignore[arg-type]

    workspace.archive.put = refusing  # type: ignore[method-assign]
    with pytest.raises(ArchiveError, match="refused the write"):
        seal(workspace, PERIOD)
    assert harvested.key_operations() == len(signed) == 1
    seal(harvested.workspace(), PERIOD)
    # The signature that was lost is made again; it is over the same bytes, and in the ledger.
    assert harvested.key_operations() == len(signed) == (2 if refused == "signature.json" else 1)
    assert set(signed) <= claimed(harvested)
    assert len(set(signed)) == 1


@pytest.mark.parametrize(
    "mode", ["down", "silent", "garbage", "other-digest", "other-key", "rejection", "unsorted"]
)
def test_an_authority_that_answers_badly_costs_no_second_signature(
    harvested: Installation, mode: StampMode
) -> None:
    harvested.authority.mode = mode
    try:
        with pytest.raises(TimestampError, match=harvested.authority.url):
            seal(harvested.workspace(), PERIOD)
    finally:
        harvested.authority.mode = "honest"
    assert published(harvested.workspace()) == []
    assert not list(harvested.workspace().archive.keys("seals/000001/1/timestamps"))
    seal(harvested.workspace(), PERIOD)
    assert harvested.key_operations() == 1


def test_an_authority_whose_chain_has_expired_stamps_no_seal(
    harvested: Installation, tmp_path: Path
) -> None:
    day = timedelta(days=1)
    with TimestampAuthorityDouble(tmp_path / "old", age=3 * day, life=2 * day) as expired:
        harvested.write(timestamps=[expired.listed()])
        with pytest.raises(TimestampError, match=expired.url):
            seal(harvested.workspace(), PERIOD)
    assert published(harvested.workspace()) == []


@pytest.fixture
def log(harvested: Installation) -> Iterator[RekorV2Double]:
    with RekorV2Double() as double:
        (harvested.folder / "rekor.pem").write_text(public_pem(double.key.public_key()))
        rekor = {"url": double.url, "public_key": "rekor.pem", "origin": double.origin}
        harvested.write(rekor=rekor)
        yield double


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("down", LogError),
        ("wrong-path", VerificationError),
        ("other-log", VerificationError),
        ("other-entry", VerificationError),
    ],
)
def test_a_log_that_is_down_or_proves_nothing_is_asked_again_and_nothing_is_published(
    harvested: Installation, log: RekorV2Double, mode: LogMode, error: type[LongsealError]
) -> None:
    log.mode = mode
    with pytest.raises(error):
        seal(harvested.workspace(), PERIOD)
    assert published(harvested.workspace()) == []
    log.mode = "honest"
    sealed = seal(harvested.workspace(), PERIOD).sealed
    assert sealed is not None
    assert harvested.key_operations() == 1
    assert audit(harvested.workspace()).state is State.PASSED


@pytest.fixture
def kms(harvested: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[KmsDouble]:
    monkeypatch.setenv("KMS_KEY", "AKIATEST")
    monkeypatch.setenv("KMS_SECRET", "5ecre7")
    with KmsDouble() as double:
        key = double.create("org")
        login = {"access_key_env": "KMS_KEY", "secret_key_env": "KMS_SECRET"}
        signer = {"kind": "aws-kms", "key_id": key.arn, "endpoint": double.url, **login}
        harvested.write(signer=signer)
        yield double


def _throttle(kms: KmsDouble) -> None:
    kms.planned.extend(["ThrottlingException"] * 50)


def _imitate(kms: KmsDouble) -> None:
    kms.impostor, kms.confesses = kms.create("impostor"), False


def _deny(kms: KmsDouble) -> None:
    kms.denied.add("Sign")


def _break(kms: KmsDouble) -> None:
    kms.planned.extend(["500"] * 20)


@pytest.mark.parametrize("spoil", [_throttle, _imitate, _deny, _break])
def test_a_kms_that_fails_between_two_operations_loses_none_of_them(
    harvested: Installation, kms: KmsDouble, spoil: Callable[[KmsDouble], None]
) -> None:
    def workspace() -> Workspace:
        return Workspace(load(harvested.config, {}), environ=os.environ)

    sealed = seal(workspace(), PERIOD).sealed
    assert sealed is not None
    spoil(kms)
    with pytest.raises(LongsealError):
        sign_images(workspace(), sealed)
    assert not Ceremony(workspace(), "seals/000001/images/0001").signed
    operations = harvested.key_operations()
    assert operations in (1, 2)
    assert operations >= kms.signatures
    kms.planned.clear()
    kms.denied.clear()
    kms.impostor = None
    assert sign_images(workspace(), sealed)["key_operations"] == 1
    assert harvested.key_operations() == operations + 1 >= kms.signatures
    ceremony = Ceremony(workspace(), "seals/000001/images/0001")
    key = organisation_key(workspace()).key
    verify_signature(key, ceremony.signature(), pae(PAYLOAD_TYPE, ceremony.statement()))


def test_a_signature_by_another_key_is_never_kept(harvested: Installation, kms: KmsDouble) -> None:
    _imitate(kms)
    with pytest.raises(SignerError, match=r"its own public key .* refuses"):
        seal(Workspace(load(harvested.config, {}), environ=os.environ), PERIOD)
    assert not list(harvested.workspace().archive.keys("seals/000001/1/signature"))
    assert harvested.key_operations() == 1


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_a_day_wrong_gets_no_timestamp_and_no_seal(
    harvested: Installation, days: int
) -> None:
    wrong = Workspace(load(harvested.config, {}), clock=lambda: utc_now() + timedelta(days=days))
    with pytest.raises(TimestampError, match="clock"):
        seal(wrong, PERIOD)
    assert published(harvested.workspace()) == []
    reseal = Reseal(harvested.workspace(), PERIOD)
    if days > 0:
        # It is frozen as of tomorrow: no timestamp of today may be kept for it.
        with pytest.raises(TimestampError, match="frozen by a clock that was ahead"):
            reseal.timestamp()
        assert published(harvested.workspace()) == []
    else:
        assert seal(harvested.workspace(), PERIOD).sealed is not None
        assert audit(harvested.workspace()).state is State.PASSED
    assert harvested.key_operations() == 1


@pytest.mark.parametrize("last", [None, "freeze"])
def test_evidence_that_is_missing_when_the_month_closes_stops_the_seal(
    harvested: Installation, last: str | None
) -> None:
    reseal = Reseal(harvested.workspace(), PERIOD)
    if last is not None:
        reseal.freeze()
    pack = next((harvested.folder / "archive/packs/sha256").glob("*.zip"))
    pack.rename(harvested.folder / "lost.zip")
    with pytest.raises((ArchiveError, VerificationError), match=pack.stem[:16]):
        for step in STEPS if last is None else STEPS[1:]:
            getattr(Reseal(harvested.workspace(), PERIOD), step)()
    assert harvested.key_operations() == 0
    (harvested.folder / "lost.zip").rename(pack)
    sealed = seal(harvested.workspace(), PERIOD).sealed
    assert sealed is not None and sealed.size == 100
