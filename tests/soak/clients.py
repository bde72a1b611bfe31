"""Those who use and abuse the server in a soak run, each a function that goes on until it is told to stop."""

import gzip
import http.client
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

from tests.prediction_api.server_process import ServerProcess
from tests.prediction_api.versions import BODY, CSV, JSON, LONG_BODY, PACKAGE, Answered, Client, Version
from tests.soak.tally import Tally

SECONDS_BETWEEN_KILLS = 20.0
"""Five deaths within a minute would make the server rest."""
NO_ANSWER = (OSError, http.client.HTTPException)
PREDICTIONS = "/deployments/a/predictions"
LINGER_ZERO = struct.pack("ii", 1, 0)
HOSTILE_BODIES = (b"", b"[", b"[" * 100_000, b'[{"x":1e999}]', b"x,y\n" + b'"' * 1000, b"\xff" * 1000, b"[{}]" * 1000)


class Users:
    """All of them, with what they share."""

    def __init__(self, server: ServerProcess, versions: list[Version], tally: Tally, seed: int) -> None:
        self.server = server
        self.tally = tally
        self.stopping = threading.Event()
        self._versions = versions
        self._seed = seed

    def all(self, clients: int) -> list[Callable[[], None]]:
        """One function for each thread."""
        return [*([self.predict] * clients), self.swap, self.come_and_go, self.abuse, self.kill]

    def warm_up(self) -> None:
        """Once through all that makes a process load or open something for good."""
        for version in self._versions * 2:
            self._ask("POST", "/deployments/a", version.package, PACKAGE)
            for body, headers in ((BODY, JSON), (LONG_BODY, CSV)) * 8:
                self._ask("POST", PREDICTIONS, body, headers)

    def predict(self) -> None:
        """Ask without a pause: each answer is wholly that of one version."""
        short = {version.answers[0.5] for version in self._versions}
        long = {version.long_answer for version in self._versions}
        chance = random.Random(self._seed + threading.get_ident())
        with closing(Client(self.server)) as client:
            while not self.stopping.is_set():
                body, headers, right = (LONG_BODY, CSV, long) if chance.random() < 0.1 else (BODY, JSON, short)
                answer = self._ask("POST", PREDICTIONS, body, headers, client=client)
                if answer is None:
                    client.close()  # the next request connects again
                elif answer.status == 200 and answer.body in right:
                    self.tally.count("predictions")
                elif answer.status == 503:
                    self.tally.count("503")
                else:
                    self.tally.is_wrong(f"a prediction: {answer.status} {answer.body[:200]!r}")

    def swap(self) -> None:
        """Replace the model again and again; who has the 2xx gets the new model's answer from every worker."""
        for number in self._rounds(0.3):
            version = self._versions[number % 2]
            done = self._ask("POST", "/deployments/a", version.package, PACKAGE)
            if done is None or done.status == 503:
                continue
            if done.status not in (200, 201):
                self.tally.is_wrong(f"an upload: {done.status} {done.body!r}")
                continue
            self.tally.count("swaps")
            for _ in range(4):
                answer = self._ask("POST", PREDICTIONS, BODY, JSON)
                if answer is not None and answer.status == 200 and answer.body != version.answers[0.5]:
                    self.tally.is_wrong("the old model answered after the new one was in place")

    def come_and_go(self) -> None:
        """Deploy and delete another model; it is there or not, and nothing between."""
        for number in self._rounds(0.5):
            if number % 2:
                answer = self._ask("DELETE", "/deployments/b")
                fine = (204, 404, 503)
            else:
                answer = self._ask("POST", "/deployments/b", self._versions[0].package, PACKAGE)
                fine = (200, 201, 503)
            if answer is not None and answer.status not in fine:
                self.tally.is_wrong(f"coming and going: {answer.status} {answer.body!r}")
            self.tally.count("deployed and deleted")

    def abuse(self) -> None:
        """What must be refused, and what must not be waited for."""
        damaged = bytearray(self._versions[0].package)
        damaged[len(damaged) // 2] ^= 0xFF
        bomb = gzip.compress(bytes(200 * 1024 * 1024), 9)
        hostile: list[tuple[str, bytes, dict[str, str]]] = [
            *((PREDICTIONS, body, JSON) for body in HOSTILE_BODIES),
            (PREDICTIONS, bomb, {**CSV, "Content-Encoding": "gzip"}),
            ("/deployments/a", bytes(damaged), PACKAGE),
            ("/deployments/%2e%2e", self._versions[0].package, PACKAGE),
        ]
        slow: list[socket.socket] = []
        for number in self._rounds(0.1):
            slow = self._stall(slow)
            answer = self._ask("POST", *hostile[number % len(hostile)])
            if answer is not None and not 400 <= answer.status < 500 and answer.status != 503:
                self.tally.is_wrong(f"a hostile request: {answer.status} {answer.body[:200]!r}")
            self.tally.count("refusals")
        for connection in slow:
            connection.close()

    def kill(self) -> None:
        """Now and then a worker dies."""
        chance = random.Random(self._seed)
        for _ in self._rounds(SECONDS_BETWEEN_KILLS):
            workers = self.server.children()
            if workers:
                self.tally.killed()
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)

    def _stall(self, slow: list[socket.socket]) -> list[socket.socket]:
        """One more half request that nobody finishes; of many, the oldest is reset."""
        with suppress(OSError):
            connection = self.server.connect(5)
            connection.sendall(b"POST /deployments/a/predictions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n[")
            slow.append(connection)
            self.tally.count("stalled")
        if len(slow) > 40:
            oldest = slow.pop(0)
            oldest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            oldest.close()
        return slow

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        client: Client | None = None,
    ) -> Answered | None:
        """The answer, over a connection of its own unless *client* has one; None if there was none, which is counted."""
        began = time.monotonic()
        asking = client or Client(self.server)
        try:
            return asking.ask(method, path, body, headers)
        except NO_ANSWER as error:
            self.tally.lost(error, began)
            return None
        finally:
            if client is None:
                asking.close()

    def _rounds(self, pause: float) -> "Rounds":
        return Rounds(self.stopping, pause)


class Rounds:
    """0, 1, 2 and so on with a pause before each, until it is time to stop."""

    def __init__(self, stopping: threading.Event, pause: float) -> None:
        self._stopping = stopping
        self._pause = pause
        self._number = -1

    def __iter__(self) -> "Rounds":
        return self

    def __next__(self) -> int:
        if self._stopping.wait(self._pause):
            raise StopIteration
        self._number += 1
        return self._number
