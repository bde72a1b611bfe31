"""Where a job may connect to: not where a machine's credentials are handed out, and into the open only encrypted."""

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import anyio

from batch.errors import ScoringServerError

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
METADATA: Final = frozenset(
    {
        *("fd00:ec2::254", "fd00:ec2::23"),  # Amazon's machines, and its pods
        *("100.100.100.200", "fd00:100::100:200"),  # Alibaba
        *("192.0.0.192", "fd00:c1::a9fe:a9fe"),  # Oracle
        *("168.63.129.16", "fd20:ce::254"),  # Azure, Google
        *("fd00:42::42", "fd00:a9fe:a9fe::1"),  # Scaleway, Akamai
    }
)
"""Of clouds that do not use link-local ones; written as `ipaddress` writes them."""


async def refuse_link_local(url: str) -> None:
    """
    Look where the host of *url* is.

    Raises:
        ScoringServerError: one of its addresses is link-local, however it is written.
    """
    host = urlsplit(url).hostname or ""
    for address in await _addresses(host):
        if is_link_local(address):
            raise ScoringServerError(f"prediction_endpoint: {host} is the link-local address {address}")


async def problem_of_store(url: str) -> str | None:
    """
    What speaks against sending data and signatures to the store at *url*, which a job chose.

    Without encryption only addresses of private networks are taken; link-local ones never.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    for address in await _addresses(host):
        if is_link_local(address):
            return f"{host} is the link-local address {address}"
        if parts.scheme != "https" and is_public(address):
            return f"{host} is at the public address {address}, expected https"
    return None


async def _addresses(host: str) -> list[str]:
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []  # whoever connects will say so
    return [str(row[4][0]) for row in found]


def is_link_local(text: str) -> bool:
    """Whether an IP address belongs to the link, or to a cloud's metadata service."""
    address = _unclothed(text)
    return address.is_link_local or str(address).partition("%")[0] in METADATA


def is_public(text: str) -> bool:
    """Whether an IP address is of the internet."""
    address = _unclothed(text)
    return address.is_global and not address.is_multicast


def _unclothed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; an IPv4 address in the clothes of an IPv6 one as itself."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
