"""Ask the server that these settings describe whether it can score: what a container's HEALTHCHECK runs."""

import http.client
import ssl
from contextlib import closing
from typing import Final

from prediction_api.settings import Settings

LIMIT_SECONDS: Final = 4.0
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - asked, not listened on
"""Addresses to listen on, and where to find who listens there."""


def problem_with(settings: Settings) -> str | None:
    """Why the server cannot score now; ``None`` if it can."""
    if not settings.port:
        return "the port is 0, any free one: nobody but the server knows which"
    host = EVERYWHERE.get(settings.host, settings.host)
    with closing(_connection(settings, host)) as connection:
        try:
            connection.request("GET", "/ping", headers={"Connection": "close"})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"{host}, port {settings.port}: {error}"
    return None if status == http.client.OK else f"/ping answers {status}"


def _connection(settings: Settings, host: str) -> http.client.HTTPConnection:
    if not settings.tls_enabled:
        return http.client.HTTPConnection(host, settings.port, timeout=LIMIT_SECONDS)
    context = ssl.create_default_context()
    context.check_hostname = False  # the certificate is the operator's own, and not for this address
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED  # whatever the operator lets others speak
    context.set_ciphers("ALL:@SECLEVEL=0")
    return http.client.HTTPSConnection(host, settings.port, timeout=LIMIT_SECONDS, context=context)
