"""Bodies in any charset become UTF-8 text, checked and without a byte order mark."""

import codecs
import encodings
import io
from encodings.aliases import aliases
from typing import Any, Final

from model_repository.errors import MalformedBody

Body = bytes | bytearray

UTF8: Final = "utf_8"
BOM: Final = "\ufeff"
SLICE_BYTES: Final = 1 << 20
# Codecs that are not charsets, or of which no table is made: byte transforms, escapes, and what only one system knows.
_NOT_CHARSETS: Final = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "mbcs", "quopri_codec", "rot_13", "utf_7", "uu_codec", "zlib_codec"}
)
CHARSETS: Final = frozenset(aliases.values()) - _NOT_CHARSETS | {"cp874", "koi8_u", "utf_8_sig"}


def text_of(body: Body, encoding: str) -> str:
    """
    The whole body as text, for small ones.

    Raises:
        MalformedBody: the charset is unknown, or the bytes are not in it.
    """
    codec = _codec_name(encoding)
    try:
        # What is said of the byte order must be the same as when a large body is decoded slice by slice.
        text = body.decode() if codec == UTF8 else codecs.getincrementaldecoder(codec)().decode(body, final=True)
        return text.removeprefix(BOM)
    except UnicodeError as exc:
        raise _undecodable(body, codec, encoding, exc) from exc


def utf8_of(body: Body, encoding: str = "utf-8") -> memoryview:
    """
    The body as UTF-8 without copying it where it is UTF-8 already, checked slice by slice.

    Raises:
        MalformedBody: the charset is unknown, or the bytes are not in it.
    """
    codec = _codec_name(encoding)
    kept = codec in (UTF8, "ascii", "utf_8_sig")  # what is ASCII is UTF-8
    try:
        data = memoryview(body) if kept and body.isascii() else _recoded(body, codec, kept=kept)
    except UnicodeError as exc:
        raise _undecodable(body, codec, encoding, exc) from exc
    return data[3:] if bytes(data[:3]) == codecs.BOM_UTF8 else data


def line_after(text: str) -> int:
    """The number of the physical line that *text* ends on, counted from 1; LF, CRLF and CR end a line."""
    return text.count("\n") + text.count("\r") - text.count("\r\n") + 1


def _recoded(body: Body, codec: str, *, kept: bool) -> memoryview:
    """Decode all; keep the UTF-8 of it only where the body's own bytes will not do."""
    decoder = codecs.getincrementaldecoder(codec)()
    view = memoryview(body)
    recoded = bytearray()
    for start in range(0, len(view), SLICE_BYTES):
        text = decoder.decode(view[start : start + SLICE_BYTES])
        if not kept:
            recoded += text.encode()
    recoded += decoder.decode(b"", final=True).encode()
    return view if kept else memoryview(recoded)


def _codec_name(encoding: str) -> str:
    if encoding == "utf-8":
        return UTF8
    name = encodings.normalize_encoding(encoding).lower()
    codec = aliases.get(name, name)
    if (
        codec not in CHARSETS
    ):  # decided by a list: looking up an unknown codec imports modules and is remembered for ever
        raise MalformedBody(f"the charset {encoding[:40]!r} is not known")
    return codec


def _undecodable(body: Body, codec: str, encoding: str, exc: UnicodeError) -> MalformedBody:
    try:  # again in one piece: only that knows the place in the whole body
        body.decode(codec)
    except UnicodeDecodeError as whole:
        line = line_after(body[: whole.start].decode(codec, "replace"))
        problem = f"byte 0x{body[whole.start]:02x} at position {whole.start} (line {line})"
        return MalformedBody(f"the body is not {encoding}: {problem}")
    return MalformedBody(f"the body is not {encoding}: {exc}")


class ByteStream(io.RawIOBase):
    """
    Bytes as a stream that does not copy them first, with *tail* after them.

    A piece of it does not end between CR and LF: pyarrow would lose such an LF in quotes (apache/arrow issue 51368).
    """

    def __init__(self, data: memoryview, tail: bytes = b"") -> None:
        self._left = [data, memoryview(tail)]

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer* from the front."""
        while self._left and not self._left[0]:
            del self._left[0]
        if not self._left:
            return 0
        count = min(len(buffer), len(self._left[0]))
        if count > 1 and bytes(self._left[0][count - 1 : count + 1]) == b"\r\n":
            count -= 1
        buffer[:count] = self._left[0][:count]
        self._left[0] = self._left[0][count:]
        return count
