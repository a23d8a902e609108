import base64
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from longseal.archive import s3
from longseal.archive.s3 import S3Archive, lifecycle, s3_client
from longseal.errors import (
    ArchiveError,
    ConflictError,
    MalformedError,
    RefusedError,
    RestoreInProgress,
    SettingsError,
)

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
SECRET = "a-secret-that-is-never-shown"

LOCKING = (
    b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>"
    b"</ObjectLockConfiguration>"
)

Answer = tuple[int, Mapping[str, str], bytes]
Script = Callable[[str, str, Mapping[str, str]], Answer]


def error(status: int, code: str) -> Answer:
    return status, {}, f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()


def checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class Store:
    """A server that answers as the script of a test says; it saves nothing."""

    def __init__(self) -> None:
        self.script: Script = lambda method, path, headers: (200, {}, b"")
        self.requests: list[tuple[str, str]] = []
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                store.requests.append((self.command, self.path))
                if self.path == "/evidence" and self.command == "HEAD":
                    status, headers, body = 200, {}, b""
                else:
                    status, headers, body = store.script(self.command, self.path, self.headers)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A client that stops reading in the middle is what some tests are about.
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def archive(self, lock: Any = None) -> S3Archive:
        client = s3_client(self.url, "us-east-1", "key", SECRET)
        return S3Archive(client, "evidence", "longseal", lock)


@pytest.fixture
def store() -> Iterator[Store]:
    running = Store()
    thread = threading.Thread(target=running.server.serve_forever, daemon=True)
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_CONFLICT_PAUSES", (0.0, 0.0))
    # botocore's standard retries wait for seconds between tries.
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


def test_a_store_that_overwrites_fails_the_check(store: Store) -> None:
    with pytest.raises(SettingsError, match=r"archive\.endpoint: .*If-None-Match"):
        store.archive().check()


def test_a_store_that_keeps_what_it_has_passes_the_check(store: Store) -> None:
    store.script = lambda method, path, headers: error(412, "PreconditionFailed")
    store.archive().check()
    assert ("PUT", "/evidence/longseal/.longseal-probe") in store.requests


def test_every_write_is_conditional_and_carries_its_digest(store: Store) -> None:
    seen: list[Mapping[str, str]] = []

    def script(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        seen.append(headers)
        return 200, {}, b""

    store.script = script
    assert store.archive().put("a", b"x").fresh
    assert seen[0]["If-None-Match"] == "*"
    assert seen[0]["x-amz-checksum-sha256"] == checksum(b"x")


def test_a_conflict_under_way_is_tried_again(store: Store, impatient: None) -> None:
    answers = [error(409, "ConditionalRequestConflict")] * 2 + [(200, {}, b"")]
    store.script = lambda method, path, headers: answers.pop(0)
    assert store.archive().put("a", b"x").fresh
    assert answers == []


def test_a_conflict_that_never_ends_is_left_to_a_later_try(store: Store, impatient: None) -> None:
    store.script = lambda method, path, headers: error(409, "ConditionalRequestConflict")
    with pytest.raises(ArchiveError, match="ConditionalRequestConflict"):
        store.archive().put("a", b"x")
    assert len([each for each in store.requests if each[0] == "PUT"]) == 3


def test_an_object_without_a_checksum_of_the_whole_is_read_and_hashed(store: Store) -> None:
    def script(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if method == "PUT":
            return error(412, "PreconditionFailed")
        if method == "HEAD":
            return 200, {"x-amz-checksum-sha256": f"{checksum(b'other')}-2"}, b"there"
        return 200, {}, b"there"

    store.script = script
    assert not store.archive().put("a", b"there").fresh
    with pytest.raises(ConflictError):
        store.archive().put("a", b"other")


def test_a_hidden_object_is_reported_and_not_written_again(store: Store) -> None:
    def script(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        return error(412 if method == "PUT" else 404, "")

    store.script = script
    with pytest.raises(ArchiveError, match="delete marker"):
        store.archive().put("a", b"x")


@pytest.mark.parametrize("validation", ["when_supported", "when_required"])
def test_bytes_that_are_not_those_of_the_checksum_are_not_handed_out(
    store: Store, impatient: None, monkeypatch: pytest.MonkeyPatch, validation: str
) -> None:
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", validation)
    store.script = lambda method, path, headers: (
        200,
        {"x-amz-checksum-sha256": checksum(b"as it was")},
        b"as it is!",
    )
    with pytest.raises(ArchiveError):
        store.archive().get("a")


def test_an_answer_that_breaks_off_is_not_handed_out(store: Store, impatient: None) -> None:
    def script(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        return 200, {"Content-Length": "10", "Connection": "close"}, b"half"

    store.script = script
    with pytest.raises(ArchiveError):
        store.archive().get("a")


def test_an_answer_larger_than_the_limit_is_not_read_to_its_end(store: Store) -> None:
    store.script = lambda method, path, headers: (200, {}, b"x" * 3_000_000)
    with pytest.raises(MalformedError, match="more than the 10 bytes"):
        store.archive().get("a", limit=10)


def test_an_object_too_large_for_one_part_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_OBJECT_BYTES", 4)
    with pytest.raises(RefusedError, match="4 is the most"):
        store.archive().put("a", b"12345")
    assert store.requests == []


@pytest.mark.parametrize("method", ["put", "get", "stat", "keys"])
def test_a_refusal_is_a_setting_to_mend_and_shows_no_secret(store: Store, method: str) -> None:
    store.script = lambda verb, path, headers: error(403, "AccessDenied")
    with pytest.raises(SettingsError, match=r"archive\.bucket") as caught:
        _call(store.archive(), method)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("method", ["put", "get", "stat", "keys"])
def test_a_store_in_trouble_may_be_asked_again(store: Store, impatient: None, method: str) -> None:
    store.script = lambda verb, path, headers: error(503, "SlowDown")
    with pytest.raises(ArchiveError):
        _call(store.archive(), method)


def test_a_store_that_does_not_answer_may_be_asked_again(store: Store, impatient: None) -> None:
    archive = store.archive()
    store.server.socket.close()
    with pytest.raises(ArchiveError):
        archive.stat("a")


def test_a_lock_on_a_bucket_without_object_lock_is_a_setting_to_mend(store: Store) -> None:
    store.script = lambda method, path, headers: error(404, "ObjectLockConfigurationNotFoundError")
    with pytest.raises(SettingsError, match=r"archive\.lock"):
        store.archive("compliance").put("a", b"x", LATER)
    assert not any(method == "PUT" for method, _ in store.requests)


class ColdStoreDouble:
    """The answers of S3 for an object in GLACIER: versitygw has no such class.

    After the API reference of GetObject (403 ``InvalidObjectState``) and RestoreObject (202, or 409
    ``RestoreAlreadyInProgress``).
    """

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if method == "POST":
            assert path.endswith("?restore")
            self.asked += 1
            return error(409, "RestoreAlreadyInProgress") if self.asked > 1 else (202, {}, b"")
        if method == "HEAD":
            return 200, {"x-amz-storage-class": "GLACIER"}, b"cold"
        return error(403, "InvalidObjectState")


def test_what_is_cold_is_asked_for_and_waited_for(store: Store) -> None:
    cold = ColdStoreDouble()
    store.script = cold
    with pytest.raises(RestoreInProgress, match=r"asked for now.*7 days") as caught:
        store.archive().get("a")
    assert (caught.value.retry_after, cold.asked) == (3600, 1)
    with pytest.raises(RestoreInProgress, match="on its way"):
        store.archive().get("a")
    # Of an object without a checksum the digest is not known without its bytes either.
    with pytest.raises(RestoreInProgress):
        store.archive().stat("a")


def test_a_cold_object_that_may_not_be_restored_is_a_setting_to_mend(store: Store) -> None:
    store.script = lambda method, path, headers: error(
        403, "AccessDenied" if method == "POST" else "InvalidObjectState"
    )
    with pytest.raises(SettingsError, match="the store refused \\(AccessDenied\\)"):
        store.archive().get("a")


def test_a_store_that_takes_everything_enforces_nothing(store: Store) -> None:
    found = {one.rule: one.enforced for one in store.archive().trials()}
    assert found == dict.fromkeys(("overwrite", "checksum", "lock", "shorten", "hold"), False)


def test_who_may_not_delete_cannot_tell_a_lock_from_a_refusal(store: Store) -> None:
    def script(method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if "object-lock" in path and method == "GET":
            return 200, {}, LOCKING
        if method == "DELETE" or "retention" in path or "legal-hold" in path:
            return error(403, "AccessDenied")
        return 200, {"x-amz-version-id": "1"}, b""

    store.script = script
    found = {one.rule: one for one in store.archive("governance").trials()}
    assert [found[rule].enforced for rule in ("lock", "shorten", "hold")] == [None] * 3
    assert "these credentials delete nothing (AccessDenied)" in found["lock"].found


def test_no_credentials_are_a_setting_to_mend(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "absent")
    with pytest.raises(SettingsError, match=r"archive\.conn_id"):
        S3Archive(s3_client(store.url, "us-east-1"), "evidence").stat("a")


def test_an_endpoint_that_is_no_url_is_a_setting_to_mend() -> None:
    with pytest.raises(SettingsError, match=r"archive\.endpoint"):
        s3_client("not a url")


def _call(archive: S3Archive, method: str) -> object:
    if method == "put":
        return archive.put("a", b"x")
    if method == "keys":
        return list(archive.keys(""))
    return getattr(archive, method)("a")


@pytest.mark.lab
class TestOnARealServer:
    def test_the_check_passes_more_than_once_and_lists_nothing(self, s3_archive: S3Archive) -> None:
        s3_archive.check()
        s3_archive.check()
        assert list(s3_archive.keys("")) == []

    def test_a_locked_version_cannot_be_deleted(
        self, s3_archive: S3Archive, s3_bucket: Any
    ) -> None:
        stored = s3_archive.put("a", b"x", LATER)
        client = s3_bucket.server.client()
        place = {"Bucket": s3_bucket.name, "Key": "longseal/a"}
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(**place, VersionId=stored.version)
        client.delete_object(**place)
        with pytest.raises(ArchiveError):
            s3_archive.get("a")
        again = client.get_object(**place, VersionId=stored.version)
        assert again["Body"].read() == b"x"

    def test_a_legal_hold_keeps_a_version_whose_lock_has_ended(
        self, s3_archive: S3Archive, s3_bucket: Any
    ) -> None:
        stored = s3_archive.put("packs/one", b"data")
        for _ in range(2):
            s3_archive.hold("packs/one", True)
        client = s3_bucket.server.client()
        where = {"Bucket": s3_bucket.name, "Key": "longseal/packs/one"}
        version = {**where, "VersionId": stored.version}
        assert client.head_object(**where)["ObjectLockLegalHoldStatus"] == "ON"
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(**version)
        s3_archive.hold("packs/one", False)
        client.delete_object(**version)
        assert s3_archive.stat("packs/one") is None

    def test_a_date_that_is_past_locks_nothing(self, s3_archive: S3Archive) -> None:
        assert s3_archive.put("a", b"x", LATER - timedelta(days=30)).retain_until is None

    def test_no_lock_no_retention(self, s3_bucket: Any) -> None:
        server = s3_bucket.server
        client = s3_client(server.endpoint, server.region, server.access_key, server.secret_key)
        assert S3Archive(client, s3_bucket.name).put("a", b"x", LATER).retain_until is None

    def test_a_bucket_that_is_not_there_is_not_an_empty_one(self, s3_bucket: Any) -> None:
        server = s3_bucket.server
        client = s3_client(server.endpoint, server.region, server.access_key, server.secret_key)
        with pytest.raises(SettingsError, match=r"archive\.bucket"):
            S3Archive(client, "no-such-bucket").stat("a")

    def test_wrong_keys_are_a_setting_to_mend(self, s3_bucket: Any) -> None:
        server = s3_bucket.server
        client = s3_client(server.endpoint, server.region, server.access_key, SECRET)
        with pytest.raises(SettingsError, match=r"archive\.bucket") as caught:
            S3Archive(client, s3_bucket.name).put("a", b"x")
        assert SECRET not in str(caught.value)

    def test_a_bucket_without_object_lock_cannot_be_locked(self, s3_bucket: Any) -> None:
        server = s3_bucket.server
        client = s3_client(server.endpoint, server.region, server.access_key, server.secret_key)
        client.create_bucket(Bucket=f"{s3_bucket.name}-plain")
        with pytest.raises(SettingsError, match=r"archive\.lock"):
            S3Archive(client, f"{s3_bucket.name}-plain", lock="governance").put("a", b"x", LATER)

    def test_more_keys_than_a_page_holds_are_listed(self, s3_archive: S3Archive) -> None:
        names = [f"k/{number:04}" for number in range(1010)]
        for name in names:
            s3_archive.put(name, b"")
        assert list(s3_archive.keys("k/")) == names

    @pytest.mark.parametrize("lock", ["compliance", "governance"])
    def test_each_rule_is_tried_and_found_enforced(self, s3_bucket: Any, lock: Any) -> None:
        server = s3_bucket.server
        client = s3_client(server.endpoint, server.region, server.access_key, server.secret_key)
        archive = S3Archive(client, s3_bucket.name, "longseal/", lock)
        for _ in range(2):
            found = {one.rule: one for one in archive.trials()}
            assert [one.enforced for one in found.values()] == [True] * 5, found
        assert list(archive.keys("")) == []
        named = client.list_object_versions(Bucket=s3_bucket.name)
        # What the second time could delete of the first is gone; the locked ones are not.
        assert {each["Key"].partition("-locked")[1] for each in named["Versions"]} == {
            "",
            "-locked",
        }


RULES = lifecycle("longseal/", [31, 186], "GLACIER")["Rules"]


def rules_xml(*days: int, status: str = "Enabled", storage_class: str = "GLACIER") -> bytes:
    """As S3 answers GetBucketLifecycleConfiguration."""
    rules = "".join(
        f"<Rule><ID>r{one}</ID><Status>{status}</Status><Filter><And><Prefix>longseal/packs/</Prefix>"
        f"<Tag><Key>longseal-cold</Key><Value>{one}</Value></Tag></And></Filter><Transition>"
        f"<Days>{one}</Days><StorageClass>{storage_class}</StorageClass></Transition></Rule>"
        for one in days
    )
    return f"<LifecycleConfiguration>{rules}</LifecycleConfiguration>".encode()


@pytest.mark.parametrize(
    ("answer", "enforced", "found"),
    [
        ((200, {}, rules_xml(31, 186)), True, "2 lifecycle rules"),
        ((200, {}, rules_xml(31)), False, "lacks longseal-cold-186:"),
        ((200, {}, rules_xml(31, 186, status="Disabled")), False, "lacks longseal-cold-31, "),
        ((200, {}, rules_xml(31, 186, storage_class="DEEP_ARCHIVE")), False, "lacks"),
        (error(404, "NoSuchLifecycleConfiguration"), False, "lacks"),
        (error(403, "AccessDenied"), None, "does not say its lifecycle (AccessDenied)"),
    ],
)
def test_the_check_says_whether_the_bucket_moves_what_is_to_go_cold(
    store: Store, answer: Answer, enforced: bool | None, found: str
) -> None:
    store.script = lambda method, path, headers: answer
    archive = S3Archive(store.archive()._client, "bucket", "longseal/", None, RULES)
    archive._opened = True
    trial = archive._lifecycle_trial()
    assert (trial.rule, trial.enforced) == ("cold", enforced)
    assert found in trial.found


def test_a_store_in_trouble_says_nothing_of_its_lifecycle(store: Store, impatient: None) -> None:
    store.script = lambda method, path, headers: error(503, "SlowDown")
    archive = S3Archive(store.archive()._client, "bucket", "longseal/", None, RULES)
    with pytest.raises(Exception, match="SlowDown"):
        archive._lifecycle_trial()


@pytest.mark.lab
def test_a_pack_is_tagged_with_the_days_after_which_it_goes_cold(s3_archive: S3Archive) -> None:
    s3_archive.put("cold", b"pack", None, 186)
    s3_archive.put("warm", b"pack")
    place = {"Bucket": s3_archive._bucket}
    tags = [
        s3_archive._client.get_object_tagging(**place, Key=f"longseal/{key}").get("TagSet", [])
        for key in ("cold", "warm")
    ]
    assert tags == [[{"Key": "longseal-cold", "Value": "186"}], []]
