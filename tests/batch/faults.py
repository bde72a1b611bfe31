"""A proxy that does to requests what networks and servers do to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Fate = Literal[
    "pass",
    "503",
    "429 later",
    "503 for long",
    "500",
    "413",
    "drop",
    "cut",
    "hang",
    "few",
    "many",
    "html",
    "gzip",
    "endless",
    "redirect",
    "error in 200",
    "no table",
    "drip",
]

BUSY = {
    "503": b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
    "429 later": b"HTTP/1.1 429 Slow\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
    "503 for long": b"HTTP/1.1 503 Busy\r\nretry-after: 400\r\ncontent-length: 0\r\n\r\n",
    "500": b'HTTP/1.1 500 Oh\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{"message":"oops"}',
    "413": b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\n\r\n",
    "few": b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: 4\r\n\r\na\n1\n",
    "many": b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: 4002\r\n\r\na\n" + b"1\n" * 2000,
    "html": b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\n<p/>\n",
    "gzip": b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b",
    "endless": b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: 99999999\r\n\r\n" + b"1\n" * 2**20,
    "error in 200": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n"
    b'{"message":"oops"}',
    "no table": b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: 18\r\n\r\n" + b'{"message":"oops"}',
    "redirect": b"HTTP/1.1 307 There\r\nlocation: http://169.254.77.77/\r\ncontent-length: 0\r\n\r\n",
}


@dataclass
class Proxy:
    """What happens to the n-th request for predictions is up to *fate*."""

    upstream: str
    fate: Callable[[int], Fate] = lambda _: "pass"
    url: str = ""
    seen: list[bytes] = field(default_factory=list)
    """Bodies of the requests for predictions."""
    heads: list[bytes] = field(default_factory=list)
    """Heads of all requests."""
    hides: bytes = b"\0"
    """Headers of answers that begin so, in lower case, are left out."""
    in_flight: int = 0
    most_in_flight: int = 0
    arrived: Callable[[int], None] = lambda _: None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        body = await reader.readexactly(int(lines.get(b"content-length", b"0")))
        if b"/predictions" not in head.split(b"\r\n", 1)[0]:
            writer.write(await self._answer(head, body))
            return True
        self.seen.append(body)
        number = len(self.seen) - 1
        self.arrived(number)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._suffer(self.fate(number), head, body, writer)
        finally:
            self.in_flight -= 1

    async def _suffer(self, fate: Fate, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if fate == "drop":
            writer.transport.abort()
            return False
        if fate == "hang":
            await asyncio.get_running_loop().create_future()
        answer = BUSY.get(fate) or await self._answer(head, body)
        if fate == "drip":
            for place in range(len(answer)):
                writer.write(answer[place : place + 1])
                await writer.drain()
                await asyncio.sleep(0.01)  # so slowly that a time for each byte would never run out
        if fate == "cut":
            writer.write(answer[:-7])
            await writer.drain()
            writer.transport.abort()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        place = urlsplit(self.upstream)
        try:
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
        except OSError:
            return BUSY["503"]
        try:
            writer.write(head.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) + body)
            answer = await reader.read()
        except OSError:
            return BUSY["503"]
        finally:
            writer.transport.abort()
        head, _, rest = answer.partition(b"\r\n\r\n")
        hidden = (b"connection:", self.hides)
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(hidden)]
        return b"\r\n".join(kept) + b"\r\n\r\n" + rest


@asynccontextmanager
async def proxy(upstream: str, fate: Callable[[int], Fate] = lambda _: "pass") -> AsyncIterator[Proxy]:
    """Running."""
    made = Proxy(upstream, fate)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(made.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, family=socket.AF_INET)
    made.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted transports end in the next turn
