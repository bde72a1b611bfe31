"""
One file of the output while it grows.

Its bytes go to a spool first. On a local disk the spool lies beside the final name and is renamed to it in the end;
elsewhere the bytes go to the store at the same time, through what makes the stored file of them (gzip, Parquet). A
continued run replays the spool into a new file of the store, so nothing is scored again and the file is the same.
For a database the spool holds the rows with their types.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from anyio import to_thread

from batch.errors import OutputError
from batch.formats.streams import AsItIs, Finish
from batch.ports import Output, TableOutput, Write
from batch.spool import Spool
from batch.state import State


@dataclass
class Product:
    """A file that is written in order."""

    number: int
    name: str | None
    """Below an output that is a directory; None: the output itself."""
    spool: Spool
    state: State
    final: Path | None
    """Where the spool is renamed to; None: *write* takes the bytes."""
    write: Write | None = None
    finish: Finish = field(default_factory=AsItIs)

    async def stored(self, data: bytes) -> None:
        """Hand what was spooled to the store as well."""
        if self.write is not None and (made := self.finish.feed(data)):
            await self.write(made)

    async def close(self) -> None:
        """All is written: publish what is on this machine; a store publishes when its file is left."""
        await to_thread.run_sync(self.spool.sync)
        if self.write is not None and (made := self.finish.close()):
            await self.write(made)
        self.state.note({"publishing": self.number}, sync=True)
        if self.final is not None:
            await to_thread.run_sync(self._rename, self.final)

    def _rename(self, final: Path) -> None:
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            self.spool.path.rename(final)
            directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as exc:
            raise OutputError(f"{final}: {(exc.strerror or str(exc)).lower()}") from exc


@asynccontextmanager
async def open_product(
    output: Output | TableOutput,
    state: State,
    number: int,
    name: str | None,
    finish: Finish,
    partitions: Sequence[str] = (),
) -> AsyncIterator[Product]:
    """
    Product *number*, with all that an earlier run had of it; leaving normally publishes it.

    Args:
        partitions: columns that part it into many Parquet files of *output*; *finish* has nothing to do then.

    Raises:
        OutputError: it cannot be written.
    """
    done = state.done.get(number)
    final = _local_path(output, name) if isinstance(finish, AsItIs) and not partitions else None
    spool = Spool(state.spool_path(number), done.spool.length if done else 0)
    async with AsyncExitStack() as stack:
        stack.callback(spool.close)
        product = Product(number, name, spool, state, final, finish=finish)
        if final is None:
            product.write = await stack.enter_async_context(_opened(output, state, number, name, partitions))
            for block in spool.blocks():
                await product.stored(block)
        yield product
        await product.close()


def _local_path(output: Output | TableOutput, name: str | None) -> Path | None:
    return output.local_path(name) if isinstance(output, Output) else None


def _opened(
    output: Output | TableOutput, state: State, number: int, name: str | None, partitions: Sequence[str]
) -> AbstractAsyncContextManager[Write]:
    if not isinstance(output, Output):
        return _open_table(output, state, number)
    if not partitions:
        return output.open_file(name)
    from batch.partitions import open_partitions  # not before: pyarrow takes its time

    return open_partitions(output, state.directory / "partitions", partitions)


@asynccontextmanager
async def _open_table(output: TableOutput, state: State, number: int) -> AsyncIterator[Write]:
    """Takes blocks of rows; once they are in the table for good, the spool is no longer needed, nor ever replayed."""
    from batch.formats.parquet import Blocks  # not before: pyarrow takes its time

    blocks = Blocks()
    async with output.open_table(state.run) as write:

        async def stored(data: bytes) -> None:
            for table in blocks.tables(data):
                await write(table)

        yield stored
    state.spool_path(number).unlink(missing_ok=True)
