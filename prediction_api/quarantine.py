"""
Packages that killed workers run no more.

A worker notes on shared pages what it loads or scores with; when it dies, the supervisor reads these notes. A package
that was at it alone is to blame. If there were several, all are suspects, and from then on packages run one at a time
in each worker until the next death tells which of them it was: a busy neighbour is not condemned with the culprit.
"""

import logging
import mmap
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from model_repository.discovery import FileKey

logger: Final = logging.getLogger(__name__)

DEATHS: Final = 2
"""So many by one package, and it is quarantined."""
SHARED_DEATHS: Final = 4
"""The same if it never was alone at it."""
WINDOW_SECONDS: Final = 600.0
"""Deaths further apart than this have nothing to do with each other."""
TURN_SECONDS: Final = 5.0
"""How long a package waits for another before it runs beside it after all: that one may never end."""
NOTES: Final = 32
"""What one worker can run at once and be noted."""
CELLS: Final = 128
"""Most packages in quarantine; a further one takes the place of the oldest."""
VERDICT: Final = f"quarantined after {DEATHS} worker deaths; replace the package"

_CELL: Final = struct.Struct("=128sQQqQ")
_EMPTY: Final = bytes(_CELL.size)


class Quarantine:
    """Made before the first fork; workers note and ask, the supervisor judges."""

    def __init__(self, workers: int) -> None:
        self._notes = memoryview(mmap.mmap(-1, workers * NOTES * _CELL.size))
        self._cells = memoryview(mmap.mmap(-1, CELLS * _CELL.size))
        self._numbers = memoryview(mmap.mmap(-1, 16)).cast("d")  # how many were quarantined; until when to take turns
        # Of the supervisor:
        self._deaths: dict[bytes, list[float]] = {}
        # Of a worker:
        self._free: deque[int] = deque()
        self._turn = threading.Lock()

    # In workers

    def enter(self, slot: int) -> None:
        """We are worker number *slot* now."""
        self._free.extend(range(slot * NOTES, (slot + 1) * NOTES))

    @contextmanager
    def running(self, name: str, package: FileKey) -> Iterator[None]:
        """See `Watch`."""
        has_turn = time.monotonic() < self._numbers[1] and self._turn.acquire(timeout=TURN_SECONDS)
        try:
            with self._noted(_CELL.pack(name.encode(), *package)):
                yield
        finally:
            if has_turn:
                self._turn.release()

    def verdict(self, name: str, package: FileKey) -> str | None:
        """See `Watch`."""
        if not self._numbers[0]:
            return None
        return VERDICT if _CELL.pack(name.encode(), *package) in self._quarantined() else None

    @contextmanager
    def _noted(self, cell: bytes) -> Iterator[None]:
        try:
            number = self._free.popleft()
        except IndexError:  # in the parent, which loads before there are workers, or too much at once
            yield
            return
        _write(self._notes, number, cell)
        try:
            yield
        finally:
            _write(self._notes, number, _EMPTY)
            self._free.append(number)

    # In the supervisor

    def judge(self, slot: int) -> bool:
        """Worker *slot* is dead: blame what it ran, if anything; false if its death has another reason."""
        numbers = range(slot * NOTES, (slot + 1) * NOTES)
        noted = {_read(self._notes, number) for number in numbers} - {_EMPTY}
        suspects = noted - self._quarantined()
        for number in numbers:
            _write(self._notes, number, _EMPTY)
        enough = DEATHS if len(suspects) == 1 else SHARED_DEATHS
        guilty = [cell for cell in sorted(suspects) if self._deaths_of(cell) >= enough]
        for cell in guilty:
            self._condemn(cell)
        if guilty:
            self._deaths.clear()  # who stood beside them is cleared
        self._numbers[1] = time.monotonic() + WINDOW_SECONDS if self._deaths else 0.0
        return bool(noted)

    def _deaths_of(self, cell: bytes) -> int:
        """With the one that is judged now."""
        logger.error("deployment %s ran in the worker that died", _name_in(cell))
        now = time.monotonic()
        deaths = [death for death in self._deaths.get(cell, ()) if death > now - WINDOW_SECONDS]
        self._deaths[cell] = [*deaths, now]
        return len(deaths) + 1

    def _condemn(self, cell: bytes) -> None:
        logger.error("deployment %s: %s", _name_in(cell), VERDICT)
        n_cells = int(self._numbers[0])
        _write(self._cells, n_cells % CELLS, cell)
        self._numbers[0] = float(n_cells + 1)  # after the cell: who sees the number sees the cell

    def _quarantined(self) -> set[bytes]:
        return {_read(self._cells, number) for number in range(min(int(self._numbers[0]), CELLS))}


def _read(cells: memoryview, number: int) -> bytes:
    return bytes(cells[number * _CELL.size : (number + 1) * _CELL.size])


def _write(cells: memoryview, number: int, cell: bytes) -> None:
    cells[number * _CELL.size : (number + 1) * _CELL.size] = cell


def _name_in(cell: bytes) -> str:
    name: bytes = _CELL.unpack(cell)[0]
    return name.rstrip(b"\0").decode()
