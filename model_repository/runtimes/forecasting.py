"""From the members of a time series package to what forecasts, proven by its golden forecast."""

from dataclasses import dataclass

import numpy as np

from model_repository.golden import largest_difference
from model_repository.mlpkg import Package
from model_repository.predictions import ForecastOptions, Runtime
from model_repository.tables import FloatArray
from model_repository.timeseries.contents import Contents, contents_from
from model_repository.timeseries.forecaster import Forecaster


@dataclass(frozen=True)
class Forecasting:
    """A forecaster, and what it must say."""

    forecaster: Forecaster
    contents: Contents

    def replay(self) -> float:
        """
        Largest difference to the golden forecast; infinite if other rows are forecast.

        Raises:
            ServingError: it cannot be forecast at all.
        """
        golden = self.contents.golden
        table = golden.table(self.forecaster.spec.input_schema)
        found = self.forecaster.forecast(table, ForecastOptions(point=golden.point))
        if found.rows.tolist() != golden.rows or found.distances.tolist() != golden.distances:
            return float("inf")
        expected: FloatArray = np.array(golden.values, dtype=np.float64)
        return largest_difference(found.values, expected)


def forecasting_of(package: Package, runtime: Runtime) -> Forecasting | None:
    """
    What forecasts by *runtime*; ``None`` for a package that is no time series.

    Raises:
        InvalidPackage: the member that it needs is damaged or does not fit the manifest.
    """
    manifest = package.manifest
    spec = manifest.timeseries
    if spec is None:
        return None
    contents = contents_from(package.member(spec.member), spec, manifest.target.n_outputs)
    known = None if contents.series is None else frozenset(contents.series)
    return Forecasting(Forecaster(spec, manifest.target, runtime, contents.intervals, known), contents)


def forecast_difference(package: Package, runtime: Runtime) -> float:
    """`Forecasting.replay`; nothing for a package that is no time series."""
    forecasting = forecasting_of(package, runtime)
    return 0.0 if forecasting is None else forecasting.replay()
