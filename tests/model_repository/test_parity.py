"""
Every estimator that compiles says the same as the original, in float64, from CSV and from JSON, one row or many.

Run as a program, it writes the figures into docs/parity.md.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import lightgbm
import numpy as np
import orjson
import pandas as pd
import pytest
import xgboost
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVC, LinearSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from model_repository.csv_codec import read_csv_rows, read_csv_tables
from model_repository.errors import UnscorableValue
from model_repository.json_codec import read_json_rows, read_json_tables
from model_repository.packaging import create_package
from model_repository.predictions import Target, label_codes
from model_repository.repository import Model, load_model
from model_repository.tables import FloatArray, Rows

TOLERANCE = 1e-12
N_ROWS = 700
NUMBERS = [f"n{i}" for i in range(5)]
Kind = Literal["binary", "multiclass", "regression", "anomaly"]


@cache
def frame(categories: bool = False) -> pd.DataFrame:
    """Numbers, whole numbers, booleans and strings, with missing values; or the strings as pandas categories."""
    random = np.random.default_rng(3)
    table = pd.DataFrame({name: random.normal(size=N_ROWS) * (1 + i) + i for i, name in enumerate(NUMBERS)})
    table["whole"] = random.integers(0, 9, N_ROWS)
    table["flag"] = random.random(N_ROWS) > 0.5
    table["short"] = random.choice(["a", "b", "c", "d'é"], N_ROWS)
    table["zip"] = random.choice([f"{i:05d}" for i in range(40)], N_ROWS)
    for name in ("n0", "n3"):
        table.loc[random.random(N_ROWS) < 0.06, name] = np.nan
    table.loc[random.random(N_ROWS) < 0.06, "short"] = np.nan
    if categories:
        table = table.astype({"short": "category", "zip": "category"})
    return table


@cache
def answers() -> dict[Kind, Any]:
    """What is to be predicted."""
    table = frame()
    z = table["n1"] - table["n2"] + (table["short"] == "a") * 2 + table["n0"].fillna(0) + table["flag"]
    z = (z - z.mean()) / z.std() + np.random.default_rng(4).normal(size=N_ROWS) / 3
    return {
        "binary": np.where(z > 0, 1, 0),
        "multiclass": np.digitize(z, [-0.7, 0.7]),
        "regression": np.exp(z / 2) * 10,
        "anomaly": None,
    }


def columns(
    *,
    scale: Any = None,
    encode: Any = None,
    impute: Any = None,
    impute_strings: Any = None,
    sparse_threshold: float = 0.3,
) -> ColumnTransformer:
    """The usual preprocessing with one part exchanged."""
    numbers = make_pipeline(impute or SimpleImputer(), scale or StandardScaler())
    strings = make_pipeline(
        impute_strings or SimpleImputer(strategy="most_frequent"), encode or OneHotEncoder(handle_unknown="ignore")
    )
    parts = [
        ("numbers", numbers, [*NUMBERS, "whole"]),
        ("strings", strings, ["short", "zip"]),
        ("flag", "passthrough", ["flag"]),
    ]
    return ColumnTransformer(parts, sparse_threshold=sparse_threshold)


def ordinal() -> OrdinalEncoder:
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)


@dataclass(frozen=True)
class Case:
    """One combination; *make* builds the unfitted estimator."""

    name: str
    kind: Kind
    make: Callable[[], BaseEstimator]
    categories: bool = False
    unseen: bool = True
    """Whether strings that training never saw are among the rows."""


def behind(first: Callable[[], Any], last: Callable[[], Any]) -> Callable[[], BaseEstimator]:
    """Builds a pipeline of the two."""
    return lambda: make_pipeline(first(), last())


def _estimators() -> Iterator[Case]:
    """Last steps, each behind the usual preprocessing."""
    classifiers: dict[str, Callable[[], Any]] = {
        "LogisticRegression": lambda: LogisticRegression(max_iter=300),
        "LogisticRegressionCV": lambda: LogisticRegressionCV(
            Cs=2, cv=2, max_iter=300, use_legacy_attributes=False, scoring="accuracy", l1_ratios=(0,)
        ),
        "SGDClassifier(log_loss)": lambda: SGDClassifier(loss="log_loss", random_state=0),
        "SGDClassifier(modified_huber)": lambda: SGDClassifier(loss="modified_huber", random_state=0),
        "SGDClassifier(hinge)": lambda: SGDClassifier(random_state=0),
        "LinearSVC": lambda: LinearSVC(random_state=0),
        "RidgeClassifier": RidgeClassifier,
        "DecisionTreeClassifier": lambda: DecisionTreeClassifier(random_state=0),
        "ExtraTreeClassifier": lambda: ExtraTreeClassifier(random_state=0),
        "RandomForestClassifier": lambda: RandomForestClassifier(15, random_state=0),
        "RandomForestClassifier(max_depth=5)": lambda: RandomForestClassifier(15, max_depth=5, random_state=0),
        "ExtraTreesClassifier": lambda: ExtraTreesClassifier(10, random_state=0),
        "GradientBoostingClassifier": lambda: GradientBoostingClassifier(n_estimators=20, random_state=0),
        "LGBMClassifier": lambda: lightgbm.LGBMClassifier(n_estimators=25, verbose=-1, n_jobs=1),
        "XGBClassifier": lambda: xgboost.XGBClassifier(n_estimators=25, n_jobs=1),
        "CalibratedClassifierCV(LinearSVC, sigmoid)": lambda: CalibratedClassifierCV(LinearSVC(random_state=0), cv=2),
        "CalibratedClassifierCV(RandomForestClassifier, isotonic)": lambda: CalibratedClassifierCV(
            RandomForestClassifier(5, random_state=0), method="isotonic", cv=2
        ),
    }
    for name, make in classifiers.items():
        yield Case(name, "binary", behind(columns, make))
        yield Case(name, "multiclass", behind(lambda: columns(encode=ordinal()), make))
    regressors: dict[str, Callable[[], Any]] = {
        "LinearRegression": LinearRegression,
        "Ridge": Ridge,
        "Lasso": Lasso,
        "ElasticNet": ElasticNet,
        "SGDRegressor": lambda: SGDRegressor(random_state=0),
        "LinearSVR": lambda: LinearSVR(random_state=0, max_iter=10_000),
        "PoissonRegressor": lambda: PoissonRegressor(max_iter=300),
        "GammaRegressor": lambda: GammaRegressor(max_iter=300),
        "TweedieRegressor": lambda: TweedieRegressor(power=1.5, max_iter=300),
        "DecisionTreeRegressor": lambda: DecisionTreeRegressor(random_state=0),
        "ExtraTreeRegressor": lambda: ExtraTreeRegressor(random_state=0),
        "RandomForestRegressor": lambda: RandomForestRegressor(10, random_state=0),
        "ExtraTreesRegressor": lambda: ExtraTreesRegressor(10, random_state=0),
        "GradientBoostingRegressor": lambda: GradientBoostingRegressor(n_estimators=30, random_state=0),
        "LGBMRegressor": lambda: lightgbm.LGBMRegressor(n_estimators=30, verbose=-1, n_jobs=1),
        "XGBRegressor": lambda: xgboost.XGBRegressor(n_estimators=30, n_jobs=1),
        "XGBRegressor(count:poisson)": lambda: xgboost.XGBRegressor(
            n_estimators=30, n_jobs=1, objective="count:poisson"
        ),
    }
    for name, make in regressors.items():
        yield Case(name, "regression", behind(columns, make))
    yield Case(
        "IsolationForest",
        "anomaly",
        lambda: make_pipeline(columns(), IsolationForest(n_estimators=20, random_state=0)),
    )
    yield Case(
        "GradientBoostingClassifier(exponential)",
        "binary",
        lambda: make_pipeline(columns(), GradientBoostingClassifier(n_estimators=20, loss="exponential")),
    )
    yield from _histograms()


def _histograms() -> Iterator[Case]:
    """HistGradientBoosting: dense matrices, categories of three sources, and trees too large for bit masks."""

    def dense(last: BaseEstimator, encode: Any = None) -> BaseEstimator:
        return make_pipeline(columns(encode=encode or ordinal(), sparse_threshold=0), last)

    def few(**options: Any) -> dict[str, Any]:
        return {"max_iter": 25, "random_state": 0} | options

    classifier, regressor = HistGradientBoostingClassifier, HistGradientBoostingRegressor
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    name = classifier.__name__
    yield Case(f"{name}, one-hot", "binary", lambda: dense(classifier(**few()), one_hot))
    yield Case(name, "multiclass", lambda: dense(classifier(**few())))
    yield Case(
        f"{name}(from_dtype)", "binary", lambda: classifier(**few(categorical_features="from_dtype")), categories=True
    )
    yield Case(
        f"{name}(names)",
        "multiclass",
        lambda: classifier(**few(categorical_features=["short", "zip"])),
        categories=True,
    )
    name = regressor.__name__
    yield Case(name, "regression", lambda: dense(regressor(**few())))
    yield Case(f"{name}(poisson)", "regression", lambda: dense(regressor(**few(loss="poisson"))))
    yield Case(f"{name}(indices)", "regression", lambda: dense(regressor(**few(categorical_features=[6, 7]))))
    yield Case(
        f"{name}(max_leaf_nodes=200)",
        "regression",
        lambda: dense(regressor(**few(max_leaf_nodes=200, min_samples_leaf=2))),
    )
    yield Case(
        "LGBMClassifier, pandas categories",
        "binary",
        lambda: lightgbm.LGBMClassifier(n_estimators=25, verbose=-1, n_jobs=1, min_child_samples=3),
        categories=True,
    )


def _transformers() -> Iterator[Case]:
    """Preprocessing steps, each before a logistic regression."""

    def before(part: str, make: Callable[[], Any]) -> Callable[[], BaseEstimator]:
        return behind(lambda: columns(**{part: make()}), lambda: LogisticRegression(max_iter=300))

    bins = {"n_bins": 4, "quantile_method": "averaged_inverted_cdf"}
    scales: dict[str, Callable[[], Any]] = {
        "MinMaxScaler": MinMaxScaler,
        "MinMaxScaler(clip)": lambda: MinMaxScaler(clip=True),
        "MaxAbsScaler": MaxAbsScaler,
        "RobustScaler": RobustScaler,
        "PowerTransformer(yeo-johnson)": PowerTransformer,
        "PowerTransformer(box-cox)": lambda: make_pipeline(
            FunctionTransformer(np.exp), PowerTransformer(method="box-cox")
        ),
        "KBinsDiscretizer(onehot)": lambda: KBinsDiscretizer(**bins),
        "KBinsDiscretizer(ordinal)": lambda: KBinsDiscretizer(encode="ordinal", **bins),
        "FunctionTransformer(tanh)": lambda: FunctionTransformer(np.tanh),
        "FunctionTransformer(abs), FunctionTransformer(log1p)": lambda: make_pipeline(
            FunctionTransformer(np.abs), FunctionTransformer(np.log1p)
        ),
        "passthrough": lambda: "passthrough",
        "FeatureUnion": lambda: FeatureUnion([("a", StandardScaler()), ("b", MinMaxScaler())]),
        "SelectKBest": lambda: SelectKBest(k=3),
    }
    for name, make in scales.items():
        yield Case(name, "binary", before("scale", make))
    encoders: dict[str, Callable[[], Any]] = {
        "OneHotEncoder(drop=first)": lambda: OneHotEncoder(drop="first", handle_unknown="ignore"),
        "OneHotEncoder(drop=if_binary)": lambda: OneHotEncoder(drop="if_binary", handle_unknown="ignore"),
        "OneHotEncoder(min_frequency)": lambda: OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20),
        "OrdinalEncoder(min_frequency)": lambda: ordinal().set_params(min_frequency=20),
        "TargetEncoder": TargetEncoder,
        "OneHotEncoder, StandardScaler": lambda: make_pipeline(
            OneHotEncoder(handle_unknown="ignore", sparse_output=False), StandardScaler()
        ),
    }
    for name, make in encoders.items():
        yield Case(name, "binary", before("encode", make))
    yield Case("OneHotEncoder(handle_unknown=error)", "binary", before("encode", OneHotEncoder), unseen=False)
    imputers: dict[str, Callable[[], Any]] = {
        "SimpleImputer(median)": lambda: SimpleImputer(strategy="median"),
        "SimpleImputer(most_frequent)": lambda: SimpleImputer(strategy="most_frequent"),
        "SimpleImputer(constant)": lambda: SimpleImputer(strategy="constant", fill_value=-1),
        "SimpleImputer(add_indicator)": lambda: SimpleImputer(add_indicator=True),
    }
    for name, make in imputers.items():
        yield Case(name, "binary", before("impute", make))
    yield Case(
        "SimpleImputer(constant) of strings",
        "binary",
        before("impute_strings", lambda: SimpleImputer(strategy="constant", fill_value="none")),
    )


def _compositions() -> Iterator[Case]:
    """Ways to choose and nest columns."""
    strings = make_column_selector(dtype_include=[object, "str"])
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    by_selector = ColumnTransformer(
        [("s", one_hot, strings), ("w", one_hot, ["whole", "flag"])], remainder="passthrough"
    )
    boosted = HistGradientBoostingClassifier(max_iter=20)
    yield Case("make_column_selector, remainder passthrough", "binary", lambda: make_pipeline(by_selector, boosted))
    inner = ColumnTransformer([("i", SimpleImputer(), [0, 3]), ("p", "passthrough", slice(1, 3))])
    nested = ColumnTransformer([("x", inner, NUMBERS), ("d", "drop", ["whole"])], remainder=ordinal())
    yield Case(
        "nested ColumnTransformer, drop, indices, slices",
        "binary",
        lambda: make_pipeline(nested, StandardScaler(), SimpleImputer(), LogisticRegression(max_iter=300)),
    )
    dropping = ColumnTransformer([("s", StandardScaler(), ["n1", "n2"])], remainder="drop")
    yield Case("remainder drop", "regression", lambda: make_pipeline(dropping, Ridge()))


CASES = [*_estimators(), *_transformers(), *_compositions()]


@cache
def requests(case_categories: bool, unseen: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to score, as the estimator sees them and as a client sends them: with negative zeros and unseen strings."""
    seen = frame(case_categories).iloc[:200].copy()
    seen.loc[seen.index[::11], "n1"] = -0.0
    sent = seen.astype({"short": object, "zip": object})
    if unseen:
        sent.loc[sent.index[::13], "zip"] = "elsewhere"
        strings = sent["zip"]
        known = frame(case_categories)["zip"].cat.categories if case_categories else None
        seen["zip"] = pd.Categorical(strings.where(strings != "elsewhere"), known) if case_categories else strings
        if not case_categories:
            seen["zip"] = seen["zip"].astype(frame()["zip"].dtype)
    return seen, sent


def expected(fitted: Any, rows: pd.DataFrame, target: Target) -> FloatArray:
    """The original estimator's own answer, in the order of the target's classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some encoders announce unseen values
        if target.type == "Regression":
            return np.asarray(fitted.predict(rows), dtype=np.float64)[:, None]
        if target.type == "Anomaly":
            return -np.asarray(fitted.score_samples(rows))[:, None]
        classes = fitted.classes_.tolist()
        order = [classes.index(label) for label in target.class_labels or ()]
        if hasattr(fitted, "predict_proba"):
            return np.asarray(fitted.predict_proba(rows), dtype=np.float64)[:, order]
        return (fitted.predict(rows)[:, None] == fitted.classes_[order]).astype(np.float64)


def difference(case: Case, folder: Path) -> float:
    """Largest absolute difference (relative above 1) between the served package and the original, over every way in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fits on so few rows need not converge
        y = answers()[case.kind]
        table = frame(case.categories)
        fitted = case.make().fit(table, y) if y is not None else case.make().fit(table)
        create_package(folder / "case.mlpkg", fitted, table.assign(y=0 if y is None else y), target="y")
    model = load_model(folder / "case.mlpkg")
    assert (model.path, model.reason) == ("compiled", None)
    seen, sent = requests(case.categories, case.unseen)
    wanted = expected(fitted, seen, model.manifest.target)
    found = list(_every_way_in(model, sent))
    _same_labels(found[0], fitted, seen, model.manifest.target)
    scale = np.maximum(1.0, np.abs(wanted))
    return float(max((np.abs(values - wanted[: len(values)]) / scale[: len(values)]).max() for values in found))


def _same_labels(values: FloatArray, fitted: Any, rows: pd.DataFrame, target: Target) -> None:
    """The predicted classes are the estimator's, except on an exact tie, which the contract decides."""
    if target.class_labels is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = fitted.predict(rows)
    labels = np.array(target.class_labels)[label_codes(values, target)]
    tied = (values == values.max(axis=1, keepdims=True)).sum(axis=1) > 1
    assert ((labels == original) | tied).all()


def _every_way_in(model: Model, sent: pd.DataFrame) -> Iterator[FloatArray]:
    schema, runtime = model.manifest.schema, model.runtime
    used = sent[schema.names]
    as_csv = used.to_csv(index=False).encode()
    as_json = orjson.dumps(used.astype(object).where(used.notna(), None).to_dict("records"))
    for read in (read_csv_rows, read_json_rows):
        rows = read(as_csv if read is read_csv_rows else as_json, schema)
        yield runtime.predict_rows(rows)
        yield np.vstack([runtime.predict_rows(Rows([row])) for row in rows.values[:60]])
    yield np.vstack([runtime.predict(block) for block in read_csv_tables(as_csv, schema)])
    yield np.vstack([runtime.predict(block) for block in read_json_tables(as_json, schema)])


def label(case: Case) -> str:
    return f"{case.name}, {case.kind}"


@pytest.mark.parametrize("case", [pytest.param(case, id=label(case)) for case in CASES])
def test_the_compiled_plan_equals_the_estimator(case: Case, tmp_path: Path) -> None:
    """Within 1e-12, whichever way the rows come in."""
    assert difference(case, tmp_path) <= TOLERANCE


def test_values_that_an_encoder_refuses_are_named(tmp_path: Path) -> None:
    """As scikit-learn, but with the row, the column and the value."""
    fitted = make_pipeline(columns(encode=OneHotEncoder()), LogisticRegression(max_iter=300))
    fitted.fit(frame(), answers()["binary"])
    create_package(tmp_path / "x.mlpkg", fitted, frame(), target="y")
    model = load_model(tmp_path / "x.mlpkg")
    _, sent = requests(False, True)
    rows = read_csv_rows(sent.to_csv(index=False).encode(), model.manifest.schema)
    for score in (lambda: model.runtime.predict_rows(rows), lambda: model.runtime.predict_rows(Rows(rows.values[:1]))):
        with pytest.raises(UnscorableValue, match="row 0, column 'zip': 'elsewhere' is none of the values"):
            score()


DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"


def test_the_document_lists_every_case() -> None:
    """docs/parity.md is written by this module: `make parity`."""
    listed = [line.split("|")[1].strip() for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    assert listed[1:] == [case.name for case in CASES]


def write_document(folder: Path) -> None:
    """Measure every case and write the table."""
    lines = [
        "# Parity", "",
        "Each row is a fitted pipeline that was packaged and served by its compiled plan. The figure is the",
        "largest difference to the original estimator over 200 rows with missing values, negative zeros and strings",
        "that training never saw, sent as CSV and as JSON, one by one and together (absolute; relative where a",
        "prediction is above 1).",
        f"The test that wrote this table fails above {TOLERANCE:g}. Labels are equal throughout.", "",
        "| pipeline | target | largest difference |", "|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {case.name} | {case.kind} | {difference(case, folder):.1e} |" for case in CASES]
    DOCUMENT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        write_document(Path(made))
