"""
uvicorn's HTTP/1.1 protocol, with the limits that it lacks.

uvicorn on httptools waits for ever for a header or a body, and takes headers of any size. `Guard` measures what a
client sends: a header must arrive in time and within its size, a body must keep coming, an answer must be taken. It
costs no timer per request: the worker looks over all connections twice a second (`Guard.look_over`). It also refuses
what two parsers could read in two ways, such as a request with two lengths: a proxy in front may read it the other
way.

Every refusal is one JSON answer with ``Connection: close``. It waits for its turn behind pipelined requests that came
before. The connection then stays half open for a moment (RFC 9112, section 9.6): closing it with unread bytes would
reset it, and the client would never see the answer.
"""

import asyncio
import logging
import re
from typing import Any, Final, Literal

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState as Connections

from prediction_api.settings import Settings

logger: Final = logging.getLogger(__name__)

LINGER_IDLE_SECONDS: Final = 1.0
LINGER_SECONDS: Final = 30.0
"""For who sends at full speed; who was refused for sending too slowly gets no more than if it was idle."""
FRAMING_BYTES: Final = 65_536
"""Chunk sizes, extensions and trailers may take so much, and a quarter of the body on top."""
HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
CONTINUE: Final = b"HTTP/1.1 100"
JOINED_BYTES: Final = 65_536
"""A larger part of a body is not copied to be sent in one call with the head."""
REQUEST_LINE_REST: Final = len("  HTTP/1.1")

# Which part of a request is on its way. No Enum: looking up its members costs a microsecond per request.
NOTHING: Final = "nothing"
HEADER: Final = "header"
BODY: Final = "body"
Part = Literal["nothing", "header", "body"]


class Refused(Exception):
    """Raised inside the parser's callbacks; ends the parsing of this connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: Settings,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._settings = settings
        self.url = b""
        self._receiving: Part = HEADER
        self._since = 0.0  # when this part of the request began
        self._heard = 0.0  # when the client last sent anything
        self._looked = 0.0  # when the worker last looked over this connection
        self._wire_bytes = 0  # of this part of the request
        self._body_bytes = 0
        self._host: bytes | None = None  # what was found valid before
        self._completed = False  # whether a request ended in what was fed last
        self._deaf = False  # whatever still comes is thrown away
        self._deferred: Refused | None = None  # answered when it is its turn
        self._linger_until = 0.0
        self._stalled_since: float | None = None  # since when the client takes too little of its answer
        self._stalled_bytes = 0

    # What the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._since = self._heard = self._looked = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """The client sent something."""
        self._heard = self.loop.time()
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._completed = False
        if self._receiving is NOTHING:
            self._receive(HEADER)
        elif self._receiving is BODY:
            self._wire_bytes += len(data)
        try:
            self._feed(data)
            self._check_sizes(len(data))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Refused) else Refused(400, "the request target is not valid"))
        except httptools.HttpParserError as error:
            self._refuse(Refused(400, f"this is not HTTP/1.1: {error}"))
        except Refused as refused:
            self._refuse(refused)

    def resume_writing(self) -> None:
        """The client took enough of its answer."""
        self._stalled_since = None
        super().resume_writing()

    # What the parser tells

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._receive(HEADER)

    def on_headers_complete(self) -> None:
        """The whole header; raises what is wrong with it."""
        if self.parser.should_upgrade():
            return  # it comes again, see `_feed`
        has_body = self._check_header()
        super().on_headers_complete()
        self._receive(BODY)
        self.headers = []  # the application has the old list; trailers go nowhere
        if has_body and self.parser.get_method() != b"HEAD":  # which has no body to wait for
            self.cycle.transport = PoliteTransport(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self.parser.should_upgrade():
            return
        self._receiving = NOTHING
        self._completed = True
        super().on_message_complete()
        if self.cycle.response_complete and not self.pipeline and not self.transport.is_closing():
            # The answer was sent before the request was whole: only now the connection is idle.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _should_upgrade(self) -> bool:
        return False

    # What the application and the worker tell

    def on_response_complete(self) -> None:
        """The last byte of an answer was written."""
        if not self._deaf or self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self._deferred is not None and not self.transport.is_closing():
            self._send(self._deferred)

    def close_politely(self) -> None:
        """Close at once, or as soon as a client that is still sending had time to read its answer."""
        if self._receiving is BODY and not self._deaf:
            self.pipeline.clear()
            self._deaf = True
            self._linger(LINGER_SECONDS)
        else:
            self.transport.close()

    def look_over(self, now: float) -> None:
        """End the connection if the client lets us wait too long."""
        if self.flow.read_paused:  # we let the client wait, not it us
            self._since += now - self._looked
            self._heard += now - self._looked
        self._looked = now
        if self._takes_too_little(now):
            logger.info("%s takes its answer too slowly: cut off", self._peer)
            self.transport.abort()
        elif self._deaf:
            self._end_linger(now)
        elif not self.transport.is_closing():
            self._check_pace(now)

    @property
    def idle(self) -> bool:
        """Whether no answer is owed to this client."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr] # None at first

    # Parsing

    def _feed(self, data: bytes) -> None:
        """
        Parse, and overlook the offer of another protocol (RFC 9110, section 7.8).

        Java's client makes one with every first request, also if that has a body. The parser would take the body for
        the other protocol: so the header is given to a new one, without the offer, and what follows after it.
        """
        rest = memoryview(data)
        while (header_bytes := self._offered(rest)) is not None:
            rest = rest[header_bytes:]
            if self.parser.get_method() == b"CONNECT":
                raise Refused(400, "this server is no proxy")
            head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
            head += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(b"\r\n".join([*head, b"\r\n"]))

    def _offered(self, data: memoryview) -> int | None:
        """Where the header ends that offers another protocol; ``None`` if all was parsed."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            end: int = upgrade.args[0]
            return end
        return None

    # Judgement

    def _receive(self, part: Part) -> None:
        self._receiving = part
        self._since = self._heard
        self._wire_bytes = self._body_bytes = 0

    def _check_sizes(self, fed: int) -> None:
        """Raise if the part that is arriving has grown too large."""
        if self._receiving is HEADER:
            # Where an earlier request ended in the same piece, most of it is not this header's.
            self._wire_bytes += 1 if self._completed else fed
            self._check_request_line(b"")
            if self._wire_bytes > self._settings.max_header_bytes + self._settings.max_request_line:
                raise Refused(431, f"the header is longer than {self._settings.max_header_bytes} bytes")
        elif self._wire_bytes - self._body_bytes > FRAMING_BYTES + self._body_bytes // 4:
            raise Refused(400, "the body's chunks are too small or their extensions too long")

    def _check_request_line(self, method: bytes) -> None:
        if len(method) + len(self.url) + REQUEST_LINE_REST > self._settings.max_request_line:
            raise Refused(414, f"the request line is longer than {self._settings.max_request_line} bytes")

    def _check_header(self) -> bool:
        """
        Whether a body follows.

        Raises:
            Refused: the header is too large, or two readers could understand it differently.
        """
        size = hosts = lengths = 0
        host = coding = b""
        for name, value in self.headers:
            size += len(name) + len(value) + len(": \r\n")
            if name == b"host":
                hosts += 1
                host = value
            elif name == b"content-length":
                lengths += 1
            elif name == b"transfer-encoding":
                coding = coding + b"," + value if coding else value
        if len(self.url) > self._settings.max_request_line - 32:
            self._check_request_line(self.parser.get_method())
        if len(self.headers) > self._settings.max_headers or size > self._settings.max_header_bytes:
            raise Refused(
                431,
                f"the header has more than {self._settings.max_headers} fields "
                f"or {self._settings.max_header_bytes} bytes",
            )
        self._check_addressee(hosts, host)
        if lengths > 1 or (lengths and coding):
            raise Refused(400, "the request has more than one length")
        if coding and self.parser.get_http_version() == "1.0":
            raise Refused(400, "HTTP/1.0 has no transfer codings")
        if coding and coding.lower() != b"chunked":
            raise Refused(501, "the only transfer coding is chunked")
        return bool(lengths or coding)

    def _check_addressee(self, hosts: int, host: bytes) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise Refused(505, "expected HTTP/1.1 or HTTP/1.0")
        if (hosts != 1 or not (host == self._host or HOST.fullmatch(host))) and (hosts or version == "1.1"):
            raise Refused(400, "expected one Host header with a valid value")
        self._host = host
        if not self.url.startswith(b"/") and not self.url.startswith((b"http://%b/" % host, b"https://%b/" % host)):
            raise Refused(400, "the request target is not a path of this host")
        if b"#" in self.url:  # the parser would drop what follows: another target than the one that was sent
            raise Refused(400, "the request target has a fragment")

    def _check_pace(self, now: float) -> None:
        settings = self._settings
        if self._receiving is HEADER and now - self._since > settings.header_timeout:
            if self._wire_bytes:
                self._refuse(Refused(408, f"the header took longer than {settings.header_timeout:g} seconds"))
            else:
                self.transport.close()  # never a byte: nobody asked anything
        elif self._receiving is BODY:
            elapsed = now - self._since
            too_slow = elapsed > settings.body_timeout and self._body_bytes < settings.body_min_rate * elapsed
            if too_slow or now - self._heard > settings.body_timeout:
                self._refuse(Refused(408, "the body arrives too slowly"))

    def _takes_too_little(self, now: float) -> bool:
        if not (self.flow.write_paused or self.transport.is_closing()):
            return False
        left = self.transport.get_write_buffer_size()
        if self._stalled_since is None:
            self._stalled_since, self._stalled_bytes = now, left
            return False
        elapsed = now - self._stalled_since
        if elapsed < self._settings.write_timeout:
            return False
        taken = self._stalled_bytes - left
        self._stalled_since, self._stalled_bytes = now, left
        return taken < self._settings.body_min_rate * elapsed

    # Ends

    def _refuse(self, refused: Refused) -> None:
        """Answer with *refused* now, or after the answers that are owed for earlier requests."""
        logger.info("%s refused: %d %s", self._peer, refused.status, refused)
        self._deaf = True
        if self.idle:
            self._send(refused)
        elif self._receiving is not BODY:
            self._deferred = refused
        elif self.pipeline:
            self.pipeline.popleft()  # the newest: this very request, which was not begun
            self._deferred = refused
        elif self.cycle.response_started:
            self.transport.abort()  # half an answer cannot become another one
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._send(refused)

    def _send(self, refused: Refused) -> None:
        body = orjson.dumps({"message": str(refused)})
        head = [STATUS_LINE[refused.status]]
        head += [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.transport.write(b"".join(head) + body)
        self._linger(LINGER_IDLE_SECONDS if refused.status == 408 else LINGER_SECONDS)

    def _linger(self, seconds: float) -> None:
        self._linger_until = self.loop.time() + seconds
        self._receiving = NOTHING
        self.flow.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def _end_linger(self, now: float) -> None:
        if self._linger_until and (now > self._linger_until or now - self._heard > LINGER_IDLE_SECONDS):
            self.transport.abort()

    @property
    def _peer(self) -> str:
        return "a client" if self.client is None else self.client[0]


class PoliteTransport:
    """
    What the application's side of a request with a body sees of its transport.

    It sends the head of an answer together with the first part of its body: every call to the kernel costs as much as
    a third of scoring a row, and uvicorn makes two.
    """

    __slots__ = ("_head", "_write", "close", "is_closing")

    def __init__(self, guard: Guard) -> None:
        self._head: bytes | None = None  # held back, then empty
        self._write = guard.transport.write
        self.is_closing = guard.transport.is_closing
        self.close = guard.close_politely

    def write(self, data: bytes) -> None:
        """Send, or hold back what is a head."""
        head = self._head
        if head is None:
            if data.startswith(CONTINUE):
                self._write(data)
            else:
                self._head = data
        elif head:
            self._head = b""
            if len(data) <= JOINED_BYTES:
                self._write(head + data)
            else:
                self._write(head)
                self._write(data)
        else:
            self._write(data)
