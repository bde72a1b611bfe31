"""Life and death of the server's processes, as signals and sockets show them."""

import contextlib
import http.client
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from model_repository.errors import SettingsError
from prediction_api.processes import usage_from
from prediction_api.server import listen
from prediction_api.settings import Settings
from prediction_api.supervisor import RestPolicy
from tests.prediction_api.server_process import ServerProcess, everything_from, serving, started, until

HOLD = b"GET /hold HTTP/1.1\r\nHost: here\r\n\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def alive(pid: int) -> bool:
    try:
        return usage_from(Path(f"/proc/{pid}/stat").read_text()).state not in "ZX"
    except FileNotFoundError:
        return False


def held(server: ServerProcess) -> socket.socket:
    """A connection whose answer has begun."""
    connection = server.connect()
    connection.sendall(HOLD)
    received = b""
    while not received.endswith(b"holding\r\n"):
        received += connection.recv(4096)
    return connection


# The start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    with serving(workers=2) as server:
        workers = server.workers(2)

        assert server.get("/ping") == (200, b"pong")
        assert server.end(number) == 0
        assert not any(alive(pid) for pid in workers)


def test_answers_503_while_the_model_is_loaded(tmp_path: Path) -> None:
    """And never again after the first 200."""
    port = free_port()
    loaded = tmp_path / "loaded"
    with started(stand_in=f"wait:{loaded}", http_port=port) as server:
        server.port = port
        assert until(lambda: server.status_of("/ping"), "somebody answers") == 503
        assert server.status_of("/predictions") == 503
        assert server.status_of("/livez") == 200

        loaded.touch()

        until(lambda: server.status_of("/ping") == 200, "the server is ready")
        assert {server.status_of("/ping") for _ in range(50)} == {200}
        assert len(server.workers()) == 1
        assert server.end() == 0


def test_ends_at_once_while_the_model_is_loaded(tmp_path: Path) -> None:
    port = free_port()
    with started(stand_in=f"wait:{tmp_path / 'never'}", http_port=port) as server:
        server.port = port
        until(lambda: server.status_of("/livez") == 200, "it is loading")
        [doorkeeper] = server.children()

        assert server.end(limit=2) == 0
        until(lambda: not alive(doorkeeper), "no orphan is left", limit=2)


@pytest.mark.parametrize(
    ("stand_in", "reason"),
    [
        pytest.param("refuse:no model in it", "cannot start: no model in it", id="package is refused"),
        pytest.param("break:oh", "ZeroDivisionError: oh", id="loading breaks"),
        pytest.param("refuse in worker:golden rows differ", "cannot start: golden rows differ", id="check fails"),
        pytest.param("break in worker:oh", "cannot start: ZeroDivisionError: oh", id="check breaks"),
        pytest.param("die in worker", "cannot start: signal SIGSEGV", id="check kills the worker"),
    ],
)
def test_says_why_it_cannot_start(stand_in: str, reason: str) -> None:
    with started(stand_in=stand_in, workers=2) as server:
        assert server.process.wait(10) == 1
        assert reason in server.log


def test_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(SettingsError, match=f"PREDICTION_API_HTTP_PORT={port} on 127.0.0.1: the port is taken"):
            listen(Settings(http_port=port))


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host"])
def test_address_is_not_ours(host: str) -> None:
    with pytest.raises(SettingsError, match=r"PREDICTION_API_HOST=.*not an address of this machine"):
        listen(Settings(host=host, http_port=0))


def test_connections_are_shared_out() -> None:
    """Connections that come at once and stay are spread over all workers."""
    with serving(workers=2) as server, contextlib.ExitStack() as stack:
        pids: Counter[bytes] = Counter()
        for connection in [stack.enter_context(server.connect()) for _ in range(40)]:
            connection.sendall(b"GET /pid HTTP/1.1\r\nHost: here\r\n\r\n")
            with http.client.HTTPResponse(connection) as response:
                response.begin()
                pids[response.read()] += 1

    assert len(pids) == 2
    assert min(pids.values()) >= 12  # not exactly 20: each worker knows of the other what it was a moment ago


# The end


def test_running_requests_are_finished() -> None:
    """Readiness is gone at once, what runs is finished, then the exit status is 0."""
    with serving() as server, contextlib.ExitStack() as stack:
        running = [stack.enter_context(held(server)) for _ in range(12)]
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/ping") == (503, b"the server is shutting down"), "readiness is gone", limit=0.5)

        assert server.get("/release")[0] == 200

        assert all(everything_from(connection) == b"9\r\n released\r\n0\r\n\r\n" for connection in running)
        assert server.process.wait(2) == 0


def test_port_stays_open_for_the_drain_delay() -> None:
    with serving(drain_delay=1) as server:
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()

        until(lambda: server.status_of("/ping") == 503, "readiness is gone", limit=0.5)
        until(lambda: server.status_of("/ping") is None, "the port is closed", limit=3)

        assert time.monotonic() - began > 0.9
        assert server.process.wait(2) == 0


def test_stalled_clients_do_not_keep_it_alive() -> None:
    """Half headers, half bodies, idle connections, an answer that never ends: the grace time bounds them all."""
    begun = [
        b"",
        b"GET /pi",
        b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nabc",
        b"GET /ping HTTP/1.1\r\nHost: here\r\n\r\n",
        HOLD,
        b"GET /large?bytes=50000000 HTTP/1.1\r\nHost: here\r\n\r\n",
    ]
    with serving(shutdown_grace=1) as server, contextlib.ExitStack() as stack:
        for request in begun * 2:
            stack.enter_context(server.connect()).sendall(request)
        assert server.get("/ping")[0] == 200

        began = time.monotonic()
        assert server.end() == 0
        assert 0.9 < time.monotonic() - began < 1.8  # the parent would cut the worker itself off a second later
        assert "requests were cut" in server.log


def test_idle_connections_do_not_keep_it_alive() -> None:
    with serving() as server, contextlib.ExitStack() as stack:
        for request in [b"", b"GET /pi", b"GET /ping HTTP/1.1\r\nHost: here\r\n\r\n"] * 5:
            stack.enter_context(server.connect()).sendall(request)
        assert server.get("/ping")[0] == 200

        assert server.end(limit=2) == 0


def test_second_signal_ends_it_at_once() -> None:
    with serving() as server, contextlib.closing(held(server)):
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.status_of("/ping") == 503, "it drains")

        assert server.end(limit=1) == 0


def test_a_worker_that_cannot_drain_is_killed() -> None:
    with serving(shutdown_grace=1) as server, server.connect() as connection:
        connection.sendall(b"GET /spin?seconds=60 HTTP/1.1\r\nHost: here\r\n\r\n")
        until(lambda: server.status_of("/ping", timeout=0.2) is None, "the event loop stands")

        assert server.end(limit=5) == 0


def test_hangup_is_ignored() -> None:
    with serving() as server:
        server.process.send_signal(signal.SIGHUP)

        until(lambda: "SIGHUP is ignored" in server.log, "it is logged")
        assert server.get("/ping")[0] == 200


def test_no_orphans() -> None:
    with serving(workers=2) as server:
        workers = server.workers(2)
        server.process.kill()

        until(lambda: not any(alive(pid) for pid in workers), "workers end with their parent", limit=2)


# Accidents


def deaths_exceed(server: ServerProcess, number: int) -> bool:
    return server.log.count("died: signal SIGSEGV") > number


def test_killed_worker_is_replaced() -> None:
    """Nobody is refused meanwhile, and only requests of the dead worker are lost."""
    with serving(workers=2) as server:
        victim, survivor = server.workers(2)
        os.kill(victim, signal.SIGKILL)

        until(lambda: len(set(server.children()) - {victim}) == 2, "it is replaced", limit=2)
        assert survivor in server.children()
        with ThreadPoolExecutor(8) as pool:
            assert {status for status, _ in pool.map(server.get, ["/ping"] * 50)} == {200}
        assert f"process {victim}, died: signal SIGKILL" in server.log
        assert server.end() == 0


def test_a_killed_worker_costs_only_its_own_requests() -> None:
    """Six clients ask without a pause: nobody is refused, and each loses no more than what the dead worker had of it."""
    outcomes: Counter[str] = Counter()
    ended = threading.Event()

    def ask(server: ServerProcess) -> None:
        while not ended.is_set():
            try:
                outcomes[str(server.get("/ping")[0])] += 1
            except (OSError, http.client.HTTPException) as error:
                outcomes[type(error).__name__] += 1

    with serving(workers=2) as server, ThreadPoolExecutor(6) as clients:
        victim, _ = server.workers(2)
        for _ in range(6):
            clients.submit(ask, server)
        until(lambda: outcomes["200"] > 200, "they are asking")
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(set(server.children()) - {victim}) == 2, "it is replaced", limit=8)
        enough = outcomes["200"] + 200
        until(lambda: outcomes["200"] > enough, "they go on")
        ended.set()

    assert outcomes.total() - outcomes["200"] <= 8, outcomes
    assert set(outcomes) <= {"200", "ConnectionResetError", "RemoteDisconnected"}


def test_connections_wait_while_all_workers_are_replaced() -> None:
    with serving(workers=2) as server:
        for pid in server.workers(2):
            os.kill(pid, signal.SIGKILL)

        assert server.get("/ping") == (200, b"pong")


def test_stopped_worker_is_replaced() -> None:
    with serving(worker_stall_timeout=2) as server:
        [victim] = server.workers()
        os.kill(victim, signal.SIGSTOP)

        assert server.get("/ping", timeout=8) == (200, b"pong")
        assert not alive(victim)
        assert "seconds without a sign of life, stalled" in server.log


def test_stuck_worker_is_replaced() -> None:
    with serving(worker_stall_timeout=2) as server:
        [victim] = server.workers()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            server.get("/stall", timeout=8)

        assert server.get("/ping") == (200, b"pong")
        assert not alive(victim)


def test_computing_worker_is_left_alone() -> None:
    """Native code that holds the interpreter for longer than the stall time costs nobody a request."""
    with serving(worker_stall_timeout=1) as server:
        assert server.get("/spin?seconds=3") == (200, b"done")
        assert "died" not in server.log


def test_worker_that_computes_for_ever_is_replaced() -> None:
    with serving(worker_stall_timeout=1, worker_busy_timeout=2) as server:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            server.get("/spin?seconds=60", timeout=8)

        assert server.get("/ping") == (200, b"pong")
        assert "seconds without a sign of life, busy" in server.log


def test_workers_that_keep_dying_are_given_a_rest() -> None:
    """After five deaths the server says that it is not ready, instead of forking as fast as it can."""
    with serving() as server:
        for number in range(5):
            with contextlib.suppress(OSError):
                server.get("/die")
            until(partial(deaths_exceed, server, number), "the death is noticed")

        assert until(lambda: server.status_of("/ping"), "the doorkeeper answers") == 503
        assert "workers keep dying: not ready" in server.log
        assert server.log.count("died: ") == 5
        until(lambda: server.status_of("/ping") == 200, "it tries again", limit=8)


def test_a_survivor_is_not_ready_while_others_keep_dying() -> None:
    with serving(workers=2) as server:
        survivor = server.workers(2)[0]
        for number in range(5):
            os.kill(next(pid for pid in server.workers(2) if pid != survivor), signal.SIGSEGV)
            until(partial(deaths_exceed, server, number), "the death is noticed")

        until(lambda: server.get("/ping") == (503, b"the server's workers keep dying"), "readiness is gone")
        assert alive(survivor)


def test_workers_that_cannot_start_any_more_are_given_a_rest(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with serving(stand_in=f"die later:{broken}") as server:
        broken.touch()
        os.kill(server.workers()[0], signal.SIGKILL)

        assert until(lambda: server.status_of("/ping"), "the doorkeeper answers") == 503
        assert server.log.count("died: ") == 5
        assert server.end() == 0


def test_orphans_of_others_mean_nothing() -> None:
    """As PID 1 the server inherits processes whose exit status is not about its workers."""
    with serving(stand_in="stranger") as server:
        assert server.get("/ping") == (200, b"pong")
        assert len(server.workers()) == 1
        assert server.end() == 0


def test_running_out_of_files_pauses_accepting() -> None:
    """No busy loop while there are none, and service as soon as there are some."""

    def allow_64_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with serving(before=allow_64_files) as server:
        [worker] = server.workers()
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(server.connect())
            until(lambda: "cannot accept connections: Too many open files" in server.log, "it says so")
            before = usage_from(Path(f"/proc/{worker}/stat").read_text()).processor_seconds
            until(lambda: server.log.count("cannot accept connections") >= 4, "it goes on trying")
            assert server.log.count("cannot accept connections") < 20
            used = usage_from(Path(f"/proc/{worker}/stat").read_text()).processor_seconds - before
        assert used < 0.2

        assert server.get("/ping") == (200, b"pong")
        assert server.children() == [worker]


# Pure parts


def test_rests_grow_and_are_forgotten() -> None:
    policy = RestPolicy()

    assert [policy.died(second) for second in range(8)] == [0, 0, 0, 0, 5, 10, 20, 40]
    assert policy.died(8) == 60
    assert policy.died(100) == 0


def test_usage_of_a_process_with_an_odd_name() -> None:
    stat = "42 (a) R (b) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000 10"

    assert usage_from(stat).state == "S"
    assert usage_from(stat).processor_seconds == 200 / os.sysconf("SC_CLK_TCK")
