"""Stored bytes of a text file to UTF-8 as it is cut, and back to what is stored."""

import codecs
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final, Protocol

from batch.errors import IntakeError
from batch.ports import Intake, SourceFile

BLOCK: Final = 1024 * 1024
GZIP: Final = 31
"""zlib's number for a window of the usual size in a gzip frame."""


def is_gzip(name: str) -> bool:
    """By its suffix."""
    return name.endswith(".gz")


def can_seek(file: SourceFile, encoding: str) -> bool:
    """Whether a place in the text is a place in the stored bytes."""
    return encoding == "utf-8" and not is_gzip(file.name)


async def text_from(intake: Intake, file: SourceFile, start: int, encoding: str) -> AsyncGenerator[bytes, None]:
    """
    The file's text as UTF-8 from byte *start* of that text on.

    Raises:
        IntakeError: damaged gzip, bytes that are not of the encoding, and what the intake raises.
    """
    seeks = can_seek(file, encoding)
    unzip = _Unzip(file.name) if is_gzip(file.name) else None
    decode = _Decode(file.name, encoding) if encoding != "utf-8" else None
    skip = 0 if seeks else start
    blocks = intake.read(file, start if seeks else 0)
    async with aclosing(blocks) as stored:  # type: ignore[type-var]  # ports speak of iterators; all are generators
        async for block in stored:
            for piece in unzip.feed(block) if unzip else (block,):
                text = decode.feed(piece) if decode else piece
                if skip < len(text):
                    yield text[skip:] if skip else text
                skip = max(0, skip - len(text))
    if unzip:
        unzip.end()
    if decode:
        decode.end()


class _Unzip:
    """Block by block, so that a small file cannot become a large one in memory."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._zip = zlib.decompressobj(GZIP)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            self._begun = True
            if self._zip.eof:
                self._zip = zlib.decompressobj(GZIP)
            try:
                text = self._zip.decompress(data, BLOCK)
            except zlib.error as exc:
                raise IntakeError(f"{self._name}: damaged gzip: {exc}") from exc
            data = self._zip.unconsumed_tail or self._zip.unused_data
            if text:
                yield text

    def end(self) -> None:
        if self._begun and not self._zip.eof:
            raise IntakeError(f"{self._name}: damaged gzip: it ends too early")


class _Decode:
    """Another encoding to UTF-8."""

    def __init__(self, name: str, encoding: str) -> None:
        self._name = name
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._done = 0

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        try:
            text = self._decoder.decode(data, final)
        except UnicodeError as exc:
            raise IntakeError(f"{self._name}: not {self._encoding} after byte {self._done}: {exc}") from exc
        self._done += len(data)
        return text.encode()

    def end(self) -> None:
        self.feed(b"", final=True)


class Finish(Protocol):
    """Makes the output file of what was written, in order, and always the same of the same."""

    def feed(self, data: bytes) -> bytes:
        """Take more; what the file has more for it."""
        ...

    def close(self) -> bytes:
        """The rest of the file."""
        ...


class AsItIs:
    """The file is what was written."""

    def feed(self, data: bytes) -> bytes:
        """The same."""
        return data

    def close(self) -> bytes:
        """Nothing."""
        return b""


class Zipped:
    """A gzip file without time and name in it."""

    def __init__(self) -> None:
        self._zip = zlib.compressobj(6, zlib.DEFLATED, GZIP)

    def feed(self, data: bytes) -> bytes:
        """Compressed."""
        return self._zip.compress(data)

    def close(self) -> bytes:
        """The end of the frame."""
        return self._zip.flush()
