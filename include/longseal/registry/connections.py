"""Connections that the far end can neither hold open for ever nor lead to a place inside."""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

PATIENCE: Final = 60.0
"""Seconds that an answer may take however small it is, its headers included."""

SLOWEST: Final = 16 * 1024
"""Bytes a second that an answer must bring beyond that."""

_METADATA: Final = tuple(map(ip_network, ("fd00:ec2::/32", "100.100.100.200/32")))
"""Where clouds hand out credentials, beside the link-local addresses."""


class TooSlow(OSError):
    """The answer drips in."""


def is_off_limits(address: str, registry_inside: bool) -> bool:
    """Whether a registry may not send its client to this address.

    :param registry_inside: whether the registry itself is at an address that is not public; then
        its neighbours may be too, but never a link-local one, where cloud metadata is
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return is_off_limits(str(found.ipv4_mapped), registry_inside)
    if found.is_link_local or any(found in network for network in _METADATA):
        return True
    return not registry_inside and not found.is_global


def addresses(host: str, port: int | None) -> frozenset[str]:
    """What ``host`` resolves to; nothing where it does not."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(str(item[4][0]) for item in found)


class _Timed(io.RawIOBase):
    """The receiving side of a socket. Only waiting counts: a reader may take its time."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._waited = 0.0
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._waited > PATIENCE + self._received / SLOWEST:
            raise TooSlow(f"{self._received} bytes in {self._waited:.0f} s")
        began = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._received += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach()))


def pool_classes(check: Callable[[str], None] | None = None) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools by scheme, with connections that are timed.

    :param check: called with the address that a connection reached, before anything is sent there:
        a name that was checked may lead elsewhere by now
    """

    def checked(connected: socket.socket) -> socket.socket:
        if check is not None:
            try:
                check(connected.getpeername()[0])
            except BaseException:
                connected.close()
                raise
        return connected

    class Plain(HTTPConnection):
        response_class = _Response

        def _new_conn(self) -> socket.socket:
            return checked(super()._new_conn())

    class Secure(HTTPSConnection):
        response_class = _Response

        def _new_conn(self) -> socket.socket:
            return checked(super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
