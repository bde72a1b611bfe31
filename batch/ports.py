"""
What the engine asks of a store: bytes in, bytes out, and nothing of formats, rows or HTTP. Databases have rows instead.

An adapter is a module with the names of `Adapter`; nothing is inherited. Leaving ``open_output`` normally commits (a
rename, the end of a multipart upload); leaving it by an exception or a cancellation leaves nothing behind: no partial
object, no open upload, no temporary file.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from batch.settings import Credentials

Write = Callable[[bytes], Awaitable[None]]
"""Append these bytes; returns when more may be given."""
WriteRows = Callable[[Any], Awaitable[None]]
"""Append the rows of a ``pyarrow.Table``; returns when more may be given."""


@dataclass(frozen=True)
class SourceFile:
    """One stored object of an intake."""

    name: str
    """Its place below the intake's path; for messages, the format's suffix, and naming the output of a directory."""
    size: int | None
    version: str | None
    """ETag, generation, or size and time of change: different when the bytes are. Part of what a resume compares."""


class Intake(Protocol):
    """Stored bytes that can be read, from any place in them."""

    @property
    def files(self) -> Sequence[SourceFile]:
        """In name order, at least one."""
        ...

    def read(self, file: SourceFile, start: int = 0) -> AsyncIterator[bytes]:
        """
        The bytes of *file* from *start* on, as stored, in blocks of any size.

        Raises:
            IntakeError: it vanished, changed its version, or cannot be read.
        """
        ...

    async def read_range(self, file: SourceFile, start: int, length: int) -> bytes:
        """Exactly *length* bytes from *start*; raises `IntakeError` as `read` does, also where the file ends before."""
        ...


@runtime_checkable
class Output(Protocol):
    """A place that is filled in full or not at all."""

    @property
    def directory(self) -> bool:
        """Whether it takes many named files rather than one."""
        ...

    def local_path(self, name: str | None) -> Path | None:
        """
        Where that file will stand, if it is a file of this machine; None elsewhere.

        The engine then collects the file on the same file system and renames it there, instead of `open_file`.
        """
        ...

    def open_file(self, name: str | None) -> AbstractAsyncContextManager[Write]:
        """
        A file of the output, committed with the whole: *name* below the directory, None for a single file.

        Raises:
            OutputError: it cannot be written, on entering, writing or leaving.
        """
        ...


@runtime_checkable
class TableIntake(Protocol):
    """Rows with types, as a cursor brings them; there is no text that they were read from."""

    @property
    def files(self) -> Sequence[SourceFile]:
        """Exactly one, which stands for all rows; its name is for messages."""
        ...

    @property
    def schema(self) -> Any:
        """Names and types of its columns, a ``pyarrow.Schema``; of the types where there is no row."""
        ...

    def batches(self) -> AsyncGenerator[Any, None]:
        """
        All rows as ``pyarrow.RecordBatch``, of any length, none empty; called once.

        A continued run reads them again from the start and checks that they are the same in the same order.

        Raises:
            IntakeError: they cannot be read.
        """
        ...


class TableOutput(Protocol):
    """A table that takes all rows or none."""

    def open_table(self, run: str) -> AbstractAsyncContextManager[WriteRows]:
        """
        Takes rows with types and names, always the same names; leaving normally commits.

        A continued run gives all rows again from the first one. Those that the store has for good are then passed over:
        it keeps how many they are together with them, under the name *run*.

        Args:
            run: names this run and its continuations, and no other; empty: it is never continued.

        Raises:
            OutputError: they cannot be written, on entering, writing or leaving.
        """
        ...


class Leftovers(Protocol):
    """What a killed run of the same job may have left open in the store: ids of multipart uploads and the like."""

    @property
    def found(self) -> Sequence[str]:
        """What earlier runs noted, in order; the adapter ends these when its output is entered, if they still exist."""
        ...

    def note(self, token: str) -> None:
        """Remember *token*, on disk when this returns: before what it tells of is begun, or nobody would know of it."""
        ...


@dataclass(frozen=True)
class NothingLeft:
    """Where nothing is remembered: a job without state."""

    found: Sequence[str] = ()

    def note(self, token: str) -> None:
        """Forget it."""


NOTHING_LEFT: Final = NothingLeft()


class Adapter(Protocol):
    """A module that reaches one kind of store."""

    IntakeSettings: type[msgspec.Struct]
    """Its own keys of ``intake_settings``, snake_case, without ``type`` and ``format``."""
    OutputSettings: type[msgspec.Struct]

    def open_intake(self, settings: Any, credentials: Credentials) -> AbstractAsyncContextManager[Intake]:
        """
        The files that *settings* name; found and reachable when entered.

        Raises:
            IntakeError: no such file, no permission, wrong credentials; on entering, before any data moves.
            JobError: the operator allows no job to go there.
        """
        ...

    def open_output(
        self, settings: Any, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
    ) -> AbstractAsyncContextManager[Output]:
        """
        The place that *settings* name; seen to be writable when entered, without writing under its final name.

        Raises:
            OutputError: it cannot be written, or exists and may not be replaced.
            JobError: the operator allows no job to go there.
        """
        ...


class DatabaseAdapter(Protocol):
    """
    A module that reaches one kind of database; its keys are declared in `batch.databases`.

    *connection* is the job's ``jdbc_settings``. The rest is as `Adapter` has it.
    """

    def open_intake(
        self, settings: Any, connection: Any, credentials: Credentials
    ) -> AbstractAsyncContextManager[Intake | TableIntake]:
        """The rows that *settings* name, or files that they were unloaded to, in the format that the store says."""
        ...

    def open_output(
        self, settings: Any, connection: Any, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
    ) -> AbstractAsyncContextManager[TableOutput]:
        """The table that *settings* name; seen to be there, or that it can be made, when entered."""
        ...


@runtime_checkable
class StagedDatabase(DatabaseAdapter, Protocol):
    """A database whose rows may take their way through files in a cloud."""

    def open_unload(
        self, settings: Any, connection: Any, credentials: Credentials, leftovers: Leftovers, *, continues: bool
    ) -> AbstractAsyncContextManager[Intake | TableIntake]:
        """
        The files that the rows were unloaded to, removed on leaving, however it is left.

        Args:
            leftovers: of unloads, which are noted before the output's own.
            continues: read the files that a killed run left, if they are the whole of the same rows.
        """
        ...
