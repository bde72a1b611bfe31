"""What becomes a package, what its manifest says, and what is refused with which words."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC, OneClassSVM

from model_repository import create_package, packaging
from model_repository.compiler import NotCompilable, compile_estimator
from model_repository.errors import CannotPackage
from model_repository.golden import golden_from
from model_repository.manifest import GoldenRows, Manifest
from model_repository.mlpkg import Package
from model_repository.repository import load_model
from model_repository.tables import Feature

NUMBERS = ["age", "income"]


def golden_of(path: Path) -> tuple[Manifest, GoldenRows]:
    with Package.open(path) as package:
        return package.manifest, golden_from(package.member(package.manifest.golden), package.manifest)


def feature_of(manifest: Manifest, name: str) -> Feature:
    return next(feature for feature in manifest.features if feature.name == name)


@pytest.fixture
def numbers(people: pd.DataFrame) -> pd.DataFrame:
    """The two number columns, complete."""
    return people[NUMBERS].fillna(40_000.0)


def test_a_binary_pipeline(binary) -> None:
    manifest = binary.manifest
    assert manifest.target.class_labels == ["yes", "no"]
    assert manifest.target.type == "Binary"
    assert manifest.name == "binary"
    assert manifest.features == [
        Feature(name="age", type="numeric", dtype="int64"),
        Feature(name="income", type="numeric", dtype="float64"),
        Feature(name="city", type="categorical", dtype="str"),
        Feature(name="member", type="boolean", dtype="bool", missing_allowed=False),
    ]
    assert {"python", "skops", "scikit-learn", "numpy", "pandas", "scipy"} == set(manifest.versions)
    assert datetime.datetime.fromisoformat(manifest.created).tzinfo is not None
    with Package.open(binary.path) as package:
        assert package.manifest == manifest
        package.verify_members()


def test_golden_rows_are_real_rows_with_the_estimators_own_predictions(binary) -> None:
    _, golden = golden_of(binary.path)
    assert len(golden.values) == 64
    assert any(cell is None for cell in golden.columns["income"])
    assert any(cell is None for cell in golden.columns["city"])
    assert set(golden.columns["member"]) == {True, False}
    assert set(golden.labels or []) == {"yes", "no"}
    row = {name: column[5] for name, column in golden.columns.items()}
    sample = binary.sample
    found = sample[(sample["age"] == row["age"]) & (sample["member"] == row["member"])]
    probabilities = binary.estimator.predict_proba(found[binary.manifest.schema.names])[:, ::-1]
    assert golden.values[5] in probabilities.tolist()


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass", "anomaly"])
def test_a_package_predicts_what_its_estimator_predicts(kind: str, request: pytest.FixtureRequest) -> None:
    packaged = request.getfixturevalue(kind)
    model = load_model(packaged.path)
    assert model.golden_difference <= 1e-12
    manifest, golden = golden_of(packaged.path)
    assert len(golden.values[0]) == manifest.target.n_outputs
    if kind == "regression":
        assert manifest.target.usual_range is not None
        assert manifest.target.usual_range[0] < np.mean(golden.values) < manifest.target.usual_range[1]
    if kind == "anomaly":
        assert manifest.target.class_labels is None


@pytest.mark.parametrize(
    ("target", "labels", "rarer"),
    [
        pytest.param("bought", {"yes", "no"}, "yes", id="strings"),
        pytest.param("loyal", {True, False}, True, id="booleans"),
        pytest.param("tier", {1, 2}, None, id="integers"),
    ],
)
def test_binary_labels_keep_their_types(people, tmp_path: Path, target: str, labels: set[Any], rarer: Any) -> None:
    rows = people[people[target].isin(list(labels))].dropna()
    estimator = LogisticRegression(max_iter=2000).fit(rows[NUMBERS] / [1, 1000], rows[target])
    sample = (rows[NUMBERS] / [1, 1000]).assign(**{target: rows[target]})
    found = create_package(tmp_path / "m.mlpkg", estimator, sample, target=target).target.class_labels
    assert found is not None
    assert set(found) == labels
    assert {type(label) for label in found} == {type(label) for label in labels}
    assert found[0] == (rarer if rarer is not None else rows[target].value_counts().index[-1])


def test_the_positive_class(people, tmp_path: Path) -> None:
    """The given one (its text is enough), else the rarer one in the sample, else the estimator's second."""
    rows = people.assign(bought=np.where(people["bought"] == "yes", "no", "yes"))  # now "no" is rarer
    estimator = LogisticRegression().fit(rows[["age"]], rows["bought"])

    def positive(sample: pd.DataFrame, **options: Any) -> Any:
        target = create_package(tmp_path / "m.mlpkg", estimator, sample, target="bought", **options).target
        assert target.class_labels is not None
        return target.class_labels[0]

    assert positive(rows[["age", "bought"]]) == "no"
    assert positive(rows[["age", "bought"]], positive_class="yes") == "yes"
    assert positive(rows[["age"]]) == "yes"
    balanced = pd.concat([rows[rows["bought"] == label].head(20) for label in ("yes", "no")])
    assert positive(balanced[["age", "bought"]]) == "yes"
    numeric = LogisticRegression().fit(people[["age"]], people["loyal"].astype(int))
    made = create_package(
        tmp_path / "m.mlpkg", numeric, people[["age"]], target="loyal", positive_class="0", threshold=0.3
    )
    assert made.target.class_labels == [0, 1]
    assert made.target.threshold == 0.3


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), id="LightGBM"),
        pytest.param(xgboost.XGBClassifier(n_estimators=5), id="XGBoost"),
        pytest.param(LogisticRegression(), id="scikit-learn"),
        pytest.param(make_pipeline(StandardScaler(), lightgbm.LGBMRegressor(n_estimators=5, verbose=-1)), id="LightGBM in a pipeline"),
        pytest.param(make_pipeline(StandardScaler(), xgboost.XGBRegressor(n_estimators=5)), id="XGBoost in a pipeline"),
        pytest.param(GridSearchCV(make_pipeline(MinMaxScaler(), LogisticRegression()), {"logisticregression__C": [0.1, 1]}, cv=2), id="search"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("expects", ["dataframe", "array"])
def test_estimators_of_every_kind(numbers, people, tmp_path: Path, estimator: Any, expects: str) -> None:
    target = people["loyal"].astype(int)
    estimator.fit(numbers if expects == "dataframe" else numbers.to_numpy(), target)
    manifest = create_package(tmp_path / "m.mlpkg", estimator, numbers.assign(loyal=target), target="loyal")
    assert manifest.estimator.expects == expects
    assert manifest.schema.names == NUMBERS
    assert load_model(tmp_path / "m.mlpkg").golden_difference <= 1e-9
    if type(estimator).__name__ == "LGBMClassifier":
        assert "lightgbm" in manifest.versions


def test_only_the_columns_that_a_column_transformer_uses_are_demanded(people, tmp_path: Path) -> None:
    columns = ColumnTransformer([("a", StandardScaler(), ["age"]), ("b", "drop", ["income"])], remainder="drop")
    estimator = make_pipeline(columns, LinearRegression()).fit(people[["income", "city", "age"]], people["spent"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, people[["age"]], target="spent")
    assert manifest.schema.names == ["age"]


@pytest.mark.parametrize(
    ("estimator", "smallest"),
    [
        pytest.param(LinearSVC(), 0.0, id="LinearSVC"),
        pytest.param(RidgeClassifier(), 0.0, id="RidgeClassifier"),
        pytest.param(SGDClassifier(loss="hinge", random_state=0), 0.0, id="SGD with hinge loss"),
    ],
)
def test_classifiers_without_probabilities_give_ones_and_zeros(numbers, people, tmp_path, estimator, smallest) -> None:
    scaled = StandardScaler().set_output(transform="pandas").fit_transform(numbers)
    estimator.fit(scaled, people["tier"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, scaled, target="tier")
    _, golden = golden_of(tmp_path / "m.mlpkg")
    assert manifest.target.class_labels == [1, 2, 3]
    assert {value for row in golden.values for value in row} == {smallest, 1.0}
    assert golden.labels == [row.index(1.0) + 1 for row in golden.values]


def test_pandas_categories_keep_their_order_and_types(people, tmp_path: Path) -> None:
    sample = people[["age"]].assign(
        city=pd.Categorical(people["city"], categories=["São Paulo", "Oslo", "Bergen"]),
        tier=pd.Categorical(people["tier"], categories=[3, 1, 2]),
        flag=pd.Categorical(people["member"]),
    )
    estimator = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(sample, people["spent"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, sample.assign(spent=people["spent"]), target="spent")
    assert {feature.dtype for feature in manifest.features[1:]} == {"category"}
    assert feature_of(manifest, "city").categories == ["São Paulo", "Oslo", "Bergen"]
    assert feature_of(manifest, "tier").categories == [3, 1, 2]
    assert feature_of(manifest, "flag").categories == [False, True]
    _, golden = golden_of(tmp_path / "m.mlpkg")
    assert set(golden.columns["tier"]) == {"1", "2", "3"}
    assert set(golden.columns["flag"]) == {"true", "false"}
    assert load_model(tmp_path / "m.mlpkg").golden_difference <= 1e-9


def test_dates(people, tmp_path: Path) -> None:
    days = pd.Series(pd.date_range("2024-01-01T06:30", periods=len(people), freq="7h"), name="day")
    sample = pd.DataFrame({"day": days, "age": people["age"]})
    columns = ColumnTransformer([("day", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["day"])],
                                remainder="passthrough")  # fmt: skip
    estimator = make_pipeline(columns, Ridge()).fit(sample, people["spent"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, sample, target="spent")
    assert feature_of(manifest, "day").type == "date"
    assert feature_of(manifest, "day").dtype == str(days.dtype)
    _, golden = golden_of(tmp_path / "m.mlpkg")
    assert golden.columns["day"][0] == "2024-01-01T06:30:00"
    model = load_model(tmp_path / "m.mlpkg")
    assert model.path == "estimator"
    assert model.reason == "feature 'day' is of type date" == manifest.not_compiled


def test_text(people, tmp_path: Path) -> None:
    sample = pd.DataFrame({"note": [f"customer {n} of {city} wrote to us about {age} things" for n, (city, age) in
                                    enumerate(zip(people["city"], people["age"], strict=True))]})  # fmt: skip
    estimator = make_pipeline(ColumnTransformer([("note", TfidfVectorizer(), "note")]), Ridge())
    estimator.fit(sample, people["spent"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, sample, target="spent")
    assert feature_of(manifest, "note").type == "text"
    assert load_model(tmp_path / "m.mlpkg").path == "estimator"


@pytest.mark.parametrize(
    ("values", "type_", "missing_as"),
    [
        pytest.param(["a", "b", None], "categorical", "None", id="strings and None"),
        pytest.param(["a", "b", np.nan], "categorical", "NaN", id="strings and NaN"),
        pytest.param([True, False, None], "boolean", "None", id="booleans and None"),
        pytest.param([1, 2.5, np.nan], "numeric", "NaN", id="numbers"),
    ],
)
def test_object_columns_are_what_their_values_are(people, tmp_path: Path, values, type_, missing_as) -> None:
    column = pd.Series((values * len(people))[: len(people)], dtype=object, name="c")
    encoder = OneHotEncoder(handle_unknown="ignore")
    estimator = make_pipeline(encoder, Ridge()).fit(column.to_frame(), people["spent"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, column.to_frame(), target="spent")
    feature = feature_of(manifest, "c")
    assert (feature.type, feature.dtype, feature.missing_as) == (type_, "object", missing_as)
    assert load_model(tmp_path / "m.mlpkg").golden_difference <= 1e-9


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "int8", "uint16", "float32", "string"])
def test_other_dtypes_are_made_again(people, tmp_path: Path, dtype: str) -> None:
    column = (
        people["member"].astype(int).astype(str if dtype == "string" else dtype).astype(dtype).rename("c").to_frame()
    )
    estimator = make_pipeline(OneHotEncoder(handle_unknown="ignore"), Ridge()).fit(column, people["spent"])
    assert create_package(tmp_path / "m.mlpkg", estimator, column, target="spent").features[0].dtype == dtype
    assert load_model(tmp_path / "m.mlpkg").golden_difference <= 1e-9


def test_missing_and_infinite_values_are_found_by_trying(people, tmp_path: Path) -> None:
    """HistGradientBoosting takes both; behind a scaler infinity is refused; a linear model takes neither."""
    estimator = HistGradientBoostingRegressor(max_iter=5).fit(people[NUMBERS], people["spent"])
    limits = [(f.missing_allowed, f.infinite_allowed) for f in
              create_package(tmp_path / "m.mlpkg", estimator, people[NUMBERS], target="spent").features]  # fmt: skip
    assert limits == [(True, True), (True, True)]
    columns = ColumnTransformer([("scaled", StandardScaler(), ["age"])], remainder="passthrough")
    mixed = make_pipeline(columns, HistGradientBoostingRegressor(max_iter=5)).fit(people[NUMBERS], people["spent"])
    limits = [(f.missing_allowed, f.infinite_allowed) for f in
              create_package(tmp_path / "m.mlpkg", mixed, people[NUMBERS], target="spent").features]  # fmt: skip
    assert limits[0] == (True, False)
    linear = LinearRegression().fit(people[["age"]], people["spent"])
    feature = create_package(tmp_path / "m.mlpkg", linear, people[["age"]], target="spent").features[0]
    assert (feature.missing_allowed, feature.infinite_allowed) == (False, False)


def test_infinite_cells_never_become_golden(people, tmp_path: Path) -> None:
    sample = people[NUMBERS].copy()
    sample.loc[::2, "income"] = np.inf
    estimator = HistGradientBoostingRegressor(max_iter=5).fit(sample, people["spent"])
    create_package(tmp_path / "m.mlpkg", estimator, sample, target="spent")
    _, golden = golden_of(tmp_path / "m.mlpkg")
    assert len(golden.values) == 64
    assert all(cell is None or np.isfinite(cell) for cell in golden.columns["income"])


def test_packages_are_deterministic_but_for_id_and_time(binary, tmp_path: Path) -> None:
    again = create_package(tmp_path / "m.mlpkg", binary.estimator, binary.sample, target="bought", name="binary")
    assert again.members == binary.manifest.members
    assert again.features == binary.manifest.features
    assert again.model_id != binary.manifest.model_id


def test_a_joblib_package(people, tmp_path: Path) -> None:
    estimator = LinearRegression().fit(people[["age"]], people["spent"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, people[["age"]], target="spent", serializer="joblib")
    assert manifest.estimator.serializer == "joblib"
    assert manifest.estimator.member == "estimator.joblib"
    assert load_model(tmp_path / "m.mlpkg", pickle_allowed=True).golden_difference <= 1e-12


def test_a_plan_that_differs_is_left_out(binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(estimator: Any, schema: Any, target: Any) -> Any:
        return compile_estimator(flipped(estimator), schema, target)

    def flipped(estimator: Any) -> Any:
        other = make_pipeline(estimator[0], LogisticRegression())
        other[-1].coef_ = -estimator[-1].coef_
        other[-1].intercept_, other[-1].classes_ = estimator[-1].intercept_, estimator[-1].classes_
        return other

    monkeypatch.setattr(packaging, "compile_estimator", wrong)
    manifest = create_package(tmp_path / "m.mlpkg", binary.estimator, binary.sample, target="bought")
    assert manifest.plan is None
    assert manifest.not_compiled is not None
    assert "differs from the estimator" in manifest.not_compiled
    assert load_model(tmp_path / "m.mlpkg").path == "estimator"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.mlpkg"]


def test_the_step_that_prevents_a_plan_is_told(binary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise NotCompilable("Nystroem: no plan")

    monkeypatch.setattr(packaging, "compile_estimator", never)
    manifest = create_package(tmp_path / "m.mlpkg", binary.estimator, binary.sample, target="bought")
    assert manifest.not_compiled == "Nystroem: no plan"
    assert manifest.plan is None


class Moody(LinearRegression):
    """Predicts something else after it was packaged; a stand-in for estimators with hidden state."""

    def predict(self, inputs: Any) -> Any:
        self.calls_ = getattr(self, "calls_", 0) + 1
        return super().predict(inputs) + self.calls_


def test_an_estimator_that_does_not_repeat_itself_is_refused(people, tmp_path: Path) -> None:
    estimator = Moody().fit(people[["age"]], people["spent"])
    with pytest.raises(CannotPackage, match="differs from the original by"):
        create_package(tmp_path / "m.mlpkg", estimator, people[["age"]], target="spent", serializer="joblib")
    assert list(tmp_path.iterdir()) == []


def fit(estimator: Any, columns: list[str] | None = None, target: str = "spent") -> Callable[[pd.DataFrame], Any]:
    return lambda people: estimator.fit(people[columns or ["age"]], people[target])


@pytest.mark.parametrize(
    ("estimator", "change", "options", "message"),
    [
        pytest.param(lambda p: LinearRegression(), None, {}, "LinearRegression is not fitted", id="not fitted"),
        pytest.param(lambda p: "model", None, {}, "str is not an estimator", id="no estimator"),
        pytest.param(lambda p: GridSearchCV(Ridge(), {"alpha": [1]}, cv=2, refit=False).fit(p[["age"]], p["spent"]), None, {},
                     "refit=True", id="search without refit"),
        pytest.param(lambda p: KMeans(2, n_init=1).fit(p[["age"]]), None, {}, "KMeans is not supported", id="clusterer"),
        pytest.param(lambda p: LocalOutlierFactor().fit(p[["age"]]), None, {}, "LocalOutlierFactor", id="no score_samples"),
        pytest.param(lambda p: LinearRegression().fit(p[["age"]], p[["spent", "tier"]]), None, {}, "one output", id="two outputs"),
        pytest.param(lambda p: RandomForestClassifier(2).fit(p[["age"]], p[["tier", "loyal"]].astype(int)), None, {},
                     "several outputs", id="two classes at once"),
        pytest.param(lambda p: DummyClassifier().fit(p[["age"]], [1] * len(p)), None, {}, "1 class", id="one class"),
        pytest.param(fit(LogisticRegression(), target="loyal"), None, {"threshold": 1.5}, "expected 0 to 1", id="threshold"),
        pytest.param(fit(LogisticRegression(), target="loyal"), None, {"positive_class": "maybe"}, "the classes are False and True",
                     id="unknown positive class"),
        pytest.param(fit(RandomForestClassifier(2), target="tier"), None, {"positive_class": 1}, "this one has 3 classes",
                     id="positive class of three"),
        pytest.param(fit(LinearRegression()), None, {"positive_class": 1}, "binary classifiers only", id="positive class of none"),
        pytest.param(fit(LogisticRegression(), target="loyal"), None, {"exposure": "age"}, "for regression only, the target is Binary",
                     id="exposure of a class"),
        pytest.param(fit(LinearRegression()), None, {"exposure": "days"}, "no column 'days'", id="exposure that is not there"),
        pytest.param(fit(LinearRegression()), lambda s: s.assign(days="1"), {"exposure": "days"}, "'days' must hold numbers",
                     id="exposure of texts"),
        pytest.param(fit(LinearRegression()), lambda s: s.rename(columns={"age": "Age"}), {}, "lacks columns .*: age",
                     id="missing column"),
        pytest.param(lambda p: LinearRegression().fit(p[["age"]].to_numpy(), p["spent"]), lambda s: s.assign(more=1), {},
                     "array of 1 columns, the sample has 2", id="wrong number of columns"),
        pytest.param(fit(LinearRegression()), lambda s: s.to_numpy(), {}, "a pandas DataFrame, not ndarray", id="no table"),
        pytest.param(fit(LinearRegression()), lambda s: s.head(0), {}, "no rows", id="empty sample"),
        pytest.param(lambda p: LinearRegression, None, {}, "not a scikit-learn estimator", id="class instead of object"),
        pytest.param(fit(make_pipeline(FunctionTransformer(np.asarray), DummyClassifier()), target="tier"),
                     lambda s: s.assign(age=pd.Categorical(s["age"] > 50, categories=[True, False]).rename_categories([1, 1.5])
                                        .add_categories(["x"])), {}, "all strings, all numbers", id="mixed categories"),
        pytest.param(fit(LinearRegression()), lambda s: s.set_axis([0], axis=1), {}, "must be strings", id="names that are numbers"),
        pytest.param(fit(LinearRegression()), lambda s: pd.concat([s, s], axis=1), {}, "each of them once", id="duplicate names"),
        pytest.param(fit(LinearRegression()), lambda s: s.assign(age=np.nan), {}, "cannot predict the sample", id="unscorable sample"),
        pytest.param(fit(HistGradientBoostingRegressor(max_iter=2)), lambda s: s.assign(age=np.inf), {}, "no row of the sample has finite",
                     id="nothing finite"),
        pytest.param(fit(make_pipeline(FunctionTransformer(np.asarray), DummyClassifier()), target="tier"),
                     lambda s: s.assign(age=pd.Series(["a", 1] * (len(s) // 2), dtype=object)), {},
                     "column 'age': holds int, str; cast it", id="mixed types"),
        pytest.param(fit(make_pipeline(FunctionTransformer(np.asarray), DummyClassifier()), target="tier"),
                     lambda s: s.assign(age=pd.Series([None] * len(s), dtype=object)), {}, "nothing but missing", id="only missing"),
        pytest.param(fit(make_pipeline(FunctionTransformer(np.asarray), DummyClassifier()), target="tier"),
                     lambda s: s.assign(age=pd.to_timedelta(s["age"], unit="s")), {}, "dtype timedelta64.* is not supported", id="dtype"),
        pytest.param(fit(make_pipeline(FunctionTransformer(np.asarray), DummyClassifier()), target="tier"),
                     lambda s: s.assign(age=pd.Categorical(s["age"].map(lambda a: (a, a)))), {}, "categories must be all",
                     id="categories of tuples"),
        pytest.param(lambda p: make_pipeline(FunctionTransformer(lambda x: x), LinearRegression()).fit(p[["age"]], p["spent"]), None, {},
                     "<lambda>.*serializer='joblib'", id="own code"),
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong(people, tmp_path: Path, estimator, change, options, message) -> None:
    sample = people[["age"]] if change is None else change(people[["age"]])
    with pytest.raises(CannotPackage, match=message):
        create_package(tmp_path / "m.mlpkg", estimator(people), sample, target="y", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_creation_leaves_the_old_package(binary, people, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpkg"
    path.write_bytes(binary.path.read_bytes())
    with pytest.raises(CannotPackage):
        create_package(path, LinearRegression(), people[["age"]], target="spent")
    assert path.read_bytes() == binary.path.read_bytes()


def test_boosted_trees_with_own_categories(people, tmp_path: Path) -> None:
    sample = people[["age", "city"]].assign(city=people["city"].astype("category"))
    estimator = HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype").fit(
        sample, people["bought"]
    )
    create_package(tmp_path / "m.mlpkg", estimator, sample, target="bought")
    assert load_model(tmp_path / "m.mlpkg").golden_difference <= 1e-12


def test_an_outlier_detector_scores_high_what_is_far_away(people, tmp_path: Path) -> None:
    estimator = make_pipeline(StandardScaler(), OneClassSVM()).fit(people[["age"]])
    create_package(tmp_path / "m.mlpkg", estimator, people[["age"]], target="odd")
    _, golden = golden_of(tmp_path / "m.mlpkg")
    assert golden.labels is None
    assert golden.values[0][0] == -estimator.score_samples(people[["age"]].iloc[[0]])[0]
