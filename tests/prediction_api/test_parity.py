"""What comes over HTTP is what the estimator says, for real packages on both runtimes."""

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model_repository import create_package
from model_repository.repository import load_model
from prediction_api.app import create_app
from prediction_api.settings import Settings

RNG = np.random.default_rng(0)
N_ROWS = 1500


def sample() -> pd.DataFrame:
    age = RNG.normal(40, 10, N_ROWS)
    age[::50] = np.nan
    return pd.DataFrame({"age": age, "city": RNG.choice(["Oslo", "Rome", "Århus, DK"], N_ROWS)})


def labels_for(rows: pd.DataFrame, labels: list[str]) -> pd.Series:
    return pd.Series(np.array(labels)[(np.nan_to_num(rows["age"]) // 15 % len(labels)).astype(int)])


def fitted(model, rows: pd.DataFrame, values):
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer((numbers, ["age"]), (OneHotEncoder(), ["city"]))
    return make_pipeline(columns, model).fit(rows, values)


async def answers_to(client: httpx.AsyncClient, rows: pd.DataFrame) -> list[list[dict]]:
    """What the server says to the same rows as CSV and as JSON."""
    bodies = {
        "text/csv": rows.to_csv(index=False),
        "application/json": rows.to_json(orient="records", double_precision=15),
    }
    answers = [
        await client.post("/predictions?decimalsNumber=15", content=body, headers={"content-type": content_type})
        for content_type, body in bodies.items()
    ]
    return [answer.json()["data"] for answer in answers]


@pytest.mark.parametrize("n_rows", [3, N_ROWS], ids=["few rows", "many rows"])
@pytest.mark.parametrize(
    ("model", "labels", "path"),
    [
        pytest.param(LogisticRegression(), ["no", "yes"], "compiled", id="binary compiled"),
        pytest.param(LogisticRegression(), ["a", "b", "c"], "compiled", id="multiclass compiled"),
        pytest.param(KNeighborsClassifier(), ["no", "yes"], "estimator", id="binary estimator"),
    ],
)
async def test_classes(tmp_path, make_client, model, labels, path, n_rows):
    rows = sample()
    estimator = fitted(model, rows, labels_for(rows, labels))
    create_package(tmp_path / "m.mlpkg", estimator, rows, target="y")
    client = make_client(create_app(load_model(tmp_path / "m.mlpkg"), Settings()))
    assert (await client.get("/info")).json()["runtime"]["path"] == path
    some = rows.head(n_rows)
    expected = pd.DataFrame(estimator.predict_proba(some), columns=estimator.classes_)
    for data in await answers_to(client, some):
        got = pd.DataFrame([{one["label"]: one["value"] for one in row["predictionValues"]} for row in data])
        np.testing.assert_allclose(got[expected.columns], expected, rtol=0, atol=1e-12)
        assert [row["prediction"] for row in data] == estimator.predict(some).tolist()


async def test_numbers(tmp_path, make_client):
    rows = sample()
    estimator = fitted(LinearRegression(), rows, np.nan_to_num(rows["age"]) * 2)
    create_package(tmp_path / "m.mlpkg", estimator, rows, target="y")
    client = make_client(create_app(load_model(tmp_path / "m.mlpkg"), Settings()))
    for data in await answers_to(client, rows):
        np.testing.assert_allclose([row["prediction"] for row in data], estimator.predict(rows), rtol=1e-12)
