"""
Small requests of one slow model, scored together.

An estimator on a DataFrame costs milliseconds of overhead whatever the number of rows, so requests that arrive while
one call runs share the next call: the batch grows with the load, and nobody ever waits for it to fill.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from model_repository.errors import ModelUnavailable
from model_repository.tables import FloatArray, Rows

MAX_BATCH_ROWS: Final = 2048

Predict = Callable[[Rows], FloatArray]


@dataclass(slots=True, eq=False)
class _Place:
    """One request in the queue."""

    rows: Rows
    outcome: FloatArray | Exception | None = None


class MicroBatcher:
    """Runs at most one call of *predict* at a time, on a thread, for all that wait."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._turn = anyio.Lock()
        self._queue: deque[_Place] = deque()
        self._threads = anyio.CapacityLimiter(1)

    async def predict(self, rows: Rows) -> FloatArray:
        """
        What ``predict(rows)`` returns or raises; a bad request never fails its neighbours.

        The first that gets its turn works for all that stand in the queue by then; the others find their outcome ready.
        """
        place = _Place(rows)
        self._queue.append(place)
        try:
            async with self._turn:
                if place.outcome is None:
                    await self._run(self._next_batch())
        finally:
            if place.outcome is None and place in self._queue:
                self._queue.remove(place)  # cancelled while waiting
        assert place.outcome is not None
        if isinstance(place.outcome, Exception):
            raise place.outcome
        return place.outcome

    async def _run(self, batch: list[_Place]) -> None:
        """One call for the batch, whose first place is the caller's own."""
        try:
            await anyio.to_thread.run_sync(self._settle, batch, abandon_on_cancel=True, limiter=self._threads)
        except anyio.get_cancelled_exc_class():
            # The caller's time is up. The others came with it, and their call does not end either.
            for place in batch:
                if place.outcome is None:
                    place.outcome = ModelUnavailable("the prediction took too long: try again")
            raise

    def _next_batch(self) -> list[_Place]:
        batch = [self._queue.popleft()]
        n_rows = batch[0].rows.n_rows
        while self._queue and n_rows + self._queue[0].rows.n_rows <= MAX_BATCH_ROWS:
            batch.append(self._queue.popleft())
            n_rows += batch[-1].rows.n_rows
        return batch

    def _settle(self, batch: list[_Place]) -> None:
        """Give every place its outcome; when the merged call fails, each is tried on its own."""
        if len(batch) > 1 and self._settle_merged(batch):
            return
        for place in batch:
            try:
                place.outcome = self._predict(place.rows)
            except Exception as exc:  # handed to the request that it belongs to
                place.outcome = exc

    def _settle_merged(self, batch: list[_Place]) -> bool:
        merged = Rows([row for place in batch for row in place.rows.values])
        try:
            values = self._predict(merged)
        except Exception:  # found again, and raised, when each is tried on its own
            return False
        start = 0
        for place in batch:
            end = start + place.rows.n_rows
            place.outcome = values[start:end]
            start = end
        return True
