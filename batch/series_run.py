"""What a run of a time series must know before its first request: from where it forecasts."""

from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from batch.errors import JobError
from batch.expected_answer import explains, is_shap
from batch.job import TimeseriesSettings
from batch.model_info import unexplained
from batch.ports import Intake, TableIntake
from batch.records import START
from batch.run import Run
from batch.series import SeriesColumns, latest_point, series_columns
from batch.server_parameters import parameters_of

ALL_TIME: Final = ("1900-01-01T00:00:00.000000Z", "2262-04-11T23:47:16.854775Z")
"""A range without ends."""


async def prepare_series(run: Run, intake: Intake | TableIntake) -> None:
    """
    Where the server's model is a time series, know its columns, and ask every request from the same forecast point.

    Raises:
        JobError: the job asks for what makes no sense of series.
        IntakeError: the input cannot be read.
    """
    settings = run.job.timeseries_settings or TimeseriesSettings()
    columns = series_columns(run.info, relaxed=settings.relax_known_in_advance_features_check)
    if columns is None:
        return
    if run.job.include_row_id:
        raise JobError("include_row_id: not for models of time series, whose rows may have many predictions, or none")
    if run.options.limit is not None:
        raise JobError("--limit: not for models of time series: the series in its last rows would not be whole")
    if explains(run.job) and (problem := unexplained(run.info, "shap" if is_shap(run.job) else "xemp")):
        raise JobError(problem)
    run.series = columns
    run.server.expect_forecasts(columns.distances, await _parameters(run, intake, columns, settings))


async def _parameters(
    run: Run, intake: Intake | TableIntake, columns: SeriesColumns, settings: TimeseriesSettings
) -> dict[str, str]:
    if settings.type == "historical":
        start, end = ALL_TIME
        return {
            "predictionsStartDate": settings.predictions_start_date or start,
            "predictionsEndDate": settings.predictions_end_date or end,
        }
    if settings.forecast_point is not None:
        return {}
    until = None
    if settings.forecast_point_policy is not None:
        until = datetime.fromisoformat(dict(parameters_of(run.job))["forecastPoint"]).astimezone(UTC)
    point = await _latest(run, intake, columns, until)
    return {} if point is None else {"forecastPoint": point}


async def _latest(run: Run, intake: Intake | TableIntake, columns: SeriesColumns, until: datetime | None) -> str | None:
    """The whole input is read for it: the latest time with a target may stand in its last series."""
    best: datetime | None = None
    for number in range(len(intake.files)):
        source = await run.source(intake, number)
        if not source.names:
            continue
        async with aclosing(source.chunks(START)) as chunks:
            found = await latest_point(chunks, columns, until)
        if found is not None and (best is None or found > best):
            best = found
    return None if best is None else best.isoformat()
