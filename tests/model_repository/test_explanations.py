"""What a request gets: chosen features, symbols, classes, thresholds; and what models without exact values get."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from model_repository.errors import ExplanationsUnavailable, InvalidPackage, MissingColumns, UnscorableValue
from model_repository.explanations import SYMBOLS, Algorithm, ExplanationOptions, Explanations
from model_repository.explanations.reference import ReferenceData, reference_from
from model_repository.exposure import adjusted_predictions
from model_repository.golden import rows_of
from model_repository.mlpkg import Package
from model_repository.repository import Model, load_model
from model_repository.tables import Feature, Rows, Schema, Table
from tests.conftest import Packaged, linear_inputs, tree_inputs

NAMES = ["age", "income", "city", "member"]


def reference(model: Model) -> ReferenceData:
    assert model.reference is not None
    return model.reference


def loaded(packaged: Packaged) -> Model:
    return load_model(packaged.path)


def explained(model: Model, options: ExplanationOptions, inputs: Rows | Table | None = None) -> Explanations:
    inputs = rows_of(model.golden, model.manifest.schema) if inputs is None else inputs
    table = inputs if isinstance(inputs, Table) else Table.from_rows(inputs, model.manifest.schema)
    return model.explainer.explain(inputs, model.runtime.predict(table), options)


@pytest.fixture(scope="module")
def sampled(made: Callable[..., Packaged]) -> Packaged:
    """Not compiled."""
    return made("sampled", make_pipeline(linear_inputs(), KNeighborsClassifier(15)), "bought")


@pytest.fixture(scope="module")
def calibrated(made: Callable[..., Packaged]) -> Packaged:
    model = CalibratedClassifierCV(LinearSVC(random_state=0), cv=2)
    return made("calibrated", make_pipeline(linear_inputs(), model), "bought")


@pytest.mark.parametrize(
    ("name", "algorithms", "exact"),
    [
        ("regression", ("xemp", "shap"), True),
        ("binary", ("xemp", "shap"), True),
        ("multiclass", ("xemp",), True),
        ("anomaly", ("xemp", "shap"), True),
        ("calibrated", ("xemp", "shap"), False),
        ("sampled", ("xemp", "shap"), False),
    ],
)
def test_what_a_model_supports(request, name: str, algorithms: tuple[Algorithm, ...], exact: bool):
    explainer = loaded(request.getfixturevalue(name)).explainer
    assert explainer.algorithms == algorithms
    assert explainer.is_exact == exact


@pytest.mark.parametrize("name", ["regression", "binary", "multiclass", "anomaly", "calibrated", "sampled"])
def test_the_strongest_features_come_first(request, name: str):
    found = explained(loaded(request.getfixturevalue(name)), ExplanationOptions("xemp", 3))
    n_rows = len(found.features)
    assert found.symbols is not None
    assert found.features.shape == found.strengths.shape == found.symbols.shape == (n_rows, 1, 3)
    sizes = np.nan_to_num(np.abs(found.strengths))
    assert (np.diff(sizes, axis=-1) <= 0).all()
    assert ((found.features < 0) == np.isnan(found.strengths)).all()
    for code, strength in zip(found.symbols.ravel().tolist(), found.strengths.ravel().tolist(), strict=True):
        assert SYMBOLS[code] == "" if np.isnan(strength) else ("-" in SYMBOLS[code]) == (strength < 0)
    assert (found.remaining, found.warnings, found.standard_errors) == (None, None, None)


@pytest.mark.parametrize("name", ["regression", "binary", "anomaly", "calibrated", "sampled"])
@pytest.mark.parametrize("count", [1, 3, None])
def test_shap_values_add_up(request, name: str, count: int | None):
    """Also where they are estimates: every walk ends at the row."""
    model = loaded(request.getfixturevalue(name))
    table = Table.from_rows(rows_of(model.golden, model.manifest.schema), model.manifest.schema)
    found = explained(model, ExplanationOptions("shap", count))
    margins = model.explainer._margins(table)[:, 0]
    assert found.features.shape[2] == (count or 4)
    assert found.symbols is None
    assert found.warnings is None
    assert found.base_value == model.explainer.base_value
    assert found.base_value + found.strengths.sum(axis=(1, 2)) + found.remaining == pytest.approx(margins, abs=1e-9)


def test_estimates_say_how_far_they_may_be_off(calibrated: Packaged):
    """Twenty walks against a hundred: the difference is a few standard errors at most."""
    model = loaded(calibrated)
    inputs = Rows(rows_of(model.golden, model.manifest.schema).values[:5])
    found = explained(model, ExplanationOptions("shap", None), inputs)
    every = msgspec.structs.replace(reference(model), exemplars=[*range(0, 200, 2)])
    assert found.standard_errors is not None
    better = explained(replace(model, reference=every), ExplanationOptions("shap", None), inputs)
    for row in range(5):
        ours = dict(zip(found.features[row, 0].tolist(), found.strengths[row, 0].tolist(), strict=True))
        theirs = dict(zip(better.features[row, 0].tolist(), better.strengths[row, 0].tolist(), strict=True))
        error = dict(zip(found.features[row, 0].tolist(), found.standard_errors[row, 0].tolist(), strict=True))
        assert all(abs(ours[place] - theirs[place]) <= 5 * error[place] + 1e-3 for place in range(4))


@pytest.mark.parametrize("name", ["regression", "binary", "multiclass", "sampled"])
@pytest.mark.parametrize("algorithm", ["xemp", "shap"])
def test_equal_requests_get_equal_answers(request, name: str, algorithm: Algorithm):
    """From two loads of one package, rows one by one or together."""
    first, second = loaded(request.getfixturevalue(name)), loaded(request.getfixturevalue(name))
    if algorithm not in first.explainer.algorithms:
        return
    options = ExplanationOptions(algorithm, 2)
    rows = rows_of(first.golden, first.manifest.schema).values[:8]
    whole, again = explained(first, options, Rows(rows)), explained(second, options, Rows(rows))
    assert (whole.strengths == again.strengths).all()
    for number, row in enumerate(rows):
        one = explained(second, options, Rows([row]))
        assert one.features[0].tolist() == whole.features[number].tolist()
        assert one.strengths[0] == pytest.approx(whole.strengths[number], abs=1e-12)


@pytest.mark.parametrize("name", ["regression", "binary", "multiclass", "sampled"])
def test_missing_and_unseen_values_are_explained(request, name: str):
    model = loaded(request.getfixturevalue(name))
    rows = Rows([[40.0, None, "Atlantis", 1.0], [40.0, 50_000.0, None, 0.0], [None, None, None, None]])
    rows = Rows([row for row in rows.values if _scores(model, row)])
    assert rows.values
    for algorithm in model.explainer.algorithms:
        found = explained(model, ExplanationOptions(algorithm, 3), rows)
        assert np.isfinite(found.strengths[found.features >= 0]).all()
        assert found.warnings is None


def _scores(model: Model, row: Any) -> bool:
    try:
        model.runtime.predict_rows(Rows([row]))
    except UnscorableValue:
        return False
    return True


@pytest.mark.parametrize(
    ("low", "high", "kept"),
    [
        (None, None, lambda p: True),
        (0.2, None, lambda p: p < 0.2),
        (None, 0.7, lambda p: p > 0.7),
        (0.2, 0.7, lambda p: p < 0.2 or p > 0.7),
        (0.7, 0.2, lambda p: True),
        (-1.0, 2.0, lambda p: False),
    ],
)
def test_thresholds_choose_rows(binary: Packaged, low, high, kept):
    """For SHAP they are ignored."""
    model = loaded(binary)
    table = Table.from_rows(rows_of(model.golden, model.manifest.schema), model.manifest.schema)
    positive = model.runtime.predict(table)[:, 0]
    found = explained(model, ExplanationOptions("xemp", 2, low, high))
    has = (found.features >= 0).any(axis=(1, 2)) if found.features.size else np.zeros(len(positive), dtype=bool)
    assert has.tolist() == [kept(p) for p in positive.tolist()]
    assert (explained(model, ExplanationOptions("shap", 2, low, high)).features >= 0).all()


def test_classes_of_a_multiclass_model(multiclass: Packaged):
    model = loaded(multiclass)
    table = Table.from_rows(rows_of(model.golden, model.manifest.schema), model.manifest.schema)
    predictions = model.runtime.predict(table)
    every = explained(model, ExplanationOptions("xemp", None, classes=(0, 1, 2)))
    assert every.strengths.shape[1] == 3
    top = explained(model, ExplanationOptions("xemp", None, top_classes=2))
    assert (top.classes[:, 0] == predictions.argmax(axis=1)).all()
    for row, classes in enumerate(top.classes.tolist()):
        for block, chosen in enumerate(classes):
            assert top.strengths[row, block] == pytest.approx(every.strengths[row, chosen], nan_ok=True)


def test_multiclass_has_no_shap(multiclass: Packaged):
    with pytest.raises(ExplanationsUnavailable, match="not available for multiclass models"):
        explained(loaded(multiclass), ExplanationOptions("shap"))


def test_softmax_strengths_sum_to_nothing_over_the_classes(made: Callable[..., Packaged]):
    """Of the margin, what one class wins others lose; and the closed form is what scoring says."""
    packaged = made("soft", make_pipeline(linear_inputs(), LogisticRegression(max_iter=1000)), "tier")
    model = loaded(packaged)
    found = explained(model, ExplanationOptions("xemp", None, classes=(0, 1, 2)))
    total = np.zeros((len(found.features), 4))
    for block in range(3):
        for row, (features, strengths) in enumerate(
            zip(found.features[:, block], found.strengths[:, block], strict=True)
        ):
            total[row, features[features >= 0]] += strengths[features >= 0]
    assert np.abs(total).max() <= 1e-12


@pytest.mark.parametrize(
    ("estimator", "algorithms"),
    [
        pytest.param(make_pipeline(tree_inputs(), HistGradientBoostingClassifier(max_iter=5)), ("shap",), id="trees"),
        pytest.param(make_pipeline(linear_inputs(), LogisticRegression()), (), id="linear"),
        pytest.param(make_pipeline(linear_inputs(), KNeighborsClassifier()), (), id="not compiled"),
    ],
)
def test_without_reference_rows(made: Callable[..., Packaged], estimator: Any, algorithms: tuple[Algorithm, ...]):
    """Trees know enough for SHAP; everything else says what to do."""
    packaged = made("bare", estimator, "bought", reference=False)
    model = loaded(packaged)
    assert (packaged.manifest.reference, model.reference, model.explainer.impact) == (None, None, None)
    assert model.explainer.algorithms == algorithms
    with pytest.raises(ExplanationsUnavailable, match="package it again with 'prediction-api package create'"):
        explained(model, ExplanationOptions("xemp"))
    if algorithms:
        assert explained(model, ExplanationOptions("shap")).warnings is None


def test_reference_rows_stand_for_the_sample(binary: Packaged):
    model = loaded(binary)
    found = reference(model)
    schema = model.manifest.schema
    assert found.n_rows == 200
    assert len(found.exemplars) == 20
    predictions = model.runtime.predict(found.table(schema))[:, 0]
    assert (np.diff(predictions) >= -1e-12).all()
    whole = binary.estimator.predict_proba(binary.inputs)[:, 1]
    assert predictions.mean() == pytest.approx(whole.mean(), abs=0.01)
    assert max(found.impact) == 1.0
    assert np.array_equal(model.explainer.impact, found.impact)  # type: ignore[arg-type]


def test_features_without_impact_are_never_named(made: Callable[..., Packaged], people):
    """A column that the pipeline takes and the model does not use."""
    forest = RandomForestClassifier(3, max_depth=1, max_features=1, random_state=1)
    model = loaded(made("shallow", make_pipeline(tree_inputs(), forest), "bought", serializer="skops"))
    silent = [place for place, impact in enumerate(reference(model).impact) if impact == 0]
    found = explained(model, ExplanationOptions("xemp", 10))
    assert silent
    assert not np.isin(found.features, silent).any()


def test_memory_is_bounded(sampled: Packaged):
    """1,000 rows are 80,000 predictions, made in portions."""
    model = loaded(sampled)
    rows = rows_of(model.golden, model.manifest.schema).values
    table = Table.from_rows(Rows([rows[place % len(rows)] for place in range(1000)]), model.manifest.schema)
    predictions = model.runtime.predict(table)
    tracemalloc.start()
    model.explainer.explain(table, predictions, ExplanationOptions("xemp"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * 2**20


def edited(raw: bytes, **changes: Any) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(raw) | changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"impact": [1.0]}, "the impact is not a number from 0 to 1 for each feature"),
        ({"impact": [0.0, 0.5, 2.0, 0.0]}, "the impact is not a number from 0 to 1"),
        ({"exemplars": []}, "the exemplars are not 1 to 100 of its 200 rows"),
        ({"exemplars": [200]}, "the exemplars are not 1 to 100 of its 200 rows"),
        ({"exemplars": [-1]}, "the exemplars are not 1 to 100 of its 200 rows"),
        ({"columns": {"age": [1.0]}}, "its columns are not the features of the manifest"),
        ({"columns": {name: [] for name in NAMES}}, "0 rows, expected 1 to 1000"),
        ({"columns": {name: ["x"] for name in NAMES}, "exemplars": [0]}, "column 'age' does not hold 1 numeric cells"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_a_wrong_reference_is_refused(binary: Packaged, changes: dict[str, Any], problem: str):
    with Package.open(binary.path) as package:
        raw = package.member("reference.json")
        with pytest.raises(InvalidPackage, match=problem):
            reference_from(edited(raw, **changes), package.manifest)


RATE = Schema((Feature(name="a", type="numeric", dtype="float64"),))


@pytest.mark.parametrize("table", [False, True], ids=["rows", "table"])
@pytest.mark.parametrize(
    ("column", "kept"),
    [("a", {}), ("days", {"days": ["2", "", "0.5"]}), ("days", {"days": [2, None, 0.5]})],
    ids=["feature", "kept from CSV", "kept from JSON"],
)
def test_exposure_multiplies_a_rate(column, kept, table):
    rows = Rows([[2.0], [None], [0.5]], kept)
    inputs = Table.from_rows(rows, RATE) if table else rows
    found = adjusted_predictions(np.array([[10.0], [10.0], [10.0]]), inputs, RATE, column)
    assert found.tolist() == pytest.approx([20.0, np.nan, 5.0], nan_ok=True)


def test_exposure_that_is_not_there_or_no_number():
    with pytest.raises(MissingColumns, match="days"):
        adjusted_predictions(np.ones((1, 1)), Rows([[1.0]]), RATE, "days")
    with pytest.raises(UnscorableValue, match="row 0, column 'days': 'x' is not a number"):
        adjusted_predictions(np.ones((1, 1)), Rows([[1.0]], {"days": ["x"]}), RATE, "days")


def test_a_regressor_that_is_not_compiled(made: Callable[..., Packaged]):
    model = loaded(made("near", make_pipeline(linear_inputs(), KNeighborsRegressor(3)), "spent", exposure="age"))
    assert model.manifest.exposure == "age"
    found = explained(
        model, ExplanationOptions("xemp", 2), Rows(rows_of(model.golden, model.manifest.schema).values[:3])
    )
    assert (found.features >= 0).all()


@pytest.mark.parametrize("cells", [1, 40, 1000])
@pytest.mark.parametrize("algorithm", ["xemp", "shap"])
def test_portions_change_nothing(sampled: Packaged, algorithm: Algorithm, cells: int, monkeypatch) -> None:
    """However few cells may be scored together, down to one row at a time."""
    options = ExplanationOptions(algorithm, 3)
    inputs = Rows(rows_of(loaded(sampled).golden, loaded(sampled).manifest.schema).values[:4])
    whole = explained(loaded(sampled), options, inputs)
    monkeypatch.setattr("model_repository.explanations.sampling._CELLS_AT_ONCE", cells)
    model = loaded(sampled)
    predict, sizes = model.runtime.predict, []

    def noted(table: Table) -> Any:
        sizes.append(table.n_rows)
        return predict(table)

    monkeypatch.setattr(model.runtime, "predict", noted)
    found = explained(model, options, inputs)
    assert (found.features == whole.features).all()
    assert found.strengths == pytest.approx(whole.strengths, abs=1e-12, nan_ok=True)
    assert max(sizes) <= max(len(reference(model).exemplars), cells // len(NAMES))
