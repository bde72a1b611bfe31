"""Predictions out, as JSON or CSV: column by column, never an object per row, in slices that can be streamed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import orjson

from model_repository.errors import ScoringFailed
from model_repository.predictions import ScoringOptions, Target, label_codes
from model_repository.tables import FloatArray
from prediction_api.pieces import (
    ANOMALY_LABEL,
    FEW_ROWS,
    Beside,
    Pieces,
    chosen,
    csv_text,
    csv_texts,
    field,
    json_texts,
    number_texts,
    side_by_side,
    slices,
)

_OUTLIER_JSON: Final = (b',"isOutlierPrediction":false', b',"isOutlierPrediction":true')
_OUTLIER_CSV: Final = (b",false", b",true")

Kept = Mapping[str, Sequence[Any]]


class Frame(Protocol):
    """What stands around each prediction of a time series, instead of its number."""

    def json_before(self, start: int, stop: int) -> Sequence[Pieces]:
        """From the comma before a row to the key of its prediction."""
        ...

    def json_after(self, start: int, stop: int, decimals: int) -> Sequence[Pieces]:
        """Behind the predictions."""
        ...

    def csv_header(self) -> tuple[list[str], list[str]]:
        """Names of the columns before and behind the predictions."""
        ...

    def csv_before(self, start: int, stop: int) -> Sequence[Pieces]:
        """Fields, each with the comma behind it."""
        ...

    def csv_after(self, start: int, stop: int, decimals: int) -> Sequence[Pieces]:
        """Fields, each with the comma before it."""
        ...


class JsonWriter:
    """Writes ``{"data":[...]}``; holds the constant pieces of one target's rows."""

    def __init__(self, target: Target) -> None:
        self._target = target
        labels = target.class_labels or [ANOMALY_LABEL if target.type == "Anomaly" else target.name]
        texts = [orjson.dumps(label) for label in labels]
        opened = [b'{"label":%b,"value":' % text for text in texts]
        threshold = b',"predictionThreshold":%b' % orjson.dumps(target.threshold) if target.type == "Binary" else b""
        opening = b'%b,"predictionValues":[%b' % (threshold, opened[0])
        # By class, the label and all that stands between it and the first number.
        self._labels = [b"%b%b" % (text, opening) for text in texts]
        self._opening = opening
        self._between = [b"},%b" % one for one in opened[1:]]

    def chunks(
        self,
        values: FloatArray,
        options: ScoringOptions,
        kept: Kept,
        beside: Sequence[Beside] = (),
        frame: Frame | None = None,
    ) -> Iterator[bytes]:
        """
        The answer, in parts.

        Args:
            values: shape ``(n_rows, target.n_outputs)``, full precision.
            kept: columns to pass through; what is text stays text.
            beside: what else is said of each row.
            frame: of a time series.

        Raises:
            ScoringFailed: at once, not at the first part: a prediction is not a finite number.
        """
        _refuse_not_finite(values)
        return self._chunks(values, options, kept, beside, frame)

    def _chunks(
        self,
        values: FloatArray,
        options: ScoringOptions,
        kept: Kept,
        beside: Sequence[Beside],
        frame: Frame | None,
    ) -> Iterator[bytes]:
        names = [orjson.dumps(name) for name in kept]
        first = b'{"data":['
        for start, some in slices(values, beside):
            columns: list[Pieces] = [b',{"rowId":', _row_ids(start, len(some)), b',"prediction":']
            if frame is not None:
                columns = list(frame.json_before(start, start + len(some)))
            columns += self._predictions(some, options)
            if frame is not None:
                columns += frame.json_after(start, start + len(some), options.decimals)
            for one in beside:
                columns += one.columns(start, start + len(some))
            columns += _passed_through(names, [column[start : start + len(some)] for column in kept.values()])
            columns.append(b"}")
            yield first + side_by_side(len(some), columns)[not start :]  # no comma before the first row
            first = b""
        yield first + b"]}"

    def _predictions(self, values: FloatArray, options: ScoringOptions) -> Iterator[Pieces]:
        numbers = number_texts(values, options.decimals)
        if self._target.class_labels:
            yield chosen(self._labels, _codes(values, self._target))
        else:
            yield numbers[0]
            yield self._opening
        yield numbers[0]
        for between, column in zip(self._between, numbers[1:], strict=True):
            yield between
            yield column
        yield b"}]"
        if options.warn_outliers and self._target.usual_range:
            yield chosen(_OUTLIER_JSON, _outliers(values, self._target.usual_range))


class CsvWriter:
    """
    Writes CSV with a header, its lines ended by LF, fields quoted where they must be; holds the constant pieces of one
    target's rows.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        labels = [csv_text(label) for label in target.class_labels or ()]
        prediction = f"{target.name}_PREDICTION"
        self._header = [f"{target.name}_{label}_PREDICTION" for label in labels]
        self._header.append("ANOMALY_SCORE" if target.type == "Anomaly" else prediction)
        after = ""
        if target.type == "Binary":
            self._header += ["THRESHOLD", "POSITIVE_CLASS"]
            after = f",{csv_text(target.threshold)},{field(labels[0])}"
        self._labels = [f",{field(label)}{after}".encode() for label in labels]

    def chunks(
        self,
        values: FloatArray,
        options: ScoringOptions,
        kept: Kept,
        beside: Sequence[Beside] = (),
        frame: Frame | None = None,
    ) -> Iterator[bytes]:
        """As `JsonWriter.chunks`."""
        _refuse_not_finite(values)
        return self._chunks(values, options, kept, beside, frame)

    def _chunks(
        self,
        values: FloatArray,
        options: ScoringOptions,
        kept: Kept,
        beside: Sequence[Beside],
        frame: Frame | None,
    ) -> Iterator[bytes]:
        fences = self._target.usual_range if options.warn_outliers else None
        before, after = frame.csv_header() if frame is not None else ([], [])
        more = [name for one in beside for name in one.names]
        header = [*before, *self._header, *after, *more, *(["IS_OUTLIER_PREDICTION"] if fences else []), *kept]
        yield (",".join(map(field, header)) + "\n").encode()
        for start, some in slices(values, beside):
            stop = start + len(some)
            columns: list[Pieces] = list(frame.csv_before(start, stop)) if frame is not None else []
            for column in number_texts(some, options.decimals):
                columns += [column, b","]
            columns.pop()
            if self._labels:
                columns.append(chosen(self._labels, _codes(some, self._target)))
            if frame is not None:
                columns += frame.csv_after(start, stop, options.decimals)
            for one in beside:
                columns += one.columns(start, stop)
            if fences:
                columns.append(chosen(_OUTLIER_CSV, _outliers(some, fences)))
            for cells in kept.values():
                columns += [b",", csv_texts(cells[start : start + len(some)])]
            columns.append(b"\n")
            yield side_by_side(len(some), columns)


def _refuse_not_finite(values: FloatArray) -> None:
    few = len(values) <= FEW_ROWS
    if all(map(math.isfinite, values.ravel().tolist())) if few else np.isfinite(values).all():
        return
    row = int(np.argmin(np.isfinite(values).all(axis=1)))
    raise ScoringFailed(f"row {row}: the model returned {values[row].tolist()}, expected finite numbers")


def _row_ids(start: int, count: int) -> list[bytes]:
    if count <= FEW_ROWS:
        return [b"%d" % row for row in range(start, start + count)]
    return orjson.dumps(np.arange(start, start + count), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _codes(values: FloatArray, target: Target) -> list[int]:
    """`label_codes` as a list, without arrays for a few rows."""
    if len(values) <= FEW_ROWS:
        rows = values.tolist()
        if target.type == "Binary":
            return [0 if row[0] > target.threshold else 1 for row in rows]
        return [row.index(max(row)) for row in rows]
    codes: list[int] = label_codes(values, target).tolist()
    return codes


def _outliers(values: FloatArray, fences: tuple[float, float]) -> list[bool]:
    low, high = fences
    outside: list[bool] = ((values[:, 0] < low) | (values[:, 0] > high)).tolist()
    return outside


def _passed_through(names: Sequence[bytes], columns: Sequence[Sequence[Any]]) -> Iterator[Pieces]:
    before = b',"passthroughValues":{'
    for name, cells in zip(names, columns, strict=True):
        quote, texts = json_texts(cells)
        yield b"%b%b:%b" % (before, name, quote)
        yield texts
        before = quote + b","
    if names:
        yield before[:-1] + b"}"
