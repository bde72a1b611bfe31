"""The outermost layer, plain ASGI: one path per route, ids and timing, the access log, and the last word on errors."""

import logging
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from model_repository.errors import ModelUnavailable, RequestLineTooLong, ServingError
from prediction_api.error_responses import internal_response, serving_response, unrouted_response
from prediction_api.exchange import SCOPE_KEY, Exchange
from prediction_api.logs import ACCESS_LOGGER, request_id
from prediction_api.monitoring import OTHER_ROUTE, PREDICTION_ROUTES, ROUTES, Counters
from prediction_api.settings import Settings
from prediction_api.state import ServerState

access_log: Final = logging.getLogger(ACCESS_LOGGER)
error_log: Final = logging.getLogger("prediction_api.error")

PREFIXES: Final = (b"/predApi/v1.0", b"/v1.0")
PREDICTIONS_PREFIX: Final = b"/api/v2"
"""Carries the prediction routes only."""

_ROUTES: Final = frozenset(ROUTES)


def route_path(raw_path: bytes) -> str:
    """
    The path that the route table knows: without prefix and without one trailing slash.

    It is taken as it stood on the request line, never percent-decoded: no encoding can smuggle a slash or dots in.
    """
    path = raw_path
    for prefix in PREFIXES:
        if path.startswith(prefix + b"/"):
            path = path[len(prefix) :]
            break
    else:
        if path.startswith(PREDICTIONS_PREFIX + b"/"):
            rest = path[len(PREDICTIONS_PREFIX) :]
            path = rest if rest.removesuffix(b"/").endswith(b"/predictions") else path
    return path.removesuffix(b"/").decode("latin-1") or "/"


def route_label(path: str) -> str:
    """The name under which a path is counted: only as many as there are routes, whatever clients send."""
    if path in _ROUTES:
        return path
    if path.startswith("/deployments/"):
        last = path[path.rindex("/") :]
        return last if last in PREDICTION_ROUTES else "/deployments"
    return OTHER_ROUTE


class Edge:
    """Everything that is the same for every route."""

    def __init__(self, app: ASGIApp, state: ServerState, counters: Counters, settings: Settings) -> None:
        self._app = app
        self._state = state
        self._counters = counters
        self._max_request_line = settings.max_request_line
        self._max_inflight = settings.max_inflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any kind; what is not HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        exchange.closing = self._state.draining
        try:
            await self._answer(exchange)
        finally:
            event = exchange.done()
            self._counters.request_done(event)
            if access_log.isEnabledFor(logging.INFO):
                access_log.info(event)

    async def _answer(self, exchange: Exchange) -> None:
        scope = exchange.scope
        request_id.set(exchange.request_id)
        scope[SCOPE_KEY] = exchange
        scope["app"] = self  # Starlette's router raises what it cannot route only when there is one
        scope["path"] = path = route_path(scope["raw_path"])
        exchange.route = route_label(path)
        try:
            self._check_line(exchange)
            if exchange.route in PREDICTION_ROUTES and scope["method"] == "POST":
                await self._predict(exchange)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except Exception as exc:
            if exchange.status:
                error_log.exception("an answer broke off")
                raise  # it has begun: the server must cut it, so that nobody takes it for whole
            await self._refusal(exc, exchange)(scope, exchange.receive, exchange.send)

    def _refusal(self, exc: Exception, exchange: Exchange) -> Response:
        """The answer to a request that ended in an error."""
        if isinstance(exc, ServingError):
            return serving_response(exc)
        if isinstance(exc, HTTPException):
            return unrouted_response(exc, exchange.scope["method"])
        error_log.error("internal error", exc_info=exc)
        exchange.closing = True
        return internal_response(exchange.request_id)

    async def _predict(self, exchange: Exchange) -> None:
        """One prediction, in flight until its last byte is sent; refused while the server starts, ends or is full."""
        state = self._state
        if (refusal := state.refusal) is not None:
            raise ModelUnavailable(refusal)
        if state.in_flight >= self._max_inflight:
            raise ModelUnavailable(f"{state.in_flight} predictions are in flight, which is the most at once: try again")
        state.in_flight += 1
        self._counters.set_in_flight(state.in_flight)
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        finally:
            state.in_flight -= 1
            self._counters.set_in_flight(state.in_flight)

    def _check_line(self, exchange: Exchange) -> None:
        """Refuse a ``METHOD /path?query HTTP/1.1`` that is too long."""
        scope = exchange.scope
        query = scope["query_string"]
        length = len(scope["method"]) + len(scope["raw_path"]) + len(query) + bool(query) + len("  HTTP/1.1")
        if length > self._max_request_line:
            exchange.closing = True
            raise RequestLineTooLong(f"the request line has {length} bytes, at most {self._max_request_line} are read")
