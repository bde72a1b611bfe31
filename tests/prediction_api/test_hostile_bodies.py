"""Sixteen bodies at once, each made to cost many times its bytes, and a flood of small ones: one worker stays alive."""

import contextlib
import gzip
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.prediction_api.server_process import Answer, ServerProcess, everything_from, memory_of, serving
from tests.prediction_api.versions import BODY, Version

MIB = 1024 * 1024
LIMIT = 8 * MIB
"""Of a body."""
AT_ONCE = 16
FLOOD = 300
GROWTH = AT_ONCE * LIMIT + 32 * LIMIT
"""All bodies as they came, and one of them being read; a parser without our limits takes 22 to 36 times a body alone."""
PING_SECONDS = 1.5

JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
GZIP = {"Content-Encoding": "gzip"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
FILE = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'


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
    (JSON, filled(b"", b"[", b"")),
    (JSON, filled(b'[{"x":1,"z":', b'{"z":', b"")),
    (JSON, filled(b'[{"x":', b"9", b"}]")),
    (JSON, b"[{" + b",".join(b'"%x":1' % number for number in range(700_000)) + b"}]"),
    (CSV, filled(b"x,y\n", b'"', b"\n")),
    (CSV, filled(b"x,y\n", b"1\n", b"")),
    (FORM, filled(FILE, b"\r\n--", b"\r\n--b--\r\n")),
    (FORM, filled(b"", FILE + b"\r\n", b"--b--\r\n")),
]
"""Lists, objects and digits without end, names by the hundred thousand, open quotes, bombs, parts and what nearly ends one."""


def refused(server: ServerProcess, headers: dict[str, str], body: bytes) -> int:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
        client.request("POST", "/predictions", body, headers)
        answer = client.getresponse()
        assert list(json.loads(answer.read())) == ["message"]
        return answer.status


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
        statuses = list(clients.map(lambda kind: refused(server, *kind), HOSTILE))
        ended.set()
        pinging.join()

        assert set(statuses) <= {400, 413, 422}, statuses
        assert memory_of(worker, "VmHWM") - before < GROWTH
        assert max(pings) < PING_SECONDS
        assert server.workers() == [worker]


def test_flood(versions: list[Version]) -> None:
    """More predictions at once than are taken: each is answered or refused at once, and pings are not held up."""
    head = b"POST /predictions HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    with serving("prediction_api", model_repository_path=versions[0].path, max_inflight=20) as server:
        with contextlib.ExitStack() as stack:
            flood = [stack.enter_context(server.connect()) for _ in range(FLOOD)]
            for connection in flood:
                connection.sendall(request[:-10])
            began = time.monotonic()
            assert server.status_of("/ping") == 200
            assert time.monotonic() - began < PING_SECONDS
            for connection in flood:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(request[-10:])
            answers = [Answer(everything_from(connection)) for connection in flood]

        assert sorted(answer.status or 0 for answer in answers) == [200] * 20 + [503] * (FLOOD - 20)
        assert all(answer.raw.endswith(versions[0].answers[0.5]) for answer in answers if answer.status == 200)
        assert all(b"retry-after: 1\r\n" in answer.raw for answer in answers if answer.status == 503)
        assert all("are in flight" in answer.message for answer in answers if answer.status == 503)
        assert server.exchange(request).statuses == [200]
