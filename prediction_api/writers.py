"""
Predictions out, as JSON or CSV: column by column, never an object per row.

A row is a fixed sequence of pieces, some the same in every row, some from a column. orjson turns a whole column of
numbers into text at once; the pieces are laid side by side by slice assignment and joined, in slices of rows that can
be streamed.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import orjson

from model_repository.errors import ScoringFailed
from model_repository.predictions import ScoringOptions, Target, label_codes
from model_repository.tables import FloatArray
from prediction_api.rounding import rounded

ANOMALY_LABEL: Final = "Anomaly Score"
FEW_ROWS: Final = 16
"""Up to here numbers are written one by one: array calls would take longer than the whole answer."""
SLICE_ROWS: Final = 16_384

_QUOTED: Final = re.compile(r'[",\r\n]')
_OUTLIER_JSON: Final = (b',"isOutlierPrediction":false', b',"isOutlierPrediction":true')
_OUTLIER_CSV: Final = (b",false", b",true")

Kept = Mapping[str, Sequence[Any]]
Pieces = bytes | Sequence[bytes]
"""The same bytes in every row, or one for each."""


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
        self, values: FloatArray, options: ScoringOptions, kept: Kept, frame: Frame | None = None
    ) -> Iterator[bytes]:
        """
        The answer, in parts.

        Args:
            values: shape ``(n_rows, target.n_outputs)``, full precision.
            kept: columns to pass through; what is text stays text.
            frame: of a time series.

        Raises:
            ScoringFailed: at once, not at the first part: a prediction is not a finite number.
        """
        _refuse_not_finite(values)
        return self._chunks(values, options, kept, frame)

    def _chunks(self, values: FloatArray, options: ScoringOptions, kept: Kept, frame: Frame | None) -> Iterator[bytes]:
        names = [orjson.dumps(name) for name in kept]
        first = b'{"data":['
        for start, some in _slices(values):
            columns: list[Pieces] = [b',{"rowId":', _row_ids(start, len(some)), b',"prediction":']
            if frame is not None:
                columns = list(frame.json_before(start, start + len(some)))
            columns += self._predictions(some, options)
            if frame is not None:
                columns += frame.json_after(start, start + len(some), options.decimals)
            columns += _passed_through(names, [column[start : start + len(some)] for column in kept.values()])
            columns.append(b"}")
            yield first + _side_by_side(len(some), columns)[not start :]  # no comma before the first row
            first = b""
        yield first + b"]}"

    def _predictions(self, values: FloatArray, options: ScoringOptions) -> Iterator[Pieces]:
        numbers = _number_texts(values, options.decimals)
        if self._target.class_labels:
            yield _chosen(self._labels, _codes(values, self._target))
        else:
            yield numbers[0]
            yield self._opening
        yield numbers[0]
        for between, column in zip(self._between, numbers[1:], strict=True):
            yield between
            yield column
        yield b"}]"
        if options.warn_outliers and self._target.usual_range:
            yield _chosen(_OUTLIER_JSON, _outliers(values, self._target.usual_range))


class CsvWriter:
    """
    Writes CSV with a header, its lines ended by LF, fields quoted where they must be; holds the constant pieces of one
    target's rows.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        labels = [_csv_text(label) for label in target.class_labels or ()]
        prediction = f"{target.name}_PREDICTION"
        self._header = [f"{target.name}_{label}_PREDICTION" for label in labels]
        self._header.append("ANOMALY_SCORE" if target.type == "Anomaly" else prediction)
        after = ""
        if target.type == "Binary":
            self._header += ["THRESHOLD", "POSITIVE_CLASS"]
            after = f",{_csv_text(target.threshold)},{_field(labels[0])}"
        self._labels = [f",{_field(label)}{after}".encode() for label in labels]

    def chunks(
        self, values: FloatArray, options: ScoringOptions, kept: Kept, frame: Frame | None = None
    ) -> Iterator[bytes]:
        """As `JsonWriter.chunks`."""
        _refuse_not_finite(values)
        return self._chunks(values, options, kept, frame)

    def _chunks(self, values: FloatArray, options: ScoringOptions, kept: Kept, frame: Frame | None) -> Iterator[bytes]:
        fences = self._target.usual_range if options.warn_outliers else None
        before, after = frame.csv_header() if frame is not None else ([], [])
        header = [*before, *self._header, *after, *(["IS_OUTLIER_PREDICTION"] if fences else []), *kept]
        yield (",".join(map(_field, header)) + "\n").encode()
        for start, some in _slices(values):
            stop = start + len(some)
            columns: list[Pieces] = list(frame.csv_before(start, stop)) if frame is not None else []
            for column in _number_texts(some, options.decimals):
                columns += [column, b","]
            columns.pop()
            if self._labels:
                columns.append(_chosen(self._labels, _codes(some, self._target)))
            if frame is not None:
                columns += frame.csv_after(start, stop, options.decimals)
            if fences:
                columns.append(_chosen(_OUTLIER_CSV, _outliers(some, fences)))
            for cells in kept.values():
                columns += [b",", _csv_texts(cells[start : start + len(some)])]
            columns.append(b"\n")
            yield _side_by_side(len(some), columns)


def _refuse_not_finite(values: FloatArray) -> None:
    few = len(values) <= FEW_ROWS
    if all(map(math.isfinite, values.ravel().tolist())) if few else np.isfinite(values).all():
        return
    row = int(np.argmin(np.isfinite(values).all(axis=1)))
    raise ScoringFailed(f"row {row}: the model returned {values[row].tolist()}, expected finite numbers")


def _slices(values: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    for start in range(0, len(values), SLICE_ROWS):
        yield start, values[start : start + SLICE_ROWS]


def _side_by_side(n_rows: int, columns: Sequence[Pieces]) -> bytes:
    """Row after row, the pieces of all columns."""
    width = len(columns)
    pieces = [b""] * (n_rows * width)
    for place, column in enumerate(columns):
        pieces[place::width] = [column] * n_rows if isinstance(column, bytes) else column
    return b"".join(pieces)


def _row_ids(start: int, count: int) -> list[bytes]:
    if count <= FEW_ROWS:
        return [b"%d" % row for row in range(start, start + count)]
    return orjson.dumps(np.arange(start, start + count), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _number_texts(values: FloatArray, decimals: int) -> list[list[bytes]]:
    """The shortest texts of the rounded numbers, column by column; with no decimals there is no point either."""
    if len(values) <= FEW_ROWS:
        text = orjson.dumps([round(x, decimals) + 0.0 for row in values.tolist() for x in row])
    else:
        text = orjson.dumps(rounded(values, decimals).ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
    if decimals == 0:
        text = (text[:-1] + b",").replace(b".0,", b",")
    texts = text[1:-1].split(b",")
    width = values.shape[1]
    return [texts[place::width] for place in range(width)] if width > 1 else [texts]


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


def _chosen(pieces: Sequence[bytes], codes: Sequence[int]) -> list[bytes]:
    return [pieces[code] for code in codes]


def _passed_through(names: Sequence[bytes], columns: Sequence[Sequence[Any]]) -> Iterator[Pieces]:
    before = b',"passthroughValues":{'
    for name, cells in zip(names, columns, strict=True):
        quote, texts = _json_texts(cells)
        yield b"%b%b:%b" % (before, name, quote)
        yield texts
        before = quote + b","
    if names:
        yield before[:-1] + b"}"


def _json_texts(cells: Sequence[Any]) -> tuple[bytes, list[bytes]]:
    """Each cell as JSON, and what must still stand on both sides of it."""
    try:
        "".join(cells)  # the quickest way to learn whether all are text
    except TypeError:
        return b"", [orjson.dumps(cell) for cell in cells]
    text = orjson.dumps(list(cells))
    if b'\\"' in text:  # a quote within a cell: the cells cannot be told apart by their quotes
        return b"", [orjson.dumps(cell) for cell in cells]
    return b'"', text[2:-2].split(b'","')


def _csv_texts(cells: Sequence[Any]) -> list[bytes]:
    """Each cell as a CSV field."""
    try:
        joined = "".join(cells)
    except TypeError:
        cells = [_csv_text(cell) for cell in cells]
        joined = "".join(cells)
    if _QUOTED.search(joined):
        return [_field(cell).encode() for cell in cells]
    return "\n".join(cells).encode().split(b"\n")


def _csv_text(value: Any) -> str:
    """A text as it is, nothing for null, anything else as JSON writes it."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def _field(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text
