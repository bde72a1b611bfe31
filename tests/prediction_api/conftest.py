"""Small models written by hand, one per kind of target, and clients that speak to an app in the same process."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from model_repository.errors import ScoringFailed, UnscorableValue
from model_repository.explanations.reference import ReferenceData
from model_repository.manifest import EstimatorMember, GoldenRows, Manifest
from model_repository.predictions import Target
from model_repository.repository import Model
from model_repository.tables import Feature, FloatArray, Rows, Schema, Table
from model_repository.validation import Validator
from prediction_api.app import create_app
from prediction_api.settings import Settings
from tests.prediction_api.versions import Version, make_version

FEATURES = [
    Feature(name="x", type="numeric", dtype="float64"),
    Feature(name="city", type="categorical", dtype="object", categories=["Oslo", "Rome"]),
]
TARGETS = {
    "regression": Target(name="price", type="Regression", usual_range=(0.0, 10.0)),
    "plain regression": Target(name="price", type="Regression"),
    "binary": Target(name="bad", type="Binary", class_labels=["yes", "no"]),
    "binary numbers": Target(name="bad", type="Binary", class_labels=[1, 0], threshold=0.25),
    "multiclass": Target(name="pet", type="Multiclass", class_labels=["cat", "lion", "lynx"]),
    "multiclass numbers": Target(name="pet", type="Multiclass", class_labels=[1, 2, 3]),
    "anomaly": Target(name="odd", type="Anomaly"),
}


@dataclass
class ByHand:
    """Predicts ``2 x`` or a probability made of x; refuses x = 13 and breaks at x = 666."""

    target: Target
    calls: int = 0

    def predict(self, table: Table) -> FloatArray:
        self.calls += 1
        x = table.numeric["x"]
        if (x == 13).any():
            raise UnscorableValue("x", int((x == 13).argmax()), "13 brings bad luck")
        if (x == 666).any():
            raise ScoringFailed("the estimator raised ValueError")
        if (x == 999).any():
            raise ZeroDivisionError("a secret of the server")
        x = np.nan_to_num(x)
        if self.target.type in ("Regression", "Anomaly"):
            return 2 * x[:, None]
        n_labels = len(self.target.class_labels or ())
        first = x / 4
        return np.column_stack([first, *[(1 - first) / (n_labels - 1)] * (n_labels - 1)])

    def predict_rows(self, rows: Rows) -> FloatArray:
        return self.predict(Table.from_rows(rows, Schema(tuple(FEATURES))))


REFERENCE = ReferenceData(columns={"x": [0.0, 1.0], "city": ["Oslo", None]}, exemplars=[0, 1], impact=[1.0, 0.0])
"""Two exemplars: what `ByHand` says of a row without them is easily computed."""


def model_of(
    kind: str = "binary", *, path: str = "compiled", reference: bool = False, exposure: str | None = None
) -> Model:
    manifest = Manifest(
        format_version=1,
        model_id="5fae9a023ba73530157ebdae",
        name=f"a {kind} model",
        created="2026-01-01T00:00:00Z",
        target=TARGETS[kind],
        features=FEATURES,
        versions={"python": "3.11"},
        members=[],
        golden="golden.json",
        estimator=EstimatorMember(member="model.skops", serializer="skops"),
        exposure=exposure,
    )
    return Model(
        manifest=manifest,
        runtime=ByHand(TARGETS[kind]),
        path="compiled" if path == "compiled" else "estimator",
        reason=None if path == "compiled" else "step 'odd' is not compiled",
        golden_difference=0.0,
        package_bytes=1000,
        golden=GoldenRows(columns={}, values=[]),
        reference=REFERENCE if reference else None,
    )


ClientFor = Callable[..., httpx.AsyncClient]


@pytest.fixture
def make_model() -> Callable[..., Model]:
    return model_of


@pytest.fixture
async def make_client() -> AsyncIterator[Callable[[ASGIApp], httpx.AsyncClient]]:
    """Clients of apps in this process."""
    async with AsyncExitStack() as clients:

        def make(app: ASGIApp) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://server")
            clients.push_async_callback(client.aclose)
            return client

        yield make


@pytest.fixture
def client_for(make_client) -> ClientFor:
    """``client_for("binary", max_body_bytes=100)``: a client of an app that serves such a model under such settings."""

    def make(
        kind: str = "binary",
        *,
        path: str = "compiled",
        reference: bool = False,
        exposure: str | None = None,
        **settings: object,
    ) -> httpx.AsyncClient:
        model = model_of(kind, path=path, reference=reference, exposure=exposure)
        return make_client(create_app(model, Settings(**settings)))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Version]:
    """Three real packages of one schema that answer differently."""
    folder = tmp_path_factory.mktemp("versions")
    return [make_version(folder / f"{seed}.mlpkg", seed) for seed in range(3)]


@pytest.fixture(scope="session")
def validator() -> Iterator[Validator]:
    """Tries packages out; its process is started by the first who asks."""
    validator = Validator()
    yield validator
    validator.close()
