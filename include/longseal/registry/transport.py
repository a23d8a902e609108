"""HTTP to one registry: bounded, paced, retried, authenticated, and redirected by hand.

It is libcurl that speaks it: docs/decisions/0001-registry-transport.md says why, with figures.
"""

from __future__ import annotations

import io
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypedDict, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import longseal
from longseal.errors import MalformedError, RefusedError, RegistryError, SettingsError
from longseal.registry.addresses import addresses, is_off_limits
from longseal.registry.auth import MAX_TOKEN_BYTES, Authenticator, Credentials, Scope
from longseal.registry.connections import (
    CHUNK,
    MAX_ERROR_BYTES,
    Answer,
    Body,
    BrokenOff,
    Connections,
    Download,
    Route,
    TooSlow,
)
from longseal.registry.pace import Pace

MAX_REDIRECTS: Final = 5
MAX_WAIT: Final = 60.0
"""Longest pause in seconds that a retry sits out; asked for more, the task is given back."""

MAX_RETRY_AFTER: Final = 24 * 3600.0
"""Longest pause in seconds that a registry is believed to need."""

BLOCK: Final = 64 * 1024
"""Bytes of an upload that have one turn where its bandwidth is limited."""

_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_BODILESS: Final = frozenset({"GET", "HEAD"})

_T = TypeVar("_T")
_Response = TypeVar("_Response", Answer, Answer | Download)


class _Transient(Exception):
    """A failure that the next attempt may not meet."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Options(TypedDict, total=False):
    """What :class:`Transport` takes beside the URL."""

    credentials: Credentials | None
    ca_file: Path | None
    client_certificate: Path | None
    client_key: Path | None
    proxy: str | None
    internal_hosts: Collection[str]
    budget: float | None
    retries: int
    timeout: float
    backoff: float
    bandwidth: int | None


class Transport:
    """Requests to one registry, from any number of threads.

    :param url: ``http://`` or ``https://`` and a host, without ``/v2/``
    :param ca_file: PEM file of the authorities trusted instead of the system's
    :param client_certificate: PEM file shown to the registry itself, and to nobody else
    :param client_key: its key, where that is not in the same file; it has no password
    :param proxy: URL of the proxy for everything, in place of the environment's
    :param internal_hosts: names at internal addresses that the registry may send its client to
    :param budget: requests a second, over all threads and processes here; None for no limit
    :param retries: attempts after the first, with exponential backoff and jitter
    :param timeout: seconds to connect, and between two pieces of an answer
    :param backoff: seconds before the first retry
    :param bandwidth: bytes a second that uploads may take, over all threads and processes here
    :raises SettingsError: the URL or one of the files cannot be used
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Credentials | None = None,
        ca_file: Path | None = None,
        client_certificate: Path | None = None,
        client_key: Path | None = None,
        proxy: str | None = None,
        internal_hosts: Collection[str] = (),
        budget: float | None = None,
        retries: int = 4,
        timeout: float = 30.0,
        backoff: float = 0.5,
        bandwidth: int | None = None,
    ) -> None:
        self._base = _base(url)
        self._origin = _origin(self._base)
        self._retries = retries
        self._backoff = backoff
        self._pace = Pace(budget, "{}://{}:{}".format(*self._origin))
        self._timeout = timeout
        # Bytes are paced as requests are, a block being one.
        blocks = bandwidth / BLOCK if bandwidth else None
        self._bandwidth = Pace(blocks, "bytes to {}://{}:{}".format(*self._origin))
        self._ca_file = ca_file
        self._client_certificate = client_certificate
        self._client_key = client_key
        self._proxy = proxy
        self._internal_hosts = frozenset(host.lower() for host in internal_hosts)
        self._inside: bool | None = None
        self._routes: dict[tuple[bool, bool, str, str | None], Connections] = {}
        self._routes_lock = threading.Lock()
        self._own = self._to(self._base)
        self._auth = Authenticator(self._base, credentials, self._token_get)
        self._headers = {
            "User-Agent": f"longseal/{getattr(longseal, '__version__', '0')}",
            "Accept-Encoding": "identity",
        }

    @property
    def host(self) -> str:
        """Host and port, as messages name the registry."""
        return self._base.netloc

    def request(
        self,
        method: str,
        target: str,
        scope: Scope,
        *,
        accept: str | None = None,
        content_type: str | None = None,
        body: bytes | None = None,
        limit: int = MAX_ERROR_BYTES,
        allow: Collection[int] = (200, 404),
    ) -> Answer:
        """Send a request until it is answered, and read the answer whole.

        :param target: path and query on this registry
        :param limit: most bytes of body accepted
        :param allow: statuses that are answers; any other is a failure
        :raises RegistryError: no such answer, however often tried
        :raises MalformedError: the body is larger than ``limit``
        """

        def once() -> Answer:
            return self.once(
                method,
                target,
                scope,
                accept=accept,
                content_type=content_type,
                body=body,
                limit=limit,
                allow=allow,
            )

        return self.retrying(once)

    def once(
        self,
        method: str,
        target: str,
        scope: Scope,
        *,
        accept: str | None = None,
        content_type: str | None = None,
        content_range: str | None = None,
        body: Body = None,
        size: int | None = None,
        limit: int = MAX_ERROR_BYTES,
        allow: Collection[int] = (200, 404),
    ) -> Answer:
        """One attempt of :meth:`request`, for use under :meth:`retrying`.

        :param size: length of a ``body`` that is a stream
        """
        headers = dict(self._headers)
        if accept is not None:
            headers["Accept"] = accept
        if content_type is not None:
            headers["Content-Type"] = content_type
        if content_range is not None:
            headers["Content-Range"] = content_range

        def ask(connections: Connections, url: str, sent: Mapping[str, str]) -> Answer:
            return connections.ask(method, url, sent, body, size, limit, allow)

        again = body is None or isinstance(body, bytes)
        answer = self._send(method, target, scope, headers, ask, again)
        if answer.status not in allow:
            raise self._failure(method, target, answer)
        if method != "HEAD":
            self._refuse_encoded(answer, target)
        if not answer.whole:
            raise MalformedError(f"{self.host}{target}: more than {limit} bytes")
        return answer

    def wait_to_send(self, count: int) -> None:
        """Return when so many bytes of an upload may leave."""
        for _ in range(0, count, BLOCK):
            self._bandwidth.wait()

    def open(self, target: str, scope: Scope, start: int = 0) -> BinaryIO:
        """The body behind ``target`` as a stream, unhashed and unbounded: the reader counts.

        :param start: of the bytes wanted, the first
        :raises RegistryError: as :meth:`request`; also while reading
        """
        headers = dict(self._headers)
        if start:
            headers["Range"] = f"bytes={start}-"

        def begin(connections: Connections, url: str, sent: Mapping[str, str]) -> Answer | Download:
            return connections.open(url, sent)

        def once() -> Download:
            answer = self._send("GET", target, scope, headers, begin, True)
            if isinstance(answer, Answer):
                raise self._failure("GET", target, answer)
            try:
                self._refuse_encoded(answer, target)
                given = answer.headers.get("Content-Range")
                if answer.status == 206 and not (start and given.startswith(f"bytes {start}-")):
                    raise RegistryError(
                        f"{self.host}{target}: bytes from {start} on wanted, got {given[:80]!a}"
                    )
            except BaseException:
                answer.close()
                raise
            return answer

        download = self.retrying(once)
        stream = io.BufferedReader(download, CHUNK)
        # Where ranges are not known, all of it comes.
        left = start if download.status == 200 else 0
        while left and (skipped := stream.read(min(left, CHUNK))):
            left -= len(skipped)
        return stream

    def retrying(self, attempt: Callable[[], _T], again: bool = True) -> _T:
        """Call ``attempt`` until it ends well or has failed too often.

        :param again: False where the attempt uses something up, and is made once
        """
        retries = self._retries if again else 0
        for tried in range(retries + 1):
            try:
                return attempt()
            except _Transient as err:
                wait = self._backoff * 2**tried * random.uniform(0.5, 1.0)  # noqa: S311
                if err.retry_after is not None:
                    wait = max(wait, err.retry_after)
                if tried == retries or wait > MAX_WAIT:
                    raise RegistryError(str(err), err.retry_after) from err
                if err.retry_after is not None:
                    self._pace.hold(err.retry_after)
                time.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def here(self, location: str, target: str) -> str | None:
        """``location``, as found in the answer to ``target``, as a path on this registry.

        None when it leads to another host. A registry behind a TLS proxy may call itself http.
        """
        there = _led_to(f"{self._base.scheme}://{self._base.netloc}{target}", location)
        scheme, host, port = _origin(there)
        downgraded = scheme == "http" and self._base.scheme == "https"
        if host != self._origin[1] or not (downgraded or (scheme, host, port) == self._origin):
            return None
        return f"{there.path}?{there.query}" if there.query else there.path

    def _send(
        self,
        method: str,
        target: str,
        scope: Scope,
        headers: dict[str, str],
        exchange: Callable[[Connections, str, Mapping[str, str]], _Response],
        again: bool,
    ) -> _Response:
        """Send with the credentials of ``scope``, answering one challenge.

        :param exchange: sends a request
        :param again: whether it can do so a second time
        """
        sent = self._auth.header(scope)
        response = self._follow(method, target, headers, sent, exchange)
        if response.status != 401:
            return response
        challenges = response.headers.all("WWW-Authenticate")
        renewed = self._auth.renew(scope, sent, challenges)
        if renewed is None:
            return response
        if not again:
            raise _Transient(f"{method} {self.host}{_shown(target)}: 401, with a body half sent")
        return self._follow(method, target, headers, renewed, exchange)

    def _follow(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        auth: str | None,
        exchange: Callable[[Connections, str, Mapping[str, str]], _Response],
    ) -> _Response:
        url = f"{self._base.scheme}://{self._base.netloc}{target}"
        connections = self._own
        sent = headers if auth is None else {**headers, "Authorization": auth}
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(method, url, partial(exchange, connections, url, sent))
            location = response.headers.get("Location")
            if method not in _BODILESS or response.status not in _REDIRECTS or not location:
                return response
            there = _led_to(url, location)
            if there.scheme not in _PORTS or not there.hostname:
                raise RegistryError(
                    f"{self.host} redirects to {location[:80]!a}: not a web address"
                )
            if url.startswith("https:") and there.scheme != "https":
                raise RegistryError(f"{self.host} redirects from https to http: refused")
            url = there.geturl()
            elsewhere = _origin(there) != self._origin
            connections = self._to(there) if elsewhere else self._own
            sent = headers if elsewhere or auth is None else {**headers, "Authorization": auth}
        raise RegistryError(f"{self.host}{target}: more than {MAX_REDIRECTS} redirects")

    def _exchange(self, method: str, url: str, send: Callable[[], _T]) -> _T:
        self._pace.wait()
        try:
            return send()
        except TooSlow as err:
            raise RegistryError(f"{_shown(url)}: the answer comes too slowly") from err
        except BrokenOff as err:
            raise _Transient(
                f"{method} {_shown(url)}: {err}; "
                "check the address, the network and the registry's log"
            ) from err

    def _refuse_encoded(self, response: Answer | Download, target: str) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            raise RegistryError(
                f"{self.host}{target}: sent as {encoding[:40]!a} although asked not to encode"
            )

    def _failure(self, method: str, target: str, response: Answer) -> RegistryError | _Transient:
        code, status = response.code, response.status
        message = f"{method} {self.host}{_shown(target)}: {status}{f' {code}' if code else ''}"
        if status in _BUSY:
            return _Transient(message, _retry_after(response.headers.get("Retry-After")))
        if status in (401, 403):
            message += "; check the credentials and what they may do"
        return RegistryError(message)

    def _to(self, url: SplitResult) -> Connections:
        """The connections for ``url``, when the registry may send its client there.

        :raises RefusedError: it is an internal address that the settings do not name
        """
        proxy = self._proxy
        if proxy is None and not proxy_bypass(url.netloc):
            proxy = getproxies().get(url.scheme)
        own = _origin(url) == self._origin
        checked = not (own or self._may_be_inside(url))
        if checked:
            for address in addresses(url.hostname or "", url.port):
                self._refuse_inside(address)
        key = (own, checked, url.scheme, proxy)
        with self._routes_lock:
            if key not in self._routes:
                route = Route() if proxy is None else _through(proxy)
                if checked and proxy is None:
                    route = replace(route, check=self._refuse_inside)
                if "https" in (url.scheme, urlsplit(route.proxy).scheme):
                    route = self._secured(route, own)
                self._routes[key] = Connections(route, self._timeout)
            return self._routes[key]

    def _may_be_inside(self, url: SplitResult) -> bool:
        host = (url.hostname or "").lower()
        return host == self._origin[1] or host in self._internal_hosts

    def _refuse_inside(self, address: str) -> None:
        if self._inside is None:
            own = addresses(self._origin[1], self._origin[2])
            self._inside = any(is_off_limits(found, registry_inside=False) for found in own)
        if is_off_limits(address, self._inside):
            raise RefusedError(
                f"{self.host} sends its client to the internal address {address}: refused; name "
                "the host in internal_hosts if that is right"
            )

    def _secured(self, route: Route, own: bool) -> Route:
        """The private authority is for the registry; its blob store may have a public one too."""
        # Reads the files once beforehand: libcurl would only say at a request that one is bad.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
        except OSError as err:
            raise SettingsError("ca_file", f"cannot read {self._ca_file}: {err}") from err
        if own and self._client_certificate is not None:
            try:
                # Without a password OpenSSL would ask the terminal for one.
                context.load_cert_chain(self._client_certificate, self._client_key, password="")
            except OSError as err:
                raise SettingsError(
                    "client_certificate",
                    f"no certificate and key, without a password, in {self._client_certificate} "
                    f"and {self._client_key or 'the same file'}: {type(err).__name__}",
                ) from err
            route = replace(
                route, client_certificate=self._client_certificate, client_key=self._client_key
            )
        if own and self._ca_file is not None:
            return replace(route, ca_file=self._ca_file)
        system = ssl.get_default_verify_paths()
        files = [Path(system.cafile)] if system.cafile else []
        folder = Path(system.capath) if system.capath else None
        if self._ca_file is None:
            return replace(route, ca_file=next(iter(files), None), ca_folder=folder)
        data = b"\n".join(file.read_bytes() for file in (*files, self._ca_file))
        return replace(route, ca_data=data, ca_folder=folder)

    def _token_get(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        sent = {**self._headers, **headers}
        connections = self._to(urlsplit(url))
        answer = self._exchange(
            "GET",
            url,
            lambda: connections.ask("GET", url, sent, limit=MAX_TOKEN_BYTES, allow=(200,)),
        )
        if answer.status in _BUSY:
            wait = _retry_after(answer.headers.get("Retry-After"))
            raise _Transient(f"GET {_shown(url)}: {answer.status}", wait)
        if answer.status != 200:
            return answer.status, b""
        self._refuse_encoded(answer, urlsplit(url).path)
        if not answer.whole:
            raise MalformedError(f"{_shown(url)}: more than {MAX_TOKEN_BYTES} bytes")
        return answer.status, answer.body


def _retry_after(value: str) -> float | None:
    """Seconds in a ``Retry-After`` (RFC 9110, 10.2.3): a number, or a date from now on."""
    if not value:
        return None
    if value.isdecimal():
        return min(float(value), MAX_RETRY_AFTER) if len(value) < 10 else None
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _through(proxy: str) -> Route:
    """Through a proxy; its login stands in the environment's URL, never in a setting."""
    parts = urlsplit(proxy)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise SettingsError("proxy", "expected an http or https URL of a proxy")
    login = ""
    if parts.username is not None:
        login = f"{parts.username}:{parts.password or ''}"
    return Route(
        proxy=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), proxy_login=login
    )


def _base(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        sound = parts.scheme in _PORTS and parts.port != 0 and _HOST.fullmatch(host)
    except ValueError:
        sound = None
    if not sound or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SettingsError(
            "registries.url", "expected http:// or https:// and a host, with nothing after it"
        )
    if parts.username is not None or parts.password is not None:
        raise SettingsError("registries.url", "a URL holds no credentials: use a connection")
    return parts


def _led_to(url: str, location: str) -> SplitResult:
    """Where ``location``, found in the answer of ``url``, leads.

    :raises RegistryError: nowhere
    """
    try:
        return urlsplit(urljoin(url, location))
    except ValueError as err:
        raise RegistryError(f"not a web address: {location[:80]!a}") from err


def _origin(url: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port, of what libcurl reads as we do.

    :raises RegistryError: the host is percent-encoded or of odd characters, or a login stands there
    """
    host = (url.hostname or "").lower()
    try:
        port = url.port
        if "@" in url.netloc or _HOST.fullmatch(host) is None:
            raise ValueError
    except ValueError as err:
        raise RegistryError(f"not a web address: {url.netloc[:80]!a}") from err
    return url.scheme, host, port or _PORTS.get(url.scheme, 0)


def _shown(url: str) -> str:
    """``url`` without its query, which may hold a signature or a token."""
    return url.partition("?")[0][:200]
