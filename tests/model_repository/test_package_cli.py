"""The package commands, as a person types them."""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import joblib
import msgspec
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from model_repository import create_package, package_cli
from model_repository.manifest import GoldenRows, manifest_from
from model_repository.mlpkg import write_package
from model_repository.repository import load_model


@pytest.fixture
def package(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs ``package ...``; gives exit code, output and error output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser(prog="prediction-api package")
        package_cli.add_arguments(parser)
        try:
            code = package_cli.run(parser.parse_args([str(argument) for argument in arguments]))
        except SystemExit as exc:
            code = int(exc.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def files(binary, tmp_path: Path) -> tuple[Path, Path]:
    """The estimator of `binary` as a file, and its sample."""
    joblib.dump(binary.estimator, tmp_path / "model.joblib")
    binary.sample.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "model.joblib", tmp_path / "rows.csv"


def test_create_inspect_verify(package, files, tmp_path: Path) -> None:
    model, rows = files
    out = tmp_path / "churn.mlpkg"
    code, output, errors = package("create", model, "--sample", rows, "--target", "bought", "-o", out)
    assert (code, errors) == (0, "")
    assert output == f"{out}: Binary model of 'bought', 4 features, compiled plan\n"
    code, output, _ = package("inspect", out)
    assert code == 0
    for expected in ("name       churn", "target     bought, Binary of 'yes', 'no'; the first is positive, above 0.5",
                     "serves by  compiled plan", "member  boolean     bool            required", "golden.json"):  # fmt: skip
        assert expected in output
    code, output, _ = package("verify", out)
    assert code == 0
    assert "members    5 intact" in output
    assert "compiled   equal on 64 golden rows: largest difference" in output
    assert "estimator  equal on 64 golden rows: largest difference" in output


def test_create_for_explanations(package, files, regression, tmp_path: Path) -> None:
    model, rows = files
    out = tmp_path / "m.mlpkg"
    assert package("create", model, "--sample", rows, "--target", "bought", "-o", out)[0] == 0
    assert "explains   with the reference rows of reference.json" in package("inspect", out)[1]
    assert package("create", model, "--sample", rows, "--target", "bought", "-o", out, "--no-reference")[0] == 0
    assert "explains   nothing, or trees by SHAP alone: made with --no-reference" in package("inspect", out)[1]
    joblib.dump(regression.estimator, model)
    regression.sample.to_csv(rows, index=False)
    options = ["--sample", rows, "--target", "spent", "-o", out, "--exposure", "age"]
    assert package("create", model, *options)[0] == 0
    assert "exposure   age" in package("inspect", out)[1]


def test_create_options(package, files, tmp_path: Path) -> None:
    model, rows = files
    out = tmp_path / "m.mlpkg"
    options = ["--positive-class", "no", "--threshold", "0.25", "--name", "mine", "--serializer", "joblib"]
    assert package("create", model, "--sample", rows, "--target", "bought", "-o", out, *options)[0] == 0
    manifest = manifest_from(package("inspect", out, "--json")[1].encode())
    assert manifest.name == "mine"
    assert manifest.target.class_labels == ["no", "yes"]
    assert manifest.target.threshold == 0.25
    assert manifest.estimator.serializer == "joblib"


def test_a_csv_sample_that_turns_strings_into_numbers_is_refused(package, people, tmp_path: Path) -> None:
    sample = pd.DataFrame({"zip": ["01234", "00501"] * (len(people) // 2), "city": "Oslo"})
    sample.to_csv(tmp_path / "rows.csv", index=False)
    encoder = OneHotEncoder(handle_unknown="ignore")
    fitted = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder, LinearRegression())
    joblib.dump(fitted.fit(sample, people["spent"][: len(sample)]), tmp_path / "m.joblib")
    out = tmp_path / "m.mlpkg"
    code, _, errors = package(
        "create", tmp_path / "m.joblib", "--sample", tmp_path / "rows.csv", "--target", "y", "-o", out
    )
    assert code == 1
    assert "column 'zip': the sample holds numbers, but OneHotEncoder was fitted on strings" in errors
    assert not out.exists()


def test_a_parquet_sample_keeps_its_dtypes(package, people, tmp_path: Path) -> None:
    sample = pd.DataFrame({"age": people["age"].astype("int16")})
    sample.to_parquet(tmp_path / "rows.parquet")
    joblib.dump(LinearRegression().fit(sample, people["spent"]), tmp_path / "m.joblib")
    out = tmp_path / "m.mlpkg"
    assert (
        package("create", tmp_path / "m.joblib", "--sample", tmp_path / "rows.parquet", "--target", "y", "-o", out)[0]
        == 0
    )
    assert load_model(out).manifest.features[0].dtype == "int16"


def test_inspect_json_is_the_manifest(package, binary) -> None:
    code, output, _ = package("inspect", binary.path, "--json")
    assert code == 0
    assert manifest_from(output.encode()) == binary.manifest
    assert json.loads(output)["format_version"] == 1


def test_inspect_says_what_prevented_a_plan(package, people, tmp_path: Path) -> None:
    sample = pd.DataFrame({"age": people["age"], "day": pd.Timestamp("2024-01-01")})
    columns = ColumnTransformer([("day", OrdinalEncoder(), ["day"])], remainder="passthrough")
    estimator = make_pipeline(columns, LinearRegression()).fit(sample, people["spent"])
    create_package(tmp_path / "m.mlpkg", estimator, sample, target="spent")
    assert (
        "serves by  original estimator, not compiled: feature 'day' is of type date"
        in package("inspect", tmp_path / "m.mlpkg")[1]
    )
    code, output, _ = package("verify", tmp_path / "m.mlpkg")
    assert code == 0
    assert "compiled   none: feature 'day'" in output


def test_verify_a_pickle(package, files, tmp_path: Path) -> None:
    model, rows = files
    out = tmp_path / "m.mlpkg"
    package("create", model, "--sample", rows, "--target", "bought", "-o", out, "--serializer", "joblib")
    code, output, _ = package("verify", out)
    assert code == 1
    assert "PREDICTION_API_PICKLE_PACKAGES_ENABLED is true; here, --allow-pickle allows it" in output
    assert package("verify", out, "--allow-pickle")[0] == 0


def test_verify_tells_the_largest_difference(package, binary, tmp_path: Path) -> None:
    with zipfile.ZipFile(binary.path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}
    golden = msgspec.json.decode(contents["golden.json"], type=GoldenRows)
    golden.values[3][0] += 0.125
    contents["golden.json"] = msgspec.json.encode(golden)
    write_package(tmp_path / "m.mlpkg", binary.manifest, contents)
    code, output, _ = package("verify", tmp_path / "m.mlpkg")
    assert code == 1
    assert "compiled   DIFFERENT on 64 golden rows: largest difference 0.125 (at most 1e-09)" in output
    assert "estimator  DIFFERENT on 64 golden rows: largest difference 0.125" in output


def test_verify_a_damaged_package(package, binary, tmp_path: Path) -> None:
    data = bytearray(binary.path.read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "m.mlpkg").write_bytes(data)
    code, _, errors = package("verify", tmp_path / "m.mlpkg")
    assert code == 1
    assert errors.startswith("prediction-api package: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["verify", "absent.mlpkg"], 2, "absent.mlpkg: No such file", id="no such package"),
        pytest.param(["inspect", "rows.csv"], 1, "not a package", id="another file"),
        pytest.param(["create", "absent.joblib", "--sample", "rows.csv", "--target", "bought", "-o", "m.mlpkg"], 2,
                     "absent.joblib: No such file", id="no such model"),
        pytest.param(["create", "rows.csv", "--sample", "rows.csv", "--target", "bought", "-o", "m.mlpkg"], 2,
                     "rows.csv: not an estimator", id="model that is a table"),
        pytest.param(["create", "model.joblib", "--sample", "absent.csv", "--target", "bought", "-o", "m.mlpkg"], 2,
                     "absent.csv: No such file", id="no such sample"),
        pytest.param(["create", "model.joblib", "--sample", "model.joblib", "--target", "bought", "-o", "m.mlpkg"], 2,
                     "model.joblib: not a table", id="sample that is a model"),
        pytest.param(["create", "model.joblib", "--sample", "rows.csv", "--target", "bought", "-o", "absent/m.mlpkg"], 2,
                     "absent: no such directory", id="no such directory"),
        pytest.param(["create", "model.joblib", "--sample", "rows.csv", "--target", "bought", "--threshold", "2", "-o", "m.mlpkg"], 1,
                     "threshold 2.0: expected 0 to 1", id="threshold"),
        pytest.param(["create", "model.joblib", "--sample", "rows.csv", "-o", "m.mlpkg"], 2, "--target", id="no target"),
        pytest.param([], 2, "COMMAND", id="no command"),
    ],
)  # fmt: skip
def test_refusals(
    package, files, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(files[0].parent)
    found, _, errors = package(*arguments)
    assert (found, message in errors) == (code, True), errors


def test_the_help_says_that_a_model_file_runs_code(package) -> None:
    code, output, _ = package("create", "--help")
    assert code == 0
    assert "runs whatever code it holds: give only files that you made yourself" in " ".join(output.split())
