"""What only a real socket shows: bodies that are never read, connections that end, chunks both ways."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn

from prediction_api.app import create_app
from prediction_api.settings import Settings
from prediction_api.state import ServerState

ROW = b'[{"x": 3, "city": "Oslo"}]'
LIMIT = 100_000


class Served:
    """A server and one connection to it."""

    def __init__(self, state: ServerState, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.state = state
        self.reader = reader
        self.writer = writer

    def send(self, head: str, body: bytes = b"") -> None:
        lines = f"{head}\r\nHost: server\r\nContent-Type: application/json\r\n\r\n"
        self.writer.write(lines.encode() + body)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer on the connection."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        return int(first.split()[1]), headers, await self.reader.readexactly(length)

    async def ended(self) -> bool:
        """Whether the server closed the connection, with nothing more on it."""
        return await self.reader.read() == b""


@pytest.fixture
async def served(make_model) -> AsyncIterator[Served]:
    state = ServerState(ready=True)
    app = create_app(make_model("regression"), Settings(max_body_bytes=LIMIT), state=state)
    config = uvicorn.Config(app, http="httptools", lifespan="off", log_config=None, access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup(sockets=[listener])
        reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=2**20)
        yield Served(state, reader, writer)
        writer.close()
        await server.shutdown(sockets=[listener])


@pytest.mark.parametrize("expect", ["", "\r\nExpect: 100-continue"], ids=["plain", "expecting"])
async def test_a_body_that_is_too_large_is_not_waited_for(served, expect):
    served.send(f"POST /predictions HTTP/1.1\r\nContent-Length: 10000000000{expect}")
    status, headers, body = await served.answer()
    assert (status, headers["connection"]) == (413, "close")
    assert b"at most 100000 are read" in body
    assert await served.ended()


async def test_chunks_beyond_the_limit(served):
    served.send(
        "POST /predictions HTTP/1.1\r\nTransfer-Encoding: chunked", b"%x\r\n" % (LIMIT + 1) + b" " * (LIMIT + 1)
    )
    status, headers, _ = await served.answer()
    assert (status, headers["connection"]) == (413, "close")


async def test_chunks_are_read(served):
    served.send("POST /predictions HTTP/1.1\r\nTransfer-Encoding: chunked", b"5\r\n%b\r\n" % ROW[:5])
    served.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(ROW) - 5, ROW[5:]))
    status, headers, body = await served.answer()
    assert (status, headers.get("connection")) == (200, None)
    assert b'"prediction":6.0' in body


async def test_no_length(served):
    served.send("POST /predictions HTTP/1.1")
    status, _, body = await served.answer()
    assert (status, body) == (411, b'{"message":"send Content-Length, or Transfer-Encoding: chunked"}')


async def test_a_small_refused_body_costs_no_connection(served):
    """The body is read and thrown away, so that what follows on the connection is the next request."""
    smuggled = b"GET /nope HTTP/1.1\r\nHost: server\r\n\r\n"
    served.send(f"POST /predictions?wd=1 HTTP/1.1\r\nContent-Length: {len(smuggled)}", smuggled)
    served.send(f"POST /predictions HTTP/1.1\r\nContent-Length: {len(ROW)}", ROW)
    refused, _, _ = await served.answer()
    scored, _, body = await served.answer()
    assert (refused, scored) == (422, 200)
    assert b'"prediction":6.0' in body


@pytest.mark.parametrize(
    "head",
    [
        "POST /predictions?wd=1 HTTP/1.1\r\nContent-Length: 90000",
        "POST /nope HTTP/1.1\r\nContent-Length: 90000",
        "PUT /predictions HTTP/1.1\r\nTransfer-Encoding: chunked",
        "POST /predictions?wd=1 HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue",
        f"POST /predictions?wd={'a' * 8192} HTTP/1.1\r\nContent-Length: 90000",
    ],
    ids=["large", "unknown route", "wrong method", "expecting", "long line"],
)
async def test_any_other_refused_body_ends_the_connection(served, head):
    served.send(head)
    status, headers, _ = await served.answer()
    assert 400 <= status < 500
    assert headers["connection"] == "close"
    assert await served.ended()


async def test_long_answers_come_in_chunks(served):
    body = b"x,city\n" + b"1,a\n" * 20_000
    served.writer.write(
        b"POST /predictions HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\nAccept: text/csv\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    _, headers, _ = await served.answer()
    assert headers["transfer-encoding"] == "chunked"
    rest = await served.reader.readuntil(b"\r\n0\r\n\r\n")
    assert rest.count(b"2.0\n") == 20_000


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(served, monkeypatch):
    """No last chunk, and the connection ends: a client must not think that these were all rows."""

    def broken(*_: object) -> Iterator[bytes]:
        yield b"spent_PREDICTION\n"
        raise MemoryError

    monkeypatch.setattr("prediction_api.scoring.CsvWriter.chunks", broken)
    body = b"x,city\n" + b"1,a\n" * 20_000
    served.writer.write(
        b"POST /predictions HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\nAccept: text/csv\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    status, _, _ = await served.answer()
    rest = await served.reader.read()
    assert status == 200
    assert not rest.endswith(b"\r\n0\r\n\r\n")


async def test_draining_ends_connections(served):
    served.send("GET /livez HTTP/1.1")
    _, before, _ = await served.answer()
    served.state.draining = True
    served.send("GET /ping HTTP/1.1")
    status, headers, _ = await served.answer()
    assert ("connection" in before, status, headers["connection"]) == (False, 503, "close")
    assert await served.ended()


async def test_head_has_no_body(served):
    served.send("HEAD /ping HTTP/1.1\r\nConnection: close")
    first = await served.reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 15" in first.lower()
    assert await served.ended()
