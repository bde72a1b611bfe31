"""Who may change what is deployed: uploads and deletions pass here first. Pure, but for the settings it is made of."""

import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final, Literal

from model_repository.errors import Forbidden, Unauthorized
from prediction_api.settings import PREFIX, Settings

Exposure = Literal["off", "token", "signed packages", "local", "open"]
"""What stands between the network and the repository; ``open`` is nothing."""

FOREIGN_SITES: Final = frozenset({b"cross-site", b"same-site"})
"""What a browser says in ``Sec-Fetch-Site`` of a request that a page of another origin makes."""


class Gate:
    """
    Lets a request through, or says why not.

    A browser sends requests on behalf of any page that it shows, so a request from a page of another origin is refused
    even where no token is wanted. A page that made its own name point here (DNS rebinding) looks like ours; on a
    loopback address the name itself gives it away, elsewhere only a token helps.
    """

    def __init__(self, settings: Settings) -> None:
        self._enabled = settings.model_management_enabled
        token = settings.management_token
        self._token = None if token is None else token.encode()
        self._local = is_loopback(settings.host)
        self._signed = settings.trusted_keys is not None

    @property
    def exposure(self) -> Exposure:
        """The strongest of what protects the repository."""
        if not self._enabled:
            return "off"
        if self._token is not None:
            return "token"
        if self._local:
            return "local"
        return "signed packages" if self._signed else "open"

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """
        Raises:
            Forbidden: management is off, or the request was made by a page of somebody else's.
            Unauthorized: the token is missing or wrong.
        """
        if not self._enabled:
            raise Forbidden(f"uploads and deletions are switched off ({PREFIX}MODEL_MANAGEMENT_ENABLED)")
        host = headers.get(b"host", b"").lower()
        origin = headers.get(b"origin")
        foreign = origin is not None and origin.lower().partition(b"://")[2] != host
        if foreign or headers.get(b"sec-fetch-site") in FOREIGN_SITES:
            raise Forbidden("uploads and deletions are not taken from pages of another origin")
        if self._token is None:
            if self._local and not is_loopback(_name(host)):
                raise Forbidden("uploads and deletions are taken by the name localhost or a loopback address only")
        elif not hmac.compare_digest(_bearer(headers.get(b"authorization", b"")), self._token):
            raise Unauthorized("uploads and deletions need the management token: send Authorization: Bearer <token>")


def is_loopback(host: str) -> bool:
    """Whether *host* is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: bytes) -> str:
    """A Host header without its port and brackets."""
    text = host.decode("latin-1")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _bearer(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
