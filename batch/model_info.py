"""What a server's ``/info`` tells of its model, as far as batch needs it; None is a server without that page. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

Info = Mapping[str, Any] | None

OF_THE_MODEL: Final = ("modelId", "name", "target", "features", "packageFormat", "versions", "checksum")
"""The rest may differ between two servers of one model."""


def identity_of(info: Info) -> str | None:
    """Short, for people, and different for different models."""
    if info is None:
        return None
    told = json.dumps({name: info.get(name) for name in OF_THE_MODEL}, sort_keys=True)
    return f"{info.get('name')} ({info.get('modelId')}, {hashlib.sha256(told.encode()).hexdigest()[:12]})"


def feature_names(info: Info) -> list[str] | None:
    """The model's inputs, in order."""
    features = info.get("features") if info else None
    return [str(feature["name"]) for feature in features] if features else None


def labels_are_numbers(info: Info) -> bool:
    """Whether predicted classes are numbers rather than text."""
    labels = _target(info).get("classNames") or ()
    return bool(labels) and all(isinstance(label, int | float) and not isinstance(label, bool) for label in labels)


def answer_columns(info: Info) -> tuple[str, ...] | None:
    """The columns that the server answers with where no options ask for more."""
    columns = _prediction_columns(info)
    series = (info or {}).get("timeseries")
    if columns is None or not series:
        return columns
    before = [series["seriesColumnName"]] if series.get("seriesColumnName") else []
    return (*before, "FORECAST_POINT", series["datetimeColumnName"], "FORECAST_DISTANCE", *columns)


def _prediction_columns(info: Info) -> tuple[str, ...] | None:
    target = _target(info)
    name, kind = target.get("name"), target.get("type")
    if kind == "Anomaly":
        return ("ANOMALY_SCORE",)
    if kind not in ("Regression", "Binary", "Multiclass"):
        return None
    labels: Sequence[Any] = target.get("classNames") or ()
    threshold = ("THRESHOLD", "POSITIVE_CLASS") if kind == "Binary" else ()
    return (*(f"{name}_{_text(label)}_PREDICTION" for label in labels), f"{name}_PREDICTION", *threshold)


def unexplained(info: Info, algorithm: str) -> str | None:
    """Why the model cannot be explained in this way; ``None`` if it can, or the server does not tell."""
    can = ((info or {}).get("capabilities") or {}).get("explanationAlgorithms")
    if can is None or algorithm in can:
        return None
    if not can:
        return "max_explanations: the package of the server's model has not what explanations need"
    return f"explanation_algorithm: the server's model is not explained by {algorithm}, only by {' and '.join(can)}"


def model_type(info: Info) -> str | None:
    """``Regression``, ``Binary``, ``Multiclass`` or ``Anomaly``."""
    return _target(info).get("type")


def _target(info: Info) -> Mapping[str, Any]:
    target: Mapping[str, Any] = (info or {}).get("target") or {}
    return target


def _text(label: Any) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)
