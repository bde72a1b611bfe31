"""
What happened, as one event per request, and the counters that it moves.

Counters live in an anonymous shared mapping that the parent makes before it forks: one row of float64 per worker. A
worker writes its own row only, from its event loop only, so nothing is locked; whoever is asked for ``/metrics``
answers with the sum over all rows. A replaced worker goes on with its predecessor's row: totals never go backwards.
"""

import mmap
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

ROUTES: Final = (
    "/predictions",
    "/predictionExplanations",
    "/timeSeriesPredictions",
    "/predictionsUnstructured",
    "/deployments",
    "/info",
    "/ping",
    "/livez",
    "/metrics",
    "/openapi.json",
    "/docs",
)
OTHER_ROUTE: Final = "other"
PREDICTION_ROUTES: Final = frozenset({"/predictions", "/predictionExplanations", "/timeSeriesPredictions"})
"""What counts as a prediction in flight."""
STATUSES: Final = (
    *("200", "201", "204", "400", "401", "403", "404", "405", "406", "409", "411"),
    *("413", "414", "415", "422", "499", "500", "503", "507"),
)
OTHER_STATUS: Final = "other"
LATENCY_BOUNDS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Seconds."""

_LABELS: Final = tuple((route, status) for route in (*ROUTES, OTHER_ROUTE) for status in (*STATUSES, OTHER_STATUS))
_REQUEST_SLOTS: Final = {label: slot for slot, label in enumerate(_LABELS)}
_LATENCY: Final = len(_LABELS)
_SECONDS: Final = _LATENCY + len(LATENCY_BOUNDS) + 1
_ROWS: Final = _SECONDS + 1
_IN_FLIGHT: Final = _ROWS + 1
_LOADS: Final = _IN_FLIGHT + 1
_LOAD_SECONDS: Final = _LOADS + 1
_CACHE_HITS: Final = _LOAD_SECONDS + 1
_CACHE_MISSES: Final = _CACHE_HITS + 1
_N_SLOTS: Final = _CACHE_MISSES + 1


class RequestDone(msgspec.Struct, frozen=True):
    """One request, after its last byte was sent (or could not be)."""

    request_id: str
    method: str
    path: str
    """As it stood on the request line, still percent-encoded."""
    route: str
    """One of `ROUTES`, or ``other``."""
    status: int
    """499 when the client left before the answer."""
    seconds: float
    bytes_sent: int
    rows: int
    cache_hit: bool | None
    """Whether the model was at hand; ``None`` when no model was asked for."""

    def __str__(self) -> str:
        """The access log line; whoever writes it escapes it and knows the id of the request."""
        return (
            f"{self.method} {self.path} {self.status} "
            f"{self.bytes_sent} bytes {self.seconds * 1e3:.2f} ms {self.rows} rows"
        )


class CounterBoard:
    """The rows of all workers, and one more for the parent; make it before forking."""

    def __init__(self, workers: int = 1) -> None:
        self._mapping = mmap.mmap(-1, (workers + 1) * _N_SLOTS * 8)
        self._cells = memoryview(self._mapping).cast("d")
        self.parent: Final = Counters(self, self._row(workers))

    def for_worker(self, index: int) -> "Counters":
        """The row of worker *index*, from 0; a new worker has nothing in flight."""
        counters = Counters(self, self._row(index))
        counters.set_in_flight(0)
        return counters

    def totals(self) -> list[float]:
        """Every slot, summed over the rows."""
        totals: list[float] = np.frombuffer(self._mapping).reshape(-1, _N_SLOTS).sum(axis=0).tolist()
        return totals

    def _row(self, index: int) -> "memoryview[float]":
        return self._cells[index * _N_SLOTS : (index + 1) * _N_SLOTS]


class Counters:
    """One process's counters; reading gives the sum over all of them."""

    def __init__(self, board: CounterBoard, row: "memoryview[float]") -> None:
        self._board = board
        self._row = row

    def request_done(self, event: RequestDone) -> None:
        """Count one request."""
        row = self._row
        slot = _REQUEST_SLOTS.get((event.route, str(event.status)))
        row[_request_slot(event) if slot is None else slot] += 1
        if event.route == "/predictions":
            row[_LATENCY + bisect_left(LATENCY_BOUNDS, event.seconds)] += 1
            row[_SECONDS] += event.seconds
            row[_ROWS] += event.rows
        if event.cache_hit is not None:
            row[_CACHE_HITS if event.cache_hit else _CACHE_MISSES] += 1

    def set_in_flight(self, count: int) -> None:
        """Prediction requests that this process is answering now."""
        self._row[_IN_FLIGHT] = count

    def model_loaded(self, seconds: float) -> None:
        """Count one loaded package."""
        self._row[_LOADS] += 1
        self._row[_LOAD_SECONDS] += seconds

    def prometheus_text(self) -> str:
        """All workers together, in Prometheus' text format 0.0.4."""
        return "\n".join(_lines(self._board.totals())) + "\n"


def _request_slot(event: RequestDone) -> int:
    """The slot of a request whose route or status has none of its own."""
    route = event.route if event.route in ROUTES else OTHER_ROUTE
    status = str(event.status)
    return _REQUEST_SLOTS[route, status if status in STATUSES else OTHER_STATUS]


def _lines(totals: list[float]) -> Iterator[str]:
    yield from _head("requests_total", "counter", "Requests by route and status.")
    for (route, status), slot in _REQUEST_SLOTS.items():
        if totals[slot]:
            yield f'prediction_api_requests_total{{route="{route}",status="{status}"}} {totals[slot]:.0f}'
    yield from _head("prediction_duration_seconds", "histogram", "Time from a prediction request to its last byte.")
    seen = 0.0
    for place, bound in enumerate((*LATENCY_BOUNDS, "+Inf")):
        seen += totals[_LATENCY + place]
        yield f'prediction_api_prediction_duration_seconds_bucket{{le="{bound}"}} {seen:.0f}'
    yield f"prediction_api_prediction_duration_seconds_sum {totals[_SECONDS]!r}"
    yield f"prediction_api_prediction_duration_seconds_count {seen:.0f}"
    for name, kind, slot, about in _SINGLE:
        yield from _head(name, kind, about)
        yield f"prediction_api_{name} {totals[slot]:.17g}"


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP prediction_api_{name} {about}"
    yield f"# TYPE prediction_api_{name} {kind}"


_SINGLE: Final = (
    ("rows_total", "counter", _ROWS, "Rows scored."),
    ("in_flight", "gauge", _IN_FLIGHT, "Prediction requests being answered."),
    ("model_loads_total", "counter", _LOADS, "Packages loaded."),
    ("model_load_seconds_total", "counter", _LOAD_SECONDS, "Time spent on loading packages."),
    ("model_cache_hits_total", "counter", _CACHE_HITS, "Requests whose model was loaded already."),
    ("model_cache_misses_total", "counter", _CACHE_MISSES, "Requests that had to wait for their model."),
)
