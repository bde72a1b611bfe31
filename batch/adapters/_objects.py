"""
What all object stores have in common: many objects under a prefix, reads in ranges, writes in parts.

A store is any object with the methods of `Store`; `open_intake` and `open_output` make of it what the engine asks for.
Foreign exceptions become ours here and nowhere else, with the object's address in front.
"""

import os
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Protocol, cast

import anyio
import anyio.lowlevel
from anyio import to_thread
from anyio.abc import TaskGroup

from batch.adapters._names import Selection
from batch.errors import BatchError, IntakeError, OutputError
from batch.ports import Intake, Leftovers, Output, SourceFile, Write
from batch.retries import RetryPolicy

_READ_AHEAD: Final = 4
"""Ranges in flight; with the one that is being used, these are the memory of a read."""
_CLEANING_SECONDS: Final = 30.0
_RETRIES: Final = RetryPolicy(tries=5, longest_delay=5.0)
"""For ranges whose body broke off; the clients themselves repeat what failed before that."""


@dataclass(frozen=True)
class Stored:
    """An object as the store describes it."""

    key: str
    size: int
    version: str | None


class Changed(Exception):
    """The object is another one than was found at first."""


class Upload(Protocol):
    """An object on its way; nothing of it can be seen before `finish`."""

    @property
    def part_bytes(self) -> int:
        """How long the next part must be."""
        ...

    async def send(self, part: bytes) -> None:
        """The next part; returns when another may be given."""
        ...

    async def finish(self, last: bytes) -> None:
        """The rest, shorter than a part and perhaps empty; then the object is there, whole."""
        ...

    async def abandon(self) -> None:
        """Forget everything sent."""
        ...


class Store(Protocol):
    """A bucket or container, through the client made for it; raises what that client raises."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the client may raise."""
        ...

    def url(self, key: str) -> str:
        """An address for messages; holds no secret."""
        ...

    def explain(self, exc: Exception) -> str:
        """One of `errors` in words; holds no secret."""
        ...

    def broke_off(self, exc: Exception) -> bool:
        """Whether an answer ended early, so that asking again is worthwhile."""
        ...

    async def find(self, key: str) -> Stored | None:
        """That object, if it is there."""
        ...

    def list(self, directory: str) -> AsyncIterator[Stored]:
        """Everything below *directory*, which ends in ``/`` or is empty."""
        ...

    async def fetch(self, stored: Stored, start: int, length: int) -> bytes:
        """A range of exactly this version; raises `Changed` where the client does not tell by itself."""
        ...

    async def check_writable(self, key: str) -> None:
        """Raise unless an object could be written there; leaves nothing that can be seen."""
        ...

    async def begin(self, key: str, tasks: TaskGroup, leftovers: Leftovers, *, replace: bool) -> Upload:
        """A new upload, noted in *leftovers* if a crash would leave something of it; parts may be sent by *tasks*."""
        ...

    async def end_leftovers(self, tokens: Sequence[str]) -> None:
        """Remove what killed runs noted, in that order, if it is still there."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object."""
        ...


@contextmanager
def translated(store: Store, key: str, error: type[BatchError]) -> Iterator[None]:
    """What the client raises, as *error* about the object."""
    try:
        yield
    except Changed as exc:
        raise error(f"{store.url(key)}: changed while it was read") from exc
    except store.errors as exc:
        raise error(f"{store.url(key)}: {store.explain(exc)}") from exc


@asynccontextmanager
async def background() -> AsyncIterator[TaskGroup]:
    """Tasks that are stopped at the end of the block; an error of the block leaves as it is, not within a group."""
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        raise first from first.__cause__


@asynccontextmanager
async def open_intake(store: Store, text: str, part_bytes: int) -> AsyncIterator[Intake]:
    """The objects that *text* names, read in ranges of *part_bytes*."""
    selection = Selection(text)
    with translated(store, text, IntakeError):
        found = sorted(await _found(store, selection), key=lambda stored: stored.key)
    if not found:
        what = "holds no objects" if selection.is_directory else "no such object"
        raise IntakeError(f"{store.url(text)}: {what}")
    async with background() as tasks:
        yield _Objects(store, {selection.relative(stored.key): stored for stored in found}, part_bytes, tasks)


async def names_below(store: Store, directory: str) -> list[str]:
    """Keys of all objects below *directory*, without opening any."""
    with translated(store, directory, IntakeError):
        return sorted([stored.key async for stored in store.list(directory)])


async def remove_below(store: Store, directory: str) -> None:
    """Remove all objects below *directory*, which ends in ``/``; raises `OutputError`."""
    with translated(store, directory, OutputError):
        for key in [stored.key async for stored in store.list(directory)]:
            await store.delete(key)


async def _found(store: Store, selection: Selection) -> Sequence[Stored]:
    if not selection.is_directory and (stored := await store.find(selection.text)):
        return [stored]
    if not selection.is_directory and not selection.is_pattern:
        # also tells a missing object from a missing bucket
        async for stored in store.list(f"{selection.text}/"):
            raise IntakeError(
                f"{store.url(selection.text)}: no such object, but {stored.key} is there; "
                "with '/' at its end, everything below is read"
            )
        return []
    return [stored async for stored in store.list(selection.stem) if selection.includes(stored.key)]


@dataclass
class _Range:
    """Bytes that were asked for and will come."""

    fetch: Callable[[], Awaitable[bytes]]
    came: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    data: bytes = b""
    error: BatchError | None = None

    async def run(self) -> None:
        """Keeps the error for `result`: it belongs to whoever reads, not to the task."""
        with self.scope:
            try:
                self.data = await self.fetch()
            except BatchError as exc:
                self.error = exc
            self.came.set()

    async def result(self) -> bytes:
        await self.came.wait()
        if self.error is not None:
            raise self.error
        return self.data


@dataclass(frozen=True)
class _Objects:
    """What `open_intake` gives."""

    store: Store
    found: dict[str, Stored]
    part_bytes: int
    tasks: TaskGroup

    @property
    def files(self) -> Sequence[SourceFile]:
        """In name order."""
        return [SourceFile(name, stored.size, stored.version) for name, stored in self.found.items()]

    async def read(self, file: SourceFile, start: int = 0) -> AsyncIterator[bytes]:
        """One range after the other, some of them under way at once."""
        stored = self.found[file.name]
        starts = iter(range(start, stored.size, self.part_bytes))
        ahead: deque[_Range] = deque()
        try:
            while True:
                while len(ahead) < _READ_AHEAD and (at := next(starts, None)) is not None:
                    ahead.append(self._ask(file, at, min(self.part_bytes, stored.size - at)))
                if not ahead:
                    return
                yield await ahead.popleft().result()
        finally:
            for late in ahead:
                late.scope.cancel()

    def _ask(self, file: SourceFile, start: int, length: int) -> _Range:
        asked = _Range(lambda: self.read_range(file, start, length))
        self.tasks.start_soon(asked.run)
        return asked

    async def read_range(self, file: SourceFile, start: int, length: int) -> bytes:
        """Exactly these bytes."""
        stored = self.found[file.name]
        if length <= 0:
            return b""
        data, ends_at = b"", stored.size
        if start + length <= stored.size:
            with translated(self.store, stored.key, IntakeError):
                data = await self._fetch(stored, start, length)
            ends_at = start + len(data)
        if len(data) != length:
            raise IntakeError(f"{self.store.url(stored.key)}: ends at byte {ends_at}, before it should")
        return data

    async def _fetch(self, stored: Stored, start: int, length: int) -> bytes:
        tried = 0
        while True:
            tried += 1
            try:
                return await self.store.fetch(stored, start, length)
            except self.store.errors as exc:
                if not (self.store.broke_off(exc) and _RETRIES.allows(None, tried)):
                    raise
                await anyio.sleep(_RETRIES.delay(tried))


@asynccontextmanager
async def open_output(store: Store, text: str, leftovers: Leftovers, *, replace: bool) -> AsyncIterator[Output]:
    """An object, or many in a directory; all become visible on leaving, none on leaving by an exception."""
    output = _Uploads(store, text, leftovers, replace)
    try:
        async with background() as output.tasks:
            await output.begin()
            yield output
            await output.commit()
    finally:
        with anyio.move_on_after(_CLEANING_SECONDS, shield=True):
            await output.clean()


@dataclass
class _File:
    """One object of an output, cut into parts."""

    upload: Upload
    sent: int = 0
    rest: bytearray = field(default_factory=bytearray)
    ending: "tuple[int, int] | None" = None
    """Where the rest is kept until the commit."""

    async def write(self, data: bytes) -> None:
        """Send all whole parts."""
        self.rest += data
        self.sent += len(data)
        while len(self.rest) >= (wanted := self.upload.part_bytes):
            part = bytes(self.rest[:wanted])
            del self.rest[:wanted]
            await self.upload.send(part)


@dataclass
class _Uploads:
    """What `open_output` gives."""

    store: Store
    text: str
    leftovers: Leftovers
    replace: bool
    tasks: TaskGroup = field(init=False)
    files: dict[str, _File] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    endings: "_Endings" = field(default_factory=lambda: _Endings())

    @property
    def directory(self) -> bool:
        """Whether many objects are taken."""
        return Selection(self.text).is_directory

    def local_path(self, name: str | None) -> None:
        """It is elsewhere."""

    async def begin(self) -> None:
        """Remove what a killed run left, and see that the place takes an object."""
        with translated(self.store, self.text, OutputError):
            await self.store.end_leftovers(self.leftovers.found)
        if self.directory:
            key = f"{self.text}part-00000"
        else:
            key = self.text
            await self._check_free(key)
        with translated(self.store, key, OutputError):
            await self.store.check_writable(key)

    async def _check_free(self, key: str) -> None:
        if self.replace:
            return
        with translated(self.store, key, OutputError):
            stored = await self.store.find(key)
        if stored is not None:
            raise OutputError(f'{self.store.url(key)}: exists; "write_mode": "overwrite" would replace it')

    @asynccontextmanager
    async def open_file(self, name: str | None) -> AsyncIterator[Write]:
        """Bytes to that object's upload."""
        key = self.text if name is None else f"{self.text}{name}"
        if key in self.files:
            raise OutputError(f"{self.store.url(key)}: is written twice")
        if name is not None:
            await self._check_free(key)
        with translated(self.store, key, OutputError):
            with anyio.CancelScope(shield=True):  # an upload that was begun must be known here
                file = _File(await self.store.begin(key, self.tasks, self.leftovers, replace=self.replace))
                self.files[key] = file
        yield lambda data: self._write(key, file, data)
        if self.directory:  # the ends of many files would add up
            file.ending = await self.endings.keep(bytes(file.rest))
            file.rest.clear()

    async def _write(self, key: str, file: _File, data: bytes) -> None:
        with translated(self.store, key, OutputError):
            await file.write(data)

    async def commit(self) -> None:
        """Publish one object after the other; none of them is left half done by a cancellation."""
        for key, file in list(self.files.items()):
            rest = bytes(file.rest) if file.ending is None else await self.endings.take(*file.ending)
            with translated(self.store, key, OutputError), anyio.CancelScope(shield=True):
                await self._check_free(key)  # not every store does that by itself
                await file.upload.finish(rest)
                del self.files[key]
                self.published.append(key)
                stored = await self.store.find(key)
            if stored is None or stored.size != file.sent:
                size = "nothing" if stored is None else f"{stored.size} bytes"
                raise OutputError(f"{self.store.url(key)}: {file.sent} bytes were sent, but the store holds {size}")
            await anyio.lowlevel.checkpoint_if_cancelled()
        self.published.clear()

    async def clean(self) -> None:
        """Forget what was not published; take back what was, if some was not and none of it was there before."""
        self.endings.close()
        for file in self.files.values():
            with suppress(*self.store.errors):
                await file.upload.abandon()
        for key in self.published if not self.replace else ():
            with suppress(*self.store.errors):
                await self.store.delete(key)


class _Endings:
    """The ends of files, each shorter than a part, on local disk until the whole is committed."""

    def __init__(self) -> None:
        self._kept: BinaryIO | None = None

    async def keep(self, data: bytes) -> tuple[int, int]:
        """Where it is kept."""
        return await to_thread.run_sync(self._append, data)

    def _append(self, data: bytes) -> tuple[int, int]:
        if self._kept is None:
            self._kept = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - has no name, ends with the process
        start = self._kept.seek(0, os.SEEK_END)
        self._kept.write(data)
        return start, len(data)

    async def take(self, start: int, length: int) -> bytes:
        """What was kept there."""
        return await to_thread.run_sync(self._read, start, length)

    def _read(self, start: int, length: int) -> bytes:
        assert self._kept is not None
        self._kept.seek(start)
        return self._kept.read(length)

    def close(self) -> None:
        """Free the disk."""
        if self._kept is not None:
            self._kept.close()
