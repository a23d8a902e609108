"""HTTP to one registry: bounded, paced, retried, authenticated, and redirected by hand.

urllib3 is used directly: docs/decisions/0001-registry-transport.md says why, with figures.
"""

from __future__ import annotations

import io
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.response import BaseHTTPResponse

import longseal
from longseal.canonical import parse_object
from longseal.errors import MalformedError, RegistryError, SettingsError
from longseal.registry.auth import MAX_TOKEN_BYTES, Authenticator, Credentials, Scope

MAX_REDIRECTS: Final = 5
MAX_ERROR_BYTES: Final = 64 * 1024
MAX_WAIT: Final = 60.0
"""Longest pause in seconds that a retry sits out; asked for more, the task is given back."""

CHUNK: Final = 256 * 1024
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_CODE = re.compile(r"[A-Z_]{3,40}")
_BODILESS: Final = frozenset({"GET", "HEAD"})

Body = bytes | BinaryIO | None
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer read whole.

    :param headers: looked up in any case
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The first error code of distribution-spec in the body, or nothing."""
        return _error_code(self.body)


class _Transient(Exception):
    """A failure that the next attempt may not meet."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class _Pace:
    """At most ``rate`` requests a second, and none while the registry asked for a pause."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1.0 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        if not self._gap and not self._next:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + self._gap
        if turn > now:
            time.sleep(turn - now)

    def hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Transport:
    """Requests to one registry, from any number of threads.

    :param url: ``http://`` or ``https://`` and a host, without ``/v2/``
    :param ca_file: PEM file of the authorities trusted instead of the system's
    :param budget: requests a second, over all threads; None for no limit
    :param retries: attempts after the first, with exponential backoff and jitter
    :param timeout: seconds to connect, and between two pieces of an answer
    :param backoff: seconds before the first retry
    :raises SettingsError: the URL or the CA file cannot be used
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials | None = None,
        ca_file: Path | None = None,
        budget: float | None = None,
        retries: int = 4,
        timeout: float = 30.0,
        backoff: float = 0.5,
    ) -> None:
        self._base = _base(url)
        self._origin = _origin(self._base)
        self._retries = retries
        self._backoff = backoff
        self._pace = _Pace(budget)
        self._options: dict[str, Any] = {
            "timeout": urllib3.Timeout(timeout),
            "maxsize": 32,
            "blocksize": CHUNK,
        }
        self._ca_file = ca_file
        self._managers: dict[tuple[bool, str, str | None], urllib3.PoolManager] = {}
        self._manager_lock = threading.Lock()
        self._manager = self._manager_for(self._base)
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
        if size is not None:
            headers["Content-Length"] = str(size)
        response = self._send(method, target, scope, headers, body)
        if response.status not in allow:
            raise self._failure(method, target, response)
        data = b"" if method == "HEAD" else self._read(response, limit, target)
        if method == "HEAD":
            response.read()
        return Answer(response.status, response.headers, data)

    def open(self, target: str, scope: Scope) -> BinaryIO:
        """The body behind ``target`` as a stream, unhashed and unbounded: the reader counts.

        :raises RegistryError: as :meth:`request`; also while reading
        """

        def once() -> BaseHTTPResponse:
            response = self._send("GET", target, scope, dict(self._headers), None)
            if response.status != 200:
                raise self._failure("GET", target, response)
            self._refuse_encoded(response, target)
            return response

        return io.BufferedReader(_Stream(self.retrying(once), f"{self.host}{target}"), CHUNK)

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
        there = urlsplit(urljoin(f"{self._base.scheme}://{self._base.netloc}{target}", location))
        scheme, host, port = _origin(there)
        downgraded = scheme == "http" and self._base.scheme == "https"
        if host != self._origin[1] or not (downgraded or (scheme, host, port) == self._origin):
            return None
        return f"{there.path}?{there.query}" if there.query else there.path

    def _send(
        self, method: str, target: str, scope: Scope, headers: dict[str, str], body: Body
    ) -> BaseHTTPResponse:
        """Send with the credentials of ``scope``, answering one challenge."""
        sent = self._auth.header(scope)
        response = self._follow(method, target, headers, sent, body)
        if response.status != 401 or not (body is None or isinstance(body, bytes)):
            return response
        challenges = response.headers.getlist("WWW-Authenticate")
        _discard(response)
        renewed = self._auth.renew(scope, sent, challenges)
        if renewed is None:
            return response
        return self._follow(method, target, headers, renewed, body)

    def _follow(
        self, method: str, target: str, headers: dict[str, str], auth: str | None, body: Body
    ) -> BaseHTTPResponse:
        url = f"{self._base.scheme}://{self._base.netloc}{target}"
        manager = self._manager
        sent = headers if auth is None else {**headers, "Authorization": auth}
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(manager, method, url, sent, body)
            location = response.headers.get("Location")
            if method not in _BODILESS or response.status not in _REDIRECTS or not location:
                return response
            _discard(response)
            there = urlsplit(urljoin(url, location))
            if there.scheme not in _PORTS or not there.hostname:
                raise RegistryError(
                    f"{self.host} redirects to {location[:80]!a}: not a web address"
                )
            if url.startswith("https:") and there.scheme != "https":
                raise RegistryError(f"{self.host} redirects from https to http: refused")
            url = there.geturl()
            elsewhere = _origin(there) != self._origin
            manager = self._manager_for(there) if elsewhere else self._manager
            sent = headers if elsewhere or auth is None else {**headers, "Authorization": auth}
        raise RegistryError(f"{self.host}{target}: more than {MAX_REDIRECTS} redirects")

    def _exchange(
        self,
        manager: urllib3.PoolManager,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body,
    ) -> BaseHTTPResponse:
        self._pace.wait()
        try:
            return manager.urlopen(
                method,
                url,
                headers=headers,
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as err:
            raise _Transient(
                f"{method} {_shown(url)}: no answer ({type(err).__name__}); "
                "check the address, the network and the registry's log"
            ) from err

    def _read(self, response: BaseHTTPResponse, limit: int, target: str) -> bytes:
        """The whole body, counted while it is read: a declared length is only a claim."""
        self._refuse_encoded(response, target)
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > limit:
            response.close()
            raise MalformedError(
                f"{self.host}{target}: {declared} bytes, more than {limit} allowed"
            )
        chunks: list[bytes] = []
        total = 0
        try:
            while chunk := response.read(CHUNK):
                total += len(chunk)
                if total > limit:
                    response.close()
                    raise MalformedError(f"{self.host}{target}: more than {limit} bytes")
                chunks.append(chunk)
        except (urllib3.exceptions.HTTPError, OSError) as err:
            response.close()
            raise _Transient(
                f"{self.host}{target}: the answer broke off ({type(err).__name__})"
            ) from err
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _refuse_encoded(self, response: BaseHTTPResponse, target: str) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            response.close()
            raise RegistryError(
                f"{self.host}{target}: sent as {encoding[:40]!a} although asked not to encode"
            )

    def _failure(
        self, method: str, target: str, response: BaseHTTPResponse
    ) -> RegistryError | _Transient:
        code = _error_code(_discard(response))
        status = response.status
        message = f"{method} {self.host}{_shown(target)}: {status}{f' {code}' if code else ''}"
        if status in _BUSY:
            return _Transient(message, _retry_after(response.headers.get("Retry-After")))
        if status in (401, 403):
            message += "; check the credentials and what they may do"
        return RegistryError(message)

    def _manager_for(self, url: SplitResult) -> urllib3.PoolManager:
        proxy = None
        if not proxy_bypass(url.netloc):
            proxy = getproxies().get(url.scheme)
        own = _origin(url) == self._origin
        key = (own, url.scheme, proxy)
        with self._manager_lock:
            if key not in self._managers:
                options = dict(self._options)
                if url.scheme == "https":
                    options["ssl_context"] = self._context(own)
                self._managers[key] = (
                    urllib3.ProxyManager(proxy, **options)
                    if proxy
                    else urllib3.PoolManager(num_pools=16, **options)
                )
            return self._managers[key]

    def _context(self, own: bool) -> ssl.SSLContext:
        """The private authority is for the registry; its blob store may have a public one too."""
        try:
            context = ssl.create_default_context(cafile=self._ca_file if own else None)
            if not own and self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
        except OSError as err:
            raise SettingsError("ca_file", f"cannot read {self._ca_file}: {err}") from err
        return context

    def _token_get(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        sent = {**self._headers, **headers}
        response = self._exchange(self._manager_for(urlsplit(url)), "GET", url, sent, None)
        if response.status != 200:
            wait = _retry_after(response.headers.get("Retry-After"))
            _discard(response)
            if response.status in _BUSY:
                raise _Transient(f"GET {_shown(url)}: {response.status}", wait)
            return response.status, b""
        return response.status, self._read(response, MAX_TOKEN_BYTES, urlsplit(url).path)


class _Stream(io.RawIOBase):
    """A response as a raw stream whose failures are Longseal's own."""

    def __init__(self, response: BaseHTTPResponse, what: str) -> None:
        self._response = response
        self._what = what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._response.read(len(buffer))
        except (urllib3.exceptions.HTTPError, OSError) as err:
            self._response.close()
            raise RegistryError(f"{self._what}: broke off ({type(err).__name__})") from err
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            # A connection with unread bytes on it cannot serve another request.
            self._response.close()
            self._response.release_conn()
        super().close()


def _discard(response: BaseHTTPResponse) -> bytes:
    """Make the connection reusable where that is cheap; the body's first bytes."""
    try:
        data = response.read(MAX_ERROR_BYTES)
        if len(data) == MAX_ERROR_BYTES or response.read(1):
            response.close()
    except (urllib3.exceptions.HTTPError, OSError):
        response.close()
        return b""
    return data


def _error_code(body: bytes) -> str:
    """The first error code of distribution-spec in ``body``, or nothing."""
    try:
        found = parse_object(body, "error", MAX_ERROR_BYTES)["errors"][0]["code"]
    except (MalformedError, LookupError, TypeError):
        return ""
    return found if isinstance(found, str) and _CODE.fullmatch(found) else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds in a ``Retry-After``; a date there is rare, and treated as silence."""
    return float(value) if value and value.isdecimal() and len(value) < 10 else None


def _base(url: str) -> SplitResult:
    parts = urlsplit(url)
    try:
        sound = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise SettingsError(
            "registries.url", "expected http:// or https:// and a host, with nothing after it"
        )
    if parts.username is not None or parts.password is not None:
        raise SettingsError("registries.url", "a URL holds no credentials: use a connection")
    return parts


def _origin(url: SplitResult) -> tuple[str, str, int]:
    try:
        port = url.port
    except ValueError as err:
        raise RegistryError(f"not a web address: {url.netloc[:80]!a}") from err
    return url.scheme, (url.hostname or "").lower(), port or _PORTS.get(url.scheme, 0)


def _shown(url: str) -> str:
    """``url`` without its query, which may hold a signature or a token."""
    return url.partition("?")[0][:200]
