"""
A load generator in a process of its own:  python -m tests.benchmarks.load REQUEST --port P --concurrency C --seconds S

REQUEST is a file with the bytes of one HTTP request. Each connection sends them again as soon as the answer to the
last one is complete. Nothing is parsed but the head and the end of an answer, so that one core drives far more than any
server answers. Prints one JSON object.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import uvloop

LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
LAST_CHUNK: Final = b"0\r\n\r\n"
LONGEST: Final = 5
"""Times the asked-for seconds, when answers are slow."""


@dataclass
class Run:
    """What all connections of one run share: they run until enough answers came in enough time."""

    request: bytes
    warm_until: float
    seconds: float
    enough: int
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    open: int = 0
    since: float = 0.0
    """When the first answer after the warm-up came; it is not counted itself, so that the rate has no edge to guess."""
    until: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    first: bytes = b""

    def answered(self, sent: float, now: float) -> bool:
        """Count an answer; whether to go on."""
        if now < self.warm_until:
            return not self.failures
        if not self.since:
            self.since = now
        elif not self.until:
            self.latencies.append(now - sent)
            lasted = now - self.since
            if lasted >= self.seconds and (len(self.latencies) >= self.enough or lasted >= LONGEST * self.seconds):
                self.until = now
        return not (self.until or self.failures)


class Connection(asyncio.Protocol):
    """Sends, waits for the whole answer, sends again."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._begun = False
        self._sent_at = 0.0
        self._received: list[bytes] = []
        self._missing: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._run.open += 1
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._begun:
            self._run.failures.append(f"connection lost: {exc}")
        self._run.open -= 1
        if not self._run.open:
            self._run.finished.set()

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self._missing is None and not self._read_head():
            return
        if self._missing is not None and self._missing >= 0:
            self._missing -= len(data)
            if self._missing <= 0:
                self._complete()
        elif (self._received[-2][-5:] + data if len(self._received) > 1 else data).endswith(LAST_CHUNK):
            self._complete()

    def _send(self) -> None:
        self._begun = True
        self._received.clear()
        self._missing = None
        self._sent_at = time.perf_counter()
        self._transport.write(self._run.request)

    def _read_head(self) -> bool:
        """Set ``_missing`` to the bytes to come, this piece included, or to -1 for a chunked answer."""
        data = b"".join(self._received)
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = data[: end + 2]
        if not head.startswith(b"HTTP/1.1 200"):
            self._run.failures.append(data[:500].decode("latin-1"))
        if CHUNKED.search(head):
            self._missing = -1
        else:
            found = LENGTH.search(head)
            length = int(found[1]) if found else 0
            self._missing = length - (len(data) - end - 4) + len(self._received[-1])
        return True

    def _complete(self) -> None:
        now = time.perf_counter()
        run = self._run
        if not run.first:
            run.first = b"".join(self._received)
        self._begun = False
        if run.answered(self._sent_at, now):
            self._send()
        else:
            self._transport.close()


def body_of(answer: bytes) -> bytes:
    """The body of a whole answer, chunks joined."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not CHUNKED.search(head + b"\r\n"):
        return rest
    parts = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        rest = rest[length + 2 :]
    return b"".join(parts)


async def generate(request: bytes, port: int, concurrency: int, seconds: float, warm_up: float) -> Run:
    """Keep *concurrency* requests under way."""
    run = Run(request, time.perf_counter() + warm_up, seconds, enough=4 * concurrency)
    loop = asyncio.get_running_loop()
    for _ in range(concurrency):
        await loop.create_connection(lambda: Connection(run), "127.0.0.1", port)
    await run.finished.wait()
    return run


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("request", type=Path)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--concurrency", type=int, default=1)
    arguments.add_argument("--seconds", type=float, default=2.0)
    arguments.add_argument("--warm-up", type=float, default=0.3)
    arguments.add_argument("--answer", type=Path, help="where to write the body of the first answer")
    options = arguments.parse_args()
    run = uvloop.run(
        generate(options.request.read_bytes(), options.port, options.concurrency, options.seconds, options.warm_up)
    )
    if options.answer:
        options.answer.write_bytes(body_of(run.first))
    if run.failures:
        sys.exit(f"not every answer was 200: {run.failures[0]}")
    latencies = sorted(run.latencies)
    measured = {
        "requests": len(latencies),
        "per_second": len(latencies) / (run.until - run.since),
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[int(len(latencies) * 0.99)],
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
