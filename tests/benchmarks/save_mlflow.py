"""
Write a fitted pipeline as an MLflow model:  save_mlflow.py MODEL.joblib FOLDER

Runs in an environment of its own and so imports nothing of this project. Without the signature MLflow would read
codes with leading zeros as numbers.
"""

import sys

import joblib
import mlflow.sklearn
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

model = joblib.load(sys.argv[1])
columns = [
    ColSpec("string" if name.startswith("cat") else "double", str(name), required=False)
    for name in model.feature_names_in_
]
mlflow.sklearn.save_model(
    model,
    sys.argv[2],
    signature=ModelSignature(Schema(columns)),
    pyfunc_predict_fn="predict_proba",
    serialization_format="pickle",
)
