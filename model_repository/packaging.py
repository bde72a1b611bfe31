"""From a fitted estimator to a package that is known to say the same."""

import datetime
import platform
import secrets
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model_repository.compiler import NotCompilable, compile_estimator
from model_repository.errors import CannotPackage, ServingError
from model_repository.estimators import dump_estimator, load_estimator
from model_repository.explanations.reference import REFERENCE_NAME
from model_repository.features import RawCell, described, input_columns, raw_cells
from model_repository.golden import GOLDEN_NAME, TOLERANCE, replay, rows_of
from model_repository.manifest import (
    FORMAT_VERSION,
    TIMESERIES_FORMAT_VERSION,
    EstimatorMember,
    GoldenRows,
    Manifest,
    Metrics,
    PlanMember,
    Serializer,
)
from model_repository.metrics import metrics_of
from model_repository.mlpkg import Package, replacing, write_package
from model_repository.plan import plan_members
from model_repository.predictions import ClassLabel, Target
from model_repository.reference_rows import Progress, reference_of
from model_repository.runtimes.estimator import EstimatorRuntime, Expects, estimator_outputs
from model_repository.runtimes.forecasting import forecast_difference
from model_repository.runtimes.loading import compiled_runtime, estimator_runtime
from model_repository.tables import Cell, Feature, FloatArray, Rows, Schema
from model_repository.targets import target_of, unwrapped, usual_range
from model_repository.timeseries.spec import TimeSeries

MOST_GOLDEN_ROWS: Final = 64
_PLAN: Final = PlanMember(member="plan.json", arrays="plan.bin")
_LIBRARIES: Final = ("scikit-learn", "numpy", "pandas", "scipy")
_LIBRARIES_IF_USED: Final = {"lightgbm": "lightgbm", "xgboost": "xgboost"}


def create_package(
    path: str | Path,
    estimator: Any,
    sample: pd.DataFrame,
    *,
    target: str,
    name: str | None = None,
    positive_class: ClassLabel | None = None,
    threshold: float = 0.5,
    serializer: Serializer = "skops",
    reference: bool = True,
    exposure: str | None = None,
    progress: Progress | None = None,
    timeseries: tuple[TimeSeries, Mapping[str, bytes]] | None = None,
) -> Manifest:
    """
    Write a package, after proving that it predicts what the estimator predicts.

    Args:
        path: of the package; an existing one is replaced when the new one is complete.
        estimator: fitted: an estimator, a Pipeline, or a search (its best estimator is packaged).
        sample: raw training rows with the columns and dtypes that the estimator was fitted on; the target may be among
            them. A few of these rows become part of the package.
        target: name of what is predicted.
        name: of the model; the file's name if not given.
        positive_class: of a binary classifier; if not given, the rarer class of the sample's target column, else the
            estimator's second class.
        threshold: a row is positive when its probability is above it.
        serializer: ``joblib`` writes a pickle, which a server loads only when its operator allows it.
        reference: whether to add up to 200 more rows of the sample, and the impact of each feature: explanations of the
            predictions need them. (SHAP values of compiled trees do without.)
        exposure: numeric column of the requests, and of the sample, by which the predicted rate is multiplied to be the
            adjusted prediction; regression only.
        progress: told of each feature whose impact is known, of how many.
        timeseries: how the features are derived, and the members for that; `fit_time_series_package` makes it.

    Raises:
        CannotPackage: what is wrong with the estimator or the sample, and what to change.
    """
    path = Path(path)
    fitted = unwrapped(estimator)
    columns, expects = input_columns(fitted, sample, target)
    raw = sample[columns]
    described_target = target_of(fitted, sample, target, positive_class, threshold)
    predictions = _original_predictions(fitted, raw, described_target, expects)
    _check_exposure(exposure, sample, described_target)
    if described_target.type == "Regression":
        described_target = msgspec.structs.replace(described_target, usual_range=usual_range(predictions))
    estimator_bytes = dump_estimator(fitted, serializer)
    features = [described(raw[column]) for column in columns]
    usable = _usable_rows(raw, features, predictions)
    chosen = _golden_places(raw, features, usable, described_target, predictions)
    golden = _golden_rows(fitted, raw.iloc[chosen], features, described_target, predictions[chosen], expects)
    copy = load_estimator(estimator_bytes, serializer, pickle_allowed=True)
    features = _with_limits(features, golden, copy, described_target, expects)
    manifest = Manifest(
        format_version=FORMAT_VERSION if timeseries is None else TIMESERIES_FORMAT_VERSION,
        model_id=secrets.token_hex(12),
        name=name or path.stem,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        target=described_target,
        features=features,
        versions=_versions(fitted, serializer),
        members=[],
        golden=GOLDEN_NAME,
        estimator=EstimatorMember(member=f"estimator.{serializer}", serializer=serializer, expects=expects),
        reference=REFERENCE_NAME if reference else None,
        exposure=exposure,
        timeseries=None if timeseries is None else timeseries[0],
        metrics=_golden_metrics(sample, chosen, described_target, predictions),
    )
    contents = {GOLDEN_NAME: msgspec.json.encode(golden), manifest.estimator.member: estimator_bytes}
    if timeseries is not None:
        contents |= timeseries[1]
    if reference:
        runtime = EstimatorRuntime(copy, manifest.schema, described_target, expects)
        rows = reference_of(runtime, raw, features, usable, predictions, progress)
        contents[REFERENCE_NAME] = msgspec.json.encode(rows)
    with replacing(path) as part:
        return _write_proven(part, manifest, contents, golden, fitted)


def _original_predictions(fitted: Any, raw: pd.DataFrame, target: Target, expects: Expects) -> FloatArray:
    """
    What the estimator says of the whole sample.

    Raises:
        CannotPackage: it raises, or its answer has not one row per row.
    """
    if raw.empty:
        raise CannotPackage("the sample has no rows")
    try:
        return estimator_outputs(fitted, raw.to_numpy() if expects == "array" else raw, target)
    except Exception as exc:
        raise CannotPackage(
            f"the estimator cannot predict the sample ({type(exc).__name__}: {exc}); the sample must have the columns "
            "and dtypes of the training data, and the estimator one output"
        ) from exc


def _check_exposure(exposure: str | None, sample: pd.DataFrame, target: Target) -> None:
    if exposure is None:
        return
    if target.type != "Regression":
        raise CannotPackage(f"an exposure column is for regression only, the target is {target.type}")
    if exposure not in sample.columns:
        raise CannotPackage(f"the sample has no column {exposure!r}, which should hold the exposure")
    if described(sample[exposure]).type != "numeric":
        raise CannotPackage(f"the exposure column {exposure!r} must hold numbers")


def _usable_rows(raw: pd.DataFrame, features: list[Feature], predictions: FloatArray) -> NDArray[np.bool_]:
    """
    Rows with finite numbers and predictions.

    Raises:
        CannotPackage: there is none.
    """
    usable = np.asarray(np.isfinite(predictions).all(axis=1))
    for feature in features:
        if feature.type == "numeric":
            np.logical_and(usable, ~np.isinf(raw[feature.name].to_numpy(dtype=np.float64, na_value=np.nan)), out=usable)
    if not usable.any():
        raise CannotPackage("no row of the sample has finite numbers and a finite prediction")
    return usable


def _golden_places(
    raw: pd.DataFrame, features: list[Feature], usable: NDArray[np.bool_], target: Target, predictions: FloatArray
) -> list[int]:
    """Usable rows that stand for the sample: every class and every missing feature if they fit, the rest spread."""
    wanted = [predictions.argmax(axis=1) == place for place in range(target.n_outputs if target.class_labels else 0)]
    wanted += [raw[feature.name].isna().to_numpy() for feature in features]
    return _covering(np.flatnonzero(usable), wanted)


def _golden_rows(
    fitted: Any,
    rows: pd.DataFrame,
    features: list[Feature],
    target: Target,
    predictions: FloatArray,
    expects: Expects,
) -> GoldenRows:
    labels = None
    if target.class_labels is not None:
        labels = np.asarray(fitted.predict(rows.to_numpy() if expects == "array" else rows)).ravel().tolist()
    cells: dict[str, list[RawCell]] = {feature.name: raw_cells(rows[feature.name], feature) for feature in features}
    return GoldenRows(columns=cells, values=predictions.tolist(), labels=labels)


def _golden_metrics(sample: pd.DataFrame, chosen: list[int], target: Target, predictions: FloatArray) -> Metrics | None:
    """``None`` where the sample has no outcomes to compare with."""
    if target.name not in sample.columns:
        return None
    try:
        values = metrics_of(sample[target.name].iloc[chosen].tolist(), predictions[chosen], target)
    except (TypeError, ValueError):  # the outcomes of the sample are not of the model's kind
        return None
    return Metrics(rows=len(chosen), values=values) if values else None


def _covering(places: np.ndarray, wanted: Sequence[np.ndarray]) -> list[int]:
    """At most `MOST_GOLDEN_ROWS` of *places*, one where each of *wanted* holds, and as many more, evenly spread."""
    chosen: set[int] = set()
    for holds in wanted:
        found = places[holds[places]]
        if found.size and len(chosen) < MOST_GOLDEN_ROWS and not chosen.intersection(found.tolist()):
            chosen.add(int(found[0]))
    spread = places[np.linspace(0, places.size - 1, min(MOST_GOLDEN_ROWS, places.size)).astype(int)]
    for place in spread.tolist():
        if len(chosen) < MOST_GOLDEN_ROWS:
            chosen.add(place)
    return sorted(chosen)


def _with_limits(
    features: list[Feature], golden: GoldenRows, copy: Any, target: Target, expects: Expects
) -> list[Feature]:
    """Found by trying: which features may be missing, and which infinite."""
    anything = [msgspec.structs.replace(feature, missing_allowed=True, infinite_allowed=True) for feature in features]
    schema = Schema(tuple(anything))
    runtime = EstimatorRuntime(copy, schema, target, expects)
    rows = rows_of(golden, schema).values
    usual = max(rows, key=lambda row: sum(cell is not None for cell in row))

    def takes(trials: list[tuple[int, Cell]]) -> list[bool]:
        """Whether each cell, put into the usual row, gives a finite prediction."""
        tried = [[*usual[:place], cell, *usual[place + 1 :]] for place, cell in trials]
        try:
            return [bool(np.isfinite(values).all()) for values in runtime.predict_rows(Rows(list(tried)))]
        except ServingError:
            if len(trials) == 1:
                return [False]
            return [takes([trial])[0] for trial in trials]

    places = range(len(features))
    missing = takes([(place, None) for place in places])
    numeric = [place for place in places if features[place].type == "numeric"]
    above = takes([(place, float("inf")) for place in numeric]) if numeric else []
    below = takes([(place, float("-inf")) for place in numeric]) if numeric else []
    infinite = {place for place, up, down in zip(numeric, above, below, strict=True) if up and down}
    return [
        msgspec.structs.replace(feature, missing_allowed=missing[place], infinite_allowed=place in infinite)
        for place, feature in enumerate(features)
    ]


def _write_proven(
    part: Path, manifest: Manifest, contents: dict[str, bytes], golden: GoldenRows, fitted: Any
) -> Manifest:
    """
    Write the package with its plan, and without it if the plan does not say the same.

    Raises:
        CannotPackage: what was written does not load, or does not predict the same.
    """
    try:
        plan = compile_estimator(fitted, manifest.schema, manifest.target)
    except NotCompilable as exc:
        prevented = str(exc)
    else:
        members = dict(zip((_PLAN.member, _PLAN.arrays), plan_members(plan), strict=True))
        written = write_package(part, msgspec.structs.replace(manifest, plan=_PLAN), contents | members)
        prevented = _plan_problem(part, golden)
        if not prevented:
            _prove_estimator(part, golden)
            return written
        part.unlink()
    written = write_package(part, msgspec.structs.replace(manifest, not_compiled=prevented), contents)
    _prove_estimator(part, golden)
    return written


def _plan_problem(part: Path, golden: GoldenRows) -> str:
    """Why the plan cannot serve; empty if it can."""
    with Package.open(part) as package:
        try:
            runtime = compiled_runtime(package)
            difference = replay(runtime, golden, package.manifest.schema)
            difference = max(difference, forecast_difference(package, runtime))
        except ServingError as exc:
            return f"the compiled plan does not score the golden rows: {exc}"
    if difference > TOLERANCE:
        return f"the compiled plan differs from the estimator by {difference:.3g}"
    return ""


def _prove_estimator(part: Path, golden: GoldenRows) -> None:
    with Package.open(part) as package:
        package.verify_members()
        try:
            runtime = estimator_runtime(package, pickle_allowed=True)
            difference = replay(runtime, golden, package.manifest.schema)
            difference = max(difference, forecast_difference(package, runtime))
        except ServingError as exc:
            raise CannotPackage(f"the packaged estimator does not score rows of the sample: {exc}") from exc
    if difference > TOLERANCE:
        raise CannotPackage(
            f"the packaged estimator differs from the original by {difference:.3g} on rows of the sample (at most "
            f"{TOLERANCE:g}): its predictions depend on more than the values of the columns"
        )


def _versions(fitted: Any, serializer: Serializer) -> dict[str, str]:
    used = [serializer, *_LIBRARIES]
    modules = {part.partition(".")[0] for part in _modules(fitted)}
    used += [library for library, module in _LIBRARIES_IF_USED.items() if module in modules]
    return {"python": platform.python_version()} | {library: _version(library) for library in used}


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # XGBoost comes under several names
        return metadata.version(f"{library}-cpu")


def _modules(fitted: Any) -> set[str]:
    """Modules of the estimator and of those inside it."""
    parameters = fitted.get_params(deep=True) if hasattr(fitted, "get_params") else {}
    return {type(value).__module__ for value in [fitted, *parameters.values()]}
