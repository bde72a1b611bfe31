"""
The server that most people write: FastAPI, pydantic, pandas, the fitted pipeline.  serve_fastapi.py PORT MODEL.joblib

Runs in an environment of its own and so imports nothing of this project.
"""

import io
import sys
from typing import Any

import joblib
import pandas as pd
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel, create_model

model = joblib.load(sys.argv[2])
TEXTS = {name: str for name in model.feature_names_in_ if name.startswith("cat")}
made: Any = create_model  # its field types are only known here
Row: Any = made("Row", **{str(name): (TEXTS.get(name, float) | None, None) for name in model.feature_names_in_})


class Prediction(BaseModel):
    """One row's answer."""

    label: str
    probabilities: dict[str, float]


class Predictions(BaseModel):
    """All rows' answers."""

    predictions: list[Prediction]


app = FastAPI()


def predicted(rows: pd.DataFrame) -> Predictions:
    """Score a frame."""
    probabilities = model.predict_proba(rows)
    labels = model.classes_[probabilities.argmax(axis=1)]
    return Predictions(
        predictions=[
            Prediction(label=label, probabilities=dict(zip(model.classes_, row, strict=True)))
            for label, row in zip(labels, probabilities, strict=True)
        ]
    )


@app.get("/ping")
def ping() -> str:
    """Alive."""
    return "pong"


@app.post("/json")
def from_json(rows: list[Row]) -> Predictions:
    """Score JSON objects."""
    return predicted(pd.DataFrame([row.model_dump() for row in rows]))


@app.post("/csv")
async def from_csv(request: Request) -> Predictions:
    """Score a CSV file."""
    return predicted(pd.read_csv(io.BytesIO(await request.body()), dtype=TEXTS))


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
