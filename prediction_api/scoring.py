"""
One prediction, from a body to an answer, without HTTP.

Small bodies are read, scored and written on the event loop, where a hop to a thread would cost more than the work; a
slow model's small requests share calls on a thread. Everything else, and whatever asks for explanations, runs block by
block on a worker thread: one thread at a time reads (a parsed body is many times its bytes), a few score and explain,
and only predictions, explanations and kept columns stay behind.
All rows are read and scored before the first byte of the answer, so a bad last row is an error and not half an answer.
"""

import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from starlette.requests import ClientDisconnect

from model_repository.charsets import utf8_of
from model_repository.csv_codec import SMALL_BODY, CsvReader
from model_repository.errors import MissingColumns, ModelUnavailable, UnknownPassthroughColumns, UnscorableValue
from model_repository.json_codec import JsonReader
from model_repository.kept import KeptColumns
from model_repository.predictions import Keep, ScoringOptions, Target
from model_repository.repository import Model
from model_repository.tables import FloatArray, Rows, Schema, Table
from prediction_api.accompaniment import Accompaniment
from prediction_api.explanation_columns import ExplanationTexts
from prediction_api.microbatch import MicroBatcher
from prediction_api.negotiation import Answer, BodyForm
from prediction_api.pieces import USUAL_PIECES, Beside
from prediction_api.writers import CsvWriter, JsonWriter

ONE_PIECE_ROWS: Final = 16_384
"""Answers of at most this many rows are sent whole, with their length; longer ones, and fewer with more in each, are
streamed."""
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

    @classmethod
    def of(cls, n_rows: int, pieces: Iterator[bytes], beside: Sequence[Beside]) -> "Scored":
        """Whole if it is short."""
        n_cells = n_rows + sum(one.n_pieces for one in beside) * n_rows // USUAL_PIECES
        return cls(n_rows, b"".join(pieces) if n_cells <= ONE_PIECE_ROWS else pieces)


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

    @cached_property
    def _explanation_texts(self) -> ExplanationTexts:
        """Of what the model takes, which of a time series is derived from what the request has."""
        return ExplanationTexts(self._model.manifest.schema, self._model.manifest.target)

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
        plain = order.options.explain is None and not order.options.adjusted
        if len(order.data) <= SMALL_BODY and self._inline and plain:
            rows = self._rows(order)
            return self._answer_rows(order, rows, self._model.runtime.predict_rows(rows))
        try:
            with anyio.fail_after(self._timeout):
                if len(order.data) <= SMALL_BODY and plain:
                    rows = self._rows(order)
                    return self._answer_rows(order, rows, await self._batcher.predict(rows))
                return await unless_left(lambda stop: self._score_table(order, stop), left, self._lanes.scoring)
        except TimeoutError:
            raise ModelUnavailable(f"the prediction took longer than {self._timeout:g} s") from None

    def _rows(self, order: Order) -> Rows:
        if self._association is None:
            return order.rows(self._codecs, order.options.keep)
        with self._reading(order):
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
        more = Accompaniment(self._model, order.options)
        proceed = partial(_proceed, stop)
        blocks_of_body = self._blocks(order, stop)
        for block in blocks_of_body:
            try:
                values = self._predicted(block, n_rows)
            except UnscorableValue:
                for _ in blocks_of_body:  # what is wrong with the body as a whole goes first, as in a small one
                    pass
                raise
            more.add(block, values, proceed)
            blocks.append(values)
            n_rows += block.n_rows
            kept.add(block.n_rows, block.kept)
        values, columns = np.concatenate(blocks), kept.columns()
        beside = more.beside(order.answer, self._explanation_texts, values, columns)
        return Scored.of(n_rows, self._pieces(order, values, self._kept(order, columns), beside), beside)

    def _blocks(self, order: Order, stop: threading.Event) -> Iterator[Rows | Table]:
        """A small body is one block, read and scored as without explanations, so that predictions are the same."""
        if len(order.data) > SMALL_BODY:
            yield from self._tables(order, stop)
        else:
            _proceed(stop)
            with self._reading(order):
                rows = order.rows(self._codecs, self._keep(order))
            yield rows

    def _tables(self, order: Order, stop: threading.Event) -> Iterator[Table]:
        """The blocks of a large body; only one thread of the worker reads at a time, the others score or wait."""
        with self._reading(order):
            tables = order.tables(self._codecs, self._keep(order))
            while True:
                _proceed(stop)
                with self._lanes.reading:
                    table = next(tables, None)
                if table is None:
                    return
                yield table

    def _predicted(self, block: Rows | Table, first_row: int) -> FloatArray:
        runtime = self._model.runtime
        try:
            return runtime.predict(block) if isinstance(block, Table) else runtime.predict_rows(block)
        except UnscorableValue as exc:
            if exc.row is None:
                raise
            raise UnscorableValue(exc.column, first_row + exc.row, exc.problem) from exc

    def _pieces(self, order: Order, values: FloatArray, kept: Kept, beside: Sequence[Beside] = ()) -> Iterator[bytes]:
        writer = self._codecs.json_writer if order.answer == "json" else self._codecs.csv_writer
        return writer.chunks(values, order.options, kept, beside)

    def _keep(self, order: Order) -> Keep:
        """What to read beside the features: what was asked for, the association id, and the exposure."""
        keep = order.options.keep
        if keep == "all":
            return keep
        wanted = [self._association.column] if self._association is not None else []
        if exposure := self._exposure(order):
            wanted.append(exposure)
        return (*keep, *(column for column in wanted if column not in keep))

    def _exposure(self, order: Order) -> str | None:
        """The column of the exposure, if it is needed and no feature."""
        exposure = self._model.manifest.exposure if order.options.adjusted else None
        return None if exposure in self._model.manifest.schema.names else exposure

    def _kept(self, order: Order, kept: Kept) -> Kept:
        """What was asked for, after the association id was looked at."""
        if self._association is not None:
            self._association.check(kept)
        keep = order.options.keep
        return kept if keep == "all" else {name: kept[name] for name in keep}

    @contextmanager
    def _reading(self, order: Order) -> Iterator[None]:
        """Columns of ours that are not there are errors of their own, and not of passthrough."""
        try:
            yield
        except UnknownPassthroughColumns as exc:
            asked = [name for name in exc.unknown if name in order.options.keep]
            if asked:
                raise UnknownPassthroughColumns(asked) from None
            exposure = self._exposure(order)
            if self._association is None or exposure in exc.unknown:
                raise MissingColumns([str(exposure)]) from None
            raise UnscorableValue(self._association.column, None, "the association id is missing") from None


def _proceed(stop: threading.Event) -> None:
    if stop.is_set():
        raise ClientDisconnect


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
