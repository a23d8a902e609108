"""Statements on an image over the months: the two newest stay, and each ends."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, seal
from tests.retired import REPOSITORY, harvest_image, put_attested, put_image, trust_double

from longseal.archive.directory import DirectoryArchive
from longseal.canonical import digest_of
from longseal.registry.attach import attach
from longseal.seal import images as images_module
from longseal.seal.bundle import MEDIA_TYPE
from longseal.seal.ceremony import BUNDLE, seal_trusted_root
from longseal.seal.images import KEPT, attach_images, sign_images, statement_folders
from longseal.seal.organisation import anchors_of
from longseal.verify.image import Expectations, verify_image
from longseal.verify.report import Report

START = datetime(2026, 1, 1, tzinfo=UTC)
RELEASES = 4


@pytest.fixture
def stated(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> tuple[Installation, str, list[str]]:
    """An image with an attestation for each of some releases, and a statement of each; the
    statements' digests, oldest first."""
    installation = Installation(tmp_path / "installation", authority)
    sigstore = trust_double(installation, START)
    image, subject = put_image(installation, REPOSITORY, START)
    statements = []
    for number in range(1, RELEASES + 1):
        signed = sigstore.attest(image, at=START + timedelta(days=number))
        attach(installation.registry(), REPOSITORY, subject, MEDIA_TYPE, signed, {})
        workspace = installation.workspace()
        harvest_all(workspace)
        sealed = seal(workspace, f"r-{number}").sealed
        assert sealed is not None
        sign_images(workspace, sealed)
        attach_images(workspace, sealed)
        (folder,) = statement_folders(workspace, number)
        statements.append(digest_of(workspace.archive.get(f"{folder}/{BUNDLE}")))
    return installation, image, statements


def test_the_two_newest_statements_stay_on_an_image_and_the_archive_has_all(
    stated: tuple[Installation, str, list[str]],
) -> None:
    installation, image, statements = stated
    workspace = installation.workspace()
    hanging = {row.bundle for row in workspace.catalog.image_statements({image})}
    assert hanging == set(statements[-KEPT:])
    registry = installation.registry()
    listed = registry.referrers(REPOSITORY, image) or ()
    own = {row.manifest for row in workspace.catalog.image_statements({image})}
    assert own <= {one.digest for one in listed}
    # Beside them the attestations, which nobody touched.
    assert len(listed) == RELEASES + KEPT
    assert len(set(statements)) == RELEASES


def test_a_statement_is_good_until_it_expires_and_no_longer(
    stated: tuple[Installation, str, list[str]],
) -> None:
    installation, image, _ = stated
    workspace = installation.workspace()
    root = seal_trusted_root(workspace)
    expected = Expectations(anchors=anchors_of(workspace), trusted_root=root)
    days = workspace.settings.image_statement_days
    for after, code in ((days - 1, 0), (days + 1, 1)):
        report = Report("image")
        now = workspace.now() + timedelta(days=after)
        verify_image(report, installation.registry(), REPOSITORY, image, expected, now)
        assert report.exit_code == code, report.to_json()
        assert ("expired" in str(report.to_json())) == bool(code)


def test_a_repository_of_attachments_takes_no_statement_for_an_image_that_is_elsewhere(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    sigstore = trust_double(installation, START)
    settings = yaml.safe_load(installation.config.read_text())
    settings["registries"][0]["attachment_repositories"] = ["corp/signatures"]
    settings["policy"][0]["repositories"] = ["corp/*"]
    installation.config.write_text(yaml.safe_dump(settings))
    image, subject = put_image(installation, REPOSITORY, START)
    signed = sigstore.attest(image, at=START + timedelta(days=1))
    attach(installation.registry(), "corp/signatures", subject, MEDIA_TYPE, signed, {})
    workspace = installation.workspace()
    harvest_all(workspace)
    assert [row.verdict for row in workspace.catalog.evidence(repository="corp/signatures")] == [
        "verified"
    ]
    sealed = seal(workspace, "r-1").sealed
    assert sealed is not None
    sign_images(workspace, sealed)
    assert attach_images(workspace, sealed) == {"attached": 0, "removed": 0, "failed": {}}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what is read from the archive."""
    found: list[str] = []
    get = DirectoryArchive.get

    def read(self: DirectoryArchive, key: str, *limit: int) -> bytes:
        found.append(key)
        return get(self, key, *limit)

    monkeypatch.setattr(DirectoryArchive, "get", read)
    return found


@pytest.mark.parametrize("images", [1, 12])
def test_a_rerun_reads_as_little_whether_there_are_few_images_or_many(
    images: int, tmp_path: Path, authority: TimestampAuthorityDouble, reads: list[str]
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    sigstore = trust_double(installation, START)
    for number in range(images):
        put_attested(installation, sigstore, START + timedelta(days=number))
    workspace = installation.workspace()
    harvest_all(workspace)
    sealed = seal(workspace, "r-1").sealed
    assert sealed is not None
    with patch.object(images_module, "MAX_IMAGES", 2):
        signed_first = sign_images(workspace, sealed)
        attach_images(workspace, sealed)
        assert signed_first["key_operations"] == (images + 1) // 2
        operations = installation.key_operations()
        reads.clear()
        again = sign_images(workspace, sealed)
        assert attach_images(workspace, sealed) == {"attached": 0, "removed": 0, "failed": {}}
    assert again == {**signed_first, "key_operations": 0}
    assert reads == ["seals/000001/images/signed.json"]
    assert installation.key_operations() == operations


def test_an_image_that_took_no_statement_gets_it_from_the_rerun(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    sigstore = trust_double(installation, START)
    harvest_image(installation, sigstore, START)
    workspace = installation.workspace()
    sealed = seal(workspace, "r-1").sealed
    assert sealed is not None
    sign_images(workspace, sealed)
    folder, away = installation.folder / "registry", tmp_path / "away"
    folder.rename(away)
    folder.mkdir()
    assert attach_images(installation.workspace(), sealed)["failed"]
    folder.rmdir()
    away.rename(folder)
    again = attach_images(installation.workspace(), sealed)
    assert (again["attached"], again["failed"]) == (1, {})
