"""The served model's own interface as an OpenAPI 3.1 document, and a page that shows it without the network."""

from pathlib import Path
from typing import Any, Final

from model_repository.explanations import SYMBOLS
from model_repository.manifest import Manifest
from model_repository.predictions import ClassLabel, Target
from model_repository.tables import Feature, FeatureType
from model_repository.timeseries.spec import TimeSeries
from prediction_api.options import PARAMETERS, Parameter

JsonObject = dict[str, Any]

DOCS_PAGE: Final = Path(__file__).with_name("docs_page.html").read_text(encoding="utf-8")
"""Reads ``openapi.json`` beside it and lets one try a row; needs no network."""

_VALUE_TYPES: Final[dict[FeatureType, str]] = {
    "numeric": "number",
    "boolean": "boolean",
    "categorical": "string",
    "text": "string",
    "date": "string",
}
_EXAMPLES: Final[dict[FeatureType, float | str | bool]] = {
    "numeric": 1.5,
    "boolean": True,
    "categorical": "a",
    "text": "some words",
    "date": "2024-01-31",
}
_ERRORS: Final = {
    "400": "The body is malformed or empty, or columns are missing.",
    "406": "The client accepts neither JSON nor CSV.",
    "411": "The request announces no body.",
    "413": "The body is too large.",
    "415": "The content type, its charset or the content encoding cannot be read.",
    "422": "A parameter or a value cannot be used with this model.",
    "500": "The model failed.",
    "503": "The server starts, ends or has too many requests; try again.",
}
_OF_DEPLOYMENTS: Final = {
    "401": "The management token is missing or wrong.",
    "403": "Management is switched off, or the request comes from a page of another origin.",
    "404": "No deployment has this id.",
    "409": "The repository cannot be written.",
}


def openapi_document(manifest: Manifest, max_body_bytes: int, base: str = "") -> JsonObject:
    """The document for a server of one model, or for the deployment whose routes stand under *base*."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": manifest.name,
            "version": manifest.model_id,
            "description": f"Predictions of {manifest.target.name!r} ({manifest.target.type.lower()}). "
            f"Bodies have at most {max_body_bytes} bytes, on the wire and decompressed.",
        },
        "servers": [{"url": base or "/"}],
        "paths": {
            "/predictions": {"post": _predict(manifest)},
            "/info": {"get": _get("The loaded model.", "application/json", {"type": "object"})},
            **({} if base else _SERVER_ROUTES),
        },
        "components": {
            "schemas": {
                "Row": row_schema(manifest.inputs),
                "Prediction": prediction_schema(manifest.target, manifest.timeseries),
                "Error": _ERROR,
            },
            "responses": {status: _error(about) for status, about in _ERRORS.items()},
        },
    }


def openapi_of_many() -> JsonObject:
    """The document for a server of many models; each has one of its own."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Prediction API",
            "version": "1.0",
            "description": "A server of many models. GET /deployments/{id}/openapi.json has the columns of one.",
        },
        "paths": {
            "/deployments": {
                "get": _get("What is deployed.", "application/json", {"type": "object"}, "422")
                | {"parameters": [_in_query("limit", 1), _in_query("offset", 0)]}
            },
            "/deployments/{id}": {"parameters": [_ID], "post": _UPLOAD, "delete": _DELETE},
            "/deployments/{id}/predictions": {
                "parameters": [_ID],
                "post": _SCORE,
            },
            "/deployments/{id}/info": {
                "parameters": [_ID],
                "get": _get("The model.", "application/json", {"type": "object"}, "404", "422", "503"),
            },
            "/info": {"get": _get("This server.", "application/json", {"type": "object"})},
            **_SERVER_ROUTES,
        },
        "components": {
            "schemas": {"Error": _ERROR},
            "responses": {status: _error(about) for status, about in (_ERRORS | _OF_DEPLOYMENTS).items()},
        },
    }


_PONG: Final = {"type": "object", "properties": {"ping": {"const": "pong"}}, "required": ["ping"]}
_NUMBER: Final = {"type": ["number", "null"]}
_ADJUSTED: Final = {"type": "object", "properties": {"label": {"type": "string"}, "value": _NUMBER}}
_SHAP: Final = {
    "type": "object",
    "description": "Base value, strengths and rest add up to the margin of the prediction.",
    "properties": {
        "baseValue": _NUMBER,
        "remainingTotal": _NUMBER,
        "warnings": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"mismatchRowCount": {"type": "integer"}, "maxNormalizedMismatch": _NUMBER},
            },
        },
    },
}
_ERROR: Final = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}


def row_schema(features: list[Feature]) -> JsonObject:
    """One row of a JSON body; more columns are allowed, and can be passed through."""
    return {
        "type": "object",
        "properties": {feature.name: _column(feature) for feature in features},
        "required": [feature.name for feature in features if not feature.missing_allowed],
        "additionalProperties": True,
        "examples": [example_row(features)],
    }


def example_row(features: list[Feature]) -> dict[str, Any]:
    """A row of the right types; made up, because real rows are nobody's business."""
    return {one.name: one.categories[0] if one.categories else _EXAMPLES[one.type] for one in features}


def prediction_schema(target: Target, series: TimeSeries | None = None) -> JsonObject:
    """One row of a JSON answer."""
    number = {"type": "number"}
    labels: JsonObject = {"enum": list(target.class_labels)} if target.class_labels else {"type": "string"}
    value = {"type": "object", "properties": {"label": labels, "value": number}, "required": ["label", "value"]}
    properties: JsonObject = {
        "rowId": {"type": "integer"},
        "prediction": labels if target.class_labels else number,
        "predictionValues": {"type": "array", "items": value},
        "passthroughValues": {"type": "object", "description": "Only when columns are passed through."},
    }
    required = ["rowId", "prediction", "predictionValues"]
    if target.type == "Binary":
        properties["predictionThreshold"] = number
        required.append("predictionThreshold")
    if target.usual_range is not None:
        properties["isOutlierPrediction"] = {"type": "boolean"}
    if series is not None:
        properties |= _OF_A_FORECAST
        required += [name for name in _OF_A_FORECAST if name != "predictionIntervals"]
    elif target.type == "Regression":
        properties["adjustedPrediction"] = {"type": ["number", "null"]}
        properties["adjustedPredictionValues"] = {"type": "array", "items": _ADJUSTED}
    feature = _A_COLUMN if series is None else _DERIVED
    properties["predictionExplanations"] = {"type": "array", "items": _explanation(labels, feature)}
    if series is None and target.type != "Multiclass":
        properties["shapExplanationsMetadata"] = {"type": "array", "items": _SHAP}
    return {"type": "object", "properties": properties, "required": required}


_A_COLUMN: Final = "A column of the request."
_DERIVED: Final = "What the model takes: derived from columns of the request, or known in advance."


def _explanation(labels: JsonObject, feature: str) -> JsonObject:
    properties: JsonObject = {
        "feature": {"type": "string", "description": feature},
        "featureValue": {"type": ["string", "number", "boolean", "null"]},
        "strength": {"type": ["number", "null"], "description": "How far it moves the prediction, and which way."},
        "qualitativeStrength": {"enum": [*filter(None, SYMBOLS)], "description": "Not for SHAP."},
        "standardError": {"type": ["number", "null"], "description": "Of SHAP values that are estimated."},
        "label": labels | {"description": "Whose prediction a positive strength raises."},
    }
    return {"type": "object", "properties": properties, "required": ["feature", "featureValue", "strength", "label"]}


_TEXT: Final = {"type": "string"}
_OF_A_FORECAST: Final[JsonObject] = {
    "seriesId": {"type": ["string", "null"]},
    "forecastPoint": {**_TEXT, "format": "date-time"},
    "timestamp": {**_TEXT, "format": "date-time"},
    "originalFormatTimestamp": {**_TEXT, "description": "The time as the request has it."},
    "forecastDistance": {"type": "integer", "minimum": 1},
    "predictionIntervals": {
        "type": "object",
        "description": "By percentile; only where the deployment or its package has one.",
        "additionalProperties": {
            "type": "object",
            "properties": {"low": {"type": ["number", "null"]}, "high": {"type": ["number", "null"]}},
        },
    },
}


def csv_columns(target: Target, series: TimeSeries | None = None) -> list[str]:
    """Header of a CSV answer without options."""
    before: list[str] = []
    if series is not None:
        before = [] if series.series_column is None else [series.series_column]
        before += ["FORECAST_POINT", series.datetime_column, "FORECAST_DISTANCE"]
    return before + _prediction_columns(target)


def _prediction_columns(target: Target) -> list[str]:
    name = target.name
    if target.type == "Anomaly":
        return ["ANOMALY_SCORE"]
    labels: list[ClassLabel] = target.class_labels or []
    columns = [*(f"{name}_{label}_PREDICTION" for label in labels), f"{name}_PREDICTION"]
    return [*columns, "THRESHOLD", "POSITIVE_CLASS"] if target.type == "Binary" else columns


def _column(feature: Feature) -> JsonObject:
    kind = _VALUE_TYPES[feature.type]
    schema: JsonObject = {"type": [kind, "null"] if feature.missing_allowed else kind}
    if feature.type == "date":
        schema["description"] = "A date as in the training data."
    if feature.categories:
        schema["examples"] = list(feature.categories[:10])
    return schema


_ONE_PER_ROW: Final = "One prediction per row, in order."
_FORECASTS: Final = (
    "Send history, and behind it the rows to forecast with an empty target: one prediction for each of those, by "
    "series, forecast point and distance."
)


def _predict(manifest: Manifest) -> JsonObject:
    example = example_row(manifest.inputs)
    kinds = (None, manifest.target.type, *(["time series"] if manifest.timeseries is not None else []))
    rows = {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Row"}}
    table = {"schema": {"type": "string"}, "example": _as_csv(example)}
    upload = {"type": "object", "properties": {"file": {"type": "string", "contentMediaType": "text/csv"}}}
    answer = {
        "type": "object",
        "properties": {"data": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}},
        "required": ["data"],
    }
    return {
        "summary": "Score rows",
        "description": (_ONE_PER_ROW if manifest.timeseries is None else _FORECASTS)
        + " Missing values are null in JSON and empty cells in CSV.",
        "parameters": [_parameter(row) for row in PARAMETERS.values() if row.only_for in kinds],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": rows, "example": [example]},
                "text/csv": table,
                "text/plain": table,
                "multipart/form-data": {"schema": upload},
            },
        },
        "responses": {
            "200": {
                "description": "The predictions.",
                "content": {
                    "application/json": {"schema": answer},
                    "text/csv": {
                        "schema": {"type": "string"},
                        "example": ",".join(csv_columns(manifest.target, manifest.timeseries)) + "\n",
                    },
                },
            },
            **_refer_to(*_ERRORS),
        },
    }


def _refer_to(*statuses: str) -> JsonObject:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _parameter(row: Parameter) -> JsonObject:
    schema = dict(row.kind.json_schema)
    return {
        "name": row.name,
        "in": "query",
        "description": row.about,
        "deprecated": row.deprecated,
        "schema": {"type": "array", "items": schema} if row.repeatable else schema,
    }


def _get(about: str, media_type: str, schema: JsonObject, *errors: str) -> JsonObject:
    success = {"200": {"description": about, "content": {media_type: {"schema": schema}}}}
    return {"summary": about, "responses": success | _refer_to(*errors)}


def _error(about: str) -> JsonObject:
    return {
        "description": about,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _in_query(name: str, least: int) -> JsonObject:
    return {"name": name, "in": "query", "schema": {"type": "integer", "minimum": least}}


_SERVER_ROUTES: Final = {
    "/ping": {"get": _get("200 when the server can score, else 503.", "application/json", _PONG, "503")},
    "/livez": {"get": _get("200 as long as the process runs.", "application/json", {"type": "object"})},
    "/metrics": {"get": _get("Counters of all workers for Prometheus.", "text/plain", {"type": "string"})},
}
_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "Name of the deployment's directory, or the deployment_id of its configuration.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$"},
}
_UPLOAD: Final = {
    "summary": "Deploy a package, or replace one.",
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string"}, "config": {"type": "string"}},
                    "required": ["file"],
                    "additionalProperties": False,
                }
            },
        },
    },
    "responses": {
        "200": {"description": "Replaced."},
        "201": {"description": "Deployed."},
        "400": _error("A multipart body without a part file, or with others than file and config."),
        **_refer_to("401", "403", "409"),
        "413": _error("The package is too large."),
        "415": _error("Neither application/octet-stream nor multipart/form-data, or compressed."),
        "422": _error("The id, the package or its configuration is not valid."),
        **_refer_to("503"),
        "507": _error("There is no room for it."),
    },
}
_DELETE: Final = {
    "summary": "Remove a deployment.",
    "responses": {"204": {"description": "Removed."}} | _refer_to("401", "403", "404", "409", "422"),
}
_TABLE: Final = {"schema": {"type": "string"}}
_SCORE: Final = {
    "summary": "Score rows",
    "description": "Columns, parameters and answers stand in GET /deployments/{id}/openapi.json.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "array", "minItems": 1, "items": {"type": "object"}}},
            "text/csv": _TABLE,
            "text/plain": _TABLE,
            "multipart/form-data": {"schema": {"type": "object"}},
        },
    },
    "responses": {"200": {"description": "The predictions."}} | _refer_to(*_ERRORS, "404"),
}


def _as_csv(row: dict[str, Any]) -> str:
    return "\n".join(",".join(_cell(text) for text in line) for line in (row.keys(), row.values())) + "\n"


def _cell(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text
