"""Making the reference rows of a package: which rows stand for the sample, and which features matter to the model."""

from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model_repository.errors import CannotPackage, ServingError
from model_repository.explanations.reference import ReferenceData
from model_repository.features import RawCell, raw_cells
from model_repository.golden import stored_rows
from model_repository.predictions import Runtime
from model_repository.tables import Feature, FloatArray, Schema, Strings, Table

REFERENCE_ROWS: Final = 200
EXEMPLARS: Final = 20
IMPACT_ROWS: Final = 1000
"""Rows whose values are shuffled to see what moves."""
NO_IMPACT: Final = 1e-9
"""Of the largest: a feature that moves less is one whose sums were added up in another order."""
_SEED: Final = 20260101

Progress = Callable[[int, int], None]
"""Told how many of how many features are done."""


def reference_of(
    runtime: Runtime,
    raw: pd.DataFrame,
    features: list[Feature],
    usable: NDArray[np.bool_],
    predictions: FloatArray,
    progress: Progress | None = None,
) -> ReferenceData:
    """
    The reference rows of a model.

    Args:
        raw: the sample's feature columns.
        usable: its rows that can be scored.
        predictions: of all its rows, shape ``(n_rows, n_outputs)``.

    Raises:
        CannotPackage: the model cannot score rows of the sample whose values were shuffled.
    """
    places = np.flatnonzero(usable)
    chosen = stratified(places, predictions, REFERENCE_ROWS)
    rows = raw.iloc[chosen]
    columns: dict[str, list[RawCell]] = {feature.name: raw_cells(rows[feature.name], feature) for feature in features}
    spread = evenly(len(chosen), EXEMPLARS)
    tried = table_of(raw.iloc[np.sort(stratified(places, predictions, IMPACT_ROWS))], features)
    try:
        impact = permutation_impact(runtime, tried, [feature.name for feature in features], progress)
    except ServingError as exc:
        raise CannotPackage(
            f"the estimator cannot score rows of the sample whose values were shuffled ({exc}); reference=False "
            "(--no-reference) packages it without what explanations need"
        ) from exc
    return ReferenceData(columns=columns, exemplars=spread.tolist(), impact=impact.tolist())


def stratified(places: NDArray[np.intp], predictions: FloatArray, most: int) -> NDArray[np.intp]:
    """
    At most *most* of *places*, evenly spread over their predictions, in ascending order of these.

    Every stretch of the distribution gives as many rows as is its share, so means over them are close to the sample's.
    """
    values = predictions[places]
    order = np.lexsort((values.max(axis=1), values.argmax(axis=1))) if values.shape[1] > 2 else values[:, 0].argsort()
    return places[order][evenly(len(places), most)]


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """The middles of *most* equal stretches of ``range(count)``; all of it if it is no longer."""
    number = min(count, most)
    return ((np.arange(number) + 0.5) * count / max(1, number)).astype(np.intp)


def table_of(rows: pd.DataFrame, features: list[Feature]) -> Table:
    """Rows of the sample as a request would bring them."""
    schema = Schema(tuple(features))
    cells = {feature.name: raw_cells(rows[feature.name], feature) for feature in features}
    return Table.from_rows(stored_rows(cells, schema), schema)


def permutation_impact(
    runtime: Runtime, table: Table, names: list[str], progress: Progress | None = None
) -> FloatArray:
    """
    How far the predictions move (root of the mean square) when one feature's values are shuffled among the rows.

    Needs no outcomes, only the model. The order of shuffling is fixed.

    Returns:
        Per feature, the largest 1 (or all 0).
    """
    random = np.random.default_rng(_SEED)
    own = runtime.predict(table)
    moved = np.zeros(len(names))
    for place, name in enumerate(names):
        shuffled = _shuffled(table, name, random.permutation(table.n_rows))
        moved[place] = np.sqrt(np.square(runtime.predict(shuffled) - own).mean())
        if progress is not None:
            progress(place + 1, len(names))
    largest = moved.max(initial=0.0)
    impact = moved / largest if largest > 0 else moved
    return np.where(impact < NO_IMPACT, 0.0, impact)


def _shuffled(table: Table, name: str, order: NDArray[np.intp]) -> Table:
    if name in table.numeric:
        return Table(table.n_rows, table.numeric | {name: table.numeric[name][order]}, table.strings)
    column = table.strings[name]
    return Table(table.n_rows, table.numeric, table.strings | {name: Strings(column.codes[order], column.values)})
