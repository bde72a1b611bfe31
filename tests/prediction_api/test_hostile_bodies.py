"""Sixteen bodies at once, each made to cost many times its bytes: one worker stays small, alive and answers others."""

import contextlib
import gzip
import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.prediction_api.server_process import ServerProcess, memory_of, serving
from tests.prediction_api.versions import Version

MIB = 1024 * 1024
LIMIT = 8 * MIB
"""Of a body."""
AT_ONCE = 16
GROWTH = AT_ONCE * LIMIT + 32 * LIMIT
"""All bodies as they came, and one of them being read; a parser without our limits takes 22 to 36 times a body alone."""
PING_SECONDS = 1.5

JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
GZIP = {"Content-Encoding": "gzip"}


def filled(begin: bytes, piece: bytes, end: bytes) -> bytes:
    return begin + piece * ((LIMIT - len(begin) - len(end)) // len(piece)) + end


HOSTILE = [
    (JSON, filled(b"[", b"[],", b"[]]")),
    (JSON, filled(b"[", b"{},", b"{}]")),
    (JSON, filled(b'[{"x":', b"[", b"")),
    (JSON, filled(b'[{"x":[', b"1,", b"1]}]")),
    (JSON, filled(b'[{"', b"a", b'":1}]')),
    (CSV, filled(b'x,y\n"', b"\n", b"")),
    (CSV, filled(b"x,y", b",a", b"\n1,2\n")),
    (CSV | GZIP, gzip.compress(filled(b"x,y\n", b"\n\n", b"") * 40, 1)),
]


def refused(server: ServerProcess, headers: dict[str, str], body: bytes) -> int:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
        client.request("POST", "/predictions", body, headers)
        return client.getresponse().status


def test_memory_and_pings(versions: list[Version]) -> None:
    settings = {"model_repository_path": versions[0].path, "max_body_bytes": LIMIT, "workers": 1}
    with serving("prediction_api", **settings) as server, ThreadPoolExecutor(AT_ONCE) as clients:
        (worker,) = server.workers()
        assert server.status_of("/ping") == 200
        before = memory_of(worker, "VmRSS")
        pings, ended = [], threading.Event()

        def ping() -> None:
            while not ended.is_set():
                began = time.monotonic()
                assert server.status_of("/ping") == 200
                pings.append(time.monotonic() - began)

        pinging = threading.Thread(target=ping)
        pinging.start()
        kinds = HOSTILE * (AT_ONCE // len(HOSTILE))
        statuses = list(clients.map(lambda kind: refused(server, *kind), kinds))
        ended.set()
        pinging.join()

        assert set(statuses) <= {400, 413, 422}, statuses
        assert memory_of(worker, "VmHWM") - before < GROWTH
        assert max(pings) < PING_SECONDS
        assert server.workers() == [worker]
