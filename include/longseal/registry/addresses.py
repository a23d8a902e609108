"""Where a registry may not send its client: to a place inside."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

_METADATA: Final = tuple(map(ip_network, ("fd00:ec2::/32", "100.100.100.200/32")))
"""Where clouds hand out credentials, beside the link-local addresses."""


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
