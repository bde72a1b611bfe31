"""Keep a job from reaching addresses that hand out a machine's credentials to whoever asks from within."""

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import anyio

from batch.errors import ScoringServerError

METADATA: Final = frozenset({"fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"})
"""Of clouds that do not use link-local ones."""


async def refuse_link_local(url: str) -> None:
    """
    Look where the host of *url* is.

    Raises:
        ScoringServerError: one of its addresses is link-local, however it is written.
    """
    host = urlsplit(url).hostname or ""
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return  # whoever connects will say so
    for *_, address in found:
        if is_link_local(address[0]):
            raise ScoringServerError(f"prediction_endpoint: {host} is the link-local address {address[0]}")


def is_link_local(text: str) -> bool:
    """Whether an IP address belongs to the link, or to a cloud's metadata service."""
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_link_local or str(mapped).partition("%")[0] in METADATA
