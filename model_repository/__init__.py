"""Models as packages: made, read, trusted, and scored."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_repository.packaging import create_package
    from model_repository.timeseries_packaging import fit_time_series_package
    from model_repository.timeseries_settings import SeriesSettings

__all__ = ["SeriesSettings", "create_package", "fit_time_series_package"]

_PLACES = {
    "create_package": "packaging",
    "fit_time_series_package": "timeseries_packaging",
    "SeriesSettings": "timeseries_settings",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:  # imported when asked for: they need scikit-learn, which serving a plan does not
        return getattr(import_module(f"model_repository.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
