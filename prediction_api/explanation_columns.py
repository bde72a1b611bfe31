"""
Explanations out, beside the predictions: see `pieces`.

Every row has a slot for each explanation that it may have, and what is written into a slot is empty where there is
none: so explanations are columns too.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from model_repository.cells import number_from
from model_repository.explanations import MOST_XEMP, SYMBOLS, Explained, ShapWarnings, by_feature
from model_repository.predictions import ExplanationOptions, Target
from model_repository.tables import Feature, FloatArray, Schema
from prediction_api.pieces import ANOMALY_LABEL, Pieces, chosen, csv_text, field, finite_texts, number_texts

CSV_FIELDS: Final = ("FEATURE_NAME", "STRENGTH", "ACTUAL_VALUE", "QUALITATIVE_STRENGTH")
_FLAGS: Final = (b"false", b"true")


class ExplanationTexts:
    """What is the same in all explanations of one model: made once."""

    def __init__(self, schema: Schema, target: Target) -> None:
        self.features = schema.features
        self.target = target
        self.labels = target.class_labels or [ANOMALY_LABEL if target.type == "Anomaly" else target.name]

    @cached_property
    def json_openings(self) -> list[bytes]:
        """By feature, as the first of a row; then as a further one; then nothing."""
        first = [b'{"feature":%b,"featureValue":' % orjson.dumps(one.name) for one in self.features]
        return [*first, *(b"," + one for one in first), b""]

    @cached_property
    def csv_names(self) -> list[bytes]:
        """By feature; then nothing."""
        return [*(b"," + field(one.name).encode() for one in self.features), b","]

    @cached_property
    def json_closings(self) -> list[bytes]:
        """By symbol (the last for none) and class; then nothing."""
        labels = [b',"label":%b}' % orjson.dumps(label) for label in self.labels]
        symbols = [*(b',"qualitativeStrength":%b' % orjson.dumps(one) for one in SYMBOLS), b""]
        return [*(symbol + label for symbol in symbols for label in labels), b""]

    @cached_property
    def csv_classes(self) -> list[bytes]:
        """The name of each class."""
        return [b"," + field(csv_text(label)).encode() for label in self.labels]


class _Slots:
    """The explanations of some rows, slot by slot."""

    def __init__(self, explained: Explained, start: int, stop: int) -> None:
        some = slice(start, stop)
        self.n_rows = stop - start
        shape = explained.features.shape
        self.n_slots = shape[1] * shape[2]
        self._explained = explained
        self._some = some
        self.features = self.by_slot(explained.features)
        self.present: NDArray[np.bool_] = self.features >= 0

    def by_slot(self, array: NDArray[Any]) -> NDArray[Any]:
        """Of an array with an element for each explanation those of our rows, shape ``(n_rows, n_slots)``."""
        return array[self._some].reshape(self.n_rows, self.n_slots)

    def columns(self, codes: NDArray[Any], pieces: Sequence[bytes]) -> list[list[bytes]]:
        """Slot by slot the pieces that *codes* stand for."""
        return [chosen(pieces, column) for column in codes.T.tolist()]

    def numbers(self, array: FloatArray, decimals: int, none: bytes) -> list[list[bytes]]:
        """Slot by slot, rounded; *none* where an explanation has no finite one, nothing where there is none."""
        texts = np.full(self.features.shape, none, dtype=object)
        texts[~self.present] = b""
        values = self.by_slot(array)
        written = self.present & np.isfinite(values)
        if written.any():
            texts[written] = _objects(number_texts(values[written][:, None], decimals)[0])
        return [list(column) for column in texts.T]

    def values(self, feature_texts: Callable[[int, FloatArray], list[bytes]]) -> list[list[bytes]]:
        """Slot by slot the values of the features, which *feature_texts* writes."""
        texts = np.full(self.features.size, b"", dtype=object)
        values = self.by_slot(self._explained.values).ravel()
        for place, at in by_feature(self.features):
            texts[at] = _objects(feature_texts(place, values[at]))
        return [list(column) for column in texts.reshape(self.features.shape).T]


class JsonExplanations:
    """The fields ``predictionExplanations`` and ``shapExplanationsMetadata``."""

    names: Sequence[str] = ()

    def __init__(self, texts: ExplanationTexts, explained: Explained, decimals: int) -> None:
        self._texts = texts
        self._explained = explained
        self._decimals = decimals
        self._values = _ValueTexts(texts.features, explained, orjson.dumps, b"null")
        shape = explained.features.shape
        self.n_pieces = 6 * shape[1] * shape[2] + 6

    def columns(self, start: int, stop: int) -> Iterator[Pieces]:
        """See `pieces.Beside`."""
        slots = _Slots(self._explained, start, stop)
        yield b',"predictionExplanations":['
        yield from self._items(slots)
        yield b"]"
        if self._explained.algorithm == "shap":
            yield from self._metadata(start, stop)

    def _items(self, slots: _Slots) -> Iterator[Pieces]:
        explained, present = self._explained, slots.present
        n_features, n_labels = len(self._texts.features), len(self._texts.labels)
        further = np.cumsum(present, axis=1) > 1
        openings = np.where(present, slots.features + n_features * further, 2 * n_features)
        symbols = len(SYMBOLS) if explained.symbols is None else slots.by_slot(explained.symbols).astype(np.intp)
        classes = slots.by_slot(np.repeat(explained.classes[:, :, None], explained.features.shape[2], axis=2))
        closings = np.where(present, symbols * n_labels + classes, len(self._texts.json_closings) - 1)
        numbers = [(b',"strength":', slots.numbers(explained.strengths, self._decimals, b"null"))]
        if explained.standard_errors is not None:
            errors = slots.numbers(explained.standard_errors, self._decimals, b"null")
            numbers.append((b',"standardError":', errors))
        opened = slots.columns(openings, self._texts.json_openings)
        closed = slots.columns(closings, self._texts.json_closings)
        values = slots.values(self._values)
        for slot in range(slots.n_slots):
            yield opened[slot]
            yield values[slot]
            for before, columns in numbers:
                yield chosen((b"", before), present[:, slot].tolist())
                yield columns[slot]
            yield closed[slot]

    def _metadata(self, start: int, stop: int) -> Iterator[Pieces]:
        assert self._explained.remaining is not None
        remaining = self._explained.remaining[start:stop]
        yield b',"shapExplanationsMetadata":[{"baseValue":' + self._number(self._explained.base_value)
        yield b',"remainingTotal":'
        yield finite_texts(remaining, self._decimals, b"null")
        yield b',"warnings":' + orjson.dumps(_warnings(self._explained.warnings)) + b"}]"

    def _number(self, value: float) -> bytes:
        return finite_texts(np.array([value]), self._decimals, b"null")[0]


class CsvExplanations:
    """The columns ``EXPLANATION_<n>_...``, by class where a model has several, and those of SHAP's sums."""

    def __init__(
        self, texts: ExplanationTexts, explained: Explained, options: ExplanationOptions, decimals: int
    ) -> None:
        self._texts = texts
        self._explained = explained
        self._decimals = decimals
        self._values = _ValueTexts(texts.features, explained, _csv_value, b"")
        self._width = csv_width(options, len(texts.features))
        self._by_class = texts.target.type == "Multiclass"
        n_classes = explained.classes.shape[1]
        self.names = explanation_names(self._width, n_classes if self._by_class else 0, options.algorithm)
        self.n_pieces = 6 * explained.features.shape[1] * explained.features.shape[2] + 8

    def columns(self, start: int, stop: int) -> Iterator[Pieces]:
        """See `pieces.Beside`."""
        explained = self._explained
        slots = _Slots(explained, start, stop)
        names = slots.columns(slots.features, self._texts.csv_names)  # -1 is the last: nothing
        strengths = slots.numbers(explained.strengths, self._decimals, b"")
        values = slots.values(self._values)
        symbols = None
        if explained.symbols is not None:
            symbols = slots.columns(slots.by_slot(explained.symbols), [one.encode() for one in SYMBOLS])
        depth = explained.features.shape[2]
        for number in range(explained.classes.shape[1]):
            if self._by_class:
                yield chosen(self._texts.csv_classes, explained.classes[start:stop, number].tolist())
            for slot in range(number * depth, number * depth + min(depth, self._width)):
                yield names[slot]
                yield b","
                yield strengths[slot]
                yield b","
                yield values[slot]
                yield b","
                yield symbols[slot] if symbols is not None else b""
            yield b"," * (len(CSV_FIELDS) * max(0, self._width - depth))
        if explained.algorithm == "shap":
            assert explained.remaining is not None
            yield b","
            yield finite_texts(explained.remaining[start:stop], self._decimals, b"")
            yield b"," + finite_texts(np.array([explained.base_value]), self._decimals, b"")[0]


def csv_width(options: ExplanationOptions, n_features: int) -> int:
    """How many explanations a CSV has columns for: as many as were asked for, within reason."""
    return n_features if options.count is None else min(options.count, max(n_features, MOST_XEMP))


def explanation_names(width: int, n_classes: int, algorithm: str) -> list[str]:
    """The columns of a CSV; *n_classes* is 0 for models that have no classes to choose from."""
    if n_classes:
        names = []
        for number in range(1, n_classes + 1):
            names += [f"CLASS_{number}", *_numbered(f"CLASS_{number}_", width)]
    else:
        names = _numbered("", width)
    return [*names, "SHAP_REMAINING_TOTAL", "SHAP_BASE_VALUE"] if algorithm == "shap" else names


def _numbered(prefix: str, width: int) -> list[str]:
    return [f"{prefix}EXPLANATION_{number}_{name}" for number in range(1, width + 1) for name in CSV_FIELDS]


class _ValueTexts:
    """Writes cells of features as a client would; remembers the texts that it has written."""

    def __init__(
        self, features: Sequence[Feature], explained: Explained, write: Callable[[Any], bytes], missing: bytes
    ) -> None:
        self._features = features
        self._texts = explained.texts
        self._write = write
        self._missing = missing
        self._written: dict[int, list[bytes]] = {}

    def __call__(self, place: int, values: FloatArray) -> list[bytes]:
        feature = self._features[place]
        if feature.type == "boolean":
            return [self._missing if math.isnan(value) else _FLAGS[value != 0] for value in values.tolist()]
        if feature.is_numeric:
            return self._numbers(values)
        if place not in self._written:
            texts = [self._write(_category(text, feature)) for text in self._texts[place]]
            self._written[place] = [*texts, self._missing]  # code -1 is the last
        return chosen(self._written[place], values.astype(np.intp).tolist())

    def _numbers(self, values: FloatArray) -> list[bytes]:
        """Whole numbers without a point, as most clients write them."""
        texts = orjson.dumps(values + 0.0, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        found = [text.removesuffix(b".0") for text in texts]
        for at in np.flatnonzero(~np.isfinite(values)).tolist():
            value = float(values[at])
            found[at] = self._missing if np.isnan(value) else self._write(str(value))
        return found


def _category(text: str, feature: Feature) -> str | float | bool:
    """A text as the value that its column's categories are."""
    match feature.categories:
        case [bool(), *_]:
            return {"true": True, "false": False}.get(text, text)
        case [int() | float(), *_]:
            try:
                number = number_from(text)
            except ValueError:
                return text
            if number is None or not np.isfinite(number):
                return text
            return int(number) if number.is_integer() else number
    return text


def _csv_value(value: Any) -> bytes:
    return field(csv_text(value)).encode()


def _objects(texts: Sequence[bytes]) -> NDArray[Any]:
    """As an array of Python's own bytes: numpy's would lose zeros at their ends."""
    out = np.empty(len(texts), dtype=object)
    out[:] = texts
    return out


def _warnings(warnings: ShapWarnings | None) -> list[dict[str, Any]]:
    if warnings is None:
        return []
    return [
        {
            "mismatchRowCount": warnings.mismatch_row_count,
            "maxNormalizedMismatch": warnings.max_normalized_mismatch,
        }
    ]
