"""
Train a scikit-learn pipeline and put it into a package:  python examples/train.py diabetes.mlpkg [patients.csv]

The data came with scikit-learn: 442 patients, ten measurements, and how far their diabetes had progressed a year later.
The model says whether it progresses faster than it did for half of them.
"""

import sys
from pathlib import Path

from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model_repository import create_package

BLOOD = {"s1": "chol", "s2": "ldl", "s3": "hdl", "s4": "chol_ratio", "s5": "log_tg", "s6": "glucose"}  # serum values
NUMBERS = ["age", "bmi", "bp", *BLOOD.values()]


def train(package: Path, table: Path | None = None) -> None:
    """Write the trained model to *package*, and the patients themselves to *table*."""
    patients = load_diabetes(as_frame=True, scaled=False).frame.rename(columns=BLOOD)
    # The two sexes come coded 1 and 2: a category, not a quantity.
    patients["sex"] = patients["sex"].astype(int).map({1: "sex 1", 2: "sex 2"})
    patients["fast"] = patients.pop("target").gt(140.5).map({True: "yes", False: "no"})

    model = make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMBERS),
            (OneHotEncoder(handle_unknown="ignore"), ["sex"]),
        ),
        LogisticRegression(),
    )
    model.fit(patients[["sex", *NUMBERS]], patients["fast"])
    create_package(package, model, patients, target="fast", positive_class="yes", name="Diabetes progression")
    if table is not None:
        patients.drop(columns="fast").to_csv(table, index_label="patient")


if __name__ == "__main__":
    train(*map(Path, sys.argv[1:3]))
