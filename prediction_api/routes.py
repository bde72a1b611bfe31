"""The handlers: each takes a request apart, calls one function, answers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from model_repository.errors import InvalidParameter, ModelNotFound, ModelUnavailable
from model_repository.timeseries.spec import TimeSeries
from prediction_api.bodies import read_body
from prediction_api.deployments import THE_ONE, Deployment, DeploymentSource
from prediction_api.exchange import SCOPE_KEY, Exchange
from prediction_api.monitoring import PREDICTION_ROUTES, Counters
from prediction_api.negotiation import Answer, announced_length, answer_for, body_form, is_gzip
from prediction_api.openapi import DOCS_PAGE, openapi_document, openapi_of_many
from prediction_api.options import ALIAS_EXPLANATIONS, options_from
from prediction_api.scoring import Order
from prediction_api.settings import Settings
from prediction_api.state import ServerState

MEDIA_TYPES: Final = {"json": "application/json", "csv": "text/csv; charset=utf-8"}
CONTENT_TYPES: Final = {kind: (b"content-type", text.encode()) for kind, text in MEDIA_TYPES.items()}
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
DOCS_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
    )
}
ANY_METHOD: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]

Handler = Callable[[Request], Awaitable[Response]]


class Whole(Response):
    """Predictions in one piece. Its headers are made here: Starlette's own way costs more than parsing the request."""

    def __init__(self, content: bytes, answer: Answer) -> None:
        self.status_code = 200
        self.body = content
        self.background = None
        self.raw_headers = [CONTENT_TYPES[answer], (b"content-length", b"%d" % len(content))]


class Endpoint:
    """
    A handler as an ASGI app.

    Starlette would wrap a plain function in error handling of its own, which costs a tenth of a small prediction and
    finds nothing to do: `middleware.Edge` handles all errors.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self._handler(Request(scope, receive, send))
        await response(scope, receive, send)


def route(path: str, handler: Handler, methods: list[str]) -> Route:
    """One row of a URL map."""
    return Route(path, Endpoint(handler), methods=methods)


@dataclass(frozen=True)
class Endpoints:
    """All handlers, and what they share."""

    source: DeploymentSource
    settings: Settings
    state: ServerState
    counters: Counters

    async def predict(self, request: Request) -> Response:
        """POST /predictions."""
        return await self._predict(request)

    async def explain(self, request: Request) -> Response:
        """POST /predictionExplanations: as /predictions, with explanations unless the query says otherwise."""
        return await self._predict(request, explanations=ALIAS_EXPLANATIONS)

    async def forecast(self, request: Request) -> Response:
        """POST /timeSeriesPredictions: as /predictions, for models that forecast."""
        found = await self.source.get(request.path_params.get("model_id", THE_ONE))
        if found.deployment.model.forecasting is None:
            raise InvalidParameter("this model is not a time series model: use /predictions")
        return await self._predict(request)

    async def unstructured(self, _: Request) -> Response:
        """POST /predictionsUnstructured: only tables are scored here."""
        raise ModelNotFound("this server has no unstructured models: use /predictions")

    async def not_deployed(self, _: Request) -> Response:
        """Any /deployments route of a server that has one model."""
        raise ModelNotFound("this server serves a single model and has no deployments: use /predictions and /info")

    async def not_alone(self, _: Request) -> Response:
        """A route of a server that has one model, asked of one that has many."""
        raise ModelNotFound("this server has many models: use /deployments/<id>/predictions and /deployments/<id>/info")

    async def info(self, request: Request) -> Response:
        """GET /info: the loaded model."""
        found = await self.source.get(request.path_params.get("model_id", THE_ONE))
        # on a thread: to know what explains a forest without reference rows, all of it is read
        return json_response(await anyio.to_thread.run_sync(described, found.deployment))

    async def ping(self, _: Request) -> Response:
        """GET /ping: ready to score, or not."""
        refusal = self.state.refusal
        if refusal is not None:
            raise ModelUnavailable(refusal)
        return json_response({"ping": "pong"})

    async def livez(self, _: Request) -> Response:
        """GET /livez: this process runs. Says nothing of the model."""
        return json_response({"live": True})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics: all workers together."""
        return Response(self.counters.prometheus_text(), media_type=METRICS_TYPE)

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json: this very server or deployment, with the columns of its model."""
        name = request.path_params.get("model_id", THE_ONE)
        found = await self.source.get(name)
        base = f"/deployments/{name}" if name else ""
        return json_response(openapi_document(found.deployment.model.manifest, self.settings.max_body_bytes, base))

    async def openapi_of_many(self, _: Request) -> Response:
        """GET /openapi.json of a server of many models."""
        return json_response(openapi_of_many())

    async def docs(self, _: Request) -> Response:
        """GET /docs: the same for people."""
        return HTMLResponse(DOCS_PAGE, headers=DOCS_HEADERS)

    def routes_of_one(self) -> list[Route]:
        """The URL map of a server with one model; prefixes and trailing slashes are gone by now."""
        return [
            *self._model_routes(""),
            *self._server_routes(),
            route("/deployments", self.not_deployed, methods=ANY_METHOD),
            route("/deployments/{rest:path}", self.not_deployed, methods=ANY_METHOD),
        ]

    def routes_of_many(self) -> list[Route]:
        """The same of a server with many models, but for what changes them."""
        return [
            *self._model_routes("/deployments/{model_id}"),
            *self._server_routes(),
            route("/openapi.json", self.openapi_of_many, methods=["GET"]),
            *(route(path, self.not_alone, methods=ANY_METHOD) for path in (*sorted(PREDICTION_ROUTES), "/docs")),
        ]

    def _model_routes(self, base: str) -> list[Route]:
        """What can be asked of a model; the first route is the one that has to be fast."""
        return [
            route(f"{base}/predictions", self.predict, methods=["POST"]),
            route(f"{base}/predictionExplanations", self.explain, methods=["POST"]),
            route(f"{base}/timeSeriesPredictions", self.forecast, methods=["POST"]),
            route(f"{base}/predictionsUnstructured", self.unstructured, methods=ANY_METHOD),
            route(f"{base}/info", self.info, methods=["GET"]),
            route(f"{base}/openapi.json", self.openapi, methods=["GET"]),
            route(f"{base}/docs", self.docs, methods=["GET"]),
        ]

    def _server_routes(self) -> list[Route]:
        return [
            route("/ping", self.ping, methods=["GET"]),
            route("/livez", self.livez, methods=["GET"]),
            route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def _predict(self, request: Request, *, explanations: int = 0) -> Response:
        scope = request.scope
        exchange: Exchange = scope[SCOPE_KEY]
        headers = exchange.headers
        answer = answer_for(headers.get(b"accept"))
        form = body_form(headers.get(b"content-type"))
        gzip = is_gzip(headers.get(b"content-encoding"))
        length = announced_length(headers.get(b"content-length"), headers.get(b"transfer-encoding"))
        found = await self.source.get(request.path_params.get("model_id", THE_ONE))
        exchange.cache_hit = found.cache_hit
        deployment = found.deployment
        exchange.model_id = deployment.model.manifest.model_id
        manifest = deployment.model.manifest
        forecasts = manifest.timeseries is not None
        options = options_from(scope["query_string"], manifest.target, explanations=explanations, time_series=forecasts)
        body = await read_body(request.receive, form, gzip=gzip, length=length, limit=self.settings.max_body_bytes)
        order = Order(body.data, body.form, answer, options)
        scored = await deployment.scorer.score(order, exchange.client_left)
        exchange.rows = scored.n_rows
        if isinstance(scored.content, bytes):
            return Whole(scored.content, answer)
        return StreamingResponse(scored.content, media_type=MEDIA_TYPES[answer])


def described(deployment: Deployment) -> dict[str, Any]:
    """The answer to ``GET /info``."""
    model = deployment.model
    manifest = model.manifest
    target = manifest.target
    unsupervised = target.type == "Anomaly"
    algorithms = model.explainer.algorithms
    return {
        "modelId": deployment.model_id,
        "name": manifest.name,
        "modelExecutionType": "dedicated",
        "deploymentId": deployment.deployment_id,
        "target": {
            "name": target.name,
            "type": target.type,
            "classNames": target.class_labels,
            "classCount": len(target.class_labels) if target.class_labels else None,
            "predictionThreshold": target.threshold if target.type == "Binary" else None,
        },
        "modelKind": {
            "isTimeSeries": manifest.timeseries is not None,
            "isMultiseries": manifest.timeseries is not None and manifest.timeseries.series_column is not None,
            "isAnomalyDetectionModel": unsupervised,
            "isUnsupervisedLearning": unsupervised,
        },
        "capabilities": {
            "supportsShapBasedPredictionExplanations": "shap" in algorithms,
            "explanationAlgorithms": algorithms,
            "supportsPredictionWarning": target.usual_range is not None,
        },
        "timeseries": None if manifest.timeseries is None else described_series(manifest.timeseries),
        "features": [{"name": feature.name, "type": feature.type.capitalize()} for feature in manifest.inputs],
        "runtime": {
            "path": model.path,
            "reason": model.reason,
            "goldenRowsMaxDifference": model.golden_difference,
        },
        "packageFormat": manifest.format_version,
        "versions": manifest.versions,
    }


def described_series(spec: TimeSeries) -> dict[str, Any]:
    """How a model forecasts."""
    return {
        "datetimeColumnName": spec.datetime_column,
        "datetimeColumnFormat": spec.datetime_format,
        "timeZone": spec.time_zone,
        "seriesColumnName": spec.series_column,
        "forecastPointColumnName": "FORECAST_POINT",
        "forecastDistanceColumnName": "FORECAST_DISTANCE",
        "forecastDistances": list(spec.distances),
        "forecastDistancesTimeUnit": spec.unit,
        "timeStep": spec.step,
        "featureDerivationWindowStart": spec.derivation_start,
        "featureDerivationWindowEnd": spec.derivation_end,
        "effectiveFeatureDerivationWindowStart": spec.derivation_start,
        "effectiveFeatureDerivationWindowEnd": spec.derivation_end,
        "knownInAdvance": spec.known_in_advance,
        "isCrossSeries": False,
        "isNewSeriesSupport": spec.new_series_allowed,
        "isTraditionalTimeSeries": False,
    }


def json_response(content: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """*content* as JSON."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
