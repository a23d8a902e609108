import io
import os
import pty
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tests.doubles.registry import Failure, Start
from tests.doubles.server import talking
from tests.proxy import Proxy

import longseal
from longseal.canonical import digest_of
from longseal.errors import RefusedError, RegistryError, SettingsError
from longseal.registry import connections, transport
from longseal.registry.auth import Credentials
from longseal.registry.distribution import DistributionRegistry

LOGIN = Credentials("ci", "secret-word")
Authority = tuple[Path, ssl.SSLContext]


# -- rate limits ---------------------------------------------------------------------------------


def throttled(start: Start, value: str) -> float | None:
    """The pause that the error asks for after a 429 with this ``Retry-After``."""
    server, registry = start(client={"retries": 0})
    server.fail("GET", Failure(429, {"Retry-After": value}))
    with pytest.raises(RegistryError, match="429") as caught:
        registry.tags("corp/app")
    return caught.value.retry_after


def test_a_retry_after_that_is_a_date_is_honoured(start: Start) -> None:
    later = throttled(start, format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert later is not None and 3500 < later <= 3600
    assert throttled(start, "Sun, 06 Nov 1994 08:49:37 GMT") == 0


@pytest.mark.parametrize("value", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_registry_is_not_believed_to_need_more_than_a_day(start: Start, value: str) -> None:
    assert throttled(start, value) == transport.MAX_RETRY_AFTER


@pytest.mark.parametrize("value", ["Mon, 99 Foo 2026 00:00:00 GMT", "1.5", "²", "9" * 4000, ","])
def test_a_retry_after_that_cannot_be_read_is_silence(start: Start, value: str) -> None:
    assert throttled(start, value) is None


# -- answers without end -------------------------------------------------------------------------


@contextmanager
def dripping(first: bytes, drop: bytes) -> Iterator[tuple[str, list[int]]]:
    """A server that goes on with ``drop`` after ``first`` until nobody listens, five seconds at
    most; and the number of its connections."""
    connected: list[int] = []

    def talk(connection: socket.socket) -> None:
        connected.append(1)
        connection.recv(65536)
        connection.sendall(first)
        for _ in range(250):
            connection.sendall(drop)
            time.sleep(0.02)

    with talking(talk) as url:
        yield url, connected


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def test_clients_that_failed_together_do_not_come_back_together(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("longseal.registry.transport.time.sleep", waits.append)
    server, registry = start(client={"retries": 3, "backoff": 1.0})
    server.fail("tags", Failure(503))
    for _ in range(2):
        with pytest.raises(RegistryError):
            registry.tags("corp/app")
    first, second = waits[:3], waits[3:]
    assert len(second) == 3 and not {*first} & {*second}
    for tried, wait in [*enumerate(first), *enumerate(second)]:
        assert 2**tried / 2 <= wait <= 2**tried


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (HEAD + b"Content-Length: 1000\r\n\r\n{", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n \r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\n", b"X"),
        (b"HTTP/1.1 ", b"2"),
    ],
)
def test_an_answer_that_drips_in_is_given_up_and_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, first: bytes, drop: bytes
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.3)
    with dripping(first, drop) as (url, connected):
        registry = DistributionRegistry("main", url, retries=3, timeout=5.0, backoff=0.001)
        with pytest.raises(RegistryError, match="too slowly"):
            registry.tags("corp/app")
    assert len(connected) == 1


def test_a_stream_that_drips_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.3)
    with dripping(HEAD + b"Content-Length: 1000\r\n\r\n", b"x") as (url, _):
        registry = DistributionRegistry("main", url, timeout=5.0)
        stream = registry.open_blob("corp/app", "sha256:" + "0" * 64)
        with stream, pytest.raises(RegistryError, match="too slowly"):
            stream.read()


def test_a_reader_that_takes_its_time_is_no_slow_answer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.2)
    server, registry = start()
    data = bytes(4_000_000)
    digest = server.add_blob("corp/app", data)
    with registry.open_blob("corp/app", digest) as stream:
        found = stream.read(1)
        time.sleep(0.5)
        assert found + stream.read() == data


@pytest.mark.parametrize(
    "headers",
    [{"X": "y" * 400_000}, {f"X-{number}": "y" for number in range(40_000)}],
)
def test_headers_without_end_are_an_error(start: Start, headers: dict[str, str]) -> None:
    server, registry = start(client={"retries": 1})
    server.fail("GET", Failure(200, headers, b'{"tags":[]}'))
    with pytest.raises(RegistryError, match=r"larger than allowed|Too many"):
        registry.tags("corp/app")


# -- where a registry may send its client --------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"]
)
def test_a_token_service_at_a_metadata_address_is_refused(start: Start, host: str) -> None:
    _, registry = start(bearer=("", ""), realm=f"http://{host}/token")
    with pytest.raises(RefusedError, match="internal address"):
        registry.tags("corp/app")


def test_a_redirect_to_a_metadata_address_is_refused(start: Start) -> None:
    server, registry = start(blob_redirect="http://169.254.169.254/latest")
    digest = server.add_blob("corp/app", b"data")
    with pytest.raises(RefusedError, match="internal address"):
        registry.blob("corp/app", digest, 100)


@pytest.mark.parametrize(
    "place",
    [
        # libcurl decodes a host's name, and takes what stands before an @ for a login.
        "http://169.254.169%2e254/latest",
        "http://%31%36%39.254.169.254/latest",
        "http://registry.example:80@169.254.169.254/latest",
        "http://fe80::1%25eth0/latest",
        "http://\uff11\uff16\uff19.254.169.254/latest",
    ],
)
def test_a_host_that_two_readers_would_read_in_two_ways_is_no_address(
    start: Start, place: str
) -> None:
    server, _ = start(blob_redirect=place.encode().decode("latin-1"))
    digest = server.add_blob("corp/app", b"data")
    with Proxy({"registry.example": server.host}) as proxy:
        registry = DistributionRegistry("main", "http://registry.example", proxy=proxy.url)
        with pytest.raises(RegistryError, match="not a web address"):
            registry.blob("corp/app", digest, 100)
        assert [path.partition("/v2/")[0] for _, path in proxy.seen] == ["http://registry.example"]


def test_a_public_registry_sends_nobody_inside_unless_the_settings_name_the_host(
    start: Start,
) -> None:
    inside, _ = start()
    inside.add_blob("corp/app", b"data")
    server, _ = start(bearer=("", ""), realm=f"{inside.url}/token", blob_redirect=inside.url)
    server.tokens = inside.tokens
    digest = server.add_blob("corp/app", b"data")
    with Proxy({"registry.example:5000": server.host}) as proxy:
        url = "http://registry.example:5000"
        registry = DistributionRegistry("main", url, proxy=proxy.url)
        with pytest.raises(RefusedError, match=r"127\.0\.0\.1.*internal_hosts"):
            registry.blob("corp/app", digest, 100)
        assert not inside.requests
        allowed = DistributionRegistry("main", url, proxy=proxy.url, internal_hosts=["127.0.0.1"])
        assert allowed.blob("corp/app", digest, 100) == b"data"


def test_a_name_that_leads_inside_once_it_was_checked_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "addresses", lambda host, port: frozenset({"93.184.216.34"}))
    inside, _ = start()
    realm = inside.url.replace("127.0.0.1", "localhost") + "/token"
    _, registry = start(bearer=("", ""), realm=realm)
    with pytest.raises(RefusedError, match=r"internal address 127\.0\.0\.1"):
        registry.tags("corp/app")
    assert not inside.requests


# -- proxies -------------------------------------------------------------------------------------


def test_the_proxy_of_the_settings_goes_before_the_environments(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    server, _ = start()
    server.add_image("corp/app", "v1")
    with Proxy({"registry.example": server.host}) as proxy:
        registry = DistributionRegistry("main", "http://registry.example", proxy=proxy.url)
        assert registry.tags("corp/app") == ("v1",)
        assert proxy.seen == [("GET", "http://registry.example/v2/corp/app/tags/list?n=1000")]


def test_tls_goes_through_a_proxy_unread_and_the_certificate_is_checked(
    start: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, context = authority
    server, _ = start(tls=context, basic=("ci", "secret-word"))
    server.add_image("corp/app", "v1")
    with Proxy(login=("me", "p:w%")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//me:p%3Aw%25@"))
        options = {"ca_file": file, "credentials": LOGIN, "retries": 0}
        assert DistributionRegistry("main", server.url, **options).tags("corp/app") == ("v1",)
        assert proxy.seen == [("CONNECT", server.host)]
        with pytest.raises(RegistryError, match="no answer"):
            DistributionRegistry("main", server.url, retries=0).tags("corp/app")
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//me:wrong-word@"))
        with pytest.raises(RegistryError, match="no answer") as caught:
            DistributionRegistry("main", server.url, **options).tags("corp/app")
        assert "wrong-word" not in str(caught.value)


# -- client certificates -------------------------------------------------------------------------


def test_a_client_certificate_is_shown_to_the_registry_and_to_nobody_else(
    start: Start, authority: Authority
) -> None:
    file, context = authority
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(file)
    store, _ = start(tls=context)
    store.add_blob("corp/app", b"data")
    server, registry = start(tls=context, client={"ca_file": file, "client_certificate": file})
    digest = server.add_blob("corp/app", b"data")
    assert registry.blob("corp/app", digest, 100) == b"data"
    server.quirks.blob_redirect = store.url
    with pytest.raises(RegistryError, match=r"no answer|broke off"):
        registry.blob("corp/app", digest, 100)
    assert not store.requests
    nobody = DistributionRegistry("main", server.url, ca_file=file, retries=0)
    with pytest.raises(RegistryError, match=r"no answer|broke off"):
        nobody.blob("corp/app", digest, 100)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_client_certificate_that_cannot_be_used_is_a_settings_error(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "client.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match="client_certificate"):
        DistributionRegistry("main", "https://registry.example", client_certificate=file)


def test_a_client_key_with_a_password_is_a_settings_error_and_no_question_at_a_terminal(
    tmp_path: Path, authority: Authority
) -> None:
    key = load_pem_private_key(authority[0].read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    )
    script = (
        "from pathlib import Path\n"
        "from longseal.registry.distribution import DistributionRegistry\n"
        "DistributionRegistry('main', 'https://registry.example',"
        f" client_certificate=Path({str(authority[0])!r}), client_key=Path({str(locked)!r}))"
    )
    child, terminal = pty.fork()
    if child == 0:
        library = {"PYTHONPATH": str(Path(longseal.__file__).parents[1])}
        os.execve(sys.executable, [sys.executable, "-c", script], library)
    said = b""
    try:
        while b"pass phrase" not in said and (data := os.read(terminal, 65536)):
            said += data
    except OSError:  # the child has ended, and its terminal with it
        pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    assert b"SettingsError: client_certificate: no certificate and key, without a" in said
    assert b"pass phrase" not in said


# -- tokens that expire in mid-run ---------------------------------------------------------------


def test_a_token_that_expires_between_the_parts_of_an_upload_is_renewed(start: Start) -> None:
    server, registry = start(bearer=("ci", "secret-word"), client={"credentials": LOGIN})
    challenge = f'Bearer realm="{server.url}/token"'
    server.fail("PUT", Failure(401, {"WWW-Authenticate": challenge}), times=1)
    registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    assert server.count("PUT") == 2
    assert server.repository("corp/app").blobs[digest_of(b"data")] == b"data"
