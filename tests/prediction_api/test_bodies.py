import gzip
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from model_repository.errors import BodyTooLarge, MalformedBody
from prediction_api.bodies import INFLATE_SLICE, Body, read_body
from prediction_api.negotiation import BodyForm

CSV = BodyForm("csv")
FORM = BodyForm("multipart", boundary=b"frontier")
HEAD = b'Content-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'


def receiving(pieces: Iterable[bytes], *, left: bool = False) -> Callable[[], Any]:
    """What a server hands to an app: the pieces, then the end, or that the client left."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if left:
        messages.append({"type": "http.disconnect"})
    elif messages:
        messages[-1]["more_body"] = False
    else:
        messages.append({"type": "http.request"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return receive


async def read(pieces: Iterable[bytes], form: BodyForm = CSV, *, gzipped: bool = False, limit: int = 10**6) -> Body:
    return await read_body(receiving(pieces), form, gzip=gzipped, length=None, limit=limit)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(st.binary(max_size=300), st.integers(1, 50), st.booleans(), st.booleans())
async def test_any_body_in_any_pieces(data, size, gzipped, form):
    sent = b"--frontier\r\n" + HEAD + data + b"\r\n--frontier--\r\n" if form else data
    sent = gzip.compress(sent) if gzipped else sent
    body = await read(cut(sent, size), FORM if form else CSV, gzipped=gzipped)
    assert bytes(body.data) == data
    assert body.form == CSV


@pytest.mark.parametrize("pieces", [[b"x" * 101], [b"x" * 60, b"x" * 41], [b"x"] * 101], ids=["one", "two", "many"])
async def test_limit_on_the_wire(pieces):
    with pytest.raises(BodyTooLarge, match="more than 100 bytes"):
        await read(pieces, limit=100)
    assert bytes((await read(pieces, limit=101)).data) == b"x" * 101


async def test_announced_length_is_refused_unread():
    with pytest.raises(BodyTooLarge, match="has 101 bytes, at most 100"):
        await read_body(receiving([]), CSV, gzip=False, length=101, limit=100)


async def test_limit_holds_for_compressed_bytes_too():
    with pytest.raises(BodyTooLarge):
        await read([*cut(gzip.compress(b""), 1), b"x" * 100], gzipped=True, limit=90)


async def test_bomb_stops_at_the_limit():
    """Kilobytes that would become 64 MiB: memory stays near the limit, and most of it is never read."""
    bomb = gzip.compress(bytes(64 * 1024**2), 9)
    limit = 4 * 1024**2
    tracemalloc.start()
    with pytest.raises(BodyTooLarge, match="decompressed body has more than"):
        await read(cut(bomb, 65536), gzipped=True, limit=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * limit + 4 * INFLATE_SLICE


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([b""], "ends too early"),
        ([b"plain text"], "not valid gzip"),
        ([gzip.compress(b"abc")[:-1]], "ends too early"),
        ([gzip.compress(b"abc") + b"!"], "behind the end"),
        ([gzip.compress(b"abc"), b"!"], "behind the end"),
        ([gzip.compress(b"abc") * 2], "behind the end"),
        ([gzip.compress(b"abc")[:-8] + b"12345678"], "not valid gzip"),
    ],
    ids=["empty", "plain", "cut", "garbage", "garbage in a piece of its own", "two members", "wrong checksum"],
)
async def test_bad_gzip(pieces, message):
    with pytest.raises(MalformedBody, match=message):
        await read(pieces, gzipped=True)


async def test_nothing_is_read_behind_the_end_of_gzip():
    receive = receiving([gzip.compress(b"abc"), b"first", b"last"])
    with pytest.raises(MalformedBody, match="behind the end"):
        await read_body(receive, CSV, gzip=True, length=None, limit=100)
    assert (await receive())["body"] == b"last"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "before its last boundary"),
        (b"--frontier\r\n" + HEAD + b"x", "before its last boundary"),
        (b"--frontier--\r\n", "no part"),
        (b"--other\r\n" + HEAD + b"x\r\n--other--\r\n", "multipart"),
        ((b"--frontier\r\n" + HEAD + b"x\r\n") * 2 + b"--frontier--\r\n", "more than one part"),
        (b"--frontier\r\n" + b"a: b\r\n" * 100_000 + b"\r\nx\r\n--frontier--\r\n", "multipart"),
        (b"--frontier\r\na: " + b"b" * 100_000 + b"\r\n\r\nx\r\n--frontier--\r\n", "multipart"),
    ],
    ids=["empty", "no end", "no part", "other boundary", "two parts", "many headers", "long header"],
)
async def test_bad_multipart(data, message):
    with pytest.raises(MalformedBody, match=message):
        await read(cut(data, 1000), FORM)


@pytest.mark.parametrize("pieces", [[], [b"x"]], ids=["at once", "in the middle"])
@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzip"])
async def test_client_leaves(pieces, gzipped):
    with pytest.raises(ClientDisconnect):
        await read_body(receiving(pieces, left=True), CSV, gzip=gzipped, length=None, limit=100)
