"""Rows as several series side by side: which row is of which series and step, whatever order they came in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_repository.errors import UnscorableValue
from model_repository.tables import Strings, Table
from model_repository.timeseries.calendar import Calendar, Moments, Steps
from model_repository.timeseries.spec import TimeSeries

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows in the order of their series, and in each of their time; arrays are in that order."""

    rows: Places
    """Where each stands in the table."""
    series: Places
    """Numbers from 0, in the order in which the table has them first."""
    names: list[str | None]
    """By number; ``None`` where there is but one series."""
    moments: Moments
    starts: Places
    """By series, the place of its first row; and after the last series, the number of rows."""

    @property
    def steps(self) -> Steps:
        """The step of each row."""
        return self.moments.steps

    @property
    def first_steps(self) -> Steps:
        """By series, the step of its first row."""
        return self.steps[self.starts[:-1]]

    @property
    def last_steps(self) -> Steps:
        """By series, the step of its last row."""
        return self.steps[self.starts[1:] - 1]


def panel_of(table: Table, spec: TimeSeries, calendar: Calendar) -> Panel:
    """
    The rows of *table* in order.

    Raises:
        UnscorableValue: a time that cannot be read, is missing, not on the step, or stands twice in its series; a
            series that is missing.
    """
    times = table.strings[spec.datetime_column]
    moments = _moments(times, spec, calendar)
    series, names = _series(table, spec)
    rows = np.lexsort((moments.steps, series))
    if (rows[1:] > rows[:-1]).all():  # most tables come in order; what follows is then cheap
        rows = np.arange(table.n_rows)
    else:
        moments, series = moments.take(rows), series[rows]
    first = np.ones(table.n_rows, dtype=np.bool_)
    first[1:] = series[1:] != series[:-1]
    again = ~first[1:] & (moments.steps[1:] == moments.steps[:-1])
    if again.any():
        place = int(again.argmax())
        one, other = sorted((int(rows[place]), int(rows[place + 1])))
        whose = "" if spec.series_column is None else f" of series {names[series[place]]!r}"
        raise UnscorableValue(spec.datetime_column, other, f"row {one}{whose} has the same time")
    starts = np.append(np.flatnonzero(first), table.n_rows)
    return Panel(rows, series, names, moments, starts)


def _moments(times: Strings, spec: TimeSeries, calendar: Calendar) -> Moments:
    """The time of each row: every distinct text is read once."""
    if (times.codes < 0).any():
        raise UnscorableValue(spec.datetime_column, int((times.codes < 0).argmax()), "is missing")
    read = []
    for code, text in enumerate(times.values):
        try:
            read.append(calendar.read(text))
        except ValueError as exc:
            if (times.codes == code).any():
                raise UnscorableValue(spec.datetime_column, _first_row(times, code), str(exc)) from None
            read.append(calendar.placed(spec.anchor, ""))  # a text of the dictionary that no row has
    moments = calendar.moments(read).take(times.codes)
    if moments.off_step.any():
        row = int(moments.off_step.argmax())
        text = times.values[times.codes[row]]
        problem = f"{text!r} is not on the time step: one {calendar.step_name} from {calendar.shown(0)} to the next"
        raise UnscorableValue(spec.datetime_column, row, problem)
    return moments


def _first_row(strings: Strings, code: int) -> int:
    return int((strings.codes == code).argmax())


def _series(table: Table, spec: TimeSeries) -> tuple[Places, list[str | None]]:
    if spec.series_column is None:
        return np.zeros(table.n_rows, dtype=np.intp), [None]
    strings = table.strings[spec.series_column]
    if (strings.codes < 0).any():
        raise UnscorableValue(spec.series_column, int((strings.codes < 0).argmax()), "is missing")
    codes, firsts, inverse = np.unique(strings.codes, return_index=True, return_inverse=True)
    by_appearance = np.argsort(firsts)
    numbers = np.empty_like(by_appearance)
    numbers[by_appearance] = np.arange(len(by_appearance))
    return numbers[inverse], [strings.values[code] for code in codes[by_appearance].tolist()]
