"""An estimator that kills the process that predicts with it, when it sees a certain value or file."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from model_repository import create_package

DEADLY = 666.0


class Deadly(RegressorMixin, BaseEstimator):
    """Predicts ``x + 1``."""

    def __init__(self, trap: str = "") -> None:
        self.trap = trap

    def fit(self, rows: Any, _target: Any) -> "Deadly":
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        values = np.asarray(rows, dtype=float)[:, 0]
        if (values == DEADLY).any() or Path(self.trap).is_file():
            signal.raise_signal(signal.SIGSEGV)  # to this thread, as a real fault: another one might take it later
        return values + 1


def make_deadly(path: Path) -> bytes:
    """A package of it, with a pickle; a file beside it called ``trap`` kills whoever loads it."""
    rows = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [1.0, 2.0, 3.0]})
    create_package(
        path, Deadly(str(path.with_name("trap"))).fit(rows[["x"]], rows["y"]), rows, target="y", serializer="joblib"
    )
    return path.read_bytes()
