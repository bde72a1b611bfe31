"""
One prediction, from a body to an answer, without HTTP.

Small bodies are read, scored and written on the event loop, where a hop to a thread would cost more than the work; a
slow model's small requests share calls on a thread. Everything else runs block by block on a worker thread: one thread
at a time reads (a parsed body is many times its bytes), a few score, and only predictions and kept columns stay behind.
All rows are read and scored before the first byte of the answer, so a bad last row is an error and not half an answer.
"""

import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from starlette.requests import ClientDisconnect

from model_repository.charsets import utf8_of
from model_repository.csv_codec import SMALL_BODY, CsvReader
from model_repository.errors import ModelUnavailable, UnknownPassthroughColumns, UnscorableValue
from model_repository.json_codec import JsonReader
from model_repository.kept import KeptColumns
from model_repository.predictions import Keep, ScoringOptions, Target
from model_repository.repository import Model
from model_repository.tables import FloatArray, Rows, Schema, Table
from prediction_api.microbatch import MicroBatcher
from prediction_api.negotiation import Answer, BodyForm
from prediction_api.writers import CsvWriter, JsonWriter

ONE_PIECE_ROWS: Final = 16_384
"""Answers of at most this many rows are sent whole, with their length; longer ones are streamed."""
CHECKED_ROWS: Final = 8192
"""A column may be made of many blocks, where slices are fast and single values are not."""

T = TypeVar("T")
Kept = dict[str, Sequence[Any]]
Left = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be scored, and how it is to be answered."""

    data: bytes | bytearray
    form: BodyForm
    answer: Answer
    options: ScoringOptions

    def rows(self, codecs: "Codecs", keep: Keep) -> Rows:
        """All of it, for small bodies."""
        if self.form.kind == "json":
            return codecs.json_reader.rows(self._json(), keep)
        return codecs.csv_reader.rows(self.data, keep, self.form.encoding)

    def tables(self, codecs: "Codecs", keep: Keep) -> Iterator[Table]:
        """All of it, block by block."""
        if self.form.kind == "json":
            return codecs.json_reader.tables(self._json(), keep)
        return codecs.csv_reader.tables(self.data, keep, self.form.encoding)

    def _json(self) -> bytes | bytearray:
        """JSON is UTF-8; where the client says that it wrote something else, it is recoded."""
        if self.form.encoding == "utf-8":
            return self.data
        return bytes(utf8_of(self.data, self.form.encoding))


class Codecs:
    """What reads tables for one model and writes its predictions: made when first needed, gone with the model."""

    def __init__(self, schema: Schema, target: Target) -> None:
        self._schema = schema
        self._target = target

    @cached_property
    def json_reader(self) -> JsonReader:
        """Of bodies."""
        return JsonReader(self._schema)

    @cached_property
    def csv_reader(self) -> CsvReader:
        """Of bodies."""
        return CsvReader(self._schema)

    @cached_property
    def json_writer(self) -> JsonWriter:
        """Of answers."""
        return JsonWriter(self._target)

    @cached_property
    def csv_writer(self) -> CsvWriter:
        """Of answers."""
        return CsvWriter(self._target)


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer, whole or in pieces."""

    n_rows: int
    content: bytes | Iterator[bytes]


@dataclass(frozen=True)
class Lanes:
    """What all models of a worker share: how much may be read and scored at once."""

    scoring: anyio.CapacityLimiter
    """Threads for large bodies."""
    reading: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def for_worker(cls, workers: int = 1) -> "Lanes":
        """As many threads as one of so many workers has cores for; at least two: one reads while one scores."""
        cores = len(os.sched_getaffinity(0))
        return cls(anyio.CapacityLimiter(max(2, cores // workers)))


@dataclass(frozen=True, slots=True)
class AssociationId:
    """A column that every row must have a value in."""

    column: str

    def check(self, kept: Kept) -> None:
        """
        Raises:
            UnscorableValue: the column is not there, or is empty in a row.
        """
        values = kept.get(self.column)
        if values is None:
            raise UnscorableValue(self.column, None, "the association id is missing")
        for start in range(0, len(values), CHECKED_ROWS):
            part = values[start : start + CHECKED_ROWS]
            row = next((row for row, value in enumerate(part, start) if value is None or value == ""), None)
            if row is not None:
                raise UnscorableValue(self.column, row, "the association id is missing")


class Scorer:
    """Scores with one model."""

    def __init__(
        self, model: Model, lanes: Lanes, *, association: AssociationId | None = None, timeout: float = 60.0
    ) -> None:
        self._model = model
        self._codecs = Codecs(Schema(tuple(model.manifest.inputs)), model.manifest.target)
        self._lanes = lanes
        self._association = association
        self._timeout = timeout
        self._inline = model.path == "compiled"
        self._batcher = MicroBatcher(model.runtime.predict_rows)

    async def score(self, order: Order, left: Left) -> Scored:
        """
        The answer to *order*.

        Args:
            left: returns when the client leaves; the work ends then.

        Raises:
            RequestError: the body or a value in it cannot be scored.
            ScoringFailed: the model raised.
            ModelUnavailable: the work took longer than the time limit.
            ClientDisconnect: nobody waits for the answer any more.
        """
        if len(order.data) <= SMALL_BODY and self._inline:
            rows = self._rows(order)
            return self._answer_rows(order, rows, self._model.runtime.predict_rows(rows))
        try:
            with anyio.fail_after(self._timeout):
                if len(order.data) <= SMALL_BODY:
                    rows = self._rows(order)
                    return self._answer_rows(order, rows, await self._batcher.predict(rows))
                return await unless_left(lambda stop: self._score_table(order, stop), left, self._lanes.scoring)
        except TimeoutError:
            raise ModelUnavailable(f"the prediction took longer than {self._timeout:g} s") from None

    def _rows(self, order: Order) -> Rows:
        if self._association is None:
            rows = order.rows(self._codecs, order.options.keep)
        else:
            with self._associated(order):
                rows = order.rows(self._codecs, self._keep(order))
        rows.kept = self._kept(order, rows.kept)
        return rows

    def _answer_rows(self, order: Order, rows: Rows, values: FloatArray) -> Scored:
        return Scored(rows.n_rows, b"".join(self._pieces(order, values, rows.kept)))

    def _score_table(self, order: Order, stop: threading.Event) -> Scored:
        """Block by block, on a worker thread."""
        blocks: list[FloatArray] = []
        kept = KeptColumns()
        n_rows = 0
        tables = self._tables(order, stop)
        for table in tables:
            try:
                blocks.append(self._predicted(table, n_rows))
            except UnscorableValue:
                for _ in tables:  # what is wrong with the body as a whole goes first, as in a small one
                    pass
                raise
            n_rows += table.n_rows
            kept.add(table.n_rows, table.kept)
        pieces = self._pieces(order, np.concatenate(blocks), self._kept(order, kept.columns()))
        return Scored(n_rows, b"".join(pieces) if n_rows <= ONE_PIECE_ROWS else pieces)

    def _tables(self, order: Order, stop: threading.Event) -> Iterator[Table]:
        """The blocks of a large body; only one thread of the worker reads at a time, the others score or wait."""
        with self._associated(order):
            tables = order.tables(self._codecs, self._keep(order))
            while not stop.is_set():
                with self._lanes.reading:
                    table = next(tables, None)
                if table is None:
                    return
                yield table
        raise ClientDisconnect

    def _predicted(self, table: Table, first_row: int) -> FloatArray:
        try:
            return self._model.runtime.predict(table)
        except UnscorableValue as exc:
            if exc.row is None:
                raise
            raise UnscorableValue(exc.column, first_row + exc.row, exc.problem) from exc

    def _pieces(self, order: Order, values: FloatArray, kept: Kept) -> Iterator[bytes]:
        writer = self._codecs.json_writer if order.answer == "json" else self._codecs.csv_writer
        return writer.chunks(values, order.options, kept)

    def _keep(self, order: Order) -> Keep:
        """What to read beside the features: what was asked for, and the association id."""
        keep = order.options.keep
        if self._association is None or keep == "all" or self._association.column in keep:
            return keep
        return (*keep, self._association.column)

    def _kept(self, order: Order, kept: Kept) -> Kept:
        """What was asked for, after the association id was looked at."""
        if self._association is None:
            return kept
        self._association.check(kept)
        keep = order.options.keep
        return kept if keep == "all" else {name: kept[name] for name in keep}

    @contextmanager
    def _associated(self, order: Order) -> Iterator[None]:
        """An association column that is not there is its own error, not one of passthrough."""
        try:
            yield
        except UnknownPassthroughColumns as exc:
            asked = [name for name in exc.unknown if name in order.options.keep]
            if asked or self._association is None:
                raise UnknownPassthroughColumns(asked) from None
            raise UnscorableValue(self._association.column, None, "the association id is missing") from None


async def unless_left(work: Callable[[threading.Event], T], left: Left, limiter: anyio.CapacityLimiter) -> T:
    """
    What *work* returns, on a thread; it is told to stop when the client leaves or the caller is cancelled.

    Raises:
        ClientDisconnect: the client left first.
    """
    stop = threading.Event()
    result: list[T] = []
    failure: list[Exception] = []

    async def watch() -> None:
        await left()
        tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            try:
                result.append(await anyio.to_thread.run_sync(work, stop, abandon_on_cancel=True, limiter=limiter))
            except Exception as exc:  # raised below: a task group would wrap it
                failure.append(exc)
            tasks.cancel_scope.cancel()
    finally:
        stop.set()
    if failure:
        raise failure[0]
    if not result:
        raise ClientDisconnect
    return result[0]
