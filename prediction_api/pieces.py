"""
Answers as columns of bytes: a row is a fixed sequence of pieces, some the same in every row, some from a column.

orjson turns a whole column of numbers into text at once; the pieces are laid side by side by slice assignment and
joined.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
import orjson

from model_repository.tables import FloatArray
from prediction_api.rounding import rounded

FEW_ROWS: Final = 16
"""Up to here numbers are written one by one: array calls would take longer than the whole answer."""
SLICE_ROWS: Final = 16_384
ANOMALY_LABEL: Final = "Anomaly Score"
USUAL_PIECES: Final = 8
"""Of a row that has nothing beside its prediction."""

_QUOTED: Final = re.compile(r'[",\r\n]')

Pieces = bytes | Sequence[bytes]
"""The same bytes in every row, or one for each."""


class Beside(Protocol):
    """What stands in an answer beside the predictions."""

    @property
    def names(self) -> Sequence[str]:
        """Its columns of a CSV."""
        ...

    @property
    def n_pieces(self) -> int:
        """How many pieces a row gets."""
        ...

    def columns(self, start: int, stop: int) -> Iterator[Pieces]:
        """For these rows: fields of a JSON object, or fields of a CSV, each with a comma before it."""
        ...


def slices(values: FloatArray, beside: Sequence[Beside] = ()) -> Iterator[tuple[int, FloatArray]]:
    """Portions of rows with the number of their first; smaller ones where a row has many pieces."""
    step = SLICE_ROWS
    if beside:
        n_pieces = USUAL_PIECES + sum(one.n_pieces for one in beside)
        step = max(FEW_ROWS, SLICE_ROWS * USUAL_PIECES // n_pieces)
    for start in range(0, len(values), step):
        yield start, values[start : start + step]


def side_by_side(n_rows: int, columns: Sequence[Pieces]) -> bytes:
    """Row after row, the pieces of all columns."""
    width = len(columns)
    pieces = [b""] * (n_rows * width)
    for place, column in enumerate(columns):
        pieces[place::width] = [column] * n_rows if isinstance(column, bytes) else column
    return b"".join(pieces)


def number_texts(values: FloatArray, decimals: int) -> list[list[bytes]]:
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


def finite_texts(values: FloatArray, decimals: int, none: bytes) -> list[bytes]:
    """`number_texts` of one column; *none* for what is no finite number."""
    finite = np.isfinite(values)
    if finite.all():
        return number_texts(values[:, None], decimals)[0]
    texts = number_texts(np.where(finite, values, 0.0)[:, None], decimals)[0]
    return [text if is_finite else none for text, is_finite in zip(texts, finite.tolist(), strict=True)]


def chosen(pieces: Sequence[bytes], codes: Sequence[int]) -> list[bytes]:
    """For each code the piece that it stands for."""
    return [pieces[code] for code in codes]


def json_texts(cells: Sequence[Any]) -> tuple[bytes, list[bytes]]:
    """Each cell as JSON, and what must still stand on both sides of it."""
    try:
        "".join(cells)  # the quickest way to learn whether all are text
    except TypeError:
        return b"", [orjson.dumps(cell) for cell in cells]
    text = orjson.dumps(list(cells))
    if b'\\"' in text:  # a quote within a cell: the cells cannot be told apart by their quotes
        return b"", [orjson.dumps(cell) for cell in cells]
    return b'"', text[2:-2].split(b'","')


def csv_texts(cells: Sequence[Any]) -> list[bytes]:
    """Each cell as a CSV field."""
    try:
        joined = "".join(cells)
    except TypeError:
        cells = [csv_text(cell) for cell in cells]
        joined = "".join(cells)
    if _QUOTED.search(joined):
        return [field(cell).encode() for cell in cells]
    return "\n".join(cells).encode().split(b"\n")


def csv_text(value: Any) -> str:
    """A text as it is, nothing for null, anything else as JSON writes it."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def field(text: str) -> str:
    """A CSV field, quoted where it must be."""
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text
