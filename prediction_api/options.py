"""
What a query string may ask for: one row per parameter, one per pair that exclude each other.

Order of checks: is the parameter known, are its values well formed, do they go together, can this model do it.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

from model_repository.errors import InvalidParameter
from model_repository.explanations import MOST_XEMP
from model_repository.predictions import (
    DEFAULT_DECIMALS,
    ExplanationOptions,
    ForecastOptions,
    Keep,
    ScoringOptions,
    Target,
)

MAX_DECIMALS: Final = 15
ALIAS_EXPLANATIONS: Final = 3
"""Explanations per row on the old route ``/predictionExplanations`` when no number is given."""
SHOWN_NAME: Final = 100
"""Characters of a parameter's name that a message repeats."""

TRUE_WORDS: Final = frozenset({"true", "1", "yes", "y"})
FALSE_WORDS: Final = frozenset({"false", "0", "no", "n"})

Values = Mapping[str, list[Any]]
"""Per parameter what was given, in order, read into Python values."""


@dataclass(frozen=True)
class Kind:
    """How one value is written."""

    read: Callable[[str], Any]
    """Text to value; ValueError says what is wrong with it."""
    json_schema: Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One query parameter."""

    name: str
    kind: Kind
    about: str
    repeatable: bool = False
    only_for: Literal["Multiclass", "time series"] | None = None
    deprecated: bool = False


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("value is not a whole number, 0 or more")
    return int(text)


def _whole_or_all(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    try:
        return _whole(text)
    except ValueError:
        raise ValueError("value is neither a whole number, 0 or more, nor 'all'") from None


def _decimals(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > MAX_DECIMALS:
        raise ValueError(f"value is not a whole number from 0 to {MAX_DECIMALS}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise ValueError("value is not a number")
    return value


def _flag(text: str) -> bool:
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError("value is not a boolean: true or false")


def _text(text: str) -> str:
    if not text:
        raise ValueError("blank value is not allowed")
    return text


def _all(text: str) -> Literal["all"]:
    if text != "all":
        raise ValueError("value is not exactly 'all'")
    return "all"


def _algorithm(text: str) -> str:
    if text not in ("xemp", "shap"):
        raise ValueError("value is not 'xemp' or 'shap'")
    return text


def _moment(text: str) -> datetime:
    """ISO 8601; the ``+`` of an offset may have come as the blank that it means in a query string."""
    try:
        return datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise ValueError("value is not an ISO 8601 date or time") from None


WHOLE: Final = Kind(_whole, {"type": "integer", "minimum": 0})
WHOLE_OR_ALL: Final = Kind(_whole_or_all, {"oneOf": [{"type": "integer", "minimum": 0}, {"const": "all"}]})
DECIMALS: Final = Kind(_decimals, {"type": "integer", "minimum": 0, "maximum": MAX_DECIMALS})
NUMBER: Final = Kind(_number, {"type": "number"})
FLAG: Final = Kind(_flag, {"type": "boolean"})
TEXT: Final = Kind(_text, {"type": "string", "minLength": 1})
ALL: Final = Kind(_all, {"const": "all"})
ALGORITHM: Final = Kind(_algorithm, {"enum": ["xemp", "shap"]})
MOMENT: Final = Kind(_moment, {"type": "string", "format": "date-time"})

PARAMETERS: Final = {
    parameter.name: parameter
    for parameter in (
        Parameter("passthroughColumns", TEXT, "A column of the input to repeat in the output.", repeatable=True),
        Parameter("passthroughColumnsSet", ALL, "Repeat every column of the input in the output."),
        Parameter("decimalsNumber", DECIMALS, "Most digits after the point; never padded."),
        Parameter("maxExplanations", WHOLE_OR_ALL, "Explanations per row: up to 10, or all by shap; 0 is off."),
        Parameter("maxCodes", WHOLE_OR_ALL, "Old name of maxExplanations.", deprecated=True),
        Parameter("explanationAlgorithm", ALGORITHM, "How explanations are computed; shap alone asks for all."),
        Parameter("maxNgramExplanations", WHOLE_OR_ALL, "Text explanations per row; ignored."),
        Parameter("thresholdLow", NUMBER, "Explain rows whose prediction is below; not for shap."),
        Parameter("thresholdHigh", NUMBER, "Explain rows whose prediction is above; not for shap."),
        Parameter("excludeAdjustedPredictions", FLAG, "false adds exposure-adjusted values where the model has them."),
        Parameter("explanationNumTopClasses", WHOLE, "Classes to explain, likeliest first.", only_for="Multiclass"),
        Parameter("explanationClassNames", TEXT, "A class to explain.", repeatable=True, only_for="Multiclass"),
        Parameter("predictionWarningEnabled", FLAG, "Say of each prediction whether it is an outlier (regression)."),
        Parameter("forecastPoint", MOMENT, "Forecast from here.", only_for="time series"),
        Parameter("predictionsStartDate", MOMENT, "First moment of a bulk forecast.", only_for="time series"),
        Parameter("predictionsEndDate", MOMENT, "End of a bulk forecast, not included.", only_for="time series"),
        Parameter("relaxKnownInAdvanceFeaturesCheck", FLAG, "Let known values be missing.", only_for="time series"),
    )
}

EXCLUSIVE: Final = (
    ("passthroughColumns", "passthroughColumnsSet"),
    ("maxExplanations", "maxCodes"),
    ("explanationNumTopClasses", "explanationClassNames"),
    ("forecastPoint", "predictionsStartDate"),
    ("forecastPoint", "predictionsEndDate"),
)
TOGETHER: Final = (("predictionsStartDate", "predictionsEndDate"),)

_DEFAULTS: Final = ScoringOptions()


def options_from(query: bytes, target: Target, *, explanations: int = 0, time_series: bool = False) -> ScoringOptions:
    """
    What the query string asks of a model with this target.

    Args:
        explanations: how many to give when the query does not say.
        time_series: whether the model forecasts.

    Raises:
        InvalidParameter: naming the parameter and what was expected of it, or what this model cannot do.
    """
    if not query and not explanations:
        return _DEFAULTS
    given = _given(query)
    _check_pairs(given)
    _check_model(given, target, time_series)
    return ScoringOptions(
        keep=_keep(given),
        decimals=_only(given, "decimalsNumber", DEFAULT_DECIMALS),
        warn_outliers=_only(given, "predictionWarningEnabled", False),
        forecast=ForecastOptions(
            point=_only(given, "forecastPoint", None),
            start=_only(given, "predictionsStartDate", None),
            end=_only(given, "predictionsEndDate", None),
            relaxed=_only(given, "relaxKnownInAdvanceFeaturesCheck", False),
        ),
        adjusted=not _only(given, "excludeAdjustedPredictions", True),
        explain=_explain(given, target, explanations),
    )


def _given(query: bytes) -> Values:
    """Every parameter read by its own kind."""
    try:
        pairs = parse_qsl(query.decode("utf-8"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise InvalidParameter("the query string is not percent-encoded UTF-8") from None
    given: dict[str, list[Any]] = {}
    for name, text in pairs:
        parameter = PARAMETERS.get(name)
        if parameter is None:
            shown = name[:SHOWN_NAME]
            raise InvalidParameter(f"'{shown}': {shown} is not allowed key")
        if name in given and not parameter.repeatable:
            raise InvalidParameter(f"'{name}': only one value is allowed")
        try:
            given.setdefault(name, []).append(parameter.kind.read(text))
        except ValueError as exc:
            raise InvalidParameter(f"'{name}': {exc}") from None
    return given


def _check_pairs(given: Values) -> None:
    for one, other in EXCLUSIVE:
        if one in given and other in given:
            raise InvalidParameter(f"'{one}' and '{other}' exclude each other: give one of them")
    for one, other in TOGETHER:
        if (one in given) != (other in given):
            raise InvalidParameter(f"'{one}' and '{other}' are only allowed together")


def _check_model(given: Values, target: Target, time_series: bool) -> None:
    can = {target.type, "time series"} if time_series else {target.type}
    for name in given:
        needed = PARAMETERS[name].only_for
        if needed is not None and needed not in can:
            raise InvalidParameter(f"'{name}': only for {needed.lower()} models, this one is {target.type.lower()}")
    labels = [str(label) for label in target.class_labels or ()]
    top = _only(given, "explanationNumTopClasses", 1)
    if not 1 <= top <= max(len(labels), 1):
        raise InvalidParameter(f"'explanationNumTopClasses': value is not a whole number from 1 to {len(labels)}")
    for name in given.get("explanationClassNames", ()):
        if name not in labels:
            raise InvalidParameter(f"'explanationClassNames': the model has no class {name!r}")
    if _only(given, "predictionWarningEnabled", False) and target.usual_range is None:
        raise InvalidParameter(
            "'predictionWarningEnabled': only for regression models whose package has the range of usual predictions"
        )


def _explain(given: Values, target: Target, default: int) -> ExplanationOptions | None:
    """What is asked of explanations; ``None`` for none."""
    name = "maxCodes" if "maxCodes" in given else "maxExplanations"
    asked = _only(given, name, default)
    algorithm = _only(given, "explanationAlgorithm", "shap" if asked == "all" else "xemp")
    if algorithm == "xemp":
        if asked == "all":
            raise InvalidParameter(f"'{name}': 'all' is only for explanationAlgorithm=shap")
        if asked > MOST_XEMP:
            raise InvalidParameter(
                f"'{name}': value is not a whole number from 0 to {MOST_XEMP}; more only with explanationAlgorithm=shap"
            )
        if asked == 0:
            return None
    elif asked == 0:  # whoever names this algorithm wants its values
        asked = "all"
    labels = [str(label) for label in target.class_labels or ()]
    return ExplanationOptions(
        algorithm=algorithm,
        count=None if asked == "all" else asked,
        threshold_low=_only(given, "thresholdLow", None),
        threshold_high=_only(given, "thresholdHigh", None),
        top_classes=_only(given, "explanationNumTopClasses", 1),
        classes=tuple(dict.fromkeys(labels.index(label) for label in given.get("explanationClassNames", ()))),
    )


def _keep(given: Values) -> Keep:
    if "passthroughColumnsSet" in given:
        return "all"
    return tuple(dict.fromkeys(given.get("passthroughColumns", ())))


def _only(given: Values, name: str, default: Any) -> Any:
    return given[name][0] if name in given else default
