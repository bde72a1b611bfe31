import threading

import anyio
import numpy as np
import pytest

from model_repository.errors import ModelUnavailable, UnscorableValue
from model_repository.tables import FloatArray, Rows
from prediction_api.microbatch import MAX_BATCH_ROWS, MicroBatcher


class Gated:
    """Doubles its rows; the first call waits until it is let go; refuses 13."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.begun = anyio.Event()
        self.go = threading.Event()

    def __call__(self, rows: Rows) -> FloatArray:
        self.sizes.append(rows.n_rows)
        if len(self.sizes) == 1:
            anyio.from_thread.run_sync(self.begun.set)
            assert self.go.wait(10)
        for row, (x,) in enumerate(rows.values):
            if x == 13:
                raise UnscorableValue("x", row, "13 brings bad luck")
        return np.array(rows.values, dtype=float) * 2


async def outcomes_of(predict: Gated, requests: list[Rows]) -> list[object]:
    """All requests at once, the first of them alone in the first call."""
    batcher = MicroBatcher(predict)
    outcomes: list[object] = [None] * len(requests)

    async def ask(place: int) -> None:
        try:
            outcomes[place] = (await batcher.predict(requests[place])).ravel().tolist()
        except UnscorableValue as exc:
            outcomes[place] = str(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, 0)
        await predict.begun.wait()
        for place in range(1, len(requests)):
            tasks.start_soon(ask, place)
        await anyio.wait_all_tasks_blocked()
        predict.go.set()
    return outcomes


async def test_what_arrives_during_a_call_shares_the_next():
    predict = Gated()
    outcomes = await outcomes_of(predict, [Rows([[float(x)]] * (x + 1)) for x in range(5)])
    assert predict.sizes == [1, 2 + 3 + 4 + 5]
    assert outcomes == [[2.0 * x] * (x + 1) for x in range(5)]


async def test_a_bad_request_fails_alone():
    predict = Gated()
    outcomes = await outcomes_of(predict, [Rows([[1.0]]), Rows([[2.0]]), Rows([[3.0], [13.0]]), Rows([[4.0]])])
    assert outcomes == [[2.0], [4.0], "row 1, column 'x': 13 brings bad luck", [8.0]]
    assert predict.sizes == [1, 4, 1, 2, 1]


async def test_batches_are_bounded():
    predict = Gated()
    many = Rows([[1.0]] * (MAX_BATCH_ROWS - 1))
    await outcomes_of(predict, [Rows([[1.0]]), many, many, Rows([[1.0]])])
    assert predict.sizes == [1, MAX_BATCH_ROWS - 1, MAX_BATCH_ROWS]


async def test_a_call_that_never_ends_is_left_behind():
    predict = Gated()
    batcher = MicroBatcher(predict)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.predict, Rows([[1.0]]))
        await predict.begun.wait()
        tasks.cancel_scope.cancel()
    assert (await batcher.predict(Rows([[4.0]]))).tolist() == [[8.0]]
    predict.go.set()


async def test_who_shares_a_call_that_is_left_behind_is_told():
    hanging = threading.Event()
    begun = anyio.Event()

    def hang(rows: Rows) -> FloatArray:
        anyio.from_thread.run_sync(begun.set)
        hanging.wait(10)
        return np.zeros((rows.n_rows, 1))

    batcher = MicroBatcher(hang)
    first, second = anyio.CancelScope(), anyio.CancelScope()
    told: list[str] = []

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await batcher.predict(Rows([[1.0]]))
            except ModelUnavailable as exc:
                told.append(str(exc))

    async with anyio.create_task_group() as tasks:
        # The lock is held, so both stand in the queue before the first of them runs the call.
        async with batcher._turn:
            tasks.start_soon(ask, first)
            tasks.start_soon(ask, second)
            await anyio.wait_all_tasks_blocked()
        await begun.wait()
        first.cancel()
    hanging.set()
    assert told == ["the prediction took too long: try again"]


async def test_who_leaves_the_queue_is_not_scored():
    predict = Gated()
    batcher = MicroBatcher(predict)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.predict, Rows([[1.0]]))
        await predict.begun.wait()
        with anyio.move_on_after(0):
            await batcher.predict(Rows([[2.0]]))
        predict.go.set()
    assert predict.sizes == [1]


@pytest.mark.parametrize("n_requests", [1, 3])
async def test_unforeseen_errors_reach_their_request(n_requests):
    def broken(rows: Rows) -> FloatArray:
        raise ZeroDivisionError

    batcher = MicroBatcher(broken)
    for _ in range(n_requests):
        with pytest.raises(ZeroDivisionError):
            await batcher.predict(Rows([[1.0]]))
