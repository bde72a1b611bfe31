"""How an error looks to a client: always ``{"message": ...}`` as JSON, whatever it accepts."""

from typing import Final

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from model_repository.errors import ServingError

HEADERS: Final = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}
"""What goes with a status."""
UNKNOWN_ROUTE: Final = "no such route; GET /openapi.json says what this server answers"


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The one shape of all errors."""
    content = orjson.dumps({"message": printable(message)})
    return Response(content, status, headers, media_type="application/json")


def printable(text: str) -> str:
    """*text* with what no encoder takes (halves of surrogate pairs) escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def serving_response(exc: ServingError) -> Response:
    """Any error of ours, with the status that it hints at."""
    return error_response(exc.status_hint, str(exc), HEADERS.get(exc.status_hint))


def internal_response(request_id: str) -> Response:
    """Something that nobody foresaw; what it was stands in the log under this id."""
    return error_response(500, f"internal error; request id {request_id}")


def unrouted_response(exc: HTTPException, method: str) -> Response:
    """What Starlette's router raises: no such route, or not by this method."""
    headers = dict(exc.headers or {})
    if exc.status_code == 405 and method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    if exc.status_code == 405:
        return error_response(405, f"this route does not take {method[:20]}", headers)
    return error_response(exc.status_code, UNKNOWN_ROUTE if exc.status_code == 404 else exc.detail, headers)
