"""The options of a job that the server answers for, as its query parameters. Pure."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from batch.errors import JobError
from batch.job import Job, TimeseriesSettings

_DURATION: Final = re.compile(
    r"(?P<sign>[+-]?)P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?"
)


def parameters_of(job: Job, now: datetime | None = None) -> list[tuple[str, str]]:
    """
    Names and values; *now* is the time that a forecast point may be counted from.

    Raises:
        JobError: the offset of the forecast point is no duration.
    """
    explanations = job.max_explanations or job.explanation_algorithm == "shap"
    given: list[tuple[str, Any]] = [
        ("maxExplanations", job.max_explanations or None),
        ("explanationAlgorithm", job.explanation_algorithm),
        ("maxNgramExplanations", job.max_ngram_explanations),
        ("thresholdHigh", job.threshold_high if explanations else None),
        ("thresholdLow", job.threshold_low if explanations else None),
        *(("explanationClassNames", name) for name in job.explanation_class_names),
        ("explanationNumTopClasses", job.explanation_num_top_classes),
        ("predictionWarningEnabled", job.prediction_warning_enabled or None),
        *_timeseries(job.timeseries_settings, now or datetime.now(UTC)),
    ]
    return [(name, _text(value)) for name, value in given if value is not None]


def _timeseries(settings: TimeseriesSettings | None, now: datetime) -> list[tuple[str, Any]]:
    if settings is None:
        return []
    point = settings.forecast_point
    if settings.forecast_point_policy is not None:
        point = (now + _duration(settings.forecast_point_policy.configuration.offset)).isoformat()
    return [
        ("forecastPoint", point),
        ("predictionsStartDate", settings.predictions_start_date),
        ("predictionsEndDate", settings.predictions_end_date),
        # also when false: so a server whose model is no time series model says so
        ("relaxKnownInAdvanceFeaturesCheck", settings.relax_known_in_advance_features_check),
    ]


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise JobError(
            "timeseries_settings.forecast_point_policy.configuration.offset: expected an ISO 8601 duration of weeks, "
            f"days, hours, minutes and seconds, got {text!r}"
        )
    parts = {name: int(number) for name, number in match.groupdict().items() if name != "sign" and number}
    return timedelta(**parts) * (-1 if match["sign"] == "-" else 1)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
