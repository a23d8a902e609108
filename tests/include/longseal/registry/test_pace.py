import multiprocessing.synchronize
import os
import struct
import tempfile
import time
from pathlib import Path

import pytest
from tests.processes import run_together

from longseal.errors import SettingsError
from longseal.registry.pace import Pace

ORIGIN = "http://registry.example:5000"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"longseal-{os.getuid()}"


def ask(times: int, start: multiprocessing.synchronize.Barrier) -> None:
    pace = Pace(100, ORIGIN)
    start.wait()
    for _ in range(times):
        pace.wait()


def test_the_processes_of_a_host_share_one_budget() -> None:
    began = time.monotonic()
    run_together(ask, *[(20,)] * 4)
    assert time.monotonic() - began >= 79 / 100


def test_a_pause_holds_for_every_client_with_a_budget() -> None:
    one, other = Pace(1000, ORIGIN), Pace(1000, ORIGIN)
    began = time.monotonic()
    one.hold(0.3)
    other.wait()
    assert time.monotonic() - began >= 0.3


def test_registries_do_not_wait_for_each_other(folder: Path) -> None:
    Pace(1, ORIGIN).hold(1000)
    Pace(1, "http://other.example:5000").wait()
    assert len(list(folder.iterdir())) == 2
    assert {path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]} == {0o700, 0o600}


@pytest.mark.parametrize("data", [b"", b"x", struct.pack("d", float("nan")), b"\xff" * 8])
def test_a_turn_that_makes_no_sense_is_forgotten(folder: Path, data: bytes) -> None:
    pace = Pace(1, ORIGIN)
    (file,) = folder.iterdir()
    for senseless in (data, struct.pack("d", time.monotonic() + 10**6)):
        file.write_bytes(senseless)
        pace.wait()


def test_a_folder_of_somebody_else_is_not_used(folder: Path, tmp_path: Path) -> None:
    folder.symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="requests_per_second"):
        Pace(1, ORIGIN)
    Pace(None, ORIGIN).wait()
