"""What an answer says of each forecast beside the prediction: whose it is, from where, and of when."""

from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from model_repository.tables import Strings
from model_repository.timeseries.calendar import Times, iso_utc
from model_repository.timeseries.forecaster import Forecast
from model_repository.timeseries.spec import TimeSeries
from prediction_api.pieces import Pieces, chosen, field, finite_texts


class ForecastColumns:
    """
    The `writers.Frame` of one answer.

    Args:
        times: the time column of the request, as it was written.
    """

    def __init__(self, forecast: Forecast, spec: TimeSeries, times: Strings) -> None:
        self._forecast = forecast
        self._spec = spec
        self._originals = times.codes[forecast.rows]
        self._original_texts = times.values

    def json_before(self, start: int, stop: int) -> Sequence[Pieces]:
        """From the comma before a row to the key of its prediction."""
        part, found = slice(start, stop), self._forecast
        originals, places = np.unique(self._originals[part], return_inverse=True)
        texts = [orjson.dumps(self._original_texts[code]) for code in originals.tolist()]
        series, numbers = np.unique(found.series[part], return_inverse=True)
        names = [orjson.dumps(found.names[number]) for number in series.tolist()]
        return [
            b',{"rowId":',
            _whole_numbers(found.rows[part]),
            b',"seriesId":',
            chosen(names, numbers.tolist()),
            b',"forecastPoint":"',
            _time_texts(found.points[part], "us"),
            b'","timestamp":"',
            _time_texts(found.times[part], "us"),
            b'","originalFormatTimestamp":',
            chosen(texts, places.tolist()),
            b',"forecastDistance":',
            _whole_numbers(found.distances[part]),
            b',"prediction":',
        ]

    def json_after(self, start: int, stop: int, decimals: int) -> Sequence[Pieces]:
        """The interval, if there is one."""
        interval = self._forecast.interval
        if interval is None:
            return []
        return [
            b',"predictionIntervals":{"%d":{"low":' % interval.percentile,
            finite_texts(interval.low[start:stop], decimals, b"null"),
            b',"high":',
            finite_texts(interval.high[start:stop], decimals, b"null"),
            b"}}",
        ]

    def csv_header(self) -> tuple[list[str], list[str]]:
        """Names of the columns before and behind the predictions."""
        spec, interval = self._spec, self._forecast.interval
        before = [] if spec.series_column is None else [spec.series_column]
        before += ["FORECAST_POINT", spec.datetime_column, "FORECAST_DISTANCE"]
        if interval is None:
            return before, []
        return before, [f"PREDICTION_{interval.percentile}_PERCENTILE_{end}" for end in ("LOW", "HIGH")]

    def csv_before(self, start: int, stop: int) -> Sequence[Pieces]:
        """Series, forecast point, time and distance."""
        part, found = slice(start, stop), self._forecast
        originals, places = np.unique(self._originals[part], return_inverse=True)
        texts = [field(self._original_texts[code]).encode() for code in originals.tolist()]
        pieces: list[Pieces] = []
        if self._spec.series_column is not None:
            series, numbers = np.unique(found.series[part], return_inverse=True)
            pieces = [
                chosen([field(found.names[number] or "").encode() for number in series.tolist()], numbers.tolist()),
                b",",
            ]
        return [
            *pieces,
            _time_texts(found.points[part], "s"),
            b",",
            chosen(texts, places.tolist()),
            b",",
            _whole_numbers(found.distances[part]),
            b",",
        ]

    def csv_after(self, start: int, stop: int, decimals: int) -> Sequence[Pieces]:
        """The ends of the interval, blank where none is known."""
        interval = self._forecast.interval
        if interval is None:
            return []
        low, high = (finite_texts(end[start:stop], decimals, b"") for end in (interval.low, interval.high))
        return [b",", low, b",", high]


def _whole_numbers(values: NDArray[np.int64]) -> list[bytes]:
    return orjson.dumps(values.tolist())[1:-1].split(b",")


def _time_texts(times: Times, unit: str) -> list[bytes]:
    distinct, places = np.unique(times, return_inverse=True)
    return chosen([text.encode() for text in iso_utc(distinct, unit)], places.tolist())
