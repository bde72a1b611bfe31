"""
The upload of a package, from the wire to disk: never more than a few blocks of it are in memory.

The package is the whole body, or the part ``file`` of a multipart body whose part ``config`` is its configuration.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive

from model_repository.errors import BodyTooLarge, MalformedBody
from prediction_api.bodies import wire

MAX_CONFIG_BYTES: Final = 64 * 1024
FRAMING_BYTES: Final = 16 * 1024
"""What a multipart body may have beside the contents of its parts."""
EXPECTED: Final = "send the part file and, if wanted, the part config"

Write = Callable[[bytes], Awaitable[None]]


async def receive_package(
    receive: Receive, boundary: bytes | None, *, length: int | None, limit: int, write: Write
) -> bytes | None:
    """
    Hand the package to *write*; the configuration that came with it, or ``None``.

    Args:
        boundary: of a multipart body; ``None`` when the body is the package.
        length: what Content-Length announced, ``None`` for chunks.
        limit: most bytes of the package; *write* counts them where they come among others.

    Raises:
        BodyTooLarge: the body or the configuration is; before anything is read where the length was announced.
        MalformedBody: not the parts that were expected.
        ClientDisconnect: the client left before the end.
    """
    most = limit if boundary is None else limit + MAX_CONFIG_BYTES + FRAMING_BYTES
    if length is not None and length > most:
        raise BodyTooLarge(f"the package has {length} bytes, at most {limit} are taken")
    pieces = wire(receive, most)
    if boundary is None:
        async for piece in pieces:
            await write(piece)
        return None
    form = _Form(boundary)
    async for piece in form.contents(pieces):
        await write(piece)
    return form.config()


class _Form:
    """A multipart body of the two parts; the package's bytes pass through."""

    def __init__(self, boundary: bytes) -> None:
        self._parts: dict[str, bytearray] = {}
        self._data = bytearray()
        self._field = self._value = self._disposition = b""
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_end": self._on_end,
            },
        )

    async def contents(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What the part ``file`` holds."""
        async for piece in pieces:
            try:
                self._parser.write(piece)
            except FormParserError as exc:
                raise MalformedBody(f"the multipart body cannot be read: {exc}") from exc
            if package := self._parts.get("file"):
                yield bytes(package)
                package.clear()
        if not self._ended:
            raise MalformedBody("the multipart body ends before its last boundary")
        if "file" not in self._parts:
            raise MalformedBody(f"the multipart body has no part file: {EXPECTED}")

    def config(self) -> bytes | None:
        """What the part ``config`` held."""
        config = self._parts.get("config")
        return None if config is None else bytes(config)

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition.decode("latin-1"))
        name = parameters.get(b"name", b"").decode("latin-1")
        if name not in ("file", "config") or name in self._parts:
            raise MalformedBody(f"the multipart body has a part {name[:80]!r} too many: {EXPECTED}")
        self._data = self._parts[name] = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += memoryview(data)[start:end]
        if len(self._parts.get("config", b"")) > MAX_CONFIG_BYTES:
            raise BodyTooLarge(f"the configuration has more than {MAX_CONFIG_BYTES} bytes")

    def _on_end(self) -> None:
        self._ended = True
