"""A TUF repository that means well, and ones that do not."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.tuf_repository import TARGET, TufRepository, drop_by_drop, served, without_end

from longseal.errors import RetryableError, VerificationError
from longseal.settings import TufSettings
from longseal.verify import tuf

FIRST, SECOND = b'{"root": 1}', b'{"root": 2}'
OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def repository() -> Iterator[TufRepository]:
    with served() as found:
        found.publish(FIRST)
        yield found


def fetch(
    repository: TufRepository, files: dict[str, bytes] | None = None, timeout: float = 20
) -> tuple[dict[str, bytes], bytes]:
    settings = TufSettings(url=repository.url, root=Path("unused"), target=TARGET)
    return tuf.fetch(settings, repository.bootstrap, files or {}, timeout)


def test_what_the_repository_names_is_brought_and_proved_again_without_it(
    repository: TufRepository,
) -> None:
    files, root = fetch(repository)
    assert root == FIRST
    named = tuf.verify(repository.bootstrap, files, TARGET)
    named.check(root)
    assert named.versions == (1, 1)
    with pytest.raises(VerificationError, match="other bytes"):
        named.check(SECOND)


def test_newer_metadata_is_taken_over_rotated_keys(repository: TufRepository) -> None:
    files, _ = fetch(repository)
    repository.rotate("root")
    repository.rotate("timestamp")
    repository.publish(SECOND)
    files, root = fetch(repository, files)
    assert root == SECOND
    assert tuf.verify(repository.bootstrap, files, TARGET).versions == (3, 2)
    assert {"root_history/1.root.json", "root_history/2.root.json", "root_history/3.root.json"} < {
        *files
    }
    with pytest.raises(VerificationError):
        tuf.verify(repository.bootstrap, {**files, "root_history/2.root.json": b"{}"}, TARGET)
    del files["root_history/2.root.json"]
    with pytest.raises(VerificationError):
        tuf.verify(repository.bootstrap, files, TARGET)


def test_an_older_state_than_before_is_refused(repository: TufRepository) -> None:
    before = dict(repository.files)
    repository.publish(SECOND)
    files, _ = fetch(repository)
    repository.files = before
    with pytest.raises(VerificationError, match="BadVersionNumberError"):
        fetch(repository, files)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_expired_metadata_is_refused(repository: TufRepository, role: str) -> None:
    getattr(repository, role).expires = OLD
    if role == "root":
        repository.rotate("timestamp")
    else:
        repository.publish(SECOND)
    with pytest.raises(VerificationError, match="ExpiredMetadataError"):
        fetch(repository)


def test_expired_metadata_in_the_archive_still_proves_what_it_named(
    repository: TufRepository,
) -> None:
    repository.timestamp.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    repository.sign()
    files, root = fetch(repository)
    repository.timestamp.expires = OLD
    repository.sign()
    files["timestamp.json"] = repository.files["/timestamp.json"]  # type: ignore[assignment]
    tuf.verify(repository.bootstrap, files, TARGET).check(root)


@pytest.mark.parametrize("path", ["/timestamp.json", "/2.root.json", "/1.snapshot.json", "target"])
def test_a_body_without_end_is_cut_off(repository: TufRepository, path: str) -> None:
    if path == "target":
        path = next(one for one in repository.files if one.startswith("/targets/"))
    repository.files[path] = without_end
    with pytest.raises(VerificationError, match="without end"):
        fetch(repository)


def test_a_body_that_drips_ends_with_the_time_for_all(repository: TufRepository) -> None:
    repository.files["/timestamp.json"] = drop_by_drop
    with pytest.raises(RetryableError, match="did not end within"):
        fetch(repository, timeout=0.5)


def test_a_target_with_other_bytes_is_refused(repository: TufRepository) -> None:
    path = next(one for one in repository.files if one.startswith("/targets/"))
    repository.files[path] = SECOND
    with pytest.raises(VerificationError, match="LengthOrHashMismatchError"):
        fetch(repository)


def test_a_huge_target_is_not_even_asked_for(
    repository: TufRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuf, "MAX_TARGET_BYTES", 5)
    with pytest.raises(VerificationError, match="5 is the most"):
        fetch(repository)
    assert not [one for one in repository.asked if one.startswith("/targets/")]


def test_a_root_that_the_keys_before_did_not_sign_is_refused(repository: TufRepository) -> None:
    files, _ = fetch(repository)
    repository.rotate("root", vouched=False)
    with pytest.raises(VerificationError, match="UnsignedMetadataError"):
        fetch(repository)
    for name in ("root_history/2.root.json", "timestamp.json", "snapshot.json", "targets.json"):
        version = "" if name.startswith(("root", "time")) else "1."
        found = repository.files[f"/{version}{name.removeprefix('root_history/')}"]
        assert isinstance(found, bytes)
        files[name] = found
    with pytest.raises(VerificationError, match="UnsignedMetadataError"):
        tuf.verify(repository.bootstrap, files, TARGET)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_archived_metadata_that_a_stranger_signed_proves_nothing(
    repository: TufRepository, role: str
) -> None:
    files, _ = fetch(repository)
    with served() as strange:
        strange.publish(SECOND)
        theirs, _ = fetch(strange)
    files[f"{role}.json"] = theirs[f"{role}.json"]
    with pytest.raises(VerificationError, match="UnsignedMetadataError"):
        tuf.verify(repository.bootstrap, files, TARGET)


def test_archived_metadata_of_two_times_does_not_hold_together(repository: TufRepository) -> None:
    before, _ = fetch(repository)
    repository.publish(SECOND)
    after, _ = fetch(repository, before)
    for role in ("snapshot", "targets"):
        with pytest.raises(VerificationError):
            tuf.verify(
                repository.bootstrap, {**after, f"{role}.json": before[f"{role}.json"]}, TARGET
            )


def test_archived_metadata_with_other_bytes_under_the_same_version_proves_nothing(
    repository: TufRepository,
) -> None:
    before, _ = fetch(repository)
    repository.targets.targets[TARGET].length += 1
    repository.sign()
    for role in ("snapshot", "targets"):
        other = repository.files[f"/1.{role}.json"]
        assert isinstance(other, bytes)
        with pytest.raises(VerificationError, match="LengthOrHashMismatchError"):
            tuf.verify(repository.bootstrap, {**before, f"{role}.json": other}, TARGET)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 200_000, b"\xff", b"null"])
@pytest.mark.parametrize("path", ["/timestamp.json", "/2.root.json"])
def test_what_is_no_metadata_is_refused(repository: TufRepository, path: str, data: bytes) -> None:
    repository.files[path] = data
    with pytest.raises(VerificationError):
        fetch(repository)


def test_a_repository_that_is_not_there_may_be_tried_again(repository: TufRepository) -> None:
    del repository.files["/timestamp.json"]
    with pytest.raises(RetryableError, match="404"):
        fetch(repository)
    settings = TufSettings(url="http://127.0.0.1:1", root=Path("unused"))
    with pytest.raises(RetryableError, match="did not answer"):
        tuf.fetch(settings, repository.bootstrap, {})


def test_a_redirect_is_not_followed(repository: TufRepository) -> None:
    def redirect(handler: object) -> None:
        handler.send_response(302)  # type: ignore[attr-defined]
        handler.send_header("Location", f"{repository.url}/other")  # type: ignore[attr-defined]
        handler.end_headers()  # type: ignore[attr-defined]

    repository.files["/timestamp.json"] = redirect
    with pytest.raises(RetryableError, match="302"):
        fetch(repository)
    assert "/other" not in repository.asked


def test_a_repository_without_the_target_says_so(repository: TufRepository) -> None:
    repository.targets.targets = {}
    repository.sign()
    with pytest.raises(VerificationError, match=TARGET):
        fetch(repository)
