"""Which columns the output has, in which order and under which names. Pure."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from batch.errors import JobError

STATUS: Final = "prediction_status"
ROW_ID: Final = "row_id"
PREDICTION: Final = "_PREDICTION"
OUTLIER: Final = "IS_OUTLIER_PREDICTION"
TEXTS: Final = re.compile(r"^CLASS_\d+$|_(?:FEATURE_NAME|ACTUAL_VALUE|QUALITATIVE_STRENGTH)$")
"""Names of columns that are text in every model: of explanations, the class, the feature, its value, the symbol."""
FORECAST_POINT: Final = "FORECAST_POINT"
"""Column of forecasts; the series, if there are several, stands before it, and the time behind it: all text."""


@dataclass(frozen=True)
class OutputOptions:
    """What a job says of its output's columns."""

    passthrough: Sequence[str] | Literal["all"] = ()
    id_column: str | None = None
    row_id: bool = False
    status: bool = False
    probabilities: bool = True
    probability_classes: Sequence[str] = ()
    remapping: Mapping[str, str | None] | None = None
    """Output name -> another, or None to leave the column out."""
    partitions: Sequence[str] = ()
    """Output names that directories are made of; at least one column is left for the files."""


@dataclass(frozen=True)
class Layout:
    """The output's columns: an optional row number, one kept column, predictions, status, kept columns."""

    names: tuple[str, ...]
    predictions: tuple[int, ...]
    """Places in the server's answer."""
    all_predictions: bool
    first: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    row_id: bool = False
    status: bool = False


def layout_for(answer: Sequence[str], columns: Sequence[str], options: OutputOptions) -> Layout:
    """
    The layout for a server that answers with the columns *answer* about an input with *columns*.

    Raises:
        JobError: naming the columns that are not there, and those that would stand in the output twice.
    """
    remapping = options.remapping or {}
    kept = columns if options.passthrough == "all" else tuple(dict.fromkeys(options.passthrough))
    first: tuple[str, ...] = (options.id_column,) if options.id_column else ()
    wanted = [*first, *kept]
    if unknown := [name for name in wanted if name not in columns]:
        raise JobError(f"passthrough_columns: not in the input: {', '.join(map(repr, unknown))}")

    def stays(name: str) -> bool:
        return remapping.get(name, name) is not None

    first = tuple(filter(stays, first))
    kept = tuple(name for name in kept if stays(name) and name not in first)
    places = tuple(place for place in _prediction_places(answer, options) if stays(answer[place]))
    status, row_id = options.status and stays(STATUS), options.row_id and stays(ROW_ID)
    raw = [*[ROW_ID] * row_id, *first, *(answer[place] for place in places), *[STATUS] * status, *kept]
    if unknown := [name for name in remapping if name not in {*raw, *answer, *columns, STATUS, ROW_ID}]:
        raise JobError(f"column_names_remapping: no such column in the output: {', '.join(map(repr, unknown))}")
    if not raw:
        raise JobError("column_names_remapping: leaves no column in the output")
    names = tuple(remapping.get(name) or name for name in raw)
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise JobError(
            f"output columns that would stand there twice: {', '.join(map(repr, twice))}; "
            "rename or remove one with column_names_remapping, or pass fewer columns"
        )
    _check_partitions(options.partitions, names)
    return Layout(names, places, places == tuple(range(len(answer))), first, kept, row_id, status)


def _check_partitions(partitions: Sequence[str], names: Sequence[str]) -> None:
    if unknown := [name for name in partitions if name not in names]:
        raise JobError(f"output_settings.partition_columns: not in the output: {', '.join(map(repr, unknown))}")
    if partitions and set(partitions) == set(names):
        raise JobError("output_settings.partition_columns: no column is left for the files")


def _prediction_places(answer: Sequence[str], options: OutputOptions) -> list[int]:
    """All columns but the probabilities that are not wanted."""
    probabilities = _probabilities(answer)
    if not options.probabilities:
        dropped = set(probabilities)
    elif options.probability_classes:
        if unknown := [name for name in options.probability_classes if name not in probabilities.values()]:
            raise JobError(f"include_probabilities_classes: the model has no class {', '.join(map(repr, unknown))}")
        dropped = {place for place, label in probabilities.items() if label not in options.probability_classes}
    else:
        dropped = set()
    return [place for place in range(len(answer)) if place not in dropped]


def _probabilities(answer: Sequence[str]) -> dict[int, str]:
    """Place -> class of the columns with a probability each."""
    label = label_place(answer)
    if label is None:
        return {}
    start = answer[label].removesuffix(PREDICTION) + "_"
    return {
        place: name.removeprefix(start).removesuffix(PREDICTION)
        for place, name in enumerate(answer[:label])
        if name.endswith(PREDICTION)
    }


def label_place(answer: Sequence[str]) -> int | None:
    """Where the predicted class stands: after the probabilities; None in models without classes."""
    places = [place for place, name in enumerate(answer) if name.endswith(PREDICTION) and name != OUTLIER]
    return places[-1] if len(places) > 1 else None


def text_columns(answer: Sequence[str], *, numeric_labels: bool) -> frozenset[int]:
    """Places of the answer's columns that are text; all others are numbers."""
    label = label_place(answer)
    labels = {label, *(place for place, name in enumerate(answer) if name == "POSITIVE_CLASS")} - {None}
    of_forecasts = range(answer.index(FORECAST_POINT) + 2) if FORECAST_POINT in answer[:2] else ()
    texts = {place for place, name in enumerate(answer) if name == OUTLIER or TEXTS.search(name)}
    texts |= set(of_forecasts)
    return frozenset(place for place in texts | (set() if numeric_labels else labels) if place is not None)
