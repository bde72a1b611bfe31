"""Loading: the path that serves has proved itself, or the package is refused."""

import copy
import logging
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

import model_repository
from model_repository import create_package
from model_repository.errors import (
    InvalidPackage,
    PackageMismatch,
    ScoringFailed,
    UnscorableTable,
    UnscorableValue,
    UntrustedPackage,
)
from model_repository.estimators import PICKLE_REFUSED, dump_estimator
from model_repository.golden import rows_of
from model_repository.manifest import GoldenRows, Manifest, manifest_from
from model_repository.mlpkg import write_package
from model_repository.predictions import Target
from model_repository.repository import find_single_package, load_model, verify_model
from model_repository.runtimes.estimator import EstimatorRuntime, estimator_inputs
from model_repository.tables import Feature, Rows, Schema, Table, encoded


@pytest.fixture
def rewritten(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a package with changes to its manifest, golden rows or other members."""

    def rewrite(
        source: Path,
        manifest: Callable[[Manifest], Manifest] = lambda manifest: manifest,
        golden: Callable[[GoldenRows], GoldenRows] = lambda golden: golden,
        **members: bytes,
    ) -> Path:
        with zipfile.ZipFile(source) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        old = manifest_from(contents.pop("manifest.json"))
        contents["golden.json"] = msgspec.json.encode(
            golden(msgspec.json.decode(contents["golden.json"], type=GoldenRows))
        )
        contents |= {name.replace("_", "."): data for name, data in members.items()}
        new = manifest(old)
        if new.plan is None:
            contents = {name: data for name, data in contents.items() if not name.startswith("plan")}
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlpkg"
        write_package(path, new, contents)
        return path

    return rewrite


def without_plan(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, plan=None, not_compiled="left out")


def made_with(version: str, *, plan: bool = False) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        manifest = msgspec.structs.replace(manifest, versions=manifest.versions | {"scikit-learn": version})
        return manifest if plan else without_plan(manifest)

    return change


def shifted(golden: GoldenRows) -> GoldenRows:
    return msgspec.structs.replace(golden, values=[[value + 1e-6 for value in row] for row in golden.values])


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass", "anomaly"])
def test_a_package_serves_by_its_plan(kind: str, request: pytest.FixtureRequest) -> None:
    packaged = request.getfixturevalue(kind)
    model = load_model(packaged.path)
    assert (model.path, model.reason, model.verified) == ("compiled", None, True)
    assert model.golden_difference <= 1e-12
    assert model.manifest == packaged.manifest
    assert model.package_bytes == packaged.path.stat().st_size


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass", "anomaly"])
def test_without_a_plan_the_estimator_serves(kind: str, rewritten, request: pytest.FixtureRequest) -> None:
    model = load_model(rewritten(request.getfixturevalue(kind).path, without_plan))
    assert (model.path, model.reason, model.verified) == ("estimator", "left out", True)
    assert model.golden_difference <= 1e-15


def test_a_compiled_package_needs_neither_scikit_learn_nor_pandas(binary) -> None:
    script = (
        "import sys; from model_repository.repository import load_model; load_model(sys.argv[1]); "
        "print([name for name in ('sklearn', 'pandas', 'skops', 'scipy', 'joblib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(binary.path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_importing_the_package_is_cheap() -> None:
    script = "import sys, model_repository; print([n for n in ('numpy', 'sklearn', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_attributes_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = model_repository.nothing


def test_a_plan_that_differs_gives_way_to_the_estimator(binary, multiclass, rewritten, caplog) -> None:
    """The plan of another model: here one whose probabilities are turned round."""
    with zipfile.ZipFile(binary.path) as archive:
        plan = msgspec.json.decode(archive.read("plan.json"))
    plan["order"] = plan["order"][::-1]
    with caplog.at_level(logging.WARNING):
        model = load_model(rewritten(binary.path, plan_json=msgspec.json.encode(plan)))
    assert model.path == "estimator"
    assert model.reason is not None
    assert "differs by" in model.reason
    assert model.golden_difference <= 1e-15
    assert "the original estimator serves" in caplog.text


def test_a_plan_that_is_not_understood_gives_way_to_the_estimator(binary, rewritten) -> None:
    model = load_model(rewritten(binary.path, plan_json=b'{"version": 99}'))
    assert model.path == "estimator"
    assert model.reason is not None
    assert "cannot serve" in model.reason


def test_a_damaged_plan_refuses_the_package(binary, tmp_path: Path) -> None:
    data = bytearray(binary.path.read_bytes())
    with zipfile.ZipFile(binary.path) as archive:
        info = archive.getinfo("plan.bin")
    data[info.header_offset + 30 + len("plan.bin") + 8] ^= 1
    path = tmp_path / "m.mlpkg"
    path.write_bytes(data)
    with pytest.raises(InvalidPackage, match=r"plan\.bin"):
        load_model(path)


def test_golden_rows_that_nobody_reproduces_refuse_the_package(binary, rewritten) -> None:
    with pytest.raises(PackageMismatch, match=r"'binary' differs by 1e-06 .*at most 1e-09"):
        load_model(rewritten(binary.path, golden=shifted))


def test_another_estimator_refuses_the_package(binary, rewritten, people) -> None:
    other = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    other.fit(binary.inputs, binary.sample["bought"])
    with pytest.raises(PackageMismatch, match="differs by"):
        load_model(rewritten(binary.path, without_plan, estimator_skops=dump_estimator(other, "skops")))


def test_an_estimator_that_cannot_score_refuses_the_package(binary, rewritten) -> None:
    unfitted = dump_estimator(LogisticRegression(), "skops")
    with pytest.raises(PackageMismatch, match="golden rows of 'binary' cannot be scored"):
        load_model(rewritten(binary.path, without_plan, estimator_skops=unfitted))


def test_another_scikit_learn_warns_when_the_golden_rows_replay(binary, rewritten, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        model = load_model(rewritten(binary.path, made_with("1.2.0")))
    assert model.path == "estimator"
    assert "made with scikit-learn 1.2.0, this server has" in caplog.text


def test_another_scikit_learn_does_not_matter_to_a_plan(binary, rewritten, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_model(rewritten(binary.path, made_with("1.2.0", plan=True))).path == "compiled"
    assert not caplog.records


def test_another_scikit_learn_is_named_when_they_do_not_replay(binary, rewritten) -> None:
    with pytest.raises(
        PackageMismatch, match=r"differs by .*; the package was made with scikit-learn 1\.2\.0, this server"
    ):
        load_model(rewritten(binary.path, made_with("1.2.0"), golden=shifted))


def test_another_scikit_learn_is_named_when_the_estimator_cannot_be_read(binary, rewritten) -> None:
    with pytest.raises(PackageMismatch, match=r"cannot be read: .*; the package was made with scikit-learn 1\.2\.0"):
        load_model(rewritten(binary.path, made_with("1.2.0"), estimator_skops=b"nothing"))


def test_an_estimator_that_cannot_be_read(binary, rewritten) -> None:
    with pytest.raises(InvalidPackage, match="the estimator cannot be read"):
        load_model(rewritten(binary.path, without_plan, estimator_skops=b"nothing"))


def test_a_pickle_is_loaded_only_when_allowed(people, tmp_path: Path) -> None:
    """Also when a plan could serve alone."""
    estimator = LinearRegression().fit(people[["age"]], people["spent"])
    path = tmp_path / "m.mlpkg"
    assert create_package(path, estimator, people[["age"]], target="spent", serializer="joblib").plan is not None
    with pytest.raises(UntrustedPackage) as caught:
        load_model(path)
    assert str(caught.value) == PICKLE_REFUSED
    assert load_model(path, pickle_allowed=True).path == "compiled"


def test_an_estimator_is_read_before_the_fork_and_verified_after_it(binary, rewritten) -> None:
    path = rewritten(binary.path, without_plan)
    model = load_model(path, verify=False)
    assert not model.verified
    assert math.isnan(model.golden_difference)
    verified = verify_model(model)
    assert verified.verified
    assert verified.golden_difference <= 1e-15
    assert verify_model(verified) is verified
    assert load_model(binary.path, verify=False).verified


def test_verification_after_the_fork_refuses_too(binary, rewritten) -> None:
    model = load_model(rewritten(binary.path, without_plan, golden=shifted), verify=False)
    with pytest.raises(PackageMismatch):
        verify_model(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda g: msgspec.structs.replace(g, values=[]), "0 rows", id="no rows"),
        pytest.param(lambda g: msgspec.structs.replace(g, values=g.values * 20), "1280 rows", id="too many rows"),
        pytest.param(lambda g: msgspec.structs.replace(g, values=g.values[:-1]), "63 numeric cells", id="columns of other length"),
        pytest.param(lambda g: msgspec.structs.replace(g, values=[row[:1] for row in g.values]), "2 predictions", id="too few outputs"),
        pytest.param(lambda g: msgspec.structs.replace(g, columns={"age": g.columns["age"]}), "not the features", id="columns missing"),
        pytest.param(lambda g: msgspec.structs.replace(g, columns=g.columns | {"age": g.columns["city"]}), "'age' does not hold", id="text"),
        pytest.param(lambda g: msgspec.structs.replace(g, columns=g.columns | {"city": g.columns["age"]}), "'city' does not hold", id="number"),
    ],
)  # fmt: skip
def test_golden_rows_must_fit_the_manifest(binary, rewritten, change, message: str) -> None:
    with pytest.raises(InvalidPackage, match=message):
        load_model(rewritten(binary.path, golden=change))


def test_golden_rows_that_are_no_json(binary, rewritten, tmp_path: Path) -> None:
    with zipfile.ZipFile(binary.path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    manifest = manifest_from(contents.pop("manifest.json"))
    write_package(tmp_path / "m.mlpkg", manifest, contents | {"golden.json": b"{"})
    with pytest.raises(InvalidPackage, match=r"golden\.json"):
        load_model(tmp_path / "m.mlpkg")


def test_an_unknown_dtype_is_refused(binary, rewritten) -> None:
    def change(manifest: Manifest) -> Manifest:
        features = [msgspec.structs.replace(feature, dtype="period[D]") for feature in manifest.features]
        return without_plan(msgspec.structs.replace(manifest, features=features))

    with pytest.raises(InvalidPackage, match=r"'age': dtype 'period\[D\]' is not known"):
        load_model(rewritten(binary.path, change))


def test_find_single_package(tmp_path: Path) -> None:
    assert find_single_package(tmp_path / "absent") is None
    assert find_single_package(tmp_path) is None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x.mlpkg").touch()
    (tmp_path / "readme.txt").touch()
    (tmp_path / "dir.mlpkg").mkdir()
    assert find_single_package(tmp_path) is None
    only = tmp_path / "only.mlpkg"
    only.touch()
    assert find_single_package(tmp_path) == only
    assert find_single_package(str(only)) == only
    assert find_single_package(tmp_path / "readme.txt") is None
    mounted = tmp_path / "model" / "mounted"
    mounted.touch()
    assert find_single_package(mounted) == mounted
    (tmp_path / "second.mlpkg").touch()
    assert find_single_package(tmp_path) is None


# The estimator's runtime: tables become what the estimator saw in training.


def one_column(feature: Feature, cells: list[Any]) -> pd.Series:
    schema = Schema((feature,))
    return estimator_inputs(Table.from_rows(Rows([[cell] for cell in cells]), schema), schema, "dataframe")[
        feature.name
    ]


@pytest.mark.parametrize(
    ("type_", "dtype", "cells", "expected"),
    [
        ("numeric", "int64", [1.0, 2.0], pd.Series([1, 2], dtype="int64")),
        ("numeric", "int64", [1.0, None], pd.Series([1.0, np.nan], dtype="float64")),
        ("numeric", "int64", [1.5, 2.0], pd.Series([1.5, 2.0], dtype="float64")),
        ("numeric", "int8", [1.0, 200.0], pd.Series([1.0, 200.0], dtype="float64")),
        ("numeric", "int64", [2.0**63], pd.Series([2.0**63], dtype="float64")),
        ("numeric", "uint8", [255.0], pd.Series([255], dtype="uint8")),
        ("numeric", "float32", [0.1, None], pd.Series([0.1, np.nan], dtype="float32")),
        ("numeric", "Int64", [1.0, None], pd.Series([1, None], dtype="Int64")),
        ("numeric", "Int64", [1.5, None], pd.Series([1.5, None], dtype="Float64")),
        ("numeric", "object", [1.0, None], pd.Series([1.0, np.nan], dtype="object")),
        ("boolean", "bool", [1.0, 0.0], pd.Series([True, False], dtype="bool")),
        ("boolean", "bool", [1.0, None], pd.Series([True, np.nan], dtype="object")),
        ("boolean", "boolean", [1.0, None], pd.Series([True, None], dtype="boolean")),
        ("boolean", "object", [1.0, None], pd.Series([True, np.nan], dtype="object")),
        ("categorical", "str", ["a", None], pd.Series(["a", np.nan], dtype="str")),
        ("categorical", "object", ["a", None], pd.Series(["a", np.nan], dtype="object")),
        ("categorical", "string", ["a", None], pd.Series(["a", None], dtype="string")),
        ("date", "datetime64[us]", ["2024-02-29", None, "2024-02-29T10:00:00+02:00"],
         pd.Series(["2024-02-29", None, "2024-02-29T08:00:00"], dtype="datetime64[us]")),
        ("date", "datetime64[ns, UTC]", ["2024-02-29T12:00:00Z", "2024-02-29"],
         pd.Series(["2024-02-29T12:00:00Z", "2024-02-29T00:00:00Z"], dtype="datetime64[ns, UTC]")),
    ],
)  # fmt: skip
def test_columns_have_the_dtypes_of_training(type_: Any, dtype: str, cells: list[Any], expected: pd.Series) -> None:
    found = one_column(Feature(name="c", type=type_, dtype=dtype), cells)
    pd.testing.assert_series_equal(found, expected, check_names=False)


def test_a_missing_object_is_what_it_was_in_training() -> None:
    column = one_column(Feature(name="c", type="categorical", dtype="object", missing_as="None"), ["a", None])
    assert column.tolist() == ["a", None]


@pytest.mark.parametrize(
    ("categories", "cells", "expected"),
    [
        (["b", "a"], ["a", "x", None], ["a", None, None]),
        ([3, 1], ["1", "3"], [1, 3]),
        ([1.5, 2.0], ["2", "1.5"], [2.0, 1.5]),
        ([False, True], ["true", "false"], [True, False]),
    ],
)
def test_categories_are_found_by_their_text(categories: list[Any], cells: list[Any], expected: list[Any]) -> None:
    column = one_column(Feature(name="c", type="categorical", dtype="category", categories=categories), cells)
    assert column.dtype == pd.CategoricalDtype(pd.Index(categories))
    pd.testing.assert_series_equal(
        column, pd.Series(pd.Categorical(expected, categories=categories)), check_names=False
    )


def test_a_text_that_is_no_date_is_named_with_its_row() -> None:
    feature = Feature(name="day", type="date", dtype="datetime64[us]")
    with pytest.raises(UnscorableValue, match="row 2, column 'day': '29/02/2024' is not a date"):
        one_column(feature, ["2024-02-29", None, "29/02/2024"])


def test_an_array_keeps_the_order_of_the_features() -> None:
    schema = Schema((Feature(name="b", type="numeric", dtype="int64"), Feature(name="a", type="boolean", dtype="bool")))
    table = Table(2, {"a": np.array([1.0, 0.0]), "b": np.array([5.0, np.nan])}, {})
    np.testing.assert_array_equal(estimator_inputs(table, schema, "array"), [[5.0, 1.0], [np.nan, 0.0]])
    words = Schema((*schema.features, Feature(name="w", type="categorical", dtype="object")))
    table.strings["w"] = encoded(["x", None])
    assert estimator_inputs(table, words, "array")[0].tolist() == [5.0, True, "x"]


def test_cells_that_the_estimator_cannot_take_are_refused_before_it_sees_them(binary, rewritten) -> None:
    for path in (binary.path, rewritten(binary.path, without_plan)):
        model = load_model(path)
        schema = model.manifest.schema
        row = list(rows_of(model.golden, schema).values[0])
        missing, infinite = Rows([row, [*row[:3], None]]), Rows([row, [float("inf"), *row[1:]]])
        with pytest.raises(UnscorableValue, match="row 1, column 'member': is missing"):
            model.runtime.predict_rows(missing)
        with pytest.raises(UnscorableValue, match="row 1, column 'member': is missing"):
            model.runtime.predict(Table.from_rows(missing, schema))
        with pytest.raises(UnscorableValue, match="row 1, column 'age': is infinite"):
            model.runtime.predict_rows(infinite)
        with pytest.raises(UnscorableValue, match="row 1, column 'age': is infinite"):
            model.runtime.predict(Table.from_rows(infinite, schema))


def runtime_of(estimator: Any, *features: Feature) -> EstimatorRuntime:
    return EstimatorRuntime(estimator, Schema(features), Target(name="y", type="Regression"))


def test_what_the_estimator_refuses_is_the_clients_error() -> None:
    sample = pd.DataFrame({"c": pd.Series(["a", "b"], dtype="str")})
    estimator = make_pipeline(OneHotEncoder(), LinearRegression()).fit(sample, [1, 2])
    runtime = runtime_of(estimator, Feature(name="c", type="categorical", dtype="str"))
    with pytest.raises(UnscorableTable, match="the model refused the rows: Found unknown categories"):
        runtime.predict_rows(Rows([["x"]]))


def test_what_the_estimator_raises_otherwise_is_the_servers_error() -> None:
    def fail(inputs: Any) -> Any:
        if len(inputs) == 1:
            raise KeyError("secret path")
        return inputs

    sample = pd.DataFrame({"c": [1.0, 2.0]})
    estimator = make_pipeline(FunctionTransformer(fail), LinearRegression()).fit(sample, [1, 2])
    with pytest.raises(ScoringFailed) as caught:
        runtime_of(estimator, Feature(name="c", type="numeric", dtype="float64")).predict_rows(Rows([[1.0]]))
    assert str(caught.value) == "the model failed with KeyError"


def test_every_part_of_an_estimator_runs_on_one_thread(multiclass) -> None:
    estimator = copy.deepcopy(multiclass.estimator)
    estimator[-1].n_jobs = estimator[0].n_jobs = 4
    runtime_of(estimator, *multiclass.manifest.features)
    assert (estimator[-1].n_jobs, estimator[0].n_jobs) == (1, 1)


def test_warnings_of_the_estimator_do_not_leak(recwarn: pytest.WarningsRecorder) -> None:
    estimator = HistGradientBoostingRegressor(max_iter=2, min_samples_leaf=1).fit(np.array([[1.0], [2.0]]), [1.0, 2.0])
    runtime_of(estimator, Feature(name="c", type="numeric", dtype="float64")).predict_rows(Rows([[1.0]]))
    assert not recwarn.list
