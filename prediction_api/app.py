"""Puts routes, errors and the model together into one ASGI app."""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp

from model_repository.repository import Model
from prediction_api.deployments import SingleDeployment, deployment_of
from prediction_api.middleware import Edge
from prediction_api.monitoring import CounterBoard, Counters
from prediction_api.routes import Endpoints
from prediction_api.scoring import Lanes
from prediction_api.settings import Settings
from prediction_api.state import ServerState


def create_app(
    model: Model, settings: Settings, *, state: ServerState | None = None, counters: Counters | None = None
) -> ASGIApp:
    """
    The server of one model as an ASGI app, one per worker process.

    Args:
        model: loaded and checked.
        state: who makes it says when the app is ready and when it drains; without one it is ready at once.
        counters: this worker's row of a board that all workers share.
    """
    source = SingleDeployment(deployment_of(model, settings, Lanes.for_worker(settings.workers)))
    state = ServerState(ready=True) if state is None else state
    endpoints = Endpoints(source, settings, state, CounterBoard().for_worker(0) if counters is None else counters)
    return assembled(endpoints, endpoints.routes_of_one())


def assembled(endpoints: Endpoints, routes: Sequence[BaseRoute]) -> ASGIApp:
    """Routes inside, and what is the same for every route around them."""
    router = Router(routes, redirect_slashes=False)
    return Edge(router, endpoints.state, endpoints.counters, endpoints.settings)
