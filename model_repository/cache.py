"""
The models that one worker keeps: as many as there are places, the one that was not asked for the longest goes first.

Dropping a model only drops this cache's reference: whoever scores with it keeps it until done. A model that is not
there is loaded once, however many requests wait for it, on a thread, and the load goes on if they give up waiting. A
load that failed is not tried again at once.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import anyio
import anyio.to_thread

from model_repository.errors import ModelUnavailable

LOADS_AT_ONCE: Final = 2
"""Loading is mostly Python's own work, which two threads do no faster than one; the second lets a small model pass."""
REMEMBER_FAILURE_SECONDS: Final = 5.0
HANGS_SECONDS: Final = 20.0
"""A load that takes longer goes on, but does not keep others from loading any more: it may never end."""

R = TypeVar("R")
V = TypeVar("V")


class LeastRecentlyUsed(Generic[V]):
    """A mapping of so many places; it does no waiting and no I/O."""

    def __init__(self, places: int) -> None:
        if places < 1:
            raise ValueError(f"{places} places, expected at least 1")
        self._places = places
        self._values: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str) -> V | None:
        """The value, which is now the one asked for last."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def peek(self, key: str) -> V | None:
        """The value, without having asked for it."""
        return self._values.get(key)

    def put(self, key: str, value: V) -> None:
        """Hold *value* in place of what *key* had; without a free place, the longest not asked for goes."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._places:
            self._values.popitem(last=False)

    def drop(self, key: str) -> None:
        """Hold nothing under *key*."""
        self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        """Keys, the next one to go first."""
        return iter(self._values)


@dataclass(frozen=True, slots=True)
class _Held(Generic[V]):
    version: Hashable
    value: V


@dataclass(frozen=True, slots=True)
class _Failure:
    version: Hashable
    reason: str
    until: float


class ModelCache(Generic[V]):
    """Values by key and version, loaded when they are asked for. Belongs to one event loop."""

    def __init__(
        self,
        places: int,
        *,
        remember_failure: float = REMEMBER_FAILURE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            places: most values that are kept.
            remember_failure: seconds in which a load that failed is not tried again.
            clock: what time it is, in seconds.
        """
        self._held: LeastRecentlyUsed[_Held[V]] = LeastRecentlyUsed(places)
        self._failures: dict[str, _Failure] = {}
        self._loads: dict[tuple[str, Hashable], asyncio.Task[_Held[V] | _Failure]] = {}
        self._remember_failure = remember_failure
        self._clock = clock
        self._turns = asyncio.Semaphore(LOADS_AT_ONCE)

    def held(self, key: str, version: Hashable) -> V | None:
        """The value if it is here, in this version."""
        held = self._held.get(key)
        return held.value if held is not None and held.version == version else None

    def holds(self, key: str, version: Hashable) -> bool:
        """Whether the value is here, in this version; does not count as asking for it."""
        held = self._held.peek(key)
        return held is not None and held.version == version

    def peek(self, key: str) -> V | None:
        """The value in whatever version; does not count as asking for it."""
        held = self._held.peek(key)
        return held.value if held is not None else None

    def put(self, key: str, version: Hashable, value: V) -> None:
        """Hold a value."""
        self._failures.pop(key, None)
        self._held.put(key, _Held(version, value))

    def drop(self, key: str) -> None:
        """Forget *key*."""
        self._held.drop(key)
        self._failures.pop(key, None)

    def failure(self, key: str, version: Hashable) -> str | None:
        """Why the last load failed, as long as that is remembered."""
        failure = self._failures.get(key)
        if failure is None or failure.version != version or failure.until <= self._clock():
            return None
        return failure.reason

    async def load(
        self, key: str, version: Hashable, load: Callable[[], R], finish: Callable[[R], tuple[Hashable, V]]
    ) -> V:
        """
        The value that *finish* makes, on the event loop, of what *load* gives, on a thread.

        Both run once for all who wait for this key and version. *finish* also says which version was loaded: that which
        was asked for, or a newer one.

        Raises:
            ModelUnavailable: *load* said so, now or a moment ago. Whatever else it raises is not remembered.
        """
        if reason := self.failure(key, version):
            raise ModelUnavailable(reason)
        task = self._loads.get((key, version))
        if task is None:
            task = asyncio.create_task(self._run(key, version, load, finish))
            self._loads[key, version] = task
            task.add_done_callback(partial(self._landed, key, version))
        outcome = await asyncio.shield(task)  # who gives up waiting takes nothing from the others
        if isinstance(outcome, _Failure):
            raise ModelUnavailable(outcome.reason)
        return outcome.value

    def __len__(self) -> int:
        return len(self._held)

    async def _run(
        self, key: str, version: Hashable, load: Callable[[], R], finish: Callable[[R], tuple[Hashable, V]]
    ) -> "_Held[V] | _Failure":
        try:
            async with self._turns:
                thread = asyncio.ensure_future(anyio.to_thread.run_sync(load, limiter=anyio.CapacityLimiter(1)))
                await asyncio.wait({thread}, timeout=HANGS_SECONDS)
            loaded = await thread
            held = _Held(*finish(loaded))
        except ModelUnavailable as exc:
            failure = _Failure(version, str(exc), self._clock() + self._remember_failure)
            self._remember(key, failure)
            return failure
        self.put(key, held.version, held.value)
        return held

    def _remember(self, key: str, failure: _Failure) -> None:
        now = self._clock()
        self._failures = {key: old for key, old in self._failures.items() if old.until > now}
        self._failures[key] = failure
        self._held.drop(key)  # an older version is not what lies on disk

    def _landed(self, key: str, version: Hashable, task: "asyncio.Task[_Held[V] | _Failure]") -> None:
        del self._loads[key, version]
        if not task.cancelled():
            task.exception()  # said to those who waited; if nobody did any more, to nobody
