"""Predictions of a rate times the exposure of their row, beside the predictions: see `pieces`."""

from collections.abc import Iterator, Sequence

import orjson

from model_repository.predictions import Target
from model_repository.tables import FloatArray
from prediction_api.pieces import Pieces, finite_texts


class JsonAdjusted:
    """The fields ``adjustedPrediction`` and ``adjustedPredictionValues``; null where the exposure is missing."""

    names: Sequence[str] = ()
    n_pieces = 5

    def __init__(self, target: Target, values: FloatArray, decimals: int) -> None:
        self._opened = b',"adjustedPredictionValues":[{"label":%b,"value":' % orjson.dumps(target.name)
        self._values = values
        self._decimals = decimals

    def columns(self, start: int, stop: int) -> Iterator[Pieces]:
        """See `pieces.Beside`."""
        texts = finite_texts(self._values[start:stop], self._decimals, b"null")
        yield b',"adjustedPrediction":'
        yield texts
        yield self._opened
        yield texts
        yield b"}]"


class CsvAdjusted:
    """The column ``<target>_PREDICTION_ADJUSTED``; empty where the exposure is missing."""

    n_pieces = 2

    def __init__(self, target: Target, values: FloatArray, decimals: int) -> None:
        self.names = [f"{target.name}_PREDICTION_ADJUSTED"]
        self._values = values
        self._decimals = decimals

    def columns(self, start: int, stop: int) -> Iterator[Pieces]:
        """See `pieces.Beside`."""
        yield b","
        yield finite_texts(self._values[start:stop], self._decimals, b"")
