"""Chunks through the server, several at once, and out again in their order."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import anyio

from batch.reorder import ReorderBuffer

C = TypeVar("C")
R = TypeVar("R")


async def run_pipeline(
    chunks: AsyncIterator[C],
    score: Callable[[C], Awaitable[R]],
    write: Callable[[C, R], Awaitable[None]],
    *,
    concurrency: int,
) -> None:
    """
    Score every chunk and write the results in the order of the chunks.

    A chunk takes a place when it is read and frees it when it is written, so at most *concurrency* and two more are in
    memory, however slow any of them is. The first failure cancels all the others.
    """
    places = anyio.Semaphore(concurrency + 2)
    scorers = anyio.CapacityLimiter(concurrency)
    send, receive = anyio.create_memory_object_stream[tuple[int, C, R]](concurrency + 2)

    async def score_one(number: int, chunk: C) -> None:
        async with scorers:
            result = await score(chunk)
        await send.send((number, chunk, result))

    async def start_scoring() -> None:
        number = 0
        async with send, anyio.create_task_group() as scoring:
            await places.acquire()
            async for chunk in chunks:
                scoring.start_soon(score_one, number, chunk)
                number += 1
                await places.acquire()

    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(start_scoring)
        buffer = ReorderBuffer[tuple[C, R]]()
        async for number, chunk, result in receive:
            for due_chunk, due in buffer.push(number, (chunk, result)):
                await write(due_chunk, due)
                places.release()
