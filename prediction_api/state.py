"""What the processes of one server tell each other, and what one worker knows of itself."""

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp

LIVELY_SECONDS: Final = 1.0
"""Who has not beaten for longer is not waited for."""


class Board:
    """
    One shared page, made before the first fork: each worker beats into its own slot, everybody reads.

    Each cell is one aligned 8-byte store, so that no reader sees half a value and nobody needs a lock.
    """

    def __init__(self, workers: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, 8 * (2 + 2 * workers))).cast("d")
        self._beats = self._cells[1 : 1 + workers]
        self._held = self._cells[1 + workers : 1 + 2 * workers]

    def beat(self, slot: int) -> None:
        """Say that the event loop of worker *slot* turns."""
        self._beats[slot] = time.monotonic()

    def last_beat(self, slot: int) -> float:
        """When worker *slot* last beat, in seconds of ``time.monotonic()``, which all processes share."""
        return self._beats[slot]

    def is_turn_of(self, slot: int, held: int) -> bool:
        """Whether worker *slot*, which holds so many connections, should take the next; else a lively one has fewer."""
        self._held[slot] = held
        if len(self._held) == 1:
            return True
        recently = time.monotonic() - LIVELY_SECONDS
        lively = (other for other, beat in zip(self._held, self._beats, strict=True) if beat > recently)
        return held <= min(lively, default=held)

    @property
    def failing(self) -> bool:
        """Whether workers die faster than it makes sense to replace them."""
        return bool(self._cells[0])

    @failing.setter
    def failing(self, failing: bool) -> None:
        self._cells[0] = float(failing)


@dataclass(slots=True)
class ServerState:
    """One worker's own state; only its event loop writes it."""

    ready: bool = False
    """The model was loaded and checked: this worker can score."""
    draining: bool = False
    """SIGTERM came: what runs is finished, nothing new is begun."""
    in_flight: int = 0
    """Requests that the application has accepted and not yet answered."""
    board: Board | None = None
    """Shared by all workers of the server."""

    @property
    def refusal(self) -> str | None:
        """Why no new request should come here, or ``None`` when this worker can score."""
        if self.draining:
            return "the server is shutting down"
        if not self.ready:
            return "the model is being loaded"
        if self.board is not None and self.board.failing:
            return "the server's workers keep dying"
        return None


BuildApp = Callable[[ServerState, int], ASGIApp]
"""Called in worker number so-and-so, after the fork; raises if the worker must not serve."""


Judge = Callable[[int], bool]
"""Called in the parent when worker number so-and-so died; true if a model is to blame, and not the server."""


@dataclass(frozen=True)
class Prepared:
    """What the parent made for its workers before it forks them."""

    build_app: BuildApp
    keep_open: tuple[int, ...] = ()
    """File descriptors that workers need."""
    judge: Judge = lambda _: False
