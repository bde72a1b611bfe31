"""
Files on their way between a database and the engine, in a store that both of them reach.

What a job puts there lies in a directory of its own, and goes with it: at the end, after a failure, and after a crash
when the job is run again.
"""

import hashlib
import secrets
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote

import anyio
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
from anyio import to_thread

from batch.errors import AdapterUnavailable, BatchError, OutputError
from batch.logs import LOG
from batch.ports import Intake, Leftovers, Output, SourceFile, Write
from batch.settings import Credentials

ROOT: Final = "prediction-api"
"""All that jobs leave in a store lies below."""
_PART_BYTES: Final = 192 * 1024 * 1024
"""Of text in one file that is loaded; several are loaded at once."""
_CLEANING_SECONDS: Final = 60.0
_MODULES: Final[Mapping[str, tuple[str, str]]] = {
    "s3": ("batch.adapters.s3", "s3"),
    "azure": ("batch.adapters.azure", "azure"),
    "gcp": ("batch.adapters.gcs", "gcs"),
}
"""Kind of store -> module, and the extra that has its client."""


@dataclass(frozen=True)
class ColumnTypes:
    """A database's words for columns that take values of Arrow types exactly."""

    boolean: str
    integer: str
    floating: str
    decimal: str
    """Precision and scale, as far as 38 digits, are written behind it."""
    timestamp: str
    zoned: str
    """A timestamp with a time zone."""
    time: str
    text: str
    """Whatever is none of these."""

    def of(self, kind: pa.DataType) -> str:
        """The word for one type."""
        if pa.types.is_boolean(kind):
            return self.boolean
        if pa.types.is_integer(kind):
            return self.integer
        if pa.types.is_floating(kind):
            return self.floating
        if pa.types.is_decimal(kind) and kind.precision <= 38:
            return f"{self.decimal}({kind.precision}, {kind.scale})"
        if pa.types.is_date(kind):
            return "DATE"
        if pa.types.is_timestamp(kind):
            return self.timestamp if kind.tz is None else self.zoned
        return self.time if pa.types.is_time(kind) else self.text


@dataclass(frozen=True)
class Depot:
    """A directory of a store, by the address that its own adapter knows."""

    kind: str
    url: str
    """Ends in ``/``."""
    credentials: Credentials

    def _module(self) -> Any:
        module, extra = _MODULES[self.kind]
        try:
            return import_module(module)
        except ModuleNotFoundError as exc:
            raise AdapterUnavailable(
                f"a stage on {self.kind} needs {exc.name}, which is not installed: "
                f"pip install 'portable-prediction-server[{extra}]'"
            ) from exc

    def intake(self, place: str) -> AbstractAsyncContextManager[Intake]:
        """The files below *place*."""
        module = self._module()
        opened: AbstractAsyncContextManager[Intake] = module.open_intake(
            module.IntakeSettings(url=f"{self.url}{place}"), self.credentials
        )
        return opened

    def output(self, place: str, leftovers: Leftovers) -> AbstractAsyncContextManager[Output]:
        """New files below *place*, there when it is left."""
        module = self._module()
        opened: AbstractAsyncContextManager[Output] = module.open_output(
            module.OutputSettings(url=f"{self.url}{place}"), self.credentials, leftovers
        )
        return opened

    async def names(self, place: str) -> list[str]:
        """The files below *place*."""
        module = self._module()
        found: list[str] = await module.names_below(module.IntakeSettings(url=f"{self.url}{place}"), self.credentials)
        return found

    async def remove(self, place: str) -> None:
        """Remove everything below *place*; what cannot be removed is told, and no reason to fail."""
        module = self._module()
        with anyio.move_on_after(_CLEANING_SECONDS, shield=True):
            try:
                await module.remove_below(module.OutputSettings(url=f"{self.url}{place}"), self.credentials)
            except BatchError as exc:
                LOG.warning("files of the job are left in the stage: %s", exc)


def fresh_place(run: str = "") -> str:
    """A directory below `ROOT` for one run."""
    return f"{ROOT}/{run or secrets.token_hex(16)}/"


def percent_encoded(path: str) -> str:
    """A path as it stands in a URL, whether it was encoded before or not."""
    return quote(unquote(path))


@dataclass(frozen=True)
class Marked:
    """The notes of one kind among those of a job, so that nobody takes those of others for his own."""

    leftovers: Leftovers
    kind: str

    @property
    def found(self) -> Sequence[str]:
        """As they were noted."""
        start = f"{self.kind} "
        return [token.removeprefix(start) for token in self.leftovers.found if token.startswith(start)]

    def note(self, token: str) -> None:
        """On disk when this returns."""
        self.leftovers.note(f"{self.kind} {token}")


@dataclass(frozen=True)
class NoRows:
    """An unload of nothing, which leaves no file."""

    name: str
    schema: pa.Schema

    @property
    def files(self) -> Sequence[SourceFile]:
        """The result that is empty."""
        return [SourceFile(self.name, None, None)]

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """None."""
        return
        yield


@dataclass(frozen=True)
class Unload:
    """The files that a database writes for a job to read."""

    depot: Depot
    leftovers: Leftovers
    sql: str
    """What is unloaded: files of another statement are not read."""

    @asynccontextmanager
    async def files(self, *, continues: bool) -> AsyncIterator[str]:
        """
        Where they are or will be; removed in the end, as are those of killed runs.

        Args:
            continues: keep what a killed run left, if it is the whole of the same rows.
        """
        kept = self._whole() if continues else None
        for place in {token.split()[1] for token in self._notes.found} - {kept}:
            await self.depot.remove(place)
        place = kept or fresh_place()
        self._notes.note(f"begun {place}")
        try:
            yield place
        finally:
            await self.depot.remove(place)

    @asynccontextmanager
    async def read(
        self, place: str, unload: Callable[[], Awaitable[int]], nothing: NoRows
    ) -> AsyncIterator[Intake | NoRows]:
        """
        The files at *place*.

        Args:
            unload: writes them, unless they are there; tells the number of rows.
            nothing: instead of them, where there are no rows.
        """
        if place != self._whole() or not await self.depot.names(place):
            if not await unload():
                yield nothing
                return
            self._notes.note(f"whole {place} {self._digest}")
        async with self.depot.intake(place) as intake:
            yield intake

    def _whole(self) -> str | None:
        """The place of the last unload of the same rows that was completed."""
        words = [token.split() for token in self._notes.found]
        places = [rest[0] for word, *rest in words if word == "whole" and rest[1] == self._digest]
        return places[-1] if places else None

    @property
    def _notes(self) -> "Marked":
        return Marked(self.leftovers, "unload")

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class OpenFile(Protocol):
    """Opens a new file of that name."""

    def __call__(self, name: str) -> AbstractAsyncContextManager[Write]:
        """Bytes for it."""
        ...


@dataclass
class Parts:
    """Rows as compressed CSV files that a database can load: values in quotes, nothing for null, no header."""

    open_file: OpenFile
    columns: Sequence[str] = ()
    schema: pa.Schema | None = None
    rows: int = 0
    _number: int = 0
    _size: int = 0
    _write: Write | None = None
    _zip: Any = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def add(self, table: pa.Table) -> None:
        """Append rows; a table without any says only which columns there are, and makes no file."""
        if self.schema is None:
            self.schema = table.schema
            self.columns = list(table.schema.names)
        if not table.num_rows:
            return
        text = await to_thread.run_sync(csv_of, table)
        if self._write is None:
            await self._open()
        assert self._write is not None
        await self._write(await to_thread.run_sync(self._zip.compress, text))
        self.rows += table.num_rows
        self._size += len(text)
        if self._size >= _PART_BYTES:
            await self.close()

    async def _open(self) -> None:
        self._write = await self._stack.enter_async_context(self.open_file(f"part-{self._number:05d}.csv.gz"))
        self._zip = zlib.compressobj(1, wbits=zlib.MAX_WBITS + 16)
        self._number += 1
        self._size = 0

    async def close(self) -> None:
        """The end of the file that is open, if any is."""
        if self._write is None:
            return
        await self._write(self._zip.flush())
        self._write = None
        await self._stack.aclose()

    async def __aenter__(self) -> "Parts":
        return self

    async def __aexit__(self, *raised: Any) -> None:
        if raised[0] is None:
            await self.close()
        else:
            await self._stack.__aexit__(*raised)


_STYLE: Final = arrow_csv.WriteOptions(include_header=False, quoting_style="all_valid")


def csv_of(table: pa.Table) -> bytes:
    """Rows as lines."""
    sink = pa.BufferOutputStream()
    columns = [_writable(column) for column in table.columns]
    arrow_csv.write_csv(pa.table(columns, names=table.column_names), sink, _STYLE)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _writable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return pc.cast(column, column.type.value_type)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.chunked_array([[None if value is None else str(value) for value in column.to_pylist()]], pa.string())
    return column


def matched(columns: Sequence[str], into: Sequence[str], table: str) -> list[str]:
    """
    For each of *columns* the column of a table that takes it: the same name, or the only one but for the case.

    Raises:
        OutputError: there is none, or two take the same.
    """
    by_name = {name: name for name in into}
    by_lower: dict[str, list[str]] = {}
    for name in into:
        by_lower.setdefault(name.lower(), []).append(name)
    found = [by_name.get(name) or _only(by_lower.get(name.lower(), [])) for name in columns]
    if missing := [name for name, match in zip(columns, found, strict=True) if match is None]:
        raise OutputError(
            f"{table}: has no column for {', '.join(map(repr, missing))}; "
            "rename or remove them with column_names_remapping"
        )
    names = [match for match in found if match is not None]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise OutputError(f"{table}: two columns of the output would go into {', '.join(map(repr, twice))}")
    return names


def _only(names: Sequence[str]) -> str | None:
    return names[0] if len(names) == 1 else None
