"""Connections that the far end cannot hold open for ever.

libcurl carries them: docs/decisions/0001-registry-transport.md says why, with figures.
"""

from __future__ import annotations

import io
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pycurl

from longseal.canonical import parse_object
from longseal.errors import LongsealError, MalformedError, RegistryError

PATIENCE: Final = 60.0
"""Seconds that an answer may take however small it is, its headers included."""

SLOWEST: Final = 16 * 1024
"""Bytes a second that an answer must bring beyond that."""

MAX_ERROR_BYTES: Final = 64 * 1024
"""Most that is read of an answer that is not the one hoped for."""

CHUNK: Final = 256 * 1024


class Readable(Protocol):
    """A body that is sent as it is read."""

    def read(self, count: int = -1, /) -> bytes:
        """At most ``count`` bytes; none at the end."""

    def seekable(self) -> bool:
        """Whether it can be sent a second time."""

    def tell(self) -> int:
        """Where it stands."""

    def seek(self, offset: int, /) -> int:
        """Go there."""


Body = bytes | Readable | None

_GLANCE: Final = 0.05
"""Seconds between two looks at what an answer has brought."""

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})(?:\s|$)")
_BLANK: Final = (b"\r\n", b"\n")
_CODE = re.compile(r"[A-Z_]{3,40}")


class BrokenOff(Exception):
    """There is no answer, or only a part of one; the next attempt may fare better."""


class TooSlow(Exception):
    """The answer drips in."""


class Headers:
    """The headers of an answer; names are looked up in any case.

    :param lines: as they came
    """

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines

    def all(self, name: str) -> list[str]:
        """Every value under a name, in order."""
        start = f"{name.lower()}:".encode()
        return [
            line[len(start) :].strip().decode("latin-1")
            for line in self._lines
            if line.lower().startswith(start)
        ]

    def get(self, name: str, default: str = "") -> str:
        """The values under a name, as one (RFC 9110, 5.3)."""
        found = self.all(name)
        return ", ".join(found) if found else default


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, as far as it was read.

    :param whole: False where there is more than was to be read of it
    """

    status: int
    headers: Headers
    body: bytes
    whole: bool = True

    @property
    def code(self) -> str:
        """The first error code of distribution-spec in the body, or nothing."""
        try:
            found = parse_object(self.body, "error", MAX_ERROR_BYTES)["errors"][0]["code"]
        except (MalformedError, LookupError, TypeError):
            return ""
        return found if isinstance(found, str) and _CODE.fullmatch(found) else ""


@dataclass(frozen=True, slots=True)
class Route:
    """How some hosts are reached.

    :param ca_file: PEM file of the authorities to trust; ``ca_data`` is in place of it
    :param ca_folder: folder of more of them, as OpenSSL wants it
    :param client_certificate: PEM file to show; ``client_key`` where its key is not in there
    :param proxy: URL of the proxy, without credentials; ``proxy_login`` is ``user:password``
    :param check: called with the address that is about to be connected to; raises where that must
        not be: a name that was checked may lead elsewhere by now
    """

    ca_file: Path | None = None
    ca_data: bytes = b""
    ca_folder: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str = ""
    proxy_login: str = ""
    check: Callable[[str], None] | None = None


class Connections:
    """Connections over one route, kept open; for any number of threads.

    :param timeout: seconds to connect, and between two pieces of an answer
    """

    def __init__(self, route: Route, timeout: float) -> None:
        self._route = route
        self._timeout = timeout
        # A connection stays with the handle that made it.
        self._idle: deque[pycurl.Curl] = deque()
        self._idle_streams: deque[_Stream] = deque()

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = None,
        size: int | None = None,
        limit: int = MAX_ERROR_BYTES,
        allow: Collection[int] = (),
    ) -> Answer:
        """Send a request and read the answer; redirects are answers too.

        :param size: length of a ``body`` that is a stream
        :param limit: most bytes to read of an answer whose status is in ``allow``; of another it
            is :data:`MAX_ERROR_BYTES`
        :raises BrokenOff: as its name says
        :raises TooSlow: likewise
        """
        try:
            handle = self._idle.pop()
        except IndexError:
            handle = self._new_handle()
        exchange = _Exchange(handle, self._route, method, url, headers)
        if body is not None:
            exchange.send(body, size)
        taken = _Taken(exchange, limit, allow)
        handle.setopt(pycurl.WRITEFUNCTION, taken.take)
        patience = _Patience(self._timeout)
        handle.setopt(pycurl.NOPROGRESS, 0)
        handle.setopt(pycurl.XFERINFOFUNCTION, patience.watch)
        try:
            handle.perform()
        except pycurl.error as err:
            if taken.whole:
                raise patience.failure or exchange.failure(err) from err
        finally:
            if method != "GET" or body is not None:
                _prepare(handle, self._route, self._timeout)
            body = b"".join(taken.pieces)
            taken.pieces.clear()  # the handle knows them until it is used again
            self._idle.append(handle)
        return Answer(exchange.status, exchange.answered, body, taken.whole)

    def open(self, url: str, headers: Mapping[str, str]) -> Answer | Download:
        """GET ``url``: a stream where the status is 200 or 206, else the answer.

        :raises BrokenOff: as :meth:`ask`
        :raises TooSlow: likewise
        """
        try:
            stream = self._idle_streams.pop()
        except IndexError:
            stream = pycurl.CurlMulti(), self._new_handle()
        exchange = _Exchange(stream[1], self._route, "GET", url, headers)
        download = Download(exchange, stream, self._timeout, self._idle_streams.append)
        try:
            download.wait()
            if exchange.status in (200, 206):
                return download
            body = download.read(MAX_ERROR_BYTES)
        except BaseException:
            download.close()
            raise
        download.close()
        return Answer(exchange.status, exchange.answered, body)

    def _new_handle(self) -> pycurl.Curl:
        handle = pycurl.Curl()
        _prepare(handle, self._route, self._timeout)
        return handle


class _Exchange:
    """One request on a handle: what is sent, and the headers that come back."""

    def __init__(
        self,
        handle: pycurl.Curl,
        route: Route,
        method: str,
        url: str,
        headers: Mapping[str, str],
    ) -> None:
        self._handle = handle
        self._lines: list[bytes] = []
        self._check = route.check
        self._raised: BaseException | None = None
        if not url.isascii():
            raise RegistryError(f"not a web address: {url[:80]!a}")
        handle.setopt(pycurl.URL, url)
        # Some servers never answer an "Expect: 100-continue", and libcurl would wait for it.
        lines = [f"{name}: {value}" for name, value in headers.items()]
        handle.setopt(pycurl.HTTPHEADER, [*lines, "Expect:"])
        handle.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        if method == "HEAD":
            handle.setopt(pycurl.NOBODY, 1)
        elif method != "GET":
            handle.setopt(pycurl.CUSTOMREQUEST, method)
        if route.check is not None:
            handle.setopt(pycurl.OPENSOCKETFUNCTION, self._socket)

    @property
    def status(self) -> int:
        """0 before there is one."""
        first = _STATUS.match(self._lines[self._answer()]) if self._lines else None
        return int(first[1]) if first else 0

    @property
    def answered(self) -> Headers:
        """The headers of the answer."""
        return Headers(self._lines[self._answer() :])

    def _answer(self) -> int:
        """Where the answer begins: a "continue", or what a proxy says, comes before it."""
        for place in range(len(self._lines) - 1, 0, -1):
            if self._lines[place - 1] in _BLANK and _STATUS.match(self._lines[place]):
                return place
        return 0

    def send(self, body: bytes | Readable, size: int | None) -> None:
        """Have ``body`` sent, from where it stands."""
        source: Readable = io.BytesIO(body) if isinstance(body, bytes) else body
        start = source.tell() if source.seekable() else None

        def read(count: int) -> Any:
            try:
                return source.read(count)
            except BaseException as err:
                self._raised = err
                return pycurl.READFUNC_ABORT

        def seek(offset: int, _whence: int) -> Any:
            if start is None:
                return pycurl.SEEKFUNC_CANTSEEK
            source.seek(start + offset)
            return pycurl.SEEKFUNC_OK

        self._handle.setopt(pycurl.UPLOAD, 1)
        self._handle.setopt(pycurl.READFUNCTION, read)
        self._handle.setopt(pycurl.SEEKFUNCTION, seek)
        self._handle.setopt(
            pycurl.INFILESIZE_LARGE, len(body) if isinstance(body, bytes) else (size or 0)
        )

    def failure(self, err: pycurl.error) -> BaseException:
        """What is to be raised for what libcurl raised."""
        if self._raised is not None:
            return self._raised
        answered = self._handle.getinfo(pycurl.RESPONSE_CODE)
        what = "the answer broke off" if answered else "no answer"
        return BrokenOff(f"{what}: {str(err.args[-1])[:160]}")

    def _socket(self, purpose: int, address: Any) -> Any:
        assert self._check is not None
        try:
            self._check(address.addr[0])
        except LongsealError as err:
            self._raised = err
            return pycurl.SOCKET_BAD
        return socket.socket(address.family, address.socktype, address.protocol)


class _Taken:
    """The body of an answer, up to a limit."""

    def __init__(self, exchange: _Exchange, limit: int, allow: Collection[int]) -> None:
        self.pieces: list[bytes] = []
        self.whole = True
        self._exchange = exchange
        self._limit = limit
        self._allow = allow
        self._left: int | None = None

    def take(self, data: bytes) -> int:
        """What libcurl calls; another number than the length of ``data`` ends the answer."""
        if self._left is None:
            hoped_for = self._exchange.status in self._allow
            self._left = self._limit if hoped_for else MAX_ERROR_BYTES
        self._left -= len(data)
        if self._left < 0:
            self.whole = False
            return -1
        self.pieces.append(data)
        return len(data)


class _Patience:
    """Ends an answer that is silent or drips in."""

    def __init__(self, timeout: float) -> None:
        self.failure: BrokenOff | TooSlow | None = None
        self._timeout = timeout
        self._began = self._moved = self._looked = time.monotonic()
        self._seen = (0.0, 0.0)

    def watch(self, _size: float, received: float, to_send: float, sent: float) -> bool:
        """What libcurl calls, once a second at least; True ends the answer."""
        now = time.monotonic()
        if now - self._looked < _GLANCE:
            return False
        self._looked = now
        if (received, sent) != self._seen:
            self._seen = received, sent
            self._moved = now
        if sent < to_send:
            self._began = now
        if now - self._began > PATIENCE + received / SLOWEST:
            self.failure = TooSlow()
        elif now - self._moved > self._timeout:
            self.failure = BrokenOff(f"silent for {self._timeout:g} seconds")
        return self.failure is not None


_Stream = tuple[pycurl.CurlMulti, pycurl.Curl]


class Download(io.RawIOBase):
    """An answer as a stream. Only waiting counts against it: a reader may take its time."""

    def __init__(
        self,
        exchange: _Exchange,
        stream: _Stream,
        timeout: float,
        done: Callable[[_Stream], None],
    ) -> None:
        self._exchange = exchange
        self._multi, self._handle = stream
        self._timeout = timeout
        self._done = done
        self._pieces: deque[memoryview] = deque()
        self._running = True
        self._failure: BaseException | None = None
        self._waited = 0.0
        self._received = 0
        self._handle.setopt(pycurl.WRITEFUNCTION, self._take)
        self._multi.add_handle(self._handle)

    @property
    def status(self) -> int:
        """200, or 206 where a part was asked for."""
        return self._exchange.status

    @property
    def headers(self) -> Headers:
        """Looked up in any case."""
        return self._exchange.answered

    def wait(self) -> None:
        """Return when there is something to read, or nothing any more.

        :raises BrokenOff: as its name says
        :raises TooSlow: likewise
        """
        self._work()
        began = time.monotonic()
        while self._running and not self._pieces:
            if self._multi.select(0.2) == -1:
                time.sleep(0.01)  # while a name is resolved there is nothing to wait for
            self._work()
            waited = time.monotonic() - began
            if self._waited + waited > PATIENCE + self._received / SLOWEST:
                raise TooSlow
            if waited > self._timeout:
                raise BrokenOff(f"silent for {self._timeout:g} seconds")
        self._waited += time.monotonic() - began
        if self._failure is not None and not self._pieces:
            raise self._failure

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            if not self._pieces:
                self.wait()
        except BrokenOff as err:
            raise RegistryError(str(err)) from err
        except TooSlow as err:
            raise RegistryError("the answer comes too slowly") from err
        if not self._pieces:
            return 0
        piece = self._pieces.popleft()
        count = min(len(buffer), len(piece))
        buffer[:count] = piece[:count]
        if count < len(piece):
            self._pieces.appendleft(piece[count:])
        return count

    def close(self) -> None:
        if not self.closed:
            # libcurl closes the connection of an answer that was not read to its end.
            self._multi.remove_handle(self._handle)
            self._pieces.clear()  # the handle knows them until it is used again
            self._done((self._multi, self._handle))
        super().close()

    def _work(self) -> None:
        if not self._running:
            return
        while self._multi.perform()[0] == pycurl.E_CALL_MULTI_PERFORM:
            pass
        _, ended, failed = self._multi.info_read()
        self._running = not (ended or failed)
        for _, number, text in failed:
            self._failure = self._exchange.failure(pycurl.error(number, text))

    def _take(self, data: bytes) -> None:
        self._received += len(data)
        self._pieces.append(memoryview(data))


def _prepare(handle: pycurl.Curl, route: Route, timeout: float) -> None:
    """What every request of these connections has in common."""
    handle.reset()
    handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    handle.setopt(pycurl.PATH_AS_IS, 1)
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.BUFFERSIZE, CHUNK)
    handle.setopt(pycurl.UPLOAD_BUFFERSIZE, CHUNK)
    handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(timeout * 1000))
    # Set even where there is none: libcurl would ask the environment on its own.
    handle.setopt(pycurl.PROXY, route.proxy)
    handle.setopt(pycurl.NOPROXY, "")
    if route.proxy_login:
        handle.setopt(pycurl.PROXYUSERPWD, route.proxy_login)
    for option, place in (
        (pycurl.CAINFO, route.ca_file),
        (pycurl.PROXY_CAINFO, route.ca_file),
        (pycurl.CAPATH, route.ca_folder),
        (pycurl.PROXY_CAPATH, route.ca_folder),
    ):
        # libcurl was built with places of its own in mind.
        if place is None:
            handle.unsetopt(option)
        else:
            handle.setopt(option, str(place))
    if route.ca_data:
        handle.setopt(pycurl.CAINFO_BLOB, route.ca_data)
        handle.setopt(pycurl.PROXY_CAINFO_BLOB, route.ca_data)
    if route.client_certificate is not None:
        handle.setopt(pycurl.SSLCERT, str(route.client_certificate))
        handle.setopt(pycurl.SSLKEY, str(route.client_key or route.client_certificate))
