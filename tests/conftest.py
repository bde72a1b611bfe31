"""Small real packages for every test, made once per session."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, IsolationForest, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from model_repository import create_package
from model_repository.manifest import Manifest

INPUTS = ["age", "income", "city", "member"]


@dataclass(frozen=True)
class Packaged:
    """A package with what it was made of."""

    path: Path
    estimator: Any
    sample: pd.DataFrame
    """Raw rows, with the target if there is one."""
    manifest: Manifest

    @property
    def inputs(self) -> pd.DataFrame:
        """The sample's feature columns, as the estimator takes them."""
        return self.sample[self.manifest.schema.names]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Of OpenMP, in this process: with a few hundred rows several only wait for each other, for seconds on a busy machine."""
    with threadpool_limits(1, "openmp"):
        yield


@pytest.fixture(scope="session")
def people() -> pd.DataFrame:
    """
    240 rows: a number without and one with missing values, a string with missing values, a boolean, four targets.

    ``bought`` is yes (rarer) or no, ``tier`` one of 1, 2, 3, ``spent`` a number, ``loyal`` a boolean.
    """
    rng = np.random.default_rng(7)
    n = 240
    people = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "income": rng.normal(50_000.0, 12_000.0, n).round(2),
            "city": pd.Series(rng.choice(["Oslo", "Bergen", "São Paulo"], n), dtype="str"),
            "member": rng.random(n) > 0.4,
        }
    )
    wealth = people["income"] / 1000 + people["age"] - 20 * (people["city"] == "Oslo") + rng.normal(0, 8, n)
    people["bought"] = pd.Series(np.where(wealth > 115, "yes", "no"), dtype="str")
    people["tier"] = pd.cut(wealth, 3, labels=False) + 1
    people["spent"] = (wealth * 3.5 + 10 * people["member"]).round(2)
    people["loyal"] = people["bought"] == "yes"
    people.loc[::9, "income"] = np.nan
    people.loc[::13, "city"] = np.nan
    return people


def linear_inputs() -> ColumnTransformer:
    """Fill, scale and one-hot encode."""
    words = make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            ("words", words, ["city"]),
            ("flags", "passthrough", ["member"]),
        ]
    )


def tree_inputs() -> ColumnTransformer:
    """Encode the words; missing numbers stay missing."""
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    return ColumnTransformer([("words", words, ["city"])], remainder="passthrough")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, people: pd.DataFrame) -> Callable[..., Packaged]:
    """Fits an estimator to a target of `people` and packages it."""

    def make(name: str, estimator: Any, target: str, **options: Any) -> Packaged:
        outcome = people.get(target)
        sample = people[INPUTS] if outcome is None else people[[*INPUTS, target]]
        path = tmp_path_factory.mktemp(name) / f"{name}.mlpkg"
        estimator.fit(people[INPUTS], outcome)
        return Packaged(path, estimator, sample, create_package(path, estimator, sample, target=target, **options))

    return make


@pytest.fixture(scope="session")
def regression(made: Callable[..., Packaged]) -> Packaged:
    """Boosted trees; income and city may be missing."""
    model = HistGradientBoostingRegressor(max_iter=30, max_depth=3, random_state=0)
    return made("regression", make_pipeline(tree_inputs(), model), "spent")


@pytest.fixture(scope="session")
def binary(made: Callable[..., Packaged]) -> Packaged:
    """Logistic regression with the labels yes (positive) and no."""
    return made("binary", make_pipeline(linear_inputs(), LogisticRegression()), "bought")


@pytest.fixture(scope="session")
def multiclass(made: Callable[..., Packaged]) -> Packaged:
    """A forest with the labels 1, 2 and 3."""
    model = RandomForestClassifier(n_estimators=10, max_depth=4, random_state=0)
    return made("multiclass", make_pipeline(linear_inputs(), model), "tier")


@pytest.fixture(scope="session")
def anomaly(made: Callable[..., Packaged]) -> Packaged:
    """An isolation forest; its target is a name only."""
    model = IsolationForest(n_estimators=10, random_state=0)
    return made("anomaly", make_pipeline(linear_inputs(), model), "anomaly")
