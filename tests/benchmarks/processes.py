"""Real server processes and the load generator's process, started, watched and always ended."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.peers import Question

START_LIMIT: Final = 90.0
STOP_LIMIT: Final = 20.0
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    process: "subprocess.Popen[bytes]"
    port: int

    def pids(self) -> list[int]:
        """The process and all that descend from it."""
        parents: dict[int, list[int]] = {}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(place.name))
        found = [self.process.pid]
        for pid in found:
            found += parents.get(pid, [])
        return found

    def memory(self, kind: str) -> dict[int, int]:
        """``VmRSS`` or ``VmHWM`` of each process, in bytes."""
        sizes = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                sizes[pid] = next((int(line.split()[1]) * 1024 for line in lines if line.startswith(kind)), 0)
        return sizes

    def forget_peaks(self) -> None:
        """Count ``VmHWM`` from now on."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def serving(command: list[str], port: int, ping: str, environ: Mapping[str, str]) -> Iterator[Server]:
    """Start, wait until it answers, and end it with all its children."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=os.environ | dict(environ), stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(process, port, ping)
            yield Server(process, port)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-3000:].decode(errors="replace"))
            raise
        finally:
            _end(process)


def _wait(process: "subprocess.Popen[bytes]", port: int, ping: str) -> None:
    began = time.monotonic()
    while time.monotonic() < began + START_LIMIT:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if answer_of("GET", port, ping)[0] == 200:
                return
        time.sleep(0.05)
    raise TimeoutError(f"{process.args!r} did not answer on {ping} within {START_LIMIT:.0f} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answer_of(method: str, port: int, path: str, question: Question | None = None) -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Content-Type": question.content_type, "Accept": "application/json"} if question else {}
        connection.request(method, path, question.body if question else None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@dataclass(frozen=True)
class Load:
    """What the generator measured."""

    requests: int
    per_second: float
    p50: float
    p99: float


def start_load(question: Question, port: int, concurrency: int, seconds: float) -> "subprocess.Popen[str]":
    """A generator at work; give it to `finished`."""
    request = Path(tempfile.gettempdir()) / f"benchmark-{os.getpid()}-{abs(hash(question))}.http"
    if not request.exists():
        request.write_bytes(question.http())
    options = ["--port", str(port), "--concurrency", str(concurrency), "--seconds", str(seconds)]
    command = [sys.executable, "-m", "tests.benchmarks.load", str(request), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(generator: "subprocess.Popen[str]") -> Load:
    """Wait for a generator."""
    output, _ = generator.communicate(timeout=120)
    if generator.returncode:
        raise RuntimeError("the load generator failed")
    measured: dict[str, Any] = json.loads(output)
    return Load(**measured)


def load(question: Question, port: int, concurrency: int, seconds: float) -> Load:
    """Run a generator to its end."""
    return finished(start_load(question, port, concurrency, seconds))


def free_ports(n: int) -> int:
    """The first of *n* free ports in a row, below those that the system gives to clients."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + n):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
