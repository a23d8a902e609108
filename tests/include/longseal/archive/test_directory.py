import multiprocessing
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from longseal.archive.directory import DirectoryArchive
from longseal.errors import ArchiveError, ConflictError, LongsealError, SettingsError

FORK = multiprocessing.get_context("fork")
NOBODY = 65534


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A folder that every user may enter, below one that every user may cross."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


def elsewhere(job: Callable[[], str]) -> str:
    """What ``job`` returns in a process of its own, as a user to whom permissions apply."""
    answers = FORK.SimpleQueue()

    def run() -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        try:
            answers.put(job())
        except LongsealError as err:
            answers.put(f"{type(err).__name__}: {err}")

    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return answers.get()


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_a_folder_that_is_not_there_is_a_setting_to_mend_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"archive\.path"):
        DirectoryArchive(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_making_an_archive_writes_nothing_and_check_leaves_nothing(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    assert list(tmp_path.iterdir()) == []
    archive.check()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_fails_the_check_and_the_write(open_root: Path) -> None:
    open_root.chmod(0o555)
    archive = DirectoryArchive(open_root)
    assert elsewhere(lambda: str(archive.check())).startswith("SettingsError: archive.path")
    assert elsewhere(lambda: str(archive.put("a/b", b"x"))).startswith("ArchiveError")
    assert files(open_root) == []


def test_a_file_that_may_not_be_read_is_not_taken_for_absent(open_root: Path) -> None:
    archive = DirectoryArchive(open_root)
    archive.put("a/b", b"x")
    (open_root / "a/b").chmod(0)
    assert elsewhere(lambda: str(archive.stat("a/b"))).startswith("ArchiveError")
    assert elsewhere(lambda: str(archive.get("a/b"))).startswith("ArchiveError")
    (open_root / "a").chmod(0)
    assert elsewhere(lambda: str(list(archive.keys("a/")))).startswith("ArchiveError")


def test_a_write_that_the_disk_cuts_short_leaves_nothing_behind(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    archive = DirectoryArchive(tmp_path)

    def write() -> str:
        # The nearest thing to a full disk that a test can have for itself: the kernel stops the
        # write in the middle.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        os.umask(0)
        return str(archive.put("big", b"x" * 5000))

    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    assert elsewhere(write).startswith("ArchiveError: could not write big")
    assert list(tmp_path.iterdir()) == []
    assert archive.stat("big") is None


def test_objects_are_read_only(tmp_path: Path) -> None:
    DirectoryArchive(tmp_path).put("a/b", b"x")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "a/b").stat().st_nlink == 1


def test_what_a_crash_left_is_not_listed_and_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.tmp-crashed").write_bytes(b"hal")
    # The promise comes first, so a crash can leave one without its object.
    (tmp_path / "a/.b.retain").write_text("2030-01-01T00:00:00Z\n")
    archive = DirectoryArchive(tmp_path)
    assert list(archive.keys("")) == []
    assert archive.stat("a/b") is None
    stored = archive.put("a/b", b"half", datetime(2029, 1, 1, tzinfo=UTC))
    assert stored.fresh
    assert stored.retain_until == datetime(2030, 1, 1, tzinfo=UTC)
    assert list(archive.keys("")) == ["a/b"]


def test_a_file_that_was_changed_on_the_disk_is_told_by_its_digest(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    stored = archive.put("a", b"as it was")
    before = (tmp_path / "a").stat()
    (tmp_path / "a").chmod(0o644)
    (tmp_path / "a").write_bytes(b"as it is!")
    os.utime(tmp_path / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    found = archive.stat("a")
    assert found is not None
    assert found.sha256 != stored.sha256
    with pytest.raises(ConflictError):
        archive.put("a", b"as it was")


def test_a_damaged_promise_is_an_error_and_not_the_lack_of_one(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    archive.put("a", b"x", datetime(2030, 1, 1, tzinfo=UTC))
    (tmp_path / ".a.retain").write_text("2030-01")
    with pytest.raises(ArchiveError, match="damaged"):
        archive.stat("a")


def test_the_latest_promise_counts_in_whatever_order_writers_made_them(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    archive.put("a", b"x")
    (tmp_path / ".a.retain").write_text("2031-01-01T00:00:00Z\n2030-01-01T00:00:00Z\n")
    found = archive.stat("a")
    assert found is not None
    assert found.retain_until == datetime(2031, 1, 1, tzinfo=UTC)


def test_a_promise_made_again_is_written_once(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    for _ in range(3):
        archive.put("a", b"x", datetime(2030, 1, 1, tzinfo=UTC))
    assert (tmp_path / ".a.retain").read_text() == "2030-01-01T00:00:00Z\n"


def test_an_object_and_a_folder_cannot_have_one_name(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    archive.put("a/b", b"x")
    with pytest.raises(ConflictError):
        archive.put("a", b"y")
    with pytest.raises(ConflictError):
        archive.put("a/b/c", b"y")
    assert files(tmp_path) == ["a/b"]


def test_foreign_files_are_not_listed(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    archive.put("a", b"x")
    (tmp_path / "README.TXT").write_text("by hand")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found/x").write_text("x")
    assert list(archive.keys("")) == ["a"]


def test_an_archive_that_is_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    archive = DirectoryArchive(root)
    root.rmdir()
    for call in (
        lambda: archive.put("a/b", b"x"),
        lambda: archive.get("a"),
        lambda: archive.stat("a"),
        lambda: list(archive.keys("a/")),
    ):
        with pytest.raises(ArchiveError):
            call()
    assert not root.exists()


def test_of_many_processes_one_wins_and_the_promises_add_up(tmp_path: Path) -> None:
    archive = DirectoryArchive(tmp_path)
    answers = FORK.SimpleQueue()

    def claim(number: int) -> None:
        try:
            archive.put("seals/1/claim", b"%d" % number)
            answers.put(number)
        except ConflictError:
            answers.put(None)
        archive.put("same", b"same", datetime(2030 + number, 1, 1, tzinfo=UTC))

    processes = [FORK.Process(target=claim, args=(number,)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    winners = [number for number in (answers.get() for _ in processes) if number is not None]
    assert [b"%d" % number for number in winners] == [archive.get("seals/1/claim")]
    found = archive.stat("same")
    assert found is not None
    assert found.retain_until == datetime(2035, 1, 1, tzinfo=UTC)
    assert files(tmp_path) == [".same.retain", "same", "seals/1/claim"]


def test_a_directory_promises_nothing_but_that_names_stay(tmp_path: Path) -> None:
    found = {one.rule: one.enforced for one in DirectoryArchive(tmp_path).trials()}
    assert {rule for rule, enforced in found.items() if enforced} == {"overwrite"}
    assert list(tmp_path.iterdir()) == []
