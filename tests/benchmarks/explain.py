"""
What explanations cost beside the shap library, in process and over HTTP:  python -m tests.benchmarks.explain [--quick]

Models and packages come from ``.tools/bench``, as for the other benchmarks; what was packaged there without reference
rows is packaged anew.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy: for every library alike

import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from model_repository import create_package
from model_repository.csv_codec import read_csv_rows, read_csv_tables
from model_repository.explanations import ExplanationOptions
from model_repository.repository import Model, load_model
from model_repository.tables import Rows, Table
from tests.benchmarks.inputs import (
    CATEGORIES,
    NUMBERS,
    SAMPLE_ROWS,
    TARGET,
    TRAINING_ROWS,
    Subject,
    csv,
    dataset,
    records,
    subjects,
)
from tests.benchmarks.peers import Question
from tests.benchmarks.processes import answer_of, free_ports, serving
from tests.benchmarks.serve_shap import coded, common_explainer

FOLDER = Path(".tools/bench")
ROWS = 1000


def main() -> None:
    """Measure and print two tables."""
    n_rows = 100 if "--quick" in sys.argv[1:] else ROWS
    rows = dataset(n_rows, seed=2)[NUMBERS + CATEGORIES]
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"| model | what | {n_rows} rows, ms | of plain scoring | 1 row, ms |\n|---|---|---|---|---|")
    for subject in subjects(FOLDER):
        model = load_model(subject.package)
        if model.reference is None:
            sample = dataset(TRAINING_ROWS, seed=1)[:SAMPLE_ROWS]
            create_package(subject.package, subject.estimator, sample, target=TARGET, positive_class="yes")
            model = load_model(subject.package)
        many = next(iter(read_csv_tables(csv(rows), model.manifest.schema)))
        one = read_csv_rows(csv(rows[:1]), model.manifest.schema)
        plain = best(partial(model.runtime.predict, many))
        single = best(partial(model.runtime.predict_rows, one), 20)
        line(subject.name, "plain scoring", plain, plain, single)
        for what, ask in (
            ("3 by exemplars", ExplanationOptions("xemp", 3)),
            ("all by SHAP", ExplanationOptions("shap", None)),
        ):
            line(subject.name, what, ours(model, many, ask, 3), plain, ours(model, one, ask, 20))
        of_anything(subject, rows, plain)
        if hasattr(subject.estimator[-1], "_predictors"):
            shap_of_trees(subject.name, subject.estimator, rows, model, many, plain)
    print("\n| model | 1 row over HTTP | ms |\n|---|---|---|")
    for subject in subjects(FOLDER):
        over_http(subject, rows.dropna().head(1))


def of_anything(subject: Subject, rows: Any, plain: float) -> None:
    """What most people write: ``shap.Explainer(pipeline.predict_proba, background)``; of few rows, and counted up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer, texts = common_explainer(subject.estimator)
        matrix = coded(rows, texts)
        single = best(lambda: explainer(matrix[:1], silent=True), 2)
        few = best(lambda: explainer(matrix[:4], silent=True), 1)
    line(subject.name, f"shap.Explainer(predict_proba), {len(rows) // 4} x 4 rows", few * len(rows) / 4, plain, single)


def over_http(subject: Subject, row: Any) -> None:
    """The best of many requests for one row and its three strongest reasons, each on a connection of its own."""
    question = Question("/", "application/json", json.dumps(records(row)).encode())
    port = free_ports(1)
    settings = {"MODEL_REPOSITORY_PATH": str(subject.package), "HOST": "127.0.0.1", "HTTP_PORT": str(port)}
    ours = [sys.executable, "-m", "prediction_api", "serve"]
    theirs = [sys.executable, "-m", "tests.benchmarks.serve_shap", str(port), str(subject.pickle)]

    def ask(path: str, times: int) -> float:
        def once() -> None:
            status, body = answer_of("POST", port, path, question)
            assert status == 200, body

        return best(once, times)

    with serving(ours, port, "/ping", {f"PREDICTION_API_{name}": value for name, value in settings.items()}):
        asked = {
            "this server, plain": ask("/predictions", 200),
            "this server, xemp": ask("/predictions?maxExplanations=3", 200),
            "this server, shap": ask("/predictions?maxExplanations=3&explanationAlgorithm=shap", 200),
        }
    with serving(theirs, port, "/ping", {}):
        asked["an app with shap.Explainer(predict_proba)"] = ask("/common", 3)
        if hasattr(subject.estimator[-1], "_predictors"):
            asked["an app with shap.TreeExplainer"] = ask("/trees", 100)
    for what, seconds in asked.items():
        print(f"| {subject.name} | {what} | {seconds * 1e3:.2f} |", flush=True)


def shap_of_trees(name: str, estimator: Pipeline, rows: Any, model: Model, table: Table, plain: float) -> None:
    """The library on the transformed matrix, and how far its values are from ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap

        matrix = np.asarray(estimator[:-1].transform(rows), dtype=float)
        explainer = shap.TreeExplainer(estimator[-1])
        values = np.asarray(explainer.shap_values(matrix, check_additivity=False))
        many = best(lambda: explainer.shap_values(matrix, check_additivity=False))
        single = best(lambda: explainer.shap_values(matrix[:1], check_additivity=False), 20)
        with_pipeline = best(
            lambda: explainer.shap_values(np.asarray(estimator[:-1].transform(rows[:1]), dtype=float)), 20
        )
    line(name, "shap.TreeExplainer, matrix given", many, plain, single)
    line(name, "the same behind the pipeline", float("nan"), plain, with_pipeline)
    found = model.explainer.explain(table, model.runtime.predict(table), ExplanationOptions("shap", None))
    mine = np.zeros_like(values)
    np.put_along_axis(mine, found.features[:, 0], found.strengths[:, 0], axis=1)  # one column per feature here
    print(f"\nlargest difference to shap: {np.abs(mine - values).max():.1e}")


def ours(model: Model, inputs: Rows | Table, options: ExplanationOptions, times: int) -> float:
    """Seconds for predictions and explanations."""

    def both() -> None:
        score = model.runtime.predict_rows if isinstance(inputs, Rows) else model.runtime.predict
        model.explainer.explain(inputs, score(inputs), options)  # type: ignore[arg-type]

    return best(both, times)


def best(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of the fastest run, after one that does not count."""
    work()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def line(model: str, what: str, many: float, plain: float, single: float) -> None:
    """One row of the table."""
    print(f"| {model} | {what} | {many * 1e3:.2f} | {many / plain:.1f}x | {single * 1e3:.3f} |", flush=True)


if __name__ == "__main__":
    main()
