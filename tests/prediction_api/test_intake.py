"""An upload on its way to disk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from model_repository.errors import BodyTooLarge, MalformedBody
from prediction_api.intake import MAX_CONFIG_BYTES, receive_package

BOUNDARY = b"edge"


def part(name: str, content: bytes) -> bytes:
    return b'--edge\r\nContent-Disposition: form-data; name="%b"; filename="x"\r\n\r\n%b\r\n' % (name.encode(), content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--edge--\r\n"


def sender(pieces, *, cut=False):
    """What uvicorn would hand out."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b""})

    async def receive():
        return messages.pop(0)

    return receive


async def received(body: bytes, boundary: bytes | None = BOUNDARY, *, size: int = 1000, limit: int = 10**8, **how):
    written: list[bytes] = []
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    receive = sender(pieces, cut=how.pop("cut", False))

    async def write(piece: bytes) -> None:
        assert type(piece) is bytes
        assert len(piece) <= size + len(BOUNDARY) + 8
        written.append(piece)

    config = await receive_package(receive, boundary, length=None, limit=limit, write=write)
    return b"".join(written), config


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("boundary", [None, BOUNDARY], ids=["bare", "multipart"])
async def test_every_byte_arrives(boundary, size):
    package = bytes(range(256)) * (20 if size < 100 else 20_000)
    body = form(part("file", package)) if boundary else package
    assert await received(body, boundary, size=size) == (package, None)


@given(parts=st.permutations(["file", "config"]), size=st.integers(1, 80), content=st.binary(max_size=60))
async def test_parts_in_any_order_and_pieces(parts, size, content):
    contents = {"file": content + b"\r\n--edg" + content, "config": b"model_id: a\r\n"}
    body = form(*(part(name, contents[name]) for name in parts))
    assert await received(body, size=size) == (contents["file"], contents["config"])


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        pytest.param(form(part("config", b"a: b")), MalformedBody, "no part file", id="no file"),
        pytest.param(form(part("file", b"a"), part("file", b"b")), MalformedBody, "'file' too many", id="two files"),
        pytest.param(form(part("file", b"a"), part("token", b"b")), MalformedBody, "'token' too many", id="unknown"),
        pytest.param(part("file", b"a"), MalformedBody, "before its last boundary", id="cut off"),
        pytest.param(b"", MalformedBody, "before its last boundary", id="empty"),
        pytest.param(b"PK\3\4", MalformedBody, "cannot be read", id="not multipart"),
        pytest.param(
            form(part("file", b"a"), part("config", b"#" * (MAX_CONFIG_BYTES + 1))),
            BodyTooLarge,
            "configuration",
            id="large configuration",
        ),
    ],
)
async def test_wrong_forms(body, error, message):
    with pytest.raises(error, match=message):
        await received(body)


async def test_limit_counts_the_body():
    assert len((await received(b"x" * 5000, None, limit=5000))[0]) == 5000
    with pytest.raises(BodyTooLarge, match="5000 bytes"):
        await received(b"x" * 5001, None, limit=5000)


async def test_announced_length_is_refused_unread():
    async def write(piece: bytes) -> None:
        raise AssertionError(piece)

    with pytest.raises(BodyTooLarge, match="at most 10 are taken"):
        await receive_package(sender([]), None, length=11, limit=10, write=write)


async def test_client_leaves():
    with pytest.raises(ClientDisconnect):
        await received(b"PK", None, cut=True)
