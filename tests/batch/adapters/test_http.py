"""HTTP: what is asked again, what is refused, and that a failed job sends nothing."""

import contextlib
import gzip
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from starlette.responses import Response

from batch.adapters import http
from batch.addresses import METADATA, is_link_local, is_public
from batch.errors import IntakeError, OutputError
from batch.ports import Intake
from batch.retries import RetryPolicy
from batch.settings import Credentials
from tests.stores import Web

ALLOWED = Credentials(private_addresses_enabled=True)
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "RETRIES", RetryPolicy(tries=3, first_delay=0.0))


def intake(url: str, credentials: Credentials = ALLOWED) -> Any:
    return http.open_intake(http.IntakeSettings(url=url), credentials)


def output(url: str, credentials: Credentials = ALLOWED, **options: Any) -> Any:
    return http.open_output(http.OutputSettings(url=url, **options), credentials)


async def everything(opened: Intake, start: int = 0) -> bytes:
    return b"".join([block async for block in opened.read(opened.files[0], start)])


@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("data", [b"", b"a\n1\n", os.urandom(3 * MIB)], ids=["empty", "small", "large"])
async def test_reading(web: Web, data: bytes, has_ranges: bool) -> None:
    web.files["d/in.csv"] = data
    web.has_ranges = has_ranges

    async with intake(f"{web.url}/d/in.csv?x=1") as opened:
        (file,) = opened.files
        assert (file.name, file.size) == ("in.csv", len(data))
        assert await everything(opened) == data
        assert await everything(opened, len(data) // 2) == data[len(data) // 2 :]


async def test_ranges(web: Web) -> None:
    web.files["in.parquet"] = data = os.urandom(MIB)
    async with intake(f"{web.url}/in.parquet") as opened:
        assert await opened.read_range(opened.files[0], 1000, 5000) == data[1000:6000]
        with pytest.raises(IntakeError):
            await opened.read_range(opened.files[0], MIB - 10, 11)

    web.has_ranges = False
    async with intake(f"{web.url}/in.parquet") as opened:
        with pytest.raises(IntakeError, match="gives no byte ranges"):
            await opened.read_range(opened.files[0], 0, 10)


async def test_a_busy_server_is_asked_again(web: Web) -> None:
    web.files["in.csv"] = b"1"
    web.answers += [Response(status_code=503), Response(status_code=429, headers={"retry-after": "0"})]

    async with intake(f"{web.url}/in.csv") as opened:
        assert await everything(opened) == b"1"


@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "no ranges"])
async def test_a_body_that_breaks_off_is_taken_up(has_ranges: bool) -> None:
    """A server of sockets: the first answer to the read ends after 5 of 10 bytes."""
    data = b"0123456789"
    bodies: list[bytes] = []
    with serving_raw(lambda request: raw_answer(request, data, bodies, has_ranges)) as url:
        async with intake(f"{url}/in.csv") as opened:
            assert await everything(opened) == data
    assert len(bodies) == 3


def raw_answer(request: bytes, data: bytes, bodies: list[bytes], has_ranges: bool) -> bytes:
    ranged = has_ranges and b"range: bytes=" in request.lower()
    start = int(request.lower().partition(b"range: bytes=")[2].partition(b"-")[0]) if ranged else 0
    body = data[start : start + 1] if b"bytes=0-0" in request else data[start:]
    head = b"HTTP/1.1 206 Partial\r\ncontent-range: bytes %d-9/10\r\n" % start if ranged else b"HTTP/1.1 200 OK\r\n"
    bodies.append(body)
    sent = body[:5] if len(bodies) == 2 else body
    return head + b"etag: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), sent)


@contextlib.contextmanager
def serving_raw(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """One connection after the other, each for one request."""
    listening = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        with contextlib.suppress(OSError):  # of a socket that was shut
            while True:
                connection, _ = listening.accept()
                with connection:
                    request = b""
                    while b"\r\n\r\n" not in request and (block := connection.recv(65536)):
                        request += block
                    if request:
                        connection.sendall(answer(request))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(10)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param([], "GET was answered with 404 Not Found$", id="missing"),
        pytest.param([Response(status_code=403)], "GET was answered with 403 Forbidden$", id="forbidden"),
        pytest.param(
            [Response(status_code=302, headers={"location": "http://169.254.77.77/"})],
            "302 Found; redirects are not followed$",
            id="redirect",
        ),
        pytest.param([Response(status_code=503) for _ in range(3)], "503 Service Unavailable, 3 times$", id="busy"),
        pytest.param(
            [Response(gzip.compress(b"1"), headers={"content-encoding": "gzip"})],
            "comes in content encoding gzip",
            id="compressed by the server",
        ),
    ],
)
async def test_refusals(web: Web, answers: list[Response], message: str) -> None:
    web.answers += answers

    with pytest.raises(IntakeError, match=message) as refused:
        async with intake(f"{web.url.replace('//', '//user:pw@')}/in.csv?sig=SECRET"):
            pytest.fail("entered")  # pragma: no cover

    assert "SECRET" not in str(refused.value)
    assert "pw" not in str(refused.value)


async def test_a_change_is_noticed(web: Web) -> None:
    web.files["in.csv"] = b"1"
    async with intake(f"{web.url}/in.csv") as opened:
        web.files["in.csv"] = b"2"
        with pytest.raises(IntakeError, match="changed while it was read"):
            await everything(opened)


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_writing(web: Web, method: str) -> None:
    data = os.urandom(2 * MIB)

    async with output(f"{web.url}/out.csv", method=method, headers={"X-Key": "k"}) as opened:
        assert not opened.directory
        async with opened.open_file(None) as write:
            await write(data[:MIB])
            await write(data[MIB:])
        assert web.files == {}

    assert web.files == {"out.csv": data}
    sent = web.record.requests[-1]
    assert (sent.method, sent.headers["x-key"], sent.headers["content-length"]) == (method, "k", str(2 * MIB))


async def test_what_a_busy_server_refused_is_sent_again(web: Web) -> None:
    async with output(f"{web.url}/out.csv") as opened, opened.open_file(None) as write:
        await write(b"12")
        web.answers += [Response(status_code=503), Response(status_code=502)]

    assert web.files == {"out.csv": b"12"}


async def test_a_refused_result_is_a_failure(web: Web) -> None:
    with pytest.raises(OutputError, match="PUT was answered with 403 Forbidden"):
        async with output(f"{web.url}/out.csv") as opened, opened.open_file(None) as write:
            await write(b"12")
            web.answers.append(Response(status_code=403))


async def test_a_failed_job_sends_nothing(web: Web) -> None:
    with pytest.raises(ZeroDivisionError):
        async with output(f"{web.url}/out.csv") as opened, opened.open_file(None) as write:
            await write(b"12")
            raise ZeroDivisionError

    assert web.files == {}
    assert {seen.method for seen in web.record.requests} == {"OPTIONS"}


async def test_nobody_there(web: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with pytest.raises(IntakeError, match="ConnectError after 3 tries"):
        async with intake(url):
            pytest.fail("entered")  # pragma: no cover
    with pytest.raises(OutputError, match="ConnectError after 3 tries"):
        async with output(url):
            pytest.fail("entered")  # pragma: no cover


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1"])
async def test_private_addresses_are_refused_whatever_they_are_called(web: Web, host: str) -> None:
    url = web.url.replace("127.0.0.1", host)

    with pytest.raises(IntakeError, match="not public, and PREDICTION_API_BATCH_PRIVATE_ADDRESSES_ENABLED"):
        async with intake(f"{url}/in.csv", Credentials()):
            pytest.fail("entered")  # pragma: no cover
    with pytest.raises(OutputError, match="not public"):
        async with output(f"{url}/in.csv", Credentials()):
            pytest.fail("entered")  # pragma: no cover
    assert not web.record.requests


async def test_the_connection_goes_to_the_address_that_was_checked(web: Web, monkeypatch) -> None:
    """A name that resolves to a public address first and to a private one later reaches nothing private."""
    web.files["in.csv"] = b"1"
    asked = []

    async def resolve(host: str, port: int) -> list[Any]:
        asked.append(host)
        return [(None, None, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    monkeypatch.setattr(http, "is_public", lambda address: True)
    async with intake(web.url.replace("127.0.0.1", "store.example") + "/in.csv", Credentials()) as opened:
        assert await everything(opened) == b"1"

    assert set(asked) == {"store.example"}
    assert web.record.requests[0].headers["host"].startswith("store.example:")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.77.77", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:169.254.77.77", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:4d4d", False),
        ("64:ff9b::808:808", True),
        ("2002:a9fe:4d4d::1", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("169.254.77.77", True),
        ("::ffff:169.254.77.77", True),
        ("64:ff9b::a9fe:4d4d", True),
        ("2002:a9fe:4d4d::1", True),
        ("fe80::1%eth0", True),
        *((address, True) for address in sorted(METADATA, key=str)),
        ("fd00:ec2:0:0::23", True),
        ("10.1.2.3", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("8.8.8.8", False),
    ],
)
def test_link_local_addresses(address: str, expected: bool) -> None:
    assert is_link_local(address) is expected


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://x/", "http://", "x.csv"])
def test_odd_urls(url: str) -> None:
    with pytest.raises(ValueError, match="url: expected an http or https URL"):
        http.IntakeSettings(url=url)
