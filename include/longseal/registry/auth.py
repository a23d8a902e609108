"""Who Longseal is to a registry: credentials, and the tokens that they are exchanged for.

Challenges, token requests, Docker's configuration, its credential helpers and ECR are oras-py's;
this module gives it a transport that is bounded, and decides where a password may travel.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlencode, urlsplit

from longseal.canonical import parse_object
from longseal.errors import MalformedError, RefusedError, RegistryError, SettingsError

MAX_TOKEN_BYTES: Final = 64 * 1024

_TOKEN = re.compile(r"[!-~]+")
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[^.]+\.amazonaws\.com")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and password, or the Docker configuration that has them.

    Without any, Docker's own configuration is read, as every OCI tool does.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    docker_config: Path | None = None


class Scope(NamedTuple):
    """What a token is good for; one is kept for each."""

    repository: str
    write: bool = False


Get = Callable[[str, Mapping[str, str]], tuple[int, bytes]]
"""Fetch a URL with these headers, bounded and without redirects: status and body."""


class Authenticator:
    """The ``Authorization`` header for each scope, learnt from challenges. Thread-safe.

    :param base: the registry's own URL
    :param get: the transport for token requests
    """

    def __init__(self, base: SplitResult, credentials: Credentials | None, get: Get) -> None:
        self._base = base
        self._credentials = credentials or Credentials()
        self._get = get
        self._lock = threading.Lock()
        self._bearer: dict[Scope, str] = {}
        self._basic: str | None = None
        self._oras: Any = None
        # A login that was given goes before AWS's own chain.
        host = base.hostname or ""
        self._ecr = _ECR.fullmatch(host) is not None and self._credentials.username is None

    def header(self, scope: Scope) -> str | None:
        """The header that served this scope last; None before the first challenge."""
        return self._bearer.get(scope) or self._basic

    def renew(self, scope: Scope, stale: str | None, challenges: Sequence[str]) -> str | None:
        """Answer a 401.

        :param stale: the header that was refused; where another thread has replaced it, the
            replacement is the answer
        :returns: a new header; None where there is nothing to answer with
        :raises RegistryError: the token service did not answer
        :raises RefusedError: the challenge asks for the password in the wrong place
        """
        with self._lock:
            current = self.header(scope)
            if current is not None and current != stale:
                return current
            bearer = next((c for c in challenges if c.lower().startswith("bearer ")), None)
            if bearer is not None:
                self._bearer[scope] = found = f"Bearer {self._token(bearer)}"
                return found
            if any(c.lower().startswith("basic") for c in challenges):
                found_basic = self._password(challenges)
                if found_basic is not None and found_basic != stale:
                    self._basic = found_basic
                    return found_basic
            return None

    def _token(self, challenge: str) -> str:
        from oras.auth.utils import parse_auth_header

        wanted = parse_auth_header(challenge)
        try:
            realm = urlsplit(wanted.realm or "")
        except ValueError:
            realm = urlsplit("")
        if realm.scheme not in ("http", "https") or not realm.hostname:
            raise RefusedError(
                f"{self._base.netloc} names {str(wanted.realm)[:80]!a} as its token service: "
                "expected an http or https URL"
            )
        backend = self._backend()
        ask = backend.request_anonymous_token
        if getattr(backend, "_basic_auth", None):
            ask = backend.request_token
        try:
            token = ask(wanted)
        except MalformedError as err:
            raise RegistryError(f"{realm.netloc}: unreadable token: {err}") from err
        if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            raise RegistryError(f"{realm.hostname} answered the request for a token without one")
        return token

    def _password(self, challenges: Sequence[str]) -> str | None:
        backend = self._backend()
        if self._ecr:
            challenge = SimpleNamespace(headers={"Www-Authenticate": challenges[0]})
            try:
                headers, _ = backend.authenticate_request(challenge, {}, refresh=True)
            except Exception as err:  # boto3 raises a class of its own for each service error
                raise RegistryError(
                    f"AWS gave no token for {self._base.netloc}: {type(err).__name__}"
                ) from None
            value = headers.get("Authorization")
            return value if isinstance(value, str) else None
        encoded = getattr(backend, "_basic_auth", None)
        return f"Basic {encoded}" if encoded else None

    def _backend(self) -> Any:
        """oras-py's backend, made at the first challenge: importing it costs a start-up."""
        if self._oras is None:
            from oras.auth import get_auth_backend
            from oras.container import Container

            given = self._credentials
            backend = get_auth_backend("ecr" if self._ecr else "token", _Session(self._allowed_get))
            if given.username is not None and given.password is not None:
                backend.set_basic_auth(given.username, given.password)
            else:
                configs = [str(path) for path in _docker_configs(given.docker_config)]
                try:
                    backend.load_configs(Container("any", registry=self._base.netloc), configs)
                except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
                    raise SettingsError(
                        "docker_config", f"cannot read Docker's configuration: {type(err).__name__}"
                    ) from None
            self._oras = backend
        return self._oras

    def _allowed_get(self, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        realm = urlsplit(url)
        if "Authorization" in headers and realm.scheme != "https":
            same_host = realm.hostname == self._base.hostname
            if self._base.scheme == "https" or not same_host:
                raise RefusedError(
                    f"{self._base.netloc} asks for the password to be sent unencrypted to "
                    f"{realm.netloc[:80]!a}: refused; its token service needs https"
                )
        return self._get(url, headers)


def _docker_configs(given: Path | None) -> list[Path]:
    if given is not None:
        if not given.is_file():
            raise SettingsError("docker_config", f"there is no file {given}")
        return [given]
    folder = os.environ.get("DOCKER_CONFIG")
    path = Path(folder) / "config.json" if folder else None
    return [path] if path is not None and path.is_file() else []


class _Session:
    """The part of ``requests.Session`` that oras-py's backends call."""

    def __init__(self, get: Get) -> None:
        self._get = get

    def get(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        verify: bool = True,
    ) -> _Answer:
        query = urlencode(params or {})
        joined = f"{url}{'&' if '?' in url else '?'}{query}" if query else url
        status, body = self._get(joined, headers or {})
        if status != 200:
            host = urlsplit(url).netloc
            raise RegistryError(f"{host} answered {status} to the request for a token")
        return _Answer(body)

    def request(self, method: str, url: str, **options: Any) -> _Answer:
        if method != "GET":
            raise RefusedError(f"a token is fetched with GET, not {method}")
        return self.get(url, **options)


class _Answer:
    status_code: Final = 200
    text: Final = ""  # oras-py logs it

    def __init__(self, body: bytes) -> None:
        self._body = body

    def json(self) -> dict[str, Any]:
        return parse_object(self._body, "token", MAX_TOKEN_BYTES)
