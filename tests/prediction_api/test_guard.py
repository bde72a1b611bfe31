"""What the guard refuses, and that it refuses nothing else; every case over a real socket."""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.prediction_api.server_process import Answer, ServerProcess, everything_from, memory_of, serving, until
from tests.prediction_api.versions import Version

HOST = b"Host: here\r\n"
CLOSE = b"Connection: close\r\n"
CUT_OFF = "takes its answer too slowly"
POST = b"POST /echo HTTP/1.1\r\n" + HOST


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(
        header_timeout=0.5, body_timeout=0.5, write_timeout=1, keep_alive_timeout=1, body_min_rate=500
    ) as server:
        yield server


def get(target: bytes = b"/ping", *fields: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET %b %b\r\n" % (target, version) + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def padded(length: int) -> bytes:
    """A request whose request line has so many bytes."""
    return get(b"/ping?" + b"a" * (length - len("GET /ping? HTTP/1.1")), b"Host: here", b"Connection: close")


def fields(count: int, size: int = 1) -> list[bytes]:
    return [b"X-%d: %b" % (number, b"v" * size) for number in range(count)]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(get(b"/ping", b"Host: here", b"Connection: close"), 200, id="plain"),
        pytest.param(get(b"/ping", version=b"HTTP/1.0"), 200, id="HTTP/1.0 without Host"),
        pytest.param(get(b"/ping", b"Host: [::1]:8080", b"Connection: close"), 200, id="IPv6 host"),
        pytest.param(get(b"http://here/ping", b"Host: here", b"Connection: close"), 200, id="absolute form"),
        pytest.param(get(b"/ping", b"Host: here", b"Connection: close", b"Expect: nonsense"), 200, id="odd Expect"),
        pytest.param(get(b"/ping", b"Host: here", b"Connection: close", b"Range: bytes=" + b"0-," * 10_000 + b"0-"), 200, id="ranges"),
        pytest.param(get(b"/ping", b"Host: here", b"Connection: close", *fields(98)), 200, id="100 fields"),
        pytest.param(padded(8192), 200, id="request line of 8192 bytes"),
        pytest.param(get(b"/ping", b"Host: here", b"Connection: Upgrade, close", b"Upgrade: h2c"), 200, id="h2c"),
        pytest.param(get(b"/ping", b"Host: here", b"Connection: Upgrade, close", b"Upgrade: websocket"), 200, id="websocket"),
        pytest.param(get(b"/ping"), 400, id="no Host"),
        pytest.param(get(b"/ping", b"Host: a", b"Host: b"), 400, id="two Hosts"),
        pytest.param(get(b"/ping", b"Host: a", b"Host: b", version=b"HTTP/1.0"), 400, id="two Hosts in HTTP/1.0"),
        pytest.param(get(b"/ping", b"Host: a/../b?x"), 400, id="Host with a path"),
        pytest.param(get(b"/ping", b"Host: "), 400, id="empty Host"),
        pytest.param(get(b"http://elsewhere/ping", b"Host: here"), 400, id="absolute form of another host"),
        pytest.param(get(b"*", b"Host: here"), 400, id="asterisk form"),
        pytest.param(get(b"here:80", b"Host: here:80"), 400, id="authority form"),
        pytest.param(get(b"/ping#x", b"Host: here"), 400, id="fragment"),
        pytest.param(b"CONNECT here:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="CONNECT"),
        pytest.param(b"CONNECT /ping HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="CONNECT to a path"),
        pytest.param(get(b"/ping", b"Connection: Upgrade", b"Upgrade: h2c"), 400, id="h2c and no Host"),
        pytest.param(get(b"/ping", b"Host: here", version=b"HTTP/9.9"), 400, id="HTTP/9.9"),
        pytest.param(get(b"/ping", b"Host: here", version=b"HTTP/2.0"), 505, id="HTTP/2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2 preface"),
        pytest.param(b"g" * 10_000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="method of 10 KB"),
        pytest.param(b"GET /ping HTTP/1.1\n" + HOST + b"\r\n", 400, id="bare line feed"),
        pytest.param(get(b"/ping", b"Host: here", b"A: b", b" folded"), 400, id="folded field"),
        pytest.param(get(b"/ping", b"Host: here", b"A: b\0c"), 400, id="NUL in a field"),
        *(
            pytest.param(get(b"/ping", b"Host: here", b"A: b%bc" % bytes([code])), 400, id=f"{name} in a field")
            for name, code in (("BEL", 7), ("CR", 13), ("ESC", 27), ("DEL", 127))
        ),
        pytest.param(get(b"/\xff", b"Host: here"), 400, id="bytes in the target"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), 400, id="TLS on the plain port"),
        pytest.param(padded(8193), 414, id="request line of 8193 bytes"),
        pytest.param(padded(200_000), 414, id="target of 200 KB"),
        pytest.param(b"GET /" + b"a" * 200_000, 414, id="endless target"),
        pytest.param(get(b"/ping", b"Host: here", *fields(100)), 431, id="101 fields"),
        pytest.param(get(b"/ping", b"Host: here", *fields(5000)), 431, id="5000 fields"),
        pytest.param(get(b"/ping", b"Host: here", *fields(1, 33_000)), 431, id="field of 33 KB"),
        pytest.param(get(b"/ping", b"Host: here", b"n" * 60_000 + b": v"), 431, id="field name of 60 KB"),
        pytest.param(get(b"/ping", b"Host: here", *fields(1, 20_000_000)), 431, id="field of 20 MB"),
        pytest.param(b"\r\n" * 100_000, 431, id="endless blank lines"),
        pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, id="two lengths"),
        pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, id="one length twice"),
        pytest.param(POST + b"Content-Length: 3, 3\r\n\r\nabc", 400, id="length list"),
        pytest.param(POST + b"Content-Length: +3\r\n\r\nabc", 400, id="length with sign"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", 400, id="negative length"),
        pytest.param(POST + b"Content-Length: 0x3\r\n\r\nabc", 400, id="hexadecimal length"),
        pytest.param(POST + b"Content-Length: " + b"9" * 32 + b"\r\n\r\n", 400, id="length of 32 digits"),
        pytest.param(
            POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get(b"/ping", b"Host: x"),
            400,
            id="length and chunks",
        ),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400, id="and reversed"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, id="gzip coding"),
        pytest.param(POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, id="chunked twice"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400, id="chunked in two fields"),
        pytest.param(
            b"POST /echo HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="chunks in HTTP/1.0",
        ),
        pytest.param(POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, id="blank before colon"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n", 400, id="chunk without its end"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400, id="hexadecimal chunk"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", 400, id="chunk beyond 64 bits"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 1_000_000, 400, id="chunk extension of 1 MB"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200_000, 400, id="200,000 chunks of a byte"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: v\r\n" * 100_000, 400, id="100,000 trailers"
        ),
    ],
)  # fmt: skip
def test_one_answer_then_the_end(server: ServerProcess, request_: bytes, status: int) -> None:
    """Each connection gets one whole answer and is closed, whatever follows the part that was refused."""
    answer = server.exchange(request_)

    assert answer.statuses == [status]
    if status != 200:
        assert answer.message
        assert b"connection: close\r\n" in answer.raw


def test_unknown_coding_is_refused(server: ServerProcess) -> None:
    answer = server.exchange(POST + b"Transfer-Encoding: xchunked\r\n\r\n")

    assert answer.status in (400, 501)
    assert answer.message


def test_body_in_chunks_and_in_one_piece(server: ServerProcess) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (100, b"x" * 100) for _ in range(5000))

    chunked = server.exchange(POST + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    whole = server.exchange(POST + CLOSE + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000)

    assert chunked.raw.endswith(b"\r\n\r\n" + b"x" * 500_000)
    assert whole.raw.endswith(b"\r\n\r\n" + b"x" * 500_000)


def test_trailers_do_not_become_headers(server: ServerProcess) -> None:
    chunks = b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Late: 1\r\n\r\n"

    answer = server.exchange(b"POST /headers HTTP/1.1\r\n" + HOST + CLOSE + chunks)

    assert answer.raw.endswith(b"connection host transfer-encoding")


@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"], ids=["plain", "offering h2c"])
def test_pipelined_requests_are_answered_in_order(server: ServerProcess, offer: bytes) -> None:
    requests = b"".join(POST + offer + b"Content-Length: 4\r\n\r\n%04d" % number for number in range(2000))

    answer = server.exchange(requests + get(b"/ping", b"Host: here", b"Connection: close"))

    bodies = [part.split(b"\r\n\r\n")[1] for part in answer.raw.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"%04d" % number for number in range(2000)] + [b"pong"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"Content-Length: 3\r\n\r\nabc", id="in one piece"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", id="in chunks"),
    ],
)
@pytest.mark.parametrize("size", [7, 10_000])
def test_offers_of_other_protocols_cost_no_body(server: ServerProcess, body: bytes, size: int) -> None:
    """Java's client offers HTTP/2 with its first request, whatever that is, and goes on in HTTP/1.1."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    requests = POST + offer + body + POST + CLOSE + body
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(requests), size):
            connection.sendall(requests[start : start + size])
        answer = Answer(everything_from(connection))

    assert answer.statuses == [200, 200]
    assert answer.raw.count(b"\r\n\r\nabc") == 2


def test_a_header_is_not_measured_by_what_came_before_it(server: ServerProcess) -> None:
    """Half of it arrives in one piece with a body that is larger than a header may be."""
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(POST + b"Content-Length: 50000\r\n\r\n" + b"x" * 49_996 + b"last" + b"GET /pi")
            read_until(connection, b"last")
            connection.sendall(b"ng HTTP/1.1\r\nHost: here\r\n\r\n")
            read_until(connection, b"pong")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(get(b"/ping"), id="header"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n", id="body"),
    ],
)
def test_refusal_waits_for_earlier_answers(server: ServerProcess, bad: bytes) -> None:
    good = POST + b"Content-Length: 3\r\n\r\nabc"

    answer = server.exchange(good + good + bad + good)

    assert answer.statuses == [200, 200, 400]


def sent_slowly(server: ServerProcess, begin: bytes, then: bytes) -> tuple[Answer, float]:
    """The answer to *begin* and then *then* byte by byte, and the seconds until the connection ended."""
    with server.connect() as connection:
        began = time.monotonic()
        connection.sendall(begin)
        connection.settimeout(0.05)
        received = b""
        for byte in (then or b" ") * 1000:
            with contextlib.suppress(TimeoutError):
                chunk = connection.recv(65536)
                received += chunk
                if not chunk:
                    break
            if then:
                with contextlib.suppress(ConnectionError):
                    connection.send(bytes([byte]))
            assert time.monotonic() - began < 10
        return Answer(received), time.monotonic() - began


@pytest.mark.parametrize(
    ("begin", "then", "status"),
    [
        pytest.param(b"", b"", None, id="no byte"),
        pytest.param(b"GET /pi", b"", 408, id="half a header"),
        pytest.param(b"GET /ping?", b"a", 408, id="header byte by byte"),
        pytest.param(b"GET /ping HTTP/1.1\r\n", b"X-A: b\r\n", 408, id="endless header"),
        pytest.param(POST + b"Content-Length: 100\r\n\r\nabc", b"", 408, id="half a body"),
        pytest.param(POST + b"Content-Length: 200000\r\n\r\n" + bytes(100_000), b"", 408, id="half a large body"),
        pytest.param(POST + b"Content-Length: 100000\r\n\r\n", b"a", 408, id="body byte by byte"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", 408, id="chunks byte by byte"),
        pytest.param(get(b"/ping", b"Host: here"), b"", 200, id="idle after an answer"),
        pytest.param(get(b"/ping", b"Host: here"), b"\r\n", 408, id="blank lines after an answer"),
    ],
)
def test_nobody_is_waited_for_for_ever(server: ServerProcess, begin: bytes, then: bytes, status: int | None) -> None:
    answer, seconds = sent_slowly(server, begin, then)

    assert answer.statuses[-1:] == ([] if status is None else [status])
    assert 0.5 <= seconds < 3


def test_slow_clients_hold_nobody_up(server: ServerProcess) -> None:
    """300 slow sockets: others are answered at once, and all slow ones are ended."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(300)]
        for number, connection in enumerate(slow):
            connection.sendall((b"", b"GET /pi", POST + b"Content-Length: 9\r\n\r\nabc")[number % 3])
        began = time.monotonic()

        assert server.get("/ping") == (200, b"pong")
        assert server.exchange(POST + CLOSE + b"Content-Length: 3\r\n\r\nabc").raw.endswith(b"abc")

        assert time.monotonic() - began < 0.5
        ends = [Answer(everything_from(connection)).statuses for connection in slow]
    assert ends == [[], [408], [408]] * 100
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("at_once", [0, 1], ids=["nothing", "byte by byte"])
def test_client_that_takes_nothing_is_cut_off(server: ServerProcess, at_once: int) -> None:
    before = server.log.count(CUT_OFF)

    def is_cut_off() -> bool:
        with contextlib.suppress(ConnectionError):
            connection.recv(at_once)
        return server.log.count(CUT_OFF) > before

    with server.connect() as connection:
        connection.sendall(get(b"/large?bytes=20000000", b"Host: here"))

        until(is_cut_off, "it is cut off", limit=6)

        assert len(everything_from(connection)) < 20_000_000


def test_patient_client_gets_a_large_answer(server: ServerProcess) -> None:
    answer = server.exchange(get(b"/large?bytes=20000000", b"Host: here", b"Connection: close"))

    assert len(answer.raw.partition(b"\r\n\r\n")[2]) == 20_000_000


def test_early_answer_reaches_a_client_that_is_still_sending(server: ServerProcess) -> None:
    """A client that sends all of its body before it reads sees the refusal, and not a reset."""
    with server.connect() as connection:
        connection.sendall(b"POST /refuse HTTP/1.1\r\n" + HOST + b"Content-Length: 30000000\r\n\r\n")
        connection.sendall(bytes(30_000_000))

        answer = Answer(everything_from(connection))

    assert answer.status == 413
    assert answer.raw.endswith(b"too much")


def read_until(connection: socket.socket, end: bytes) -> None:
    received = b""
    while not received.endswith(end):
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk


def test_connection_is_idle_again_after_an_early_answer(server: ServerProcess) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /refuse?keep=1 HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n\r\nabc")
        read_until(connection, b"too much")
        connection.sendall(b"def" + get(b"/ping", b"Host: here"))
        read_until(connection, b"pong")

        assert everything_from(connection) == b""  # closed when it was idle for long enough


def test_refused_bodies_leave_nothing_open(server: ServerProcess) -> None:
    """The application hears that the client is gone, and the connection is closed."""
    for _ in range(20):
        server.exchange(POST + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n")

    until(lambda: server.open_sockets() == 1, "only the listening socket and the line to the parent are open")
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("request_", "hard"),
    [
        pytest.param(get(b"/ping", b"Host: here") * 100, True, id="100 pipelined requests, then a reset"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", False, id="chunks without an end"),
        pytest.param(POST + b"Content-Length: 9\r\n\r\nabc", True, id="half a body, then a reset"),
    ],
)
def test_who_leaves_leaves_nothing(server: ServerProcess, request_: bytes, hard: bool) -> None:
    with server.connect() as connection:
        connection.sendall(request_)
        if hard:  # a close that throws away what was not sent is a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    until(lambda: server.open_sockets() == 1, "the connection is closed")
    assert "Traceback" not in server.log


def test_a_body_that_ends_too_early_is_nobodys(server: ServerProcess) -> None:
    """Half closed in the middle of its chunks: not a byte is answered."""
    with server.connect() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        connection.shutdown(socket.SHUT_WR)

        assert everything_from(connection) == b""


@pytest.mark.parametrize(
    ("flood", "status"),
    [
        pytest.param(get(b"/ping", b"Host: here", *fields(1, 20_000_000)), 431, id="field of 20 MB"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 20_000_000, 400, id="chunk extension"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10**6, 400, id="a million chunks"),
    ],
)
def test_refused_floods_take_no_memory(server: ServerProcess, flood: bytes, status: int) -> None:
    [worker] = server.workers()
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # begins a new peak
    before = memory_of(worker, "VmHWM")

    assert server.exchange(flood).statuses == [status]

    assert memory_of(worker, "VmHWM") - before < 3 * 1024**2
    assert server.get("/ping") == (200, b"pong")


def test_addresses_that_clients_claim_are_not_logged(server: ServerProcess) -> None:
    assert server.exchange(get(b"/ping", b"X-Forwarded-For: 203.0.113.7", b"Forwarded: for=203.0.113.7")).status == 400
    until(lambda: "127.0.0.1 refused: 400" in server.log, "the refusal is logged")
    assert "203.0.113.7" not in server.log


def test_who_was_refused_and_stays_is_cut_off(server: ServerProcess) -> None:
    """Half open, the connection would cost the worker a file descriptor for as long as the client likes."""
    until(lambda: server.open_sockets() == 1, "the connections of other tests are closed")
    with server.connect() as connection:
        connection.sendall(get(b"/ping"))
        assert Answer(everything_from(connection)).status == 400
        until(lambda: server.open_sockets() == 1, "the connection is closed")


# Any request


PREDICT = b"POST /predictions HTTP/1.1\r\nHost: here\r\nContent-Type: text/csv\r\n"
VALID = [
    get(b"/ping", b"Host: here", b"A: b"),
    PREDICT + b"Content-Length: 8\r\n\r\nx,y\n1,2\n",
    PREDICT + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nx,y\r\n5\r\n\n1,2\n\r\n0\r\nT: v\r\n\r\n",
    PREDICT + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 8\r\n\r\nx,y\n1,2\n",
]
ODD = [
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"0",
    b"-1",
    b"\r\n\r\n",
    b"chunked",
    b"HTTP/1.1",
    b"GET / ",
    b"/../",
    b"%00",
]


@pytest.fixture(scope="module")
def whole_server(versions: list[Version]) -> Iterator[ServerProcess]:
    with serving("prediction_api", model_repository_path=versions[0].path) as server:
        yield server


@settings(max_examples=200, deadline=None)
@given(
    first=st.sampled_from(VALID),
    second=st.sampled_from(VALID),
    place=st.integers(0, 180),
    removed=st.integers(0, 5),
    put=st.sampled_from(ODD) | st.binary(max_size=5),
)
def test_any_spoiled_request_is_answered_or_refused(
    whole_server: ServerProcess, first: bytes, second: bytes, place: int, removed: int, put: bytes
) -> None:
    """Never an error of ours, whatever stands where."""
    with whole_server.connect() as connection:
        connection.sendall(first[:place] + put + first[place + removed :] + second)
        connection.shutdown(socket.SHUT_WR)
        answer = Answer(everything_from(connection))

    assert all(status < 500 or status in (501, 505) for status in answer.statuses)
    assert "Traceback" not in whole_server.log
