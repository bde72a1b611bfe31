"""
The server as a whole: open the port, load what can be shared, fork the workers that share both.

The parent loads and never scores. Workers are forked after loading, so that they share its memory; what must not run
before a fork, such as a library that starts threads, runs when a worker builds its application.
"""

import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from model_repository.errors import ServingError, SettingsError
from prediction_api.logs import LAST_FLUSH_SECONDS, LineSink, configure_logs
from prediction_api.processes import Line
from prediction_api.settings import PREFIX, Settings
from prediction_api.state import Board, Prepared, ServerState
from prediction_api.supervisor import BUILT, CLOSED, FAILED, GO, SERVING, Supervisor
from prediction_api.tls import context_from, warnings_about_tls
from prediction_api.worker import BACKLOG, Worker

logger: Final = logging.getLogger(__name__)

DOORKEEPER_GRACE_SECONDS: Final = 1.0

Prepare = Callable[[Settings], Prepared]
"""Called in the parent, before the fork: all that workers can share."""


def serve(settings: Settings, prepare: Prepare | None = None) -> int:
    """
    Serve until SIGTERM or SIGINT; the exit status: 0 after a drain, 1 if the server could not start.

    Raises:
        SettingsError: nothing was started, because a setting is wrong.
    """
    tls = context_from(settings) if settings.tls_enabled else None
    listener = listen(settings)
    sink = configure_logs(settings)
    for warning in warnings_about_tls(settings) if tls else ():
        logger.warning("%s", warning)
    try:
        return _Server(settings, listener, tls, sink).run(prepare or prepare_models)
    finally:
        sink.flush(LAST_FLUSH_SECONDS)


def listen(settings: Settings) -> socket.socket:
    """
    The listening socket of the one port that is served.

    Raises:
        SettingsError: the address does not exist, is taken, or is not for us.
    """
    port_name = f"{PREFIX}{'HTTPS' if settings.tls_enabled else 'HTTP'}_PORT"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SettingsError(f"{PREFIX}HOST={settings.host!r}: not an address of this machine") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(f"{PREFIX}HOST={settings.host!r}: not an address of this machine") from error
        problem = "the port is taken" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise SettingsError(f"{port_name}={settings.port} on {settings.host}: {problem}") from error
    listener.setblocking(False)
    return listener


def prepare_models(settings: Settings) -> Prepared:
    """See `preparation.prepare`."""
    # Here and not above: the port opens, and answers 503, before numpy and the model are loaded.
    from prediction_api.preparation import prepare

    return prepare(settings)


class _Server:
    """What parent, workers and doorkeeper have in common."""

    def __init__(self, settings: Settings, listener: socket.socket, tls: ssl.SSLContext | None, sink: LineSink) -> None:
        self._began = time.monotonic()
        self._settings = settings
        self._listener = listener
        self._address = listener.getsockname()
        self._tls = tls
        self._sink = sink
        self._board = Board(settings.workers)

    def run(self, prepare: Prepare) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        supervisor = Supervisor(self._settings, self._board, self._listener, keep_door=self._keep_door, sink=self._sink)
        supervisor.open_door()
        try:
            prepared = prepare(self._settings)
        except ServingError as error:
            logger.error("cannot start: %s", error)  # noqa: TRY400 - the message says it all
            supervisor.kill_all()
            return 1
        # What stands now stays for good: the collector must not touch, and thereby copy, what the workers share.
        gc.collect()
        gc.freeze()
        self._build_app = prepared.build_app
        return supervisor.run(self._work, self._say_ready, prepared.keep_open, prepared.judge)

    def _work(self, slot: int, line: Line) -> int:
        """A worker's whole life."""
        self._sink.start_gathering()
        state = ServerState(board=self._board)
        try:
            app = self._build_app(state, slot)
        except ServingError as error:
            line.say(f"{FAILED}{error}")
            return 1
        except Exception as error:
            logger.exception("the application cannot be built")
            line.say(f"{FAILED}{type(error).__name__}: {error}")
            return 1
        line.say(BUILT)
        if line.hear() != GO:
            return 0
        state.ready = True
        worker = Worker(
            app,
            self._settings,
            state,
            tls=self._tls,
            on_beat=lambda: self._board.beat(slot),
            is_our_turn=lambda held: self._board.is_turn_of(slot, held),
            on_open=lambda: line.say(SERVING),
            sink=self._sink,
        )
        worker.run(self._listener)
        self._sink.flush(LAST_FLUSH_SECONDS)
        return 0

    def _keep_door(self, line: Line) -> int:
        """The doorkeeper's whole life."""
        self._sink.start_gathering()
        settings = msgspec.structs.replace(
            self._settings, shutdown_grace=DOORKEEPER_GRACE_SECONDS, drain_delay=0.0, log_level="warning"
        )
        Worker(
            not_ready, settings, ServerState(), tls=self._tls, closing_first=True, on_closed=lambda: line.say(CLOSED)
        ).run(self._listener)
        return 0

    def _say_ready(self) -> None:
        host, port = self._address[:2]
        url = f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        logger.info(
            "ready on %s with %d workers after %.2f s", url, self._settings.workers, time.monotonic() - self._began
        )
        if self._settings.port == 0:  # whoever asked for any port wants to know which
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()

    def _leave(self, *_: object) -> None:
        """End while the model is being loaded: nothing was begun, so there is nothing to finish."""
        self._sink.flush(LAST_FLUSH_SECONDS)
        os._exit(0)


async def not_ready(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a server that cannot score yet, or for the moment."""
    if scope["path"].rstrip("/").endswith("/livez"):
        status, body = 200, b'{"live":true}'
    else:
        status, body = 503, b'{"message":"the server is not ready: no worker can score"}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
