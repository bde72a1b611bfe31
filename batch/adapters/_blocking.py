"""A client that blocks, on threads: no other work waits for it."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

T = TypeVar("T")


class Threads:
    """At most *count* calls at once, apart from the threads that files use."""

    def __init__(self, count: int) -> None:
        self._limiter = CapacityLimiter(count)

    async def look(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """The result of a call that changes nothing; a cancellation does not wait for it."""
        call = partial(work, *args, **options)
        return await to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=True)

    async def do(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """The result of a call that changes something; it ends before anything else is done about it."""
        return await to_thread.run_sync(partial(work, *args, **options), limiter=self._limiter)
