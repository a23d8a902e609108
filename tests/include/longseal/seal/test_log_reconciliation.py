"""The transparency log's entries by the organisation's keys, held against the archive."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from tests.doubles.rekor_v2 import RekorV2Double
from tests.doubles.tile_log import FileServer, TileLogDouble
from tests.installation import Installation, seal

from longseal import cli
from longseal.errors import VerificationError
from longseal.seal.images import sign_images
from longseal.seal.key_report import reconcile_log
from longseal.seal.keys import public_pem
from longseal.seal.rekor import log_entry
from longseal.seal.signers.file import FileSigner
from longseal.seal.signers.interface import Signer


@dataclass(frozen=True)
class Logged:
    """A seal and its image statement in a log, whose entries are published as tiles."""

    installation: Installation
    log: RekorV2Double
    tiles: TileLogDouble

    def enter(self, signer: Signer, message: bytes) -> None:
        """What anybody does who holds a key."""
        digest = sha256(message).digest()
        log_entry(self.log.url, digest, signer.sign(message), signer.public_key)
        self.tiles.publish(self.log.entries)


@pytest.fixture
def logged(harvested: Installation, tmp_path: Path) -> Iterator[Logged]:
    folder = tmp_path / "tiles"
    folder.mkdir()
    with RekorV2Double() as log, FileServer(folder) as server:
        (harvested.folder / "rekor.pem").write_text(public_pem(log.key.public_key()))
        harvested.write(
            rekor={"url": log.url, "public_key": "rekor.pem", "origin": log.origin},
            log_watch={"url": server.url, "origin": log.origin},
        )
        workspace = harvested.workspace()
        sealed = seal(workspace, "r-1").sealed
        assert sealed is not None
        sign_images(workspace, sealed)
        tiles = TileLogDouble(folder)
        tiles.origin, tiles.key = log.origin, log.key
        tiles.publish(log.entries)
        yield Logged(harvested, log, tiles)


def organisation(logged: Logged) -> FileSigner:
    return FileSigner(logged.installation.folder / "org.pem")


def test_a_log_with_what_the_archive_has_is_no_alarm(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    found = reconcile_log(logged.installation.workspace())
    assert (found.theirs, found.ours.made, found.foreign, found.alarm) == (2, 2, (), False)
    config = str(logged.installation.config)
    assert cli.main(["keys", "reconcile", "--config", config, "--log"]) == 0


def test_an_entry_by_our_key_of_what_we_never_signed_is_an_alarm_that_names_it(
    logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    logged.enter(organisation(logged), b"what Longseal never wrote")
    found = reconcile_log(logged.installation.workspace())
    assert (found.foreign, found.alarm) == ((len(logged.log.entries) - 1,), True)
    config = str(logged.installation.config)
    assert cli.main(["keys", "reconcile", "--config", config, "--log"]) == 1


def test_such_an_entry_is_named_where_the_count_alone_would_not_tell(logged: Logged) -> None:
    logged.log.entries.pop()
    logged.enter(organisation(logged), b"what Longseal never wrote")
    found = reconcile_log(logged.installation.workspace())
    assert found.theirs == found.ours.made
    assert found.alarm


def test_entries_by_others_are_theirs(logged: Logged, tmp_path: Path) -> None:
    logged.enter(FileSigner.create(tmp_path / "other.pem"), b"of somebody else")
    assert not reconcile_log(logged.installation.workspace()).alarm


def test_a_log_that_shows_other_entries_than_it_signed_hides_none(logged: Logged) -> None:
    logged.enter(organisation(logged), b"what Longseal never wrote")
    shown = [*logged.log.entries[:-1], b"{}"]
    logged.tiles.publish(shown, signed=logged.log.entries)
    with pytest.raises(VerificationError, match="do not lead to its checkpoint"):
        reconcile_log(logged.installation.workspace())
