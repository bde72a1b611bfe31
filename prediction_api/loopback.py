"""A server of our own for as long as somebody needs one: on loopback, in a process group of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from model_repository.errors import ServingError
from prediction_api.processes import end_with_parent

GOODBYE_SECONDS: Final = 10.0
QUIET: Final = {"PREDICTION_API_ACCESS_LOG_ENABLED": "false", "PREDICTION_API_LOG_LEVEL": "warning"}
"""Unless the environment wants it otherwise: the one who asked for the server has messages of its own."""
PLAIN: Final = {"PREDICTION_API_TLS_ENABLED": "false"}
"""Nobody beyond this machine can reach it."""


class ServerNotStarted(ServingError):
    """The server ended before it was ready; its own messages say why."""


@asynccontextmanager
async def serving(path: Path, environ: Mapping[str, str]) -> AsyncIterator[str]:
    """
    The base URL of a server for the packages at *path*, with one worker per core; it stops when the context ends.

    It does not hear a terminal's Ctrl-C, and it does not outlive this process.

    Raises:
        ServerNotStarted: it ended instead of getting ready.
    """
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "prediction_api", "serve", "--model-repository", str(path), "--host", "127.0.0.1", "--port", "0"),
        *("--workers", str(len(os.sched_getaffinity(0)))),
        env=QUIET | dict(environ) | PLAIN,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    )
    assert server.stdout is not None
    try:
        url = (await server.stdout.readline()).decode().strip()
        if not url:
            raise ServerNotStarted(f"the server for {path} did not start: it ended with status {await server.wait()}")
        yield url
    finally:
        await _ended(server)


async def _ended(server: asyncio.subprocess.Process) -> None:
    """Ask it to end, and see to it."""
    if server.returncode is not None:
        return
    server.terminate()
    try:
        async with asyncio.timeout(GOODBYE_SECONDS):
            await server.wait()
    except TimeoutError:
        server.kill()
        await server.wait()
