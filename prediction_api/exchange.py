"""One HTTP exchange: what is known of a request before a handler sees it, and of its answer after."""

import re
from collections.abc import Iterable
from secrets import token_hex
from time import perf_counter
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from prediction_api.monitoring import RequestDone

SCOPE_KEY: Final = "prediction_api.exchange"
DRAINED_BYTES: Final = 64 * 1024
"""A refused body of at most this size is read and thrown away, so that the connection can be used again."""
SAFE_ID: Final = re.compile(rb"[A-Za-z0-9._~:/+=@,-]{1,128}")
CLIENT_LEFT: Final = 499


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by lower-case name; repeated ones joined as RFC 9110, section 5.3 says."""
    found: dict[bytes, bytes] = {}
    for name, value in raw:
        found[name] = found[name] + b", " + value if name in found else value
    return found


def request_id_from(given: bytes | None) -> str:
    """The client's own id where it is harmless, else a new one."""
    return given.decode("ascii") if given is not None and SAFE_ID.fullmatch(given) else token_hex(16)


class Exchange:
    """
    Stands between the server and the app: notes what passes, completes the answer's headers.

    An answer that is sent before the request's body was read to its end closes the connection, because what is left
    of the body would be taken for the next request.
    """

    __slots__ = (
        "_receive",
        "_send",
        "body_read",
        "bytes_sent",
        "cache_hit",
        "closing",
        "headers",
        "model_id",
        "request_id",
        "route",
        "rows",
        "scope",
        "started",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started = perf_counter()
        self.scope = scope
        self.headers = headers_of(scope["headers"])
        self.request_id = request_id_from(self.headers.get(b"x-request-id"))
        self.route = ""
        self.status = 0
        self.bytes_sent = 0
        self.rows = 0
        self.cache_hit: bool | None = None
        self.model_id: str | None = None
        """Of the package that scores."""
        self.closing = False
        """Whether the connection ends with this answer."""
        length = self.headers.get(b"content-length")
        self.body_read = length in (None, b"0") and b"transfer-encoding" not in self.headers
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """The next part of the request."""
        message = await self._receive()
        if not message.get("more_body", False):
            self.body_read = True
        return message

    async def client_left(self) -> None:
        """Returns when the client is gone; the body was read by then."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: Message) -> None:
        """The next part of the answer."""
        if message["type"] == "http.response.start":
            await self._begin(message)
            return
        if message["type"] == "http.response.body":
            self.bytes_sent += len(message.get("body", b""))
        await self._send(message)

    def done(self) -> RequestDone:
        """What happened, for the counters and the access log."""
        scope = self.scope
        return RequestDone(
            request_id=self.request_id,
            method=scope["method"],
            path=scope["raw_path"].decode("latin-1"),
            route=self.route,
            status=self.status or CLIENT_LEFT,
            seconds=perf_counter() - self.started,
            bytes_sent=self.bytes_sent,
            rows=self.rows,
            cache_hit=self.cache_hit,
        )

    async def _begin(self, message: Message) -> None:
        if not self.body_read:
            await self._finish_body()
        self.status = message["status"]
        milliseconds = (perf_counter() - self.started) * 1e3
        headers = [
            *message.get("headers", ()),
            (b"x-datarobot-request-id", self.request_id.encode("ascii")),
            (b"x-datarobot-execution-time", b"%.3f" % milliseconds),
        ]
        if self.cache_hit is not None:
            headers.append((b"x-datarobot-model-cache-hit", b"true" if self.cache_hit else b"false"))
        if self.model_id is not None:
            headers.append((b"x-model-id", self.model_id.encode("ascii")))
        if self.closing:
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})

    async def _finish_body(self) -> None:
        """Read what is left of a small body; give up the connection for any other."""
        length = self.headers.get(b"content-length", b"")
        small = length.isdigit() and int(length[:18]) <= DRAINED_BYTES and b"transfer-encoding" not in self.headers
        if not small or b"expect" in self.headers:
            self.closing = True
            return
        while not self.body_read:
            await self.receive()
