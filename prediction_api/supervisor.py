"""
The parent's life once the port is open: keep the wanted number of workers alive, and end when told to.

A worker is forked, builds its application, says ``built``, waits for ``go``, serves and says so. Until the first one
serves, and while workers die too fast to be replaced, a doorkeeper holds the port: a child that answers 503, so that
nobody waits for a server that cannot score. It gets SIGTERM when a worker is built, says ``closed`` when it accepts
no more, and only then the worker hears ``go``: after a first 200 no client can meet the doorkeeper again.

A worker whose event loop does not beat is stopped, stuck, or computes while it holds the interpreter lock. The first
two use no processor and are killed after ``worker_stall_timeout``; the last gets ``worker_busy_timeout``, because
killing it costs all requests that it has.
"""

import logging
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from prediction_api.logs import LineSink
from prediction_api.processes import Line, Signals, dead_children, fork, how_it_ended, kill, usage_of
from prediction_api.settings import Settings
from prediction_api.state import Board, Judge

logger: Final = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.5
LAST_CALL_SECONDS: Final = 1.0
"""Beyond the grace time, which the workers keep by themselves."""
QUIET_SECONDS: Final = 1.0
"""Silence that is not looked into yet."""
GOODBYE_SECONDS: Final = 2.0
"""What the doorkeeper gets to close the port."""
BUSY_SHARE: Final = 0.05
"""A silent process that used this share of a processor is computing."""
BUILT: Final = "built"
GO: Final = "go"
SERVING: Final = "serving"
CLOSED: Final = "closed"
FAILED: Final = "failed: "

Stage = Literal["building", "waiting", "opening", "serving", "closing", "closed"]
Work = Callable[[int, Line], int]
"""What worker number so-and-so does in its own process."""


@dataclass
class RestPolicy:
    """When to stop replacing workers for a while: at *most* deaths within *window* seconds, each time for longer."""

    most: int = 5
    window: float = 60.0
    shortest: float = 5.0
    _deaths: deque[float] = field(default_factory=deque)

    def died(self, now: float) -> float:
        """Take note of a death; return how many seconds to rest."""
        self._deaths.append(now)
        while self._deaths[0] < now - self.window:
            self._deaths.popleft()
        beyond = len(self._deaths) - self.most
        return float(min(self.shortest * 2**beyond, self.window)) if beyond >= 0 else 0.0


@dataclass
class Child:
    """A process of ours."""

    pid: int
    line: Line
    slot: int | None
    """Which worker it is; ``None`` for the doorkeeper."""
    stage: Stage
    since: float
    """When its stage began."""
    reason: str = ""
    """Why it could not start, or why it was killed."""
    used_before: float | None = None
    """Processor seconds that it had used when it fell silent."""

    def enter(self, stage: Stage) -> None:
        """Go on to *stage*."""
        self.stage = stage
        self.since = time.monotonic()


class Supervisor:
    """All children of one server, until there are none."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        listener: socket.socket,
        *,
        keep_door: Callable[[Line], int],
        sink: LineSink,
    ) -> None:
        self._settings = settings
        self._board = board
        self._listener = listener
        self._keep_door = keep_door
        self._sink = sink
        self._policy = RestPolicy()
        self._selector = selectors.DefaultSelector()
        self._signals = Signals()
        self._children: dict[int, Child] = {}
        self._was_ready = False
        self._rest_until = 0.0
        self._looked = self._awake_since = time.monotonic()
        self._deadline: float | None = None  # of the end; None while nobody wants it
        self._status = 0

    def open_door(self) -> None:
        """Let a doorkeeper answer, from now until a worker does."""
        pid, line = fork(self._keep_door, keep_open=(self._listener.fileno(),))
        self._adopt(Child(pid, line, None, "serving", time.monotonic()))

    def run(
        self,
        work: Work,
        on_ready: Callable[[], None],
        keep_open: tuple[int, ...] = (),
        judge: Judge = lambda _: False,
    ) -> int:
        """
        Supervise until SIGTERM, SIGINT, or a start that fails.

        Args:
            on_ready: called when the first worker serves.
            keep_open: file descriptors that workers need beside the listening socket.
            judge: says of a death whether a model is to blame, which then cannot cause many more.
        """
        self._work = work
        self._keep_open = (self._listener.fileno(), *keep_open)
        self._on_ready = on_ready
        self._judge = judge
        self._signals.catch(self._selector)
        self._on_tick(time.monotonic())
        while self._children or self._deadline is None:
            ready = self._selector.select(TICK_SECONDS)
            for number in self._signals.caught():
                self._on_signal(number)
            for key, _ in ready:
                if isinstance(key.data, Child):
                    self._on_word(key.data)
            for pid, status in dead_children():
                self._on_death(pid, status)
            self._on_tick(time.monotonic())
            self._sink.flush()
        return self._status

    # What happens

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            logger.info("SIGHUP is ignored: restart the server to change its settings or certificate")
        elif number in (signal.SIGTERM, signal.SIGINT):
            name = signal.Signals(number).name
            if self._deadline is None:
                logger.info("%s: ending within %g seconds", name, self._settings.shutdown_grace)
                self._end(self._settings.shutdown_grace + LAST_CALL_SECONDS)
            else:
                logger.warning("%s again: ending now", name)
                self._end(0.0)

    def _on_word(self, child: Child) -> bool:
        """Take the next word of *child*; false when it has no more to say."""
        word = child.line.hear()
        if word == BUILT:
            child.enter("waiting")
        elif word == SERVING:
            child.enter("serving")
            self._note_ready()
        elif word == CLOSED:
            child.enter("closed")
        elif word.startswith(FAILED):
            child.reason = word.removeprefix(FAILED)
        elif not word:
            self._hang_up(child)
        return bool(word)

    def _on_death(self, pid: int, status: int) -> None:
        child = self._children.pop(pid, None)
        if child is None:
            return  # as PID 1 we inherit orphans, whose end means nothing to us
        while child.line.fileno() >= 0 and self._on_word(child):
            pass  # its last words may say why
        if child.slot is None or self._deadline is not None:
            return
        reason = child.reason or how_it_ended(status)
        blames_model = self._judge(child.slot)
        if self._was_ready or blames_model:
            logger.error("worker %d, process %d, died: %s", child.slot, pid, reason)
            if not blames_model:
                self._mourn()
        else:
            logger.error("cannot start: %s", reason)
            self._status = 1
            self._end(0.0)

    def _mourn(self) -> None:
        now = time.monotonic()
        rest = self._policy.died(now)
        if rest:
            logger.error("workers keep dying: not ready; replacing them again in %g seconds", rest)
            self._rest_until = now + rest
            self._board.failing = True

    def _on_tick(self, now: float) -> None:
        if now - self._looked > 4 * TICK_SECONDS:
            self._awake_since = now  # we were stopped ourselves: what was not beaten meanwhile says nothing
        self._looked = now
        if self._deadline is not None:
            if now >= self._deadline:
                self.kill_all()
            return
        for child in list(self._children.values()):
            self._check_life(child, now)
        if now >= self._rest_until:
            self._board.failing = False
            self._refill()
        elif not self._children:
            self.open_door()
        self._hand_over(now)

    # What follows

    def _refill(self) -> None:
        taken = {child.slot for child in self._children.values()}
        for slot in range(self._settings.workers):
            if slot not in taken:
                pid, line = fork(partial(self._work, slot), keep_open=self._keep_open)
                self._adopt(Child(pid, line, slot, "building", time.monotonic()))

    def _hand_over(self, now: float) -> None:
        """Let workers that are built serve, as soon as the doorkeeper has closed the door behind it."""
        waiting = [child for child in self._children.values() if child.stage == "waiting"]
        if not waiting:
            return
        for keeper in self._children.values():
            if keeper.slot is not None or keeper.stage == "closed":
                continue
            if keeper.stage == "serving":
                kill(keeper.pid, signal.SIGTERM)
                keeper.enter("closing")
            elif now - keeper.since > GOODBYE_SECONDS:
                kill(keeper.pid, signal.SIGKILL)
            return
        for child in waiting:
            child.line.say(GO)
            child.enter("opening")

    def _note_ready(self) -> None:
        if not self._was_ready:
            self._was_ready = True
            self._on_ready()

    def _check_life(self, child: Child, now: float) -> None:
        """Kill a worker that shows no life."""
        if child.slot is None or child.stage == "waiting" or child.reason:
            return
        silent = now - max(child.since, self._awake_since, self._board.last_beat(child.slot))
        usage = usage_of(child.pid) if silent > QUIET_SECONDS else None
        if usage is None:
            child.used_before = None
            return
        if child.used_before is None:
            child.used_before = usage.processor_seconds
        busy = usage.state in "RD" or usage.processor_seconds - child.used_before > BUSY_SHARE * silent
        settings = self._settings
        if silent > (settings.worker_busy_timeout if busy else settings.worker_stall_timeout):
            child.reason = f"killed after {silent:.0f} seconds without a sign of life, {'busy' if busy else 'stalled'}"
            kill(child.pid, signal.SIGKILL)

    def _end(self, seconds: float) -> None:
        """Be gone in *seconds*: who serves may finish, who does not serve yet has nothing to finish."""
        self._deadline = time.monotonic() + seconds
        self._listener.close()
        for child in self._children.values():
            polite = seconds and child.stage in ("serving", "closing", "closed")
            kill(child.pid, signal.SIGTERM if polite else signal.SIGKILL)

    def kill_all(self) -> None:
        """Leave no child behind, whatever it does."""
        for child in self._children.values():
            kill(child.pid, signal.SIGKILL)

    def _adopt(self, child: Child) -> None:
        self._children[child.pid] = child
        self._selector.register(child.line, selectors.EVENT_READ, child)

    def _hang_up(self, child: Child) -> None:
        self._selector.unregister(child.line)
        child.line.close()
