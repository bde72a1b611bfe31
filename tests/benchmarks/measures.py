"""What is measured. Servers of one table run side by side and take turns, so that drift hits all of them."""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from tests.benchmarks.floor import IN_PROCESS, in_process
from tests.benchmarks.inputs import LARGE_BYTES, Bodies, Subject, large_csv
from tests.benchmarks.peers import OURS, Peer, Question, echo_command
from tests.benchmarks.processes import MIB, Load, Server, answer_of, finished, free_ports, load, serving, start_load

TOLERANCE: Final = 1e-9
"""Answers are rounded to 10 decimals."""
ECHO: Final = "uvicorn echo"


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Case:
    """One column of the comparison."""

    name: str
    rows: int
    concurrency: int


CASES: Final = (
    Case("1 row, JSON, c=1", 1, 1),
    Case("1 row, JSON, c=16", 1, 16),
    Case("10,000 rows, CSV in, JSON out, c=1", 10_000, 1),
    Case("10,000 rows, CSV in, JSON out, c=4", 10_000, 4),
)
FLOOR_CASE: Final = CASES[2]


@dataclass(frozen=True)
class Outcome:
    """One server in one case: the median round."""

    model: str
    case: Case
    server: str
    load: Load


def comparison(subject: Subject, bodies: Bodies, peers: Sequence[Peer], folder: Path, effort: Effort) -> list[Outcome]:
    """Every server in every case, after all of them were seen to give the same predictions."""
    rounds: dict[tuple[Case, str], list[Load]] = {}
    with contextlib.ExitStack() as stack:
        servers = {peer: stack.enter_context(_peer_serving(peer, subject, folder)) for peer in (OURS, *peers)}
        for peer, server in servers.items():
            _check_predictions(peer, server, subject, bodies)
        echoes = stack.enter_context(_echoes(servers[OURS], bodies, folder))
        for _ in range(effort.rounds):
            for case in CASES:
                for peer, server in servers.items():
                    question = _question(peer, case, bodies)
                    measured = load(question, server.port, case.concurrency, effort.seconds)
                    rounds.setdefault((case, peer.name), []).append(measured)
                measured = load(_question(OURS, case, bodies), echoes[case.rows].port, case.concurrency, effort.seconds)
                rounds.setdefault((case, ECHO), []).append(measured)
                if case == FLOOR_CASE:
                    measured = in_process(subject, OURS.ask_bulk(bodies.bulk).body, effort.seconds)
                    rounds.setdefault((case, IN_PROCESS), []).append(measured)
    return [Outcome(subject.name, case, server, _median(loads)) for (case, server), loads in rounds.items()]


def _median(loads: list[Load]) -> Load:
    return sorted(loads, key=lambda measured: measured.per_second)[len(loads) // 2]


def _question(peer: Peer, case: Case, bodies: Bodies) -> Question:
    return peer.ask_json(bodies.one) if case.rows == 1 else peer.ask_bulk(bodies.bulk)


@contextlib.contextmanager
def _peer_serving(peer: Peer, subject: Subject, folder: Path, **environ: str) -> Iterator[Server]:
    port = free_ports(3)
    bin_ = peer.bin(folder)
    command = peer.command(bin_, subject, port)
    path = {"PATH": f"{bin_}:/usr/local/bin:/usr/bin:/bin"}
    with serving(command, port, peer.ping, {**path, **peer.environ, **environ}) as server:
        yield server


@contextlib.contextmanager
def _echoes(ours: Server, bodies: Bodies, folder: Path) -> Iterator[dict[int, Server]]:
    """Servers that answer with exactly our own bytes, by number of rows."""
    with contextlib.ExitStack() as stack:
        echoes = {}
        for case in CASES:
            if case.rows not in echoes:
                question = _question(OURS, case, bodies)
                answer = folder / f"echo-{case.rows}.json"
                answer.write_bytes(answer_of("POST", ours.port, question.path, question)[1])
                port = free_ports(1)
                echoes[case.rows] = stack.enter_context(serving(echo_command(port, answer), port, "/", {}))
        yield echoes


def _check_predictions(peer: Peer, server: Server, subject: Subject, bodies: Bodies) -> None:
    for rows, question in ((bodies.one, peer.ask_json(bodies.one)), (bodies.bulk, peer.ask_bulk(bodies.bulk))):
        status, body = answer_of("POST", server.port, question.path, question)
        if status != 200:
            raise RuntimeError(f"{peer.name} answered {status}: {body[:500]!r}")
        difference = float(np.abs(np.array(peer.answered(body)) - subject.expected(rows)).max())
        if difference > TOLERANCE:
            raise RuntimeError(f"{peer.name} predicts otherwise, by {difference:g}, for {len(rows)} rows")


@dataclass(frozen=True)
class Figure:
    """One number of the second table."""

    what: str
    value: float
    unit: str
    target: str


def figures(subject: Subject, bodies: Bodies, folder: Path, effort: Effort) -> list[Figure]:
    """What only our own server is asked."""
    return [
        *_large_body(subject, bodies, folder, effort),
        _two_workers(subject, bodies, folder, effort),
        _start(subject, bodies, folder),
        _help(),
    ]


def _large_body(subject: Subject, bodies: Bodies, folder: Path, effort: Effort) -> Iterator[Figure]:
    large = replace(OURS.ask_bulk(bodies.bulk), body=large_csv(bodies.bulk))
    n_rows = large.body.count(b"\n") - 1
    one = OURS.ask_json(bodies.one)
    with _peer_serving(OURS, subject, folder) as server:
        load(one, server.port, 16, 0.5)
        idle = server.memory("VmRSS")
        server.forget_peaks()
        began = time.perf_counter()
        status, body = answer_of("POST", server.port, large.path, large)
        seconds = time.perf_counter() - began
        if status != 200:
            raise RuntimeError(f"a 50 MB body was answered {status}: {body[:500]!r}")
        above = max(peak - idle.get(pid, 0) for pid, peak in server.memory("VmHWM").items())
        yield Figure("50 MB CSV: rows a second", n_rows / seconds, "rows/s", "")
        yield Figure("50 MB CSV: peak memory of the worker above idle", above / MIB, "MiB", "at most 200 MiB (4x)")
        yield Figure("the same, in bodies", above / LARGE_BYTES, "x", "at most 4x")
        alone = load(one, server.port, 4, effort.seconds)
        busy = start_load(large, server.port, 1, max(effort.seconds, 3.0))
        beside = load(one, server.port, 4, max(effort.seconds, 3.0))
        finished(busy)
        yield Figure("1 row, c=4: p99 alone", alone.p99 * 1e3, "ms", "")
        yield Figure("1 row, c=4: p99 beside a 50 MB CSV", beside.p99 * 1e3, "ms", "below 50 ms")


def _two_workers(subject: Subject, bodies: Bodies, folder: Path, effort: Effort) -> Figure:
    question = OURS.ask_bulk(bodies.bulk)
    ratios = []
    with (
        _peer_serving(OURS, subject, folder) as single,
        _peer_serving(OURS, subject, folder, PREDICTION_API_WORKERS="2") as double,
    ):
        for _ in range(effort.rounds):
            one, two = (load(question, server.port, 4, effort.seconds).per_second for server in (single, double))
            ratios.append(two / one)
    return Figure("two workers against one, 10,000 rows, c=4", statistics.median(ratios), "x", "at least 1.8x")


def _start(subject: Subject, bodies: Bodies, folder: Path) -> Figure:
    question = OURS.ask_json(bodies.one)
    times = []
    for _ in range(3):
        port = free_ports(1)
        command = OURS.command(OURS.bin(folder), subject, port)
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                with contextlib.suppress(OSError):
                    if answer_of("POST", port, question.path, question)[0] == 200:
                        break
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with {process.returncode}")
                time.sleep(0.005)
            times.append(time.perf_counter() - began)
        finally:
            process.terminate()
            process.wait(20)
    return Figure("start to first prediction", min(times), "s", "below 1.0 s")


def _help() -> Figure:
    command = [str(Path(sys.executable).with_name("prediction-api")), "--help"]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return Figure("prediction-api --help", min(times), "s", "below 0.3 s")
