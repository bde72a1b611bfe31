"""
The server that most people write to explain predictions: the fitted pipeline and the shap library.
serve_shap.py PORT MODEL.joblib

It is written on Starlette, which is FastAPI without its checks: so it is a little faster than the usual one.
"""

import json
import sys
import warnings
from typing import Any

import joblib
import numpy as np
import pandas as pd
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.benchmarks.inputs import CATEGORIES, NUMBERS, dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import shap

BACKGROUND_ROWS = 100
COLUMNS = NUMBERS + CATEGORIES


def coded(rows: pd.DataFrame, texts: dict[str, list[str]]) -> "np.ndarray[Any, Any]":
    """Words as numbers: the library's maskers take nothing else."""
    places = {name: {text: place for place, text in enumerate(known)} for name, known in texts.items()}
    columns = [rows[name].map(places[name]) if name in places else rows[name] for name in COLUMNS]
    return np.column_stack([np.asarray(column, dtype=float) for column in columns])


def common_explainer(pipeline: Any) -> tuple[Any, dict[str, list[str]]]:
    """``shap.Explainer(pipeline.predict_proba, background)``, and how words are written as numbers for it."""
    background = dataset(BACKGROUND_ROWS, seed=3)
    texts = {name: sorted(dataset(2000, seed=1)[name].dropna().unique()) for name in CATEGORIES}

    def probabilities(matrix: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        frame = pd.DataFrame(matrix, columns=COLUMNS)
        for name, known in texts.items():
            lookup = np.array([*known, None], dtype=object)
            frame[name] = lookup[np.where(np.isnan(frame[name]), len(known), frame[name]).astype(int)]
        return np.asarray(pipeline.predict_proba(frame)[:, 1])

    return shap.Explainer(probabilities, coded(background, texts)), texts


def app_of(pipeline: Any) -> Starlette:
    """``/common`` asks the pipeline itself; ``/trees`` its trees, for pipelines that end with some."""
    common, texts = common_explainer(pipeline)
    trees = shap.TreeExplainer(pipeline[-1]) if hasattr(pipeline[-1], "_predictors") else None

    async def explain(request: Request) -> JSONResponse:
        frame = pd.DataFrame(json.loads(await request.body()), columns=COLUMNS)
        probabilities = pipeline.predict_proba(frame)
        if request.url.path == "/trees" and trees is not None:
            matrix = np.asarray(pipeline[:-1].transform(frame), dtype=float)
            values = trees.shap_values(matrix, check_additivity=False)
        else:
            values = common(coded(frame, texts), silent=True).values
        answers = []
        for row, probability in zip(np.asarray(values), probabilities, strict=True):
            strongest = np.argsort(-np.abs(row))[:3]
            reasons = [{"feature": COLUMNS[place], "strength": float(row[place])} for place in strongest]
            answers.append({"probability": float(probability[1]), "reasons": reasons})
        return JSONResponse(answers)

    async def ping(_: Request) -> JSONResponse:
        return JSONResponse("pong")

    return Starlette(
        routes=[
            Route("/ping", ping),
            Route("/common", explain, methods=["POST"]),
            Route("/trees", explain, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    app = app_of(joblib.load(sys.argv[2]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
