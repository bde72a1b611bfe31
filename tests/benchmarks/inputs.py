"""The same data, models and bodies for every server: 20 numeric and 8 categorical columns with missing values."""

import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from model_repository import create_package

FOLDER: Final = Path(".tools/bench").resolve()
"""Models, other servers' environments and tables, left for the next time."""
NUMBERS: Final = [f"num_{i:02d}" for i in range(20)]
CARDINALITY: Final = {f"cat_{i}": n for i, n in enumerate((2, 3, 5, 8, 12, 20, 50, 200))}
CATEGORIES: Final = list(CARDINALITY)
TARGET: Final = "bought"
TRAINING_ROWS: Final = 20_000
SAMPLE_ROWS: Final = 1_000
BULK_ROWS: Final = 10_000
LARGE_BYTES: Final = 50 * 1000 * 1000


def dataset(n_rows: int, seed: int) -> pd.DataFrame:
    """Integers, prices and measurements, words and codes with leading zeros; 4 % of the cells are missing."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    score = np.zeros(n_rows)
    for i, name in enumerate(NUMBERS):
        standard = rng.normal(size=n_rows)
        score += np.tanh(standard) * weights.normal() * 0.5
        column = np.round(standard * (1 + i) + i, (0, 2, 4, 6)[i % 4])
        columns[name] = np.where(rng.random(n_rows) < 0.04, np.nan, column)
    for name, n_values in CARDINALITY.items():
        texts = np.array(
            [f"{100 + k:05d}" if n_values == 200 else f"{name} {k}" for k in range(n_values)], dtype=object
        )
        codes = rng.integers(0, n_values, n_rows)
        score += weights.normal(size=n_values)[codes] * 0.5
        columns[name] = pd.Series(texts[codes]).mask(rng.random(n_rows) < 0.04)
    columns[TARGET] = np.where(rng.random(n_rows) < 1 / (1 + np.exp(-score)), "yes", "no")
    return pd.DataFrame(columns).astype(dict.fromkeys(CATEGORIES, "str"))


def _preprocessed(encoder: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_column_transformer((numbers, NUMBERS), (encoder, CATEGORIES))


def estimators() -> dict[str, Any]:
    """The two pipelines, not fitted."""
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return {
        "logistic regression": make_pipeline(
            _preprocessed(OneHotEncoder(handle_unknown="ignore")), LogisticRegression(max_iter=1000)
        ),
        "boosted trees (200)": make_pipeline(
            _preprocessed(ordinal), HistGradientBoostingClassifier(max_iter=200, early_stopping=False, random_state=0)
        ),
    }


@dataclass(frozen=True)
class Subject:
    """One fitted model, as a package for us and as a joblib file for the others."""

    name: str
    package: Path
    pickle: Path

    @cached_property
    def estimator(self) -> Any:
        """The original: what every server must agree with."""
        return joblib.load(self.pickle)

    def expected(self, rows: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Its own probability of ``yes`` for each row."""
        estimator = self.estimator
        return np.asarray(estimator.predict_proba(rows)[:, list(estimator.classes_).index("yes")])


def subjects(folder: Path) -> list[Subject]:
    """Train both models once and keep them in *folder*."""
    made = []
    table: pd.DataFrame | None = None
    for name, estimator in estimators().items():
        place = folder / name.split()[0]
        subject = Subject(name, place / "package" / "model.mlpkg", place / "model.joblib")
        if not (subject.package.exists() and subject.pickle.exists()):
            if table is None:
                table = dataset(TRAINING_ROWS, seed=1)
            subject.package.parent.mkdir(parents=True, exist_ok=True)
            estimator.fit(table[NUMBERS + CATEGORIES], table[TARGET])
            create_package(subject.package, estimator, table[:SAMPLE_ROWS], target=TARGET, positive_class="yes")
            joblib.dump(estimator, subject.pickle)
        made.append(subject)
    return made


@dataclass(frozen=True)
class Bodies:
    """What is sent."""

    one: pd.DataFrame
    bulk: pd.DataFrame

    @classmethod
    def fresh(cls) -> "Bodies":
        """Rows that no model was trained on; the single row has no missing cell."""
        rows = dataset(BULK_ROWS, seed=2)[NUMBERS + CATEGORIES]
        return cls(rows.dropna().head(1), rows)


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON objects; missing is null."""
    parsed: list[dict[str, Any]] = json.loads(rows.to_json(orient="records"))
    return parsed


def csv(rows: pd.DataFrame) -> bytes:
    """Rows as CSV with a header."""
    text = io.StringIO()
    rows.to_csv(text, index=False)
    return text.getvalue().encode()


def large_csv(rows: pd.DataFrame) -> bytes:
    """The same rows again and again, up to 50 MB."""
    header, _, lines = csv(rows).partition(b"\n")
    times = (LARGE_BYTES - len(header) - 1) // len(lines)
    return header + b"\n" + lines * times
