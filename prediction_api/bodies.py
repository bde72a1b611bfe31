"""
A request's body, read piece by piece and counted while it comes.

Bytes pass through at most three stages, each of which holds no more than one slice: the wire (counted), gzip (inflated
in slices and counted again, so a bomb stops at the limit), multipart (the one part's data and nothing else).
"""

import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from anyio.lowlevel import checkpoint
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from model_repository.errors import BodyTooLarge, MalformedBody
from prediction_api.negotiation import BodyForm, part_form

INFLATE_SLICE: Final = 256 * 1024
"""Bytes inflated before other requests get a turn: half a millisecond of work."""
GZIP_WINDOW: Final = 31
"""zlib's number for a gzip header and its largest window."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body that was read to its end, decompressed, and taken out of its multipart wrapping."""

    data: bytes | bytearray
    form: BodyForm
    """Of the data itself: its kind is never ``multipart``."""


async def read_body(receive: Receive, form: BodyForm, *, gzip: bool, length: int | None, limit: int) -> Body:
    """
    The whole body.

    Args:
        length: what Content-Length announced, ``None`` for chunks.
        limit: most bytes, on the wire and decompressed.

    Raises:
        BodyTooLarge: more than *limit*; before anything is read where the length was announced.
        MalformedBody: bad gzip or multipart.
        ClientDisconnect: the client left before the end.
    """
    if length is not None and length > limit:
        raise BodyTooLarge(f"the body has {length} bytes, at most {limit} are read")
    if gzip or form.kind == "multipart":
        return await _read_wrapped(receive, form, gzip, limit)
    message = await receive()
    data: bytes | bytearray = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if message.get("more_body", False):
        data = bytearray(data)  # grows in place: a large block is moved by the kernel, not copied
        async for piece in wire(receive, limit, len(data)):
            data += piece
    elif len(data) > limit:
        raise _too_large(limit)
    return Body(data, form)


async def _read_wrapped(receive: Receive, form: BodyForm, gzip: bool, limit: int) -> Body:
    pieces = wire(receive, limit)
    if gzip:
        pieces = _inflated(pieces, limit)
    if form.kind == "multipart":
        return await _only_part(pieces, form)
    data = bytearray()
    async for piece in pieces:
        data += piece
    return Body(data, form)


async def wire(receive: Receive, limit: int, count: int = 0) -> AsyncIterator[bytes]:
    """What comes from the client; *count* bytes were read before."""
    more = True
    while more:
        if count > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        count += len(piece)
        if piece and count <= limit:
            yield piece
    if count > limit:
        raise _too_large(limit)


async def _inflated(pieces: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    inflater = zlib.decompressobj(GZIP_WINDOW)
    count = 0
    async for piece in pieces:
        if inflater.eof:
            raise MalformedBody("there is data behind the end of the gzip stream")
        for slice_ in _slices(inflater, piece):
            count += len(slice_)
            if count > limit:
                raise BodyTooLarge(f"the decompressed body has more than {limit} bytes")
            yield slice_
            if len(slice_) == INFLATE_SLICE:
                await checkpoint()
    if not inflater.eof:
        raise MalformedBody("the gzip stream ends too early")
    if inflater.unused_data:
        raise MalformedBody("there is data behind the end of the gzip stream")


def _slices(inflater: "zlib._Decompress", piece: bytes) -> Iterator[bytes]:
    try:
        while piece:
            yield inflater.decompress(piece, INFLATE_SLICE)
            piece = inflater.unconsumed_tail
        while not inflater.eof and (rest := inflater.decompress(b"", INFLATE_SLICE)):
            yield rest
    except zlib.error as exc:
        raise MalformedBody("the body is not valid gzip") from exc


class _Part:
    """The one part of a multipart body, fed by its parser."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.headers: dict[bytes, bytes] = {}
        self.begun = False
        self.ended = False
        self._name = b""
        self._value = b""

    def on_part_begin(self) -> None:
        if self.begun:
            raise MalformedBody("the multipart body has more than one part; send one file")
        self.begun = True

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self.headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.data += memoryview(data)[start:end]

    def on_end(self) -> None:
        self.ended = True

    def form(self) -> BodyForm:
        """How to read the data."""
        _, disposition = parse_options_header(self.headers.get(b"content-disposition", b"").decode("latin-1"))
        file_name = disposition.get(b"filename", b"").decode("latin-1")
        return part_form(self.headers.get(b"content-type", b"").decode("latin-1"), file_name)


async def _only_part(pieces: AsyncIterator[bytes], form: BodyForm) -> Body:
    part = _Part()
    parser = MultipartParser(
        form.boundary,
        {
            "on_part_begin": part.on_part_begin,
            "on_header_field": part.on_header_field,
            "on_header_value": part.on_header_value,
            "on_header_end": part.on_header_end,
            "on_part_data": part.on_part_data,
            "on_end": part.on_end,
        },
    )
    async for piece in pieces:
        try:
            parser.write(piece)
        except FormParserError as exc:
            raise MalformedBody(f"the multipart body cannot be read: {exc}") from exc
    if not part.ended:
        raise MalformedBody("the multipart body ends before its last boundary")
    if not part.begun:
        raise MalformedBody("the multipart body has no part; send one file")
    return Body(part.data, part.form())


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {limit} bytes")
