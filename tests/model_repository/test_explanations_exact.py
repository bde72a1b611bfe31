"""SHAP values of compiled models against the shap library, and strengths by exemplars against scoring them one by one."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from model_repository.explanations import Explainer, ExplanationOptions
from model_repository.explanations.leaves import Forest
from model_repository.explanations.shap_trees import TreeShap
from model_repository.packaging import create_package
from model_repository.plan import Trees
from model_repository.predictions import Target
from model_repository.repository import Model, load_model
from model_repository.runtimes.compiled import CompiledRuntime
from model_repository.tables import Schema, Table, encoded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    shap = pytest.importorskip("shap")

N_ROWS = 500
NUMBERS = ["age", "income", "debt", "score"]
TEXTS = ["city", "zip"]
SHAP = ExplanationOptions("shap", None)
XEMP = ExplanationOptions("xemp", None)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Numbers with missing values, and strings."""
    random = np.random.default_rng(5)
    table = pd.DataFrame({name: random.normal(size=N_ROWS) * (1 + i) for i, name in enumerate(NUMBERS)})
    table["city"] = pd.Series(random.choice(["Oslo", "Bergen", "Roma", "Wien"], N_ROWS), dtype="str")
    table["zip"] = pd.Series(random.choice([f"{i:04d}" for i in range(30)], N_ROWS), dtype="str")
    table["y"] = (
        table["age"] * (table["city"] == "Oslo") - table["debt"] + np.sin(table["income"]) + random.normal(size=N_ROWS)
    )
    table.loc[random.random(N_ROWS) < 0.1, "income"] = np.nan
    return table


def one_hot() -> Any:
    return make_column_transformer(
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), NUMBERS),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXTS),
    )


def ordinal() -> Any:
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    return make_column_transformer((encoder, TEXTS), remainder="passthrough")


def packaged(folder: Path, estimator: Any, rows: pd.DataFrame, kind: str, **options: Any) -> Model:
    """Fit, package, load."""
    outcome = {"binary": (rows["y"] > 0).astype(int), "regression": np.exp(rows["y"] / 3), "anomaly": None}[kind]
    inputs = rows[NUMBERS + TEXTS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(inputs, outcome)
    path = folder / "model.mlpkg"
    sample = inputs if outcome is None else inputs.assign(y=outcome)
    create_package(path, estimator, sample, target="y", positive_class=1 if kind == "binary" else None, **options)
    model = load_model(path)
    assert (model.path, model.reason) == ("compiled", None)
    return model


def table_of(model: Model, frame: pd.DataFrame) -> Table:
    numeric = {name: frame[name].to_numpy(float) for name in NUMBERS}
    return Table(
        len(frame),
        numeric,
        {name: encoded(frame[name].astype(object).where(frame[name].notna(), None)) for name in TEXTS},
    )


def by_feature(model: Model, strengths: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Explanations of all features put back into the order of the schema: shape (n, n_features)."""
    out = np.zeros((len(strengths), len(model.manifest.features)))
    for row in range(len(strengths)):
        present = features[row, 0] >= 0
        out[row, features[row, 0][present]] = strengths[row, 0][present]
    return out


def library_values(estimator: Any, inputs: pd.DataFrame) -> tuple[np.ndarray, float, list[str]]:
    """The shap library's own values of the transformed columns, for the positive class."""
    steps = estimator[:-1]
    matrix = np.asarray(steps.transform(inputs), dtype=float)
    names = [str(name) for name in steps.get_feature_names_out()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer = shap.TreeExplainer(estimator[-1])
        values = np.asarray(explainer.shap_values(matrix, check_additivity=False))
    base = np.ravel(explainer.expected_value)
    return (values[..., 1], float(base[1]), names) if values.ndim == 3 else (values, float(base[-1]), names)


def raw_feature(column: str) -> str:
    """Of a column made by a ColumnTransformer: ``onehot__city_Oslo`` is of ``city``."""
    name = column.partition("__")[2].removeprefix("missingindicator_")
    return name if name in NUMBERS + TEXTS else name.partition("_")[0]


@dataclass(frozen=True)
class Case:
    estimator: Any
    kind: str
    before: Any = one_hot
    tolerance: float = 1e-8


Fitted = Callable[[Case], tuple[Any, Model]]


@pytest.fixture(scope="module")
def fitted(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """The estimator of a case and its packaged model, made once for all tests that want it."""
    made: dict[int, tuple[Any, Model]] = {}

    def make(case: Case) -> tuple[Any, Model]:
        key = id(case.estimator)
        if key not in made:
            estimator = make_pipeline(case.before(), case.estimator)
            made[key] = estimator, packaged(tmp_path_factory.mktemp("case"), estimator, rows, case.kind)
        return made[key]

    return make


few: dict[str, Any] = {"n_estimators": 20, "random_state": 0}
quiet: dict[str, Any] = {"n_estimators": 25, "verbose": -1, "n_jobs": 1, "min_child_samples": 5}
CASES = {
    "HistGradientBoostingClassifier": Case(HistGradientBoostingClassifier(max_iter=25), "binary"),
    "HistGradientBoostingClassifier, ordinal": Case(HistGradientBoostingClassifier(max_iter=25), "binary", ordinal),
    "HistGradientBoostingRegressor": Case(HistGradientBoostingRegressor(max_iter=25), "regression", ordinal),
    "HistGradientBoostingRegressor(large)": Case(
        HistGradientBoostingRegressor(max_iter=5, max_leaf_nodes=150, min_samples_leaf=1), "regression"
    ),
    "RandomForestClassifier": Case(RandomForestClassifier(**few), "binary"),
    "RandomForestRegressor": Case(RandomForestRegressor(**few), "regression"),
    "ExtraTreesRegressor": Case(ExtraTreesRegressor(**few), "regression"),
    "DecisionTreeClassifier": Case(DecisionTreeClassifier(random_state=0), "binary"),
    "DecisionTreeRegressor": Case(DecisionTreeRegressor(random_state=0), "regression"),
    "GradientBoostingClassifier": Case(GradientBoostingClassifier(**few), "binary"),
    "GradientBoostingRegressor": Case(GradientBoostingRegressor(**few), "regression"),
    "LGBMClassifier": Case(lightgbm.LGBMClassifier(**quiet), "binary"),
    "LGBMRegressor(poisson)": Case(lightgbm.LGBMRegressor(objective="poisson", **quiet), "regression", ordinal),
    # XGBoost computes its own values in float32: the difference is its rounding
    "XGBClassifier": Case(xgboost.XGBClassifier(n_estimators=25, n_jobs=1), "binary", one_hot, 2e-5),
    "XGBRegressor": Case(xgboost.XGBRegressor(n_estimators=25, n_jobs=1), "regression", one_hot, 2e-5),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_trees_agree_with_the_shap_library(case: Case, rows: pd.DataFrame, fitted: Fitted):
    """Per raw feature: the library's values of the columns, summed."""
    estimator, model = fitted(case)
    inputs = rows[NUMBERS + TEXTS].iloc[:150]  # the library takes its time over deep trees
    table = table_of(model, inputs)

    found = model.explainer.explain(table, model.runtime.predict(table), SHAP)

    values, base, columns = library_values(estimator, inputs)
    expected = np.zeros((len(inputs), len(model.manifest.features)))
    for place, column in enumerate(columns):
        expected[:, model.manifest.schema.names.index(raw_feature(column))] += values[:, place]
    assert model.explainer.is_exact
    assert np.abs(by_feature(model, found.strengths, found.features) - expected).max() <= case.tolerance
    assert found.base_value == pytest.approx(base, abs=case.tolerance)
    assert found.warnings is None


EXACT = CASES | {
    "LogisticRegression": Case(LogisticRegression(), "binary"),
    "SGDClassifier(hinge)": Case(SGDClassifier(random_state=0), "binary"),
    "LinearRegression": Case(LinearRegression(), "regression"),
    "PoissonRegressor": Case(PoissonRegressor(max_iter=1000), "regression"),
    "IsolationForest": Case(IsolationForest(n_estimators=15, random_state=0), "anomaly"),
}


def margins(model: Model, table: Table) -> np.ndarray:
    return model.explainer._margins(table)


@pytest.mark.parametrize("case", EXACT.values(), ids=EXACT)
def test_everything_adds_up_and_exemplars_are_what_scoring_says(case: Case, rows: pd.DataFrame, fitted: Fitted):
    """Base, strengths and rest are the margin; a strength by exemplars is the margin minus the mean with it exchanged."""
    _, model = fitted(case)
    sent = rows[NUMBERS + TEXTS].iloc[:60].copy()
    sent.loc[sent.index[::7], "zip"] = "elsewhere"
    table = table_of(model, sent)
    predictions = model.runtime.predict(table)
    own = margins(model, table)[:, 0]
    close = 1e-9 if case.tolerance == 1e-8 else case.tolerance

    found = model.explainer.explain(table, predictions, ExplanationOptions("shap", 2))
    sums = found.base_value + found.strengths[:, 0].sum(axis=1) + found.remaining
    assert found.warnings is None
    assert np.abs(sums - own).max() <= close

    xemp = model.explainer.explain(table, predictions, XEMP)
    strengths = by_feature(model, xemp.strengths, xemp.features)
    reference = model.reference
    assert reference is not None
    exemplars = reference.table(model.manifest.schema).taken(np.array(reference.exemplars))
    for place, name in enumerate(model.manifest.schema.names):
        means = [exchanged_mean(model, table, exemplars, name, row) for row in range(0, 60, 6)]
        expected = own[::6] - means if reference.impact[place] else np.zeros(10)
        assert np.abs(strengths[::6, place] - expected).max() <= close


def exchanged_mean(model: Model, table: Table, exemplars: Table, name: str, row: int) -> float:
    repeated = table.taken(np.full(exemplars.n_rows, row))
    if name in NUMBERS:
        repeated.numeric[name] = exemplars.numeric[name]
    else:
        repeated.strings[name] = exemplars.strings[name]
    return float(margins(model, repeated)[:, 0].mean())


def test_linear_values_are_those_of_the_shap_library(rows: pd.DataFrame, tmp_path: Path):
    """Interventional, with the package's reference rows as its background."""
    estimator = make_pipeline(one_hot(), LogisticRegression())
    model = packaged(tmp_path, estimator, rows, "binary")
    inputs = rows[NUMBERS + TEXTS]
    table = table_of(model, inputs)
    assert model.reference is not None
    background = pd.DataFrame(model.reference.columns)[NUMBERS + TEXTS].astype(
        dict.fromkeys(NUMBERS, float) | dict.fromkeys(TEXTS, "str")
    )

    found = model.explainer.explain(table, model.runtime.predict(table), SHAP)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masker = shap.maskers.Independent(estimator[0].transform(background), max_samples=1000)
        values = shap.LinearExplainer(estimator[-1], masker).shap_values(estimator[0].transform(inputs))
    expected = np.zeros((N_ROWS, len(model.manifest.features)))
    for place, column in enumerate(estimator[0].get_feature_names_out()):
        expected[:, model.manifest.schema.names.index(raw_feature(column))] += values[:, place]
    assert np.abs(by_feature(model, found.strengths, found.features) - expected).max() <= 1e-8


@pytest.mark.parametrize("n_rows", [1, 2, 5, 40, 300])
def test_the_number_of_rows_changes_nothing(n_rows: int, rows: pd.DataFrame, tmp_path: Path):
    """Few rows are computed, many are looked up by pattern."""
    model = packaged(tmp_path, make_pipeline(ordinal(), HistGradientBoostingClassifier(max_iter=10)), rows, "binary")
    table = table_of(model, rows[NUMBERS + TEXTS])
    predictions = model.runtime.predict(table)
    whole = model.explainer.explain(table, predictions, SHAP)

    some = model.explainer.explain(table.taken(np.arange(n_rows)), predictions[:n_rows], SHAP)

    assert (some.features == whole.features[:n_rows]).all()
    assert np.abs(some.strengths - whole.strengths[:n_rows]).max() <= 1e-12


@pytest.mark.parametrize("library", ["histogram", "lightgbm"])
def test_splits_by_categories(library: str, rows: pd.DataFrame, tmp_path: Path):
    """Sets of categories, missing ones, and ones that training never saw."""
    inputs = rows[NUMBERS + TEXTS].astype(dict.fromkeys(TEXTS, "category"))
    inputs.loc[inputs.index[::9], "zip"] = np.nan
    estimator = (
        HistGradientBoostingClassifier(max_iter=15, categorical_features="from_dtype")
        if library == "histogram"
        else lightgbm.LGBMClassifier(**quiet, min_data_per_group=2, cat_smooth=1)
    )
    estimator.fit(inputs, rows["y"] > 0)
    create_package(tmp_path / "m.mlpkg", estimator, inputs.assign(y=rows["y"] > 0), target="y", positive_class=True)
    model = load_model(tmp_path / "m.mlpkg")
    sent = inputs.astype(dict.fromkeys(TEXTS, object))
    sent.loc[sent.index[1::9], "zip"] = "elsewhere"
    table = table_of(model, sent)

    found = model.explainer.explain(table, model.runtime.predict(table), SHAP)

    assert model.explainer.is_exact
    assert found.warnings is None
    if library == "lightgbm":
        known = sent.replace("elsewhere", np.nan)
        seen = sent.assign(**{name: pd.Categorical(known[name], inputs[name].cat.categories) for name in TEXTS})
        expected = np.asarray(estimator.predict(seen, pred_contrib=True))
        assert np.abs(by_feature(model, found.strengths, found.features) - expected[:, :-1]).max() <= 1e-8


def test_a_column_that_is_split_twice_on_a_path_is_one_question():
    """By hand: one tree, x <= 2 then x <= 1; half of the rows go each way."""
    trees = Trees(
        feature=np.array([0, 0, 0, 0, 0]), threshold=np.array([2.0, 1.0, 0.0, 0.0, 0.0]),
        left=np.array([1, 2, 2, 3, 4]), right=np.array([4, 3, 2, 3, 4]), missing_left=np.zeros(5, dtype=np.uint8),
        value=np.array([[0.0], [0.0], [10.0], [20.0], [40.0]]), roots=np.array([0]), base=np.array([1.0]),
        outputs=np.array([0]), cover=np.array([8.0, 4.0, 2.0, 2.0, 4.0]),
    )  # fmt: skip
    found = TreeShap(Forest(trees, np.eye(1), np.array([0])), 1)
    assert found.base_value == 1 + 10 / 4 + 20 / 4 + 40 / 2
    expected = np.array([10.0, 20.0, 40.0, 40.0]) + 1 - found.base_value
    assert found.strengths(np.array([[0.5], [1.5], [3.0], [np.nan]]))[:, 0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("limit", ["MOST_STEPS", "MOST_ALL_PAIRS", "MOST_PAIRS"])
def test_a_forest_beyond_the_limits_is_sampled(limit: str, rows: pd.DataFrame, tmp_path: Path, monkeypatch):
    """Rather than filling the memory of every worker."""
    model = packaged(tmp_path, make_pipeline(ordinal(), HistGradientBoostingClassifier(max_iter=3)), rows, "binary")
    monkeypatch.setattr(f"model_repository.explanations.leaves.{limit}", 1)
    table = table_of(model, rows[NUMBERS + TEXTS].iloc[:2])
    found = model.explainer.explain(table, model.runtime.predict(table), SHAP)
    assert not model.explainer.is_exact
    assert found.warnings is None


def test_a_plan_without_covers_is_sampled(rows: pd.DataFrame, tmp_path: Path):
    """An older package: the trees do not say how many rows went which way."""
    model = packaged(tmp_path, make_pipeline(ordinal(), HistGradientBoostingClassifier(max_iter=3)), rows, "binary")
    assert isinstance(model.runtime, CompiledRuntime)
    plan = model.runtime.plan
    older = msgspec.structs.replace(plan, model=msgspec.structs.replace(plan.model, cover=None))
    schema: Schema = model.manifest.schema
    target: Target = model.manifest.target
    runtime = CompiledRuntime(older, schema, target)
    table = table_of(model, rows[NUMBERS + TEXTS].iloc[:4])

    sampled = Explainer(runtime, schema, target, model.reference)
    found = sampled.explain(table, runtime.predict(table), SHAP)

    assert not sampled.is_exact
    assert found.warnings is None
    assert found.standard_errors is not None
    assert Explainer(runtime, schema, target, None).algorithms == ()
