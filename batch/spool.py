"""A file that only grows, and that can be cut back to where it was."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batch.errors import OutputError
from batch.journal import Mark

BLOCK: Final = 1024 * 1024


class Spool:
    """Bytes on local disk, in order. Blocking: to be used on a worker thread."""

    def __init__(self, path: Path, length: int = 0) -> None:
        """Open *path*, cut back to *length* bytes; raises `OutputError`."""
        self.path = path
        self.length = length
        self._crc = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._file, length)
        except OSError as exc:
            raise self._error(exc) from exc

    def append(self, data: bytes) -> None:
        """Write all of it; raises `OutputError`."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as exc:
            raise self._error(exc) from exc
        self._crc = zlib.crc32(data, self._crc)
        self.length += len(data)

    def mark(self) -> Mark:
        """Where it stands; the next mark's check begins here."""
        mark = Mark(self.length, self._crc)
        self._crc = 0
        return mark

    def sync(self) -> None:
        """On disk when this returns; raises `OutputError`."""
        try:
            os.fsync(self._file)
        except OSError as exc:
            raise self._error(exc) from exc

    def blocks(self) -> Iterator[bytes]:
        """All that was written."""
        start = 0
        while block := os.pread(self._file, min(BLOCK, self.length - start), start):
            yield block
            start += len(block)

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _error(self, exc: OSError) -> OutputError:
        return OutputError(f"{self.path}: {(exc.strerror or str(exc)).lower()}")


def crc_between(path: Path, start: int, stop: int) -> int | None:
    """The CRC-32 of some bytes of a file; None: it does not have them."""
    crc = 0
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            block = file.read(min(BLOCK, stop - start))
            if not block:
                return None
            crc = zlib.crc32(block, crc)
            start += len(block)
    return crc


def publish_copy(spool: Spool, final: Path) -> None:
    """All that was written, under another name, whole or not at all; raises `OutputError`."""
    part = final.with_name(f".{final.name}.part")
    try:
        with part.open("wb") as file:
            for block in spool.blocks():
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        part.replace(final)
    except OSError as exc:
        raise OutputError(f"{final}: {(exc.strerror or str(exc)).lower()}") from exc
    finally:
        part.unlink(missing_ok=True)
