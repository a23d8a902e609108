import base64
import io
import json
import ssl
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from tests.doubles.registry import Failure, RegistryDouble, Start, image

from longseal.canonical import digest_of
from longseal.errors import (
    LongsealError,
    MalformedError,
    RefusedError,
    RegistryError,
    SettingsError,
)
from longseal.registry import distribution, transport
from longseal.registry.auth import Credentials
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Manifest
from longseal.registry.model import OCI_MANIFEST

ABSENT = "sha256:" + "0" * 64
LOGIN = Credentials("ci", "secret-word")


# Reading


def test_a_manifest_comes_by_tag_and_by_digest_untouched(start: Start) -> None:
    server, registry = start()
    digest = server.add_image("corp/app", "v1")
    data = server.repository("corp/app").manifests[digest][1]
    expected = Manifest(digest, OCI_MANIFEST, data)
    assert registry.manifest("corp/app", "v1") == expected
    assert registry.manifest("corp/app", digest) == expected
    assert registry.resolve("corp/app", "v1") == digest
    assert server.count("HEAD") == 1


def test_absent_is_not_an_error(start: Start) -> None:
    server, registry = start()
    server.add_image("corp/app", "v1")
    assert registry.manifest("corp/app", "v2") is None
    assert registry.manifest("corp/app", ABSENT) is None
    assert registry.resolve("corp/app", "v2") is None
    assert registry.tags("corp/none") == ()
    assert not registry.has_blob("corp/app", ABSENT)
    with pytest.raises(RegistryError):
        registry.blob("corp/app", ABSENT, 100)


def test_a_tag_resolves_where_the_registry_has_no_head_or_no_digest_header(start: Start) -> None:
    for quirk in ({"head": False}, {"digest_header": False}):
        server, registry = start(**quirk)
        digest = server.add_image("corp/app", "v1")
        assert registry.resolve("corp/app", "v1") == digest


def test_repositories_and_tags_come_from_every_page_sorted(start: Start) -> None:
    server, registry = start(page=2, client={"patterns": ["corp/*"]})
    for number in (3, 1, 2, 0, 4):
        server.add_image(f"corp/app{number}", "v1")
        server.add_image("corp/app0", f"v{number}")
    server.add_image("corp/deep/app", "v1")
    server.add_image("other/app", "v1")
    assert list(registry.repositories()) == [f"corp/app{number}" for number in range(5)]
    assert registry.tags("corp/app0") == ("v0", "v1", "v2", "v3", "v4")
    assert server.count("GET", "tags/list") == 3


def test_repositories_named_in_full_need_no_catalog(start: Start) -> None:
    server, registry = start(client={"patterns": ["corp/b", "corp/a"]})
    assert list(registry.repositories()) == ["corp/a", "corp/b"]
    assert not server.requests


def test_an_absent_catalog_is_no_empty_registry(start: Start) -> None:
    server, registry = start()
    server.fail("_catalog", Failure(404))
    with pytest.raises(RegistryError):
        list(registry.repositories())


def test_every_page_of_referrers_is_read(start: Start) -> None:
    server, registry = start(page=2)
    subject = server.add_image("corp/app", "v1")
    attached = {server.add_referrer("corp/app", subject, b"%d" % n) for n in range(5)}
    found = registry.referrers("corp/app", subject)
    assert found is not None
    assert {item.digest for item in found} == attached
    assert server.count("GET", "referrers") == 3
    assert registry.referrers("corp/app", ABSENT) == ()


@pytest.mark.parametrize("quirk", [{"referrers_api": False}, {"referrers_html": True}])
def test_a_missing_referrers_api_is_asked_for_once_a_repository(
    start: Start, quirk: dict[str, bool]
) -> None:
    server, registry = start(**quirk)
    assert registry.referrers("corp/app", ABSENT) is None
    assert registry.referrers("corp/app", ABSENT) is None
    assert server.count("GET", "referrers") == 1
    assert registry.referrers("corp/other", ABSENT) is None
    assert server.count("GET", "referrers") == 2


def test_a_referrers_api_that_fails_is_not_asked_by_one_thread_after_the_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, registry = start()
    together = Barrier(7)
    asked: list[str] = []

    def fail(method: str, *_: object, **__: object) -> None:
        asked.append(method)
        if len(asked) > 1:
            together.wait(timeout=5)
        raise RegistryError("down")

    monkeypatch.setattr(registry._http, "request", fail)
    with pytest.raises(RegistryError, match="down"):
        registry.referrers("corp/app", ABSENT)
    with ThreadPoolExecutor(7) as pool:
        futures = [pool.submit(registry.referrers, "corp/app", ABSENT) for _ in range(7)]
    assert {str(future.exception()) for future in futures} == {"down"}


def test_a_referrers_api_that_vanishes_is_an_error(start: Start) -> None:
    server, registry = start()
    assert registry.referrers("corp/app", ABSENT) == ()
    server.quirks.referrers_api = False
    with pytest.raises(RegistryError, match="answered before"):
        registry.referrers("corp/app", ABSENT)


def test_a_blob_comes_whole_and_as_a_stream(start: Start) -> None:
    server, registry = start()
    data = bytes(range(256)) * 4096
    digest = server.add_blob("corp/app", data)
    assert registry.has_blob("corp/app", digest)
    assert registry.blob("corp/app", digest, len(data)) == data
    with registry.open_blob("corp/app", digest) as stream:
        assert stream.read(10) == data[:10]
        assert stream.read() == data[10:]
    with registry.open_blob("corp/app", digest) as stream:
        stream.read(1)
    assert registry.blob("corp/app", digest, len(data)) == data


def test_many_threads_share_one_registry(start: Start) -> None:
    server, registry = start(bearer=("ci", "secret-word"), client={"credentials": LOGIN})
    digests = [server.add_image("corp/app", layer=b"%d" % number) for number in range(40)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda d: registry.manifest("corp/app", d), digests * 5))
    assert [item.digest for item in found if item] == digests * 5
    assert server.count("GET", "/token") == 1


# Hostile and broken answers


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503, 504, 301, 204, 418])
def test_no_failure_is_ever_taken_for_an_empty_list(start: Start, status: int) -> None:
    server, registry = start()
    subject = server.add_image("corp/app", "v1")
    server.fail("GET", Failure(status))
    with pytest.raises(RegistryError):
        list(registry.repositories())
    with pytest.raises(RegistryError):
        registry.blob("corp/app", subject, 10)
    if status != 404:
        for ask in (
            lambda: registry.tags("corp/app"),
            lambda: registry.referrers("corp/app", subject),
            lambda: registry.manifest("corp/app", "v1"),
        ):
            with pytest.raises(RegistryError):
                ask()


def test_a_busy_registry_is_asked_again(start: Start) -> None:
    server, registry = start()
    digest = server.add_image("corp/app", "v1")
    server.fail("GET", Failure(503), times=2)
    found = registry.manifest("corp/app", "v1")
    assert found is not None and found.digest == digest
    assert server.count("GET") == 3


def test_a_busy_registry_is_not_asked_for_ever(start: Start) -> None:
    server, registry = start()
    server.fail("GET", Failure(500, body=b'{"errors":[{"code":"UNKNOWN"}]}'))
    with pytest.raises(RegistryError, match="500 UNKNOWN"):
        registry.tags("corp/app")
    assert server.count("GET") == 3


def test_retry_after_is_honoured(start: Start) -> None:
    server, registry = start()
    server.add_image("corp/app", "v1")
    server.fail("GET", Failure(429, {"Retry-After": "1"}), times=1)
    began = time.monotonic()
    assert registry.tags("corp/app") == ("v1",)
    assert time.monotonic() - began >= 1.0


def test_a_long_retry_after_gives_the_task_back_at_once(start: Start) -> None:
    server, registry = start()
    server.fail("GET", Failure(429, {"Retry-After": "3600"}))
    began = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        registry.tags("corp/app")
    assert caught.value.retry_after == 3600
    assert time.monotonic() - began < 1
    assert server.count("GET") == 1


def test_a_pause_that_the_registry_asks_for_holds_for_all_threads(start: Start) -> None:
    server, registry = start()
    server.add_image("corp/app", "v1")
    server.fail("GET", Failure(429, {"Retry-After": "1"}), times=1)
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        throttled = pool.submit(registry.tags, "corp/app")
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        registry.tags("corp/app")
        assert time.monotonic() - began >= 1.0
        assert throttled.result() == ("v1",)


def test_a_senseless_retry_after_is_no_answer(start: Start) -> None:
    server, registry = start()
    for value in ("9" * 400, "-1", "soon", "nan"):
        server.heal()
        server.fail("GET", Failure(429, {"Retry-After": value}))
        with pytest.raises(RegistryError) as caught:
            registry.tags("corp/app")
        assert caught.value.retry_after is None


def test_a_refusal_is_not_repeated(start: Start) -> None:
    server, registry = start()
    server.fail("GET", Failure(403))
    with pytest.raises(RegistryError, match="credentials"):
        registry.tags("corp/app")
    assert server.count("GET") == 1


def test_an_answer_that_breaks_off_is_read_again(start: Start) -> None:
    server, registry = start()
    server.add_image("corp/app", "v1")
    server.fail("GET", Failure(truncate=True), times=1)
    assert registry.manifest("corp/app", "v1") is not None
    server.fail("GET", Failure(truncate=True))
    with pytest.raises(RegistryError, match="broke off"):
        registry.manifest("corp/app", "v1")
    with pytest.raises(RegistryError, match="broke off"):
        registry.tags("corp/app")


def test_a_stream_that_breaks_off_says_so(start: Start) -> None:
    server, registry = start()
    digest = server.add_blob("corp/app", b"x" * 100_000)
    server.fail("GET", Failure(truncate=True))
    with registry.open_blob("corp/app", digest) as stream, pytest.raises(RegistryError):
        stream.read()


def test_nobody_listening_is_a_registry_error() -> None:
    with RegistryDouble() as server:
        url = server.url
    registry = DistributionRegistry("main", url, retries=1, backoff=0.001)
    with pytest.raises(RegistryError, match="no answer"):
        registry.tags("corp/app")


def test_a_registry_that_does_not_answer_in_time_is_an_error(start: Start) -> None:
    _, registry = start(latency=0.5, client={"timeout": 0.1, "retries": 0})
    with pytest.raises(RegistryError, match="silent"):
        registry.tags("corp/app")


def test_other_bytes_than_asked_for_are_an_error(start: Start) -> None:
    server, registry = start()
    digest = server.add_image("corp/app", "v1")
    blob = server.add_blob("corp/app", b"blob")
    server.fail("GET", Failure(replace=lambda body: body.replace(b"2", b"3", 1) + b" "))
    for reference in ("v1", digest):
        with pytest.raises(RegistryError, match="got bytes of"):
            registry.manifest("corp/app", reference)
    with pytest.raises(RegistryError, match="got bytes of"):
        registry.blob("corp/app", blob, 100)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"errors":[]}',
        b"<html>",
        b"[]",
        b'{"tags":"v1"}',
        b'{"tags":[1]}',
        b"\xff\xfe",
        b'{"tags":{}}',
    ],
)
def test_an_unreadable_listing_is_an_error(start: Start, body: bytes) -> None:
    server, registry = start()
    server.fail("tags/list", Failure(200, body=body))
    with pytest.raises(RegistryError):
        registry.tags("corp/app")


def test_a_web_page_is_no_manifest(start: Start) -> None:
    server, registry = start()
    server.fail("manifests", Failure(200, {"Content-Type": "text/html"}, b"<html>"))
    with pytest.raises(RegistryError, match="text/html"):
        registry.manifest("corp/app", "v1")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"errors":[]}', b'{"schemaVersion":2,"manifests":[{"digest":"x","size":1}]}'],
)
def test_an_unreadable_list_of_referrers_is_an_error(start: Start, body: bytes) -> None:
    server, registry = start()
    server.fail("referrers", Failure(200, {"Content-Type": "application/json"}, body))
    with pytest.raises(RegistryError, match="unreadable"):
        registry.referrers("corp/app", ABSENT)


def test_names_that_lead_elsewhere_are_refused(start: Start) -> None:
    server, registry = start()
    server.fail("_catalog", Failure(200, body=b'{"repositories":["../../etc"]}'))
    with pytest.raises(MalformedError):
        list(registry.repositories())
    server.fail("tags/list", Failure(200, body=b'{"tags":["../x"]}'))
    with pytest.raises(MalformedError):
        registry.tags("corp/app")
    before = len(server.requests)
    for ask in (
        lambda: registry.tags("../x"),
        lambda: registry.manifest("corp/app", "../x"),
        lambda: registry.has_blob("corp/app", "sha256:../x"),
        lambda: registry.delete_manifest("corp/app", "v1"),
    ):
        with pytest.raises(MalformedError):
            ask()
    assert len(server.requests) == before


@pytest.mark.parametrize("quirk", [{"endless": True}, {"looping": True}])
def test_a_list_whose_pages_never_end_is_an_error(start: Start, quirk: dict[str, bool]) -> None:
    server, registry = start(page=1, **quirk)
    subject = server.add_image("corp/app", "v1")
    server.add_referrer("corp/app", subject)
    for ask in (
        lambda: registry.tags("corp/app"),
        lambda: registry.referrers("corp/app", subject),
        lambda: list(registry.repositories()),
    ):
        with pytest.raises(RegistryError, match="never end"):
            ask()
    assert len(server.requests) <= 3 * (distribution.MAX_BARREN_PAGES + 3)


def test_a_list_that_goes_on_inventing_names_is_an_error(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, registry = start(page=1, inventing="v")
    server.add_image("corp/app", "v1")
    for limit, value in (
        ("MAX_PAGES", 20),
        ("MAX_NAMES", 20),
        ("MAX_LIST_BYTES", 900),
        ("MAX_LIST_SECONDS", 0.02),
    ):
        before = len(server.requests)
        with monkeypatch.context() as patched, pytest.raises(RegistryError, match=r"more|never"):
            patched.setattr(distribution, limit, value)
            registry.tags("corp/app")
        assert len(server.requests) - before < 1000


def test_a_web_page_is_no_list_of_tags(start: Start) -> None:
    server, registry = start()
    server.fail("GET", Failure(200, {"Content-Type": "text/html"}, b"<html>"))
    with pytest.raises(RegistryError, match="unreadable"):
        registry.tags("corp/app")
    with pytest.raises(RegistryError, match="unreadable"):
        list(registry.repositories())


def test_too_many_names_are_an_error(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "MAX_NAMES", 3)
    server, registry = start(page=2)
    for number in range(4):
        server.add_image("corp/app", f"v{number}")
    with pytest.raises(RegistryError, match="more than 3"):
        registry.tags("corp/app")


def test_too_many_referrers_are_an_error(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "MAX_DESCRIPTORS", 3)
    server, registry = start(page=1)
    subject = server.add_image("corp/app", "v1")
    for number in range(4):
        server.add_referrer("corp/app", subject, b"%d" % number)
    with pytest.raises(RegistryError, match="more than 3"):
        registry.referrers("corp/app", subject)


@pytest.mark.parametrize("link", ["http://[a", "//[", "http://a:x/"])
def test_a_next_page_at_no_address_is_an_error(start: Start, link: str) -> None:
    server, registry = start()
    headers = {"Link": f'<{link}>; rel="next"', "Content-Type": "application/json"}
    server.fail("tags/list", Failure(200, headers, b'{"tags":["v1"]}'))
    with pytest.raises(RegistryError, match="not a web address"):
        registry.tags("corp/app")


def test_a_next_page_on_another_host_is_refused(start: Start) -> None:
    other, _ = start()
    server, registry = start(page=1, next_host=other.url)
    server.add_image("corp/app", "v1")
    server.add_image("corp/app", "v2")
    with pytest.raises(RegistryError, match="another host"):
        registry.tags("corp/app")
    assert not other.requests


def test_a_link_that_cannot_be_read_is_not_the_last_page(start: Start) -> None:
    server, registry = start()
    headers = {"Link": "/v2/corp/app/tags/list?at=2"}
    server.fail("tags/list", Failure(200, headers, b'{"tags":["v1"]}'))
    with pytest.raises(RegistryError, match="link"):
        registry.tags("corp/app")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_blob_larger_than_the_limit_is_cut_short(start: Start, chunked: bool) -> None:
    server, registry = start(chunked=chunked)
    digest = server.add_blob("corp/app", b"x" * 5_000_000)
    with pytest.raises(MalformedError, match="more than 1000"):
        registry.blob("corp/app", digest, 1000)
    assert registry.blob("corp/app", digest, 5_000_000) == b"x" * 5_000_000


def test_a_manifest_larger_than_the_limit_is_refused(start: Start) -> None:
    server, registry = start(chunked=True)
    server.add_manifest("corp/app", b"{" + b" " * 5_000_000 + b"}", "v1")
    with pytest.raises(MalformedError, match="more than"):
        registry.manifest("corp/app", "v1")


def test_an_encoded_body_is_refused_unread(start: Start) -> None:
    server, registry = start(gzipped=True)
    server.add_image("corp/app", "v1")
    digest = server.add_blob("corp/app", b"\0" * 10_000_000)
    for ask in (
        lambda: registry.manifest("corp/app", "v1"),
        lambda: registry.blob("corp/app", digest, 10_000_000),
        lambda: registry.open_blob("corp/app", digest),
    ):
        with pytest.raises(RegistryError, match="gzip"):
            ask()
    assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}


def test_credentials_do_not_follow_a_redirect_to_another_host(start: Start) -> None:
    store, _ = start()
    server, registry = start(
        bearer=("ci", "secret-word"), client={"credentials": LOGIN}, blob_redirect=store.url
    )
    digest = server.add_blob("corp/app", b"data")
    store.add_blob("corp/app", b"data")
    assert registry.blob("corp/app", digest, 100) == b"data"
    assert [request.path for request in store.requests] == [f"/v2/corp/app/blobs/{digest}"]
    assert "Authorization" not in store.requests[0].headers
    assert registry.has_blob("corp/app", digest)
    assert all("Authorization" not in request.headers for request in store.requests)


def test_redirects_end_somewhere(start: Start) -> None:
    server, registry = start(redirect_for_ever=True)
    digest = server.add_blob("corp/app", b"data")
    with pytest.raises(RegistryError, match="redirects"):
        registry.blob("corp/app", digest, 100)
    assert server.count("GET") == transport.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://a/b", "http://a:x/", "http://[a", "//["]
)
def test_a_redirect_leads_to_the_web_or_nowhere(start: Start, location: str) -> None:
    server, registry = start()
    server.fail("GET", Failure(302, {"Location": location}))
    with pytest.raises(RegistryError, match="not a web address"):
        registry.blob("corp/app", ABSENT, 100)


# TLS and proxies


def test_tls_is_checked_against_the_given_authority(
    start: Start, authority: tuple[Path, ssl.SSLContext]
) -> None:
    file, context = authority
    server, registry = start(tls=context, client={"ca_file": file})
    server.add_image("corp/app", "v1")
    assert registry.tags("corp/app") == ("v1",)
    _, unknown = start(tls=context, client={"retries": 0})
    with pytest.raises(RegistryError, match="SSL certificate"):
        unknown.tags("corp/app")


def test_a_certificate_is_for_the_host_that_shows_it(
    start: Start, authority: tuple[Path, ssl.SSLContext]
) -> None:
    file, context = authority
    server, _ = start(tls=context)
    url = server.url.replace("127.0.0.1", "localhost")
    other = DistributionRegistry("main", url, ca_file=file, retries=0)
    with pytest.raises(RegistryError, match="SSL"):
        other.tags("corp/app")
    assert not server.requests


def test_a_redirect_from_https_to_http_is_refused(
    start: Start, authority: tuple[Path, ssl.SSLContext]
) -> None:
    file, context = authority
    plain, _ = start()
    server, registry = start(tls=context, blob_redirect=plain.url, client={"ca_file": file})
    plain.add_blob("corp/app", b"data")
    digest = server.add_blob("corp/app", b"data")
    with pytest.raises(RegistryError, match="https to http"):
        registry.blob("corp/app", digest, 100)
    assert not plain.requests


def test_a_redirect_from_http_to_https_is_followed_and_checked(
    start: Start, authority: tuple[Path, ssl.SSLContext]
) -> None:
    file, context = authority
    store, _ = start(tls=context)
    server, registry = start(blob_redirect=store.url, client={"ca_file": file})
    store.add_blob("corp/app", b"data")
    digest = server.add_blob("corp/app", b"data")
    assert registry.blob("corp/app", digest, 100) == b"data"
    trusting_nobody = DistributionRegistry("main", server.url, retries=0)
    with pytest.raises(RegistryError, match="SSL certificate"):
        trusting_nobody.blob("corp/app", digest, 100)


def test_a_password_goes_to_no_unencrypted_token_service_of_an_https_registry(
    start: Start, authority: tuple[Path, ssl.SSLContext]
) -> None:
    file, context = authority
    plain, _ = start()
    _, registry = start(
        tls=context,
        bearer=("ci", "secret-word"),
        realm=f"{plain.url}/token",
        client={"credentials": LOGIN, "ca_file": file},
    )
    with pytest.raises(RefusedError, match="unencrypted"):
        registry.tags("corp/app")
    assert not plain.requests


def test_a_registry_that_calls_itself_http_behind_tls_is_met_with_tls(
    start: Start, authority: tuple[Path, ssl.SSLContext]
) -> None:
    file, context = authority
    server, registry = start(tls=context, page=1, client={"ca_file": file})
    server.add_image("corp/app", "v1")
    server.add_image("corp/app", "v2")
    server.quirks.next_host = server.quirks.uploads_at = f"http://{server.host}"
    assert registry.tags("corp/app") == ("v1", "v2")
    registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    assert server.repository("corp/app").blobs[digest_of(b"data")] == b"data"


def test_the_environments_proxy_is_used(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, _ = start()
    proxy.add_image("corp/app", "v1")
    monkeypatch.setenv("http_proxy", proxy.url)
    registry = DistributionRegistry("main", "http://registry.invalid:5000", retries=0)
    assert registry.tags("corp/app") == ("v1",)
    assert proxy.requests[0].path.startswith("http://registry.invalid:5000/v2/")
    monkeypatch.setenv("no_proxy", "registry.invalid")
    direct = DistributionRegistry("main", "http://registry.invalid:5000", retries=0)
    with pytest.raises(RegistryError, match="no answer"):
        direct.tags("corp/app")


# Credentials


def test_a_token_is_fetched_once_and_again_when_it_is_worn_out(start: Start) -> None:
    server, registry = start(
        bearer=("ci", "secret-word"), token_lifetime=2, client={"credentials": LOGIN}
    )
    server.add_image("corp/app", "v1")
    for _ in range(4):
        assert registry.tags("corp/app") == ("v1",)
    assert server.count("GET", "/token") == 2
    assert server.count("GET", "tags/list") == 4 + 2


def test_an_anonymous_token_is_fetched_where_no_credentials_are_known(start: Start) -> None:
    server, registry = start(bearer=("", ""))
    server.add_image("corp/app", "v1")
    assert registry.tags("corp/app") == ("v1",)
    token = next(request for request in server.requests if request.path.startswith("/token"))
    assert "scope=repository%3Acorp%2Fapp%3Apull" in token.path
    assert "Authorization" not in token.headers


def test_basic_credentials_are_sent_after_the_first_challenge(start: Start) -> None:
    server, registry = start(basic=("ci", "secret-word"), client={"credentials": LOGIN})
    server.add_image("corp/app", "v1")
    server.add_image("corp/other", "v1")
    assert registry.tags("corp/app") == registry.tags("corp/other") == ("v1",)
    assert server.count("GET") == 3


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_wrong_credentials_are_an_error_that_does_not_show_them(start: Start, scheme: str) -> None:
    wrong = Credentials("ci", "wrong-word")
    server, registry = start(**{scheme: ("ci", "secret-word")}, client={"credentials": wrong})
    for _ in range(2):
        with pytest.raises(RegistryError) as caught:
            registry.tags("corp/app")
    # The second call does not send the same password twice.
    assert server.count("GET", "tags/list") == (3 if scheme == "basic" else 2)
    assert "401" in str(caught.value)
    assert "wrong-word" not in str(caught.value)
    assert "wrong-word" not in repr(wrong)


def test_docker_configuration_is_read(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    server, _ = start(basic=("ci", "secret-word"))
    server.add_image("corp/app", "v1")
    auth = base64.b64encode(b"ci:secret-word").decode()
    config.write_text(json.dumps({"auths": {server.host: {"auth": auth}}}))
    registry = DistributionRegistry(
        "main", server.url, credentials=Credentials(docker_config=config), backoff=0.001
    )
    assert registry.tags("corp/app") == ("v1",)


def test_a_credential_helper_is_asked(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, registry = start(basic=("ci", "secret-word"))
    server.add_image("corp/app", "v1")
    helper = tmp_path / "docker-credential-lab"
    helper.write_text('#!/bin/sh\necho \'{"Username":"ci","Secret":"secret-word"}\'\n')
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {server.host: "lab"}}))
    assert registry.tags("corp/app") == ("v1",)


@pytest.mark.parametrize("content", ["{", "[]", '{"auths": 5}', '{"auths": {"HOST": 3}}'])
def test_a_broken_docker_configuration_is_a_settings_error(
    start: Start, tmp_path: Path, content: str
) -> None:
    server, _ = start(basic=("ci", "secret-word"))
    config = tmp_path / "config.json"
    config.write_text(content.replace("HOST", server.host))
    given = Credentials(docker_config=config)
    with pytest.raises(SettingsError):
        DistributionRegistry("main", server.url, credentials=given).tags("corp/app")
    missing = Credentials(docker_config=tmp_path / "none")
    with pytest.raises(SettingsError):
        DistributionRegistry("main", server.url, credentials=missing).tags("corp/app")


def test_a_password_is_not_sent_unencrypted_to_another_host(start: Start) -> None:
    thief, _ = start()
    realm = thief.url.replace("127.0.0.1", "localhost") + "/token"
    _, registry = start(bearer=("ci", "secret-word"), realm=realm, client={"credentials": LOGIN})
    with pytest.raises(RefusedError, match="unencrypted"):
        registry.tags("corp/app")
    assert not thief.requests


@pytest.mark.parametrize(
    "realm", ["file:///etc/passwd", "ldap://x/", "token", "http:///x", "http://[x"]
)
def test_a_token_service_is_on_the_web(start: Start, realm: str) -> None:
    _, registry = start(bearer=("ci", "x"), realm=realm, client={"credentials": LOGIN})
    with pytest.raises(RefusedError):
        registry.tags("corp/app")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token":5}', b'{"token":"a\\r\\nX: y"}', b" " * 100_000]
)
def test_a_token_service_that_gives_no_token_is_an_error(start: Start, body: bytes) -> None:
    server, registry = start(bearer=("ci", "x"), client={"credentials": LOGIN})
    server.fail("/token", Failure(200, body=body))
    with pytest.raises(LongsealError, match="token"):
        registry.tags("corp/app")


def test_a_busy_token_service_is_asked_again(start: Start) -> None:
    server, registry = start(bearer=("", ""))
    server.add_image("corp/app", "v1")
    server.fail("/token", Failure(503), times=1)
    assert registry.tags("corp/app") == ("v1",)


@pytest.mark.parametrize(
    "url",
    [
        *("", "host:5000", "ftp://host", "http://", "http://host/v2/", "http://u:p@host"),
        *("http://h:x", "http://[x", "http://h%2e", "http://h\xf6st"),
    ],
)
def test_a_url_that_is_no_registry_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        DistributionRegistry("main", url)
    assert "u:p" not in str(caught.value)


def test_a_ca_file_that_cannot_be_read_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ca_file"):
        DistributionRegistry("main", "https://localhost", ca_file=tmp_path / "none.pem")


# Pace


def test_the_budget_holds_over_all_threads(start: Start) -> None:
    server, registry = start(client={"budget": 50})
    server.add_image("corp/app", "v1")
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: registry.tags("corp/app"), range(26)))
    assert time.monotonic() - began >= 25 / 50


# Writing


def test_a_blob_is_stored_once(start: Start) -> None:
    server, registry = start()
    data = bytes(1_000_000)
    for _ in range(2):
        registry.put_blob("corp/app", digest_of(data), len(data), io.BytesIO(data))
    assert server.repository("corp/app").blobs[digest_of(data)] == data
    assert server.count("PUT") == server.count("POST") == 1
    put = next(request for request in server.requests if request.method == "PUT")
    assert put.headers["Content-Length"] == str(len(data))


def test_threads_that_share_a_blob_send_it_once(start: Start) -> None:
    server, registry = start(latency=0.05)
    with ThreadPoolExecutor(8) as pool:

        def put(_: int) -> None:
            registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))

        list(pool.map(put, range(8)))
    assert server.count("PUT") == 1


def test_a_blob_is_sent_again_when_the_upload_fails(start: Start) -> None:
    server, registry = start()
    server.fail("PUT", Failure(503), times=1)
    registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    assert server.repository("corp/app").blobs[digest_of(b"data")] == b"data"


def test_a_blob_with_other_bytes_is_refused_by_the_far_end(start: Start) -> None:
    server, registry = start()
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        registry.put_blob("corp/app", ABSENT, 4, io.BytesIO(b"data"))
    assert not server.repository("corp/app").blobs


def test_an_upload_is_not_sent_to_another_host(start: Start) -> None:
    thief, _ = start()
    _, registry = start(uploads_at=thief.url)
    with pytest.raises(RegistryError, match="another host"):
        registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    assert not thief.requests


def test_an_absolute_upload_address_on_the_same_host_is_used(start: Start) -> None:
    server, registry = start()
    server.quirks.uploads_at = server.url
    registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    assert server.repository("corp/app").blobs


def test_pushing_uses_a_token_that_may_push(start: Start) -> None:
    server, registry = start(bearer=("ci", "secret-word"), client={"credentials": LOGIN})
    registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    scopes = [request.path for request in server.requests if request.path.startswith("/token")]
    assert [path.rpartition("%3A")[2] for path in scopes] == ["pull", "pull%2Cpush"]


def test_a_manifest_is_stored_under_its_digest_and_tag(start: Start) -> None:
    server, registry = start()
    data = json.dumps(image(server, "corp/app", [b"layer"])).encode()
    manifest = Manifest(digest_of(data), OCI_MANIFEST, data)
    registry.put_manifest("corp/app", manifest)
    assert registry.manifest("corp/app", manifest.digest) == manifest
    assert registry.tags("corp/app") == ()
    registry.put_manifest("corp/app", manifest, "v1")
    assert registry.resolve("corp/app", "v1") == manifest.digest


def test_a_registry_that_stores_something_else_is_an_error(start: Start) -> None:
    server, registry = start()
    server.fail("PUT", Failure(201, {"Docker-Content-Digest": ABSENT}))
    with pytest.raises(RegistryError, match="stored"):
        registry.put_manifest("corp/app", Manifest(digest_of(b"{}"), OCI_MANIFEST, b"{}"))


def test_a_digest_that_is_called_invalid_and_is_not_may_be_stored_later(start: Start) -> None:
    server, registry = start()
    error = json.dumps({"errors": [{"code": "DIGEST_INVALID"}]}).encode()
    server.fail("PUT", Failure(400, body=error))
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        registry.put_manifest("corp/app", Manifest(digest_of(b"{}"), OCI_MANIFEST, b"{}"))
    with pytest.raises(RefusedError, match="DIGEST_INVALID"):
        registry.put_manifest("corp/app", Manifest(ABSENT, OCI_MANIFEST, b"{}"))


def test_a_tag_that_may_not_move_is_refused(start: Start) -> None:
    server, registry = start(immutable=True)
    server.add_image("corp/app", "v1")
    data = json.dumps(image(server, "corp/app", [b"other"])).encode()
    with pytest.raises(RefusedError, match="TAG_INVALID"):
        registry.put_manifest("corp/app", Manifest(digest_of(data), OCI_MANIFEST, data), "v1")


def test_deleting_takes_the_manifest_and_deleting_again_is_no_error(start: Start) -> None:
    server, registry = start()
    digest = server.add_image("corp/app", "v1")
    registry.delete_manifest("corp/app", digest)
    assert registry.manifest("corp/app", digest) is None
    registry.delete_manifest("corp/app", digest)


def test_a_registry_that_does_not_delete_is_a_refusal(start: Start) -> None:
    server, registry = start(deletes=False)
    digest = server.add_image("corp/app", "v1")
    with pytest.raises(RefusedError, match="405"):
        registry.delete_manifest("corp/app", digest)


def test_connections_are_used_again(start: Start) -> None:
    server, registry = start(
        bearer=("ci", "secret-word"), token_lifetime=1, client={"credentials": LOGIN}
    )
    server.add_image("corp/app", "v1")
    blob = server.add_blob("corp/app", b"data")
    for _ in range(10):
        registry.tags("corp/app")
        registry.manifest("corp/app", "none")
        registry.resolve("corp/app", "v1")
        with registry.open_blob("corp/app", blob) as stream:
            stream.read()
    assert server.connections == 2  # one of them for streams
