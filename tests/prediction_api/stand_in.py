"""A server process whose application does what a test asks of it: ``python -m tests.prediction_api.stand_in``."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_repository.errors import InvalidPackage
from prediction_api.server import serve
from prediction_api.settings import Settings, settings_from
from prediction_api.state import Prepared, ServerState

HOLDING = b"holding"


class StandIn:
    """One route per way to answer, or not to."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._released = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        await getattr(self, scope["path"].strip("/"))(query, scope, receive, send)

    async def ping(self, _query: dict[str, str], _scope: Scope, _receive: Receive, send: Send) -> None:
        refusal = self._state.refusal
        await answer(send, 200 if refusal is None else 503, (refusal or "pong").encode())

    async def pid(self, _query: dict[str, str], _scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, 200, str(os.getpid()).encode())

    async def echo(self, _query: dict[str, str], _scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, await body_from(receive))

    async def headers(self, _query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        await body_from(receive)
        await answer(send, 200, b" ".join(sorted(name for name, _ in scope["headers"])))

    async def refuse(self, query: dict[str, str], _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer without having read the body."""
        await answer(send, 413, b"too much", close="keep" not in query)

    async def hold(self, _query: dict[str, str], _scope: Scope, _receive: Receive, send: Send) -> None:
        """Begin an answer that ends when somebody calls `release`."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": HOLDING, "more_body": True})
        await self._released.wait()
        await send({"type": "http.response.body", "body": b" released"})

    async def release(self, _query: dict[str, str], _scope: Scope, _receive: Receive, send: Send) -> None:
        self._released.set()
        await answer(send, 200, b"")

    async def large(self, query: dict[str, str], _scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, 200, bytes(int(query["bytes"])))

    async def stall(self, _query: dict[str, str], _scope: Scope, _receive: Receive, _send: Send) -> None:
        """A deadlock of the event loop."""
        signal.pause()

    async def spin(self, query: dict[str, str], _scope: Scope, _receive: Receive, send: Send) -> None:
        """Compute for so many seconds, and let nothing else run."""
        deadline = time.monotonic() + float(query["seconds"])
        while time.monotonic() < deadline:
            pass
        await answer(send, 200, b"done")

    async def die(self, _query: dict[str, str], _scope: Scope, _receive: Receive, _send: Send) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


async def body_from(receive: Receive) -> bytes:
    body = b""
    while True:
        message: Message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def answer(send: Send, status: int, body: bytes, *, close: bool = False) -> None:
    headers = [(b"content-length", b"%d" % len(body))] + ([(b"connection", b"close")] if close else [])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def prepare(_settings: Settings) -> Prepared:
    """Load nothing, in the way that the variable STAND_IN says, and let the workers do so."""
    way, _, argument = os.environ.get("STAND_IN", "").partition(":")
    fail(way, argument)
    if way == "wait":
        while not Path(argument).exists():
            time.sleep(0.01)
    if way == "stranger" and os.fork() == 0:
        os._exit(3)

    def build_app(state: ServerState, slot: int) -> ASGIApp:
        fail(way.removesuffix(" in worker"), argument)
        if way == "die later" and Path(argument).exists():
            fail("die", "")
        return StandIn(state)

    return Prepared(build_app)


def fail(way: str, argument: str) -> None:
    if way == "refuse":
        raise InvalidPackage(argument)
    if way == "break":
        raise ZeroDivisionError(argument)
    if way == "die":
        os.kill(os.getpid(), signal.SIGSEGV)


if __name__ == "__main__":
    sys.exit(serve(settings_from(os.environ, {}), prepare))
