import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.doubles.server import talking

from longseal.errors import RegistryError
from longseal.registry.connections import (
    MAX_ERROR_BYTES,
    Answer,
    BrokenOff,
    Connections,
    Download,
    Headers,
    Route,
)


def test_headers_are_found_in_any_case_and_as_often_as_they_stand_there() -> None:
    lines = [b"HTTP/1.1 401 No\r\n", b"WWW-Authenticate: Basic\r\n", b"www-authenticate:Bearer\r\n"]
    headers = Headers([*lines, b"X-Empty:\r\n", b"\r\n"])
    assert headers.all("Www-Authenticate") == ["Basic", "Bearer"]
    assert headers.get("WWW-AUTHENTICATE") == "Basic, Bearer"
    assert headers.get("X-Empty", "none") == ""
    assert headers.get("X", "none") == "none"


@contextmanager
def saying(*answers: bytes, keep: bool = True) -> Iterator[tuple[str, list[int]]]:
    """A server that gives these answers in turn, whatever is asked; and by connection, how many.

    :param keep: whether a connection stays open after an answer; none is said to close
    """
    left = list(answers)
    given: list[int] = []

    def talk(connection: socket.socket) -> None:
        given.append(0)
        while left and connection.recv(65536):
            connection.sendall(left.pop(0))
            given[-1] += 1
            if not keep:
                break

    with talking(talk) as url:
        yield f"{url}/", given


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def connections() -> Connections:
    return Connections(Route(), timeout=5.0)


def test_a_connection_that_the_far_end_closed_meanwhile_is_made_anew() -> None:
    ours = connections()
    with saying(OK, OK, OK, keep=False) as (url, given):
        for _ in range(3):
            assert ours.ask("GET", url, {}, limit=9, allow=(200,)).body == b"ok"
    assert given == [1, 1, 1]


def test_what_was_set_for_one_request_is_gone_with_the_next() -> None:
    ours = connections()
    created = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n"
    with saying(created, head, OK) as (url, given):
        assert ours.ask("POST", url, {}, b"body").status == 201
        assert ours.ask("HEAD", url, {}).body == b""
        assert ours.ask("GET", url, {}, limit=9, allow=(200,)).body == b"ok"
    assert given == [3]


def test_a_continue_before_the_answer_is_no_answer() -> None:
    before = b"HTTP/1.1 100 Continue\r\nX: no\r\n\r\n"
    with saying(before + OK) as (url, _):
        answer = connections().ask("GET", url, {}, limit=9, allow=(200,))
    assert (answer.status, answer.headers.get("X", "none"), answer.body) == (200, "none", b"ok")


def test_a_header_that_looks_like_the_first_line_of_an_answer_is_a_header() -> None:
    head = b"HTTP/1.1 200 OK\r\nHTTP/x: no number\r\nHTTP/1.1 404: no\r\nX-Last: x\r\n"
    with saying(head + b"Content-Length: 2\r\n\r\nok") as (url, _):
        answer = connections().ask("GET", url, {}, limit=9, allow=(200,))
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers.get("X-Last") == "x"


def test_an_address_that_is_not_ascii_is_an_error_of_ours() -> None:
    for address in ("http://127.0.0.1/\xfc", "http://\uff11/"):
        with pytest.raises(RegistryError, match="not a web address"):
            connections().ask("GET", address, {})
        with pytest.raises(RegistryError, match="not a web address"):
            connections().open(address, {})


def test_nobody_holds_on_to_an_answer_that_was_given() -> None:
    size = 8 * 1024 * 1024
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, b"x" * size)
    ours = connections()
    with saying(whole, whole) as (url, _):
        tracemalloc.start()
        try:
            assert len(ours.ask("GET", url, {}, limit=size, allow=(200,)).body) == size
            assert not ours.ask("GET", url, {}, limit=size - 1, allow=(200,)).whole
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # What the server itself has is older.
    assert held < size // 8


def test_of_an_answer_that_nobody_hoped_for_no_more_is_read_than_an_error_has() -> None:
    size = MAX_ERROR_BYTES * 4
    long = b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    with saying(long, OK) as (url, given):
        ours = connections()
        answer = ours.ask("GET", url, {}, limit=size * 2, allow=(200,))
        assert answer.status == 500 and not answer.whole
        assert len(answer.body) <= MAX_ERROR_BYTES
        assert ours.ask("GET", url, {}, limit=9, allow=(200,)).body == b"ok"
    assert given == [1, 1]


def test_a_stream_that_was_left_half_read_does_not_spoil_the_next() -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000
    ours = connections()
    with saying(long, OK, OK) as (url, _):
        first = ours.open(url, {})
        assert isinstance(first, Download)
        assert first.read(1) == b"x"
        first.close()
        for _ in range(2):
            with ours.open(url, {}) as stream:
                assert stream.readall() == b"ok"


def test_what_came_before_a_stream_broke_off_is_still_read() -> None:
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour"
    with saying(broken, keep=False) as (url, _), connections().open(url, {}) as stream:
        assert stream.read(4) == b"four"
        with pytest.raises(RegistryError, match="broke off"):
            stream.read(1)


def test_an_error_in_place_of_a_stream_is_an_answer() -> None:
    refused = b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"
    with saying(refused) as (url, _):
        answer = connections().open(url, {})
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (403, b"no")


def test_a_body_that_cannot_be_read_fails_with_its_own_error() -> None:
    class Broken:
        def seekable(self) -> bool:
            return False

        def read(self, size: int) -> bytes:
            raise RegistryError("the source broke off")

    with saying(OK) as (url, _), pytest.raises(RegistryError, match="source broke"):
        connections().ask("PUT", url, {}, Broken(), 100)  # type: ignore[arg-type]


def test_a_file_is_never_read_in_the_place_of_an_address() -> None:
    with pytest.raises(BrokenOff):
        connections().ask("GET", "file:///etc/passwd", {}, limit=9_999, allow=(0, 200))
