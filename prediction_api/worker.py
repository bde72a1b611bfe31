"""
One worker process: an event loop that accepts, answers, beats, and drains when it is told to end.

It takes from uvicorn the HTTP protocol and the ASGI side, and not its server: that one accepts as much as it can at a
time, so that one worker of several gets most connections; it never gives up on a stalled client when it ends, and it
ends itself by the signal that it got. Here each turn of the loop accepts one connection, running out of file
descriptors pauses accepting, and a drain has a deadline.
"""

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, cast

import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.server import ServerState as Connections

from prediction_api.guard import Guard
from prediction_api.logs import LineSink
from prediction_api.settings import Settings
from prediction_api.state import ServerState

logger: Final = logging.getLogger(__name__)

BACKLOG: Final = 2048
TICK_SECONDS: Final = 0.1
TICKS_PER_BEAT: Final = 5
ACCEPT_PAUSE_SECONDS: Final = 0.5
TURN_SECONDS: Final = 0.002
"""How long a worker with more connections than another leaves the next one to it."""
TLS_GOODBYE_SECONDS: Final = 3.0
IDLE_GOODBYE_SECONDS: Final = 0.5
"""How long a drain waits for the TLS goodbye of a client to whom nothing is owed."""


class Worker:
    """Answers what comes in on one listening socket, which other processes may share."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        state: ServerState,
        *,
        tls: ssl.SSLContext | None = None,
        on_beat: Callable[[], None] = lambda: None,
        is_our_turn: Callable[[int], bool] = lambda _: True,
        on_open: Callable[[], None] = lambda: None,
        on_closed: Callable[[], None] = lambda: None,
        closing_first: bool = False,
        sink: LineSink | None = None,
    ) -> None:
        """
        Args:
            on_beat: called twice a second while the event loop turns.
            is_our_turn: given how many connections we hold, whether we take the next one or leave it to another worker.
            on_open: called when connections are accepted.
            on_closed: called when no new connection is accepted any more.
            closing_first: close the port as the first step of a drain, and not as its last.
        """
        self._settings = settings
        self._state = state
        self._tls = tls
        self._tls_limits: dict[str, float] = {}
        if tls is not None:
            # The defaults would let a silent client take a minute to begin and half a minute to end.
            self._tls_limits = {
                "ssl_handshake_timeout": settings.header_timeout,
                "ssl_shutdown_timeout": TLS_GOODBYE_SECONDS,
            }
        self._on_beat = on_beat
        self._is_our_turn = is_our_turn
        self._waited = False  # already gave other workers the chance to take the next connection
        self._on_open = on_open
        self._on_closed = on_closed
        self._closing_first = closing_first
        self._sink = sink
        self._connections = Connections()
        self._handshakes: set[asyncio.Task[Any]] = set()
        self._told_to_end = asyncio.Event()
        self._ticks = 0
        self._config = _uvicorn_config(app, settings)

    def run(self, listener: socket.socket) -> None:
        """Serve until SIGTERM, then drain. What was cut is left as it is: the process must end right after this."""
        # Not asyncio.run: at its end that waits for cancelled tasks, and so for threads that are still scoring.
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self.serve(listener))

    async def serve(self, listener: socket.socket) -> None:
        """As `run`, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self.drain)
        self._listener = listener
        self._tick()
        self._loop.add_reader(listener, self._accept)
        self._on_open()
        while not self._told_to_end.is_set():
            await self._pause(TICK_SECONDS, until=self._told_to_end)
        await self._drain()

    def drain(self) -> None:
        """From now on finish what runs, begin nothing new, then end; within the grace time."""
        if not self._state.draining:
            self._state.draining = True
            self._told_to_end.set()

    # Connections

    def _accept(self) -> None:
        if not self._waited and not self._is_our_turn(len(self._connections.connections)):
            self._waited = True
            self._stop_accepting()
            self._loop.call_later(TURN_SECONDS, self._accept_again)
            return
        self._waited = False
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client left
        except OSError as error:
            self._stop_accepting()
            logger.warning("cannot accept connections: %s; trying again", error.strerror)
            self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_again)
            return
        client.setblocking(False)
        opening = self._loop.connect_accepted_socket(self._protocol, client, ssl=self._tls, **self._tls_limits)
        task = self._loop.create_task(opening)
        self._handshakes.add(task)
        task.add_done_callback(self._opened)

    def _protocol(self) -> Guard:
        return Guard(self._config, self._connections, {}, self._loop, settings=self._settings)

    def _opened(self, task: asyncio.Task[Any]) -> None:
        self._handshakes.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("a connection did not come about: %s", task.exception())

    def _stop_accepting(self) -> None:
        self._loop.remove_reader(self._listener)

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _open_connections(self) -> list[Guard]:
        return cast(list[Guard], list(self._connections.connections))

    # Time

    async def _pause(self, seconds: float, until: asyncio.Event | None = None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await (until or asyncio.Event()).wait()
        except TimeoutError:
            self._tick()

    def _tick(self) -> None:
        if self._sink is not None:
            self._sink.flush()
        self._is_our_turn(len(self._connections.connections))  # tells the others how many we hold
        if self._ticks % TICKS_PER_BEAT == 0:
            self._on_beat()
            self._connections.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            now = self._loop.time()
            for connection in self._open_connections():
                connection.look_over(now)
        self._ticks += 1

    # The end

    async def _drain(self) -> None:
        """Finish what runs with the port open, then close it; leave nobody waiting beyond the grace time."""
        began = self._loop.time()
        deadline = began + self._settings.shutdown_grace
        earliest = min(began + self._settings.drain_delay, deadline)
        logger.info("draining: %d requests are running", len(self._connections.tasks))
        while not self._closing_first and (
            self._loop.time() < earliest or (self._connections.tasks and self._loop.time() < deadline)
        ):
            await self._pause(TICK_SECONDS / 2)
        self._stop_accepting()
        self._listener.close()
        self._on_closed()
        for connection in self._open_connections():
            connection.shutdown()
        await self._say_goodbye(deadline)

    async def _say_goodbye(self, deadline: float) -> None:
        """Wait for connections that are owed an answer, briefly for the others, and cut what is left."""
        idle_deadline = self._loop.time() + IDLE_GOODBYE_SECONDS
        await asyncio.sleep(0)
        while any(not connection.idle for connection in self._open_connections()) and self._loop.time() < deadline:
            await self._pause(TICK_SECONDS / 2)
        while self._connections.connections and self._loop.time() < min(idle_deadline, deadline):
            await self._pause(TICK_SECONDS / 10)
        cut = sum(not connection.idle for connection in self._open_connections())
        if cut:
            logger.warning("the grace time is over: %d requests were cut", cut)


def _uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """What uvicorn's protocol wants to know. Nothing is left to the environment variables that it would read."""
    config = uvicorn.Config(
        cast(Any, app),
        http=Guard,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        forwarded_allow_ips="",
        server_header=False,
        workers=1,
        timeout_keep_alive=cast(int, settings.keep_alive_timeout),
    )
    config.load()
    return config
