"""What a server of many models has beside predictions: the list, uploads, deletions, and what it says of itself."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_repository.deployments import Repository
from model_repository.errors import InvalidParameter, ModelUnavailable
from model_repository.listing import Entry
from prediction_api.deployments import Deployment
from prediction_api.exchange import SCOPE_KEY, Exchange
from prediction_api.gate import Gate
from prediction_api.intake import receive_package
from prediction_api.negotiation import announced_length, package_boundary
from prediction_api.routes import json_response, route
from prediction_api.settings import Settings
from prediction_api.state import ServerState

MOST_DIGITS: Final = 9


@dataclass(frozen=True)
class Management:
    """The handlers, and what they share."""

    repository: Repository[Deployment]
    gate: Gate
    settings: Settings
    state: ServerState

    async def info(self, _: Request) -> Response:
        """GET /info: this server; each deployment has an info of its own."""
        return json_response(
            {
                "mode": "multi",
                "exposure": self.gate.exposure,
                "modelCachePlaces": self.settings.scoring_model_cache_maxsize,
                "uploadMaxBytes": self.settings.upload_max_bytes,
            }
        )

    async def page(self, request: Request) -> Response:
        """GET /deployments: all of them, or the page that was asked for."""
        asked = _page_from(request.scope["query_string"])
        entries = await self.repository.entries()
        limit = asked.get("limit", len(entries))
        offset = asked.get("offset", 0)
        rows = [_listed(entry) for entry in entries[offset : offset + limit]]
        path = request.scope["raw_path"].decode("latin-1")

        def link(start: int) -> str:
            return f"{path}?limit={limit}&offset={max(start, 0)}"

        return json_response(
            {
                "count": len(rows),
                "totalCount": len(entries),
                "next": link(offset + limit) if offset + limit < len(entries) else None,
                "previous": link(offset - limit) if offset else None,
                "data": rows,
            }
        )

    async def upload(self, request: Request) -> Response:
        """POST /deployments/:id: a new package, or another one in place of the old."""
        exchange = self._admitted(request)
        headers = exchange.headers
        boundary = package_boundary(headers.get(b"content-type"), headers.get(b"content-encoding"))
        length = announced_length(headers.get(b"content-length"), headers.get(b"transfer-encoding"))
        name = request.path_params["model_id"]
        async with self.repository.upload(name) as upload:
            config = await receive_package(
                request.receive, boundary, length=length, limit=self.settings.upload_max_bytes, write=upload.write
            )
            outcome = await upload.commit(config)
        status = 201 if outcome == "created" else 200
        return json_response({"id": name, "outcome": outcome}, status, {"Location": f"/deployments/{name}/info"})

    async def delete(self, request: Request) -> Response:
        """DELETE /deployments/:id."""
        self._admitted(request)
        await self.repository.delete(request.path_params["model_id"])
        return Response(status_code=204)

    async def change(self, request: Request) -> Response:
        """One route for both, so that its 405 names both."""
        return await (self.upload if request.method == "POST" else self.delete)(request)

    def routes(self) -> list[Route]:
        """The URL map."""
        return [
            route("/info", self.info, methods=["GET"]),
            route("/deployments", self.page, methods=["GET"]),
            route("/deployments/{model_id}", self.change, methods=["POST", "DELETE"]),
        ]

    def _admitted(self, request: Request) -> Exchange:
        """
        Raises:
            Forbidden, Unauthorized: not from there, or not by them.
            InvalidParameter: there are no query parameters here.
            ModelUnavailable: the server starts or ends.
        """
        exchange: Exchange = request.scope[SCOPE_KEY]
        self.gate.check(exchange.headers)
        for name in _query(request.scope["query_string"]):
            raise InvalidParameter(f"{name!r}: {name} is not allowed key")
        if (refusal := self.state.refusal) is not None:
            raise ModelUnavailable(refusal)
        return exchange


def _query(query: bytes) -> dict[str, str]:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return {name[:100]: value for name, value in pairs}


def _page_from(query: bytes) -> dict[str, int]:
    asked = {}
    for name, text in _query(query).items():
        if name not in ("limit", "offset"):
            raise InvalidParameter(f"{name!r}: {name} is not allowed key")
        least = int(name == "limit")
        if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) >= least):
            raise InvalidParameter(f"{name!r}: value is not a whole number, {least} or more")
        asked[name] = int(text)
    return asked


def _listed(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "modelId": entry.model_id,
        "deploymentId": entry.deployment_id,
        "name": entry.name,
        "target": None if entry.target is None else {"name": entry.target, "type": entry.target_type},
        "state": entry.state,
        "reason": entry.reason,
        "loaded": entry.state == "loaded",
        "packageBytes": entry.size,
    }
