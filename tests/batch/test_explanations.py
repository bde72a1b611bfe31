"""Jobs that ask for explanations, as the server answers them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.errors import ScoringServerError
from batch.runner import RunOptions, run_job
from batch.settings import Credentials
from tests.batch.jobs import HEADER, NO_WAIT, QUICK, csv_text, gold, people_rows, read_csv

NOBODY = Credentials()
N_ROWS = 120
CASES = [
    pytest.param("server", {"max_explanations": 3}, {"maxExplanations": 3}, id="three"),
    pytest.param("server", {"max_explanations": 10}, {"maxExplanations": 10}, id="more than there are features"),
    pytest.param("server", {"max_explanations": "all"}, {"maxExplanations": "all"}, id="all"),
    pytest.param("server", {"explanation_algorithm": "shap"}, {"explanationAlgorithm": "shap"}, id="all of shap"),
    pytest.param(
        "regression_server", {"maxExplanations": 2, "explanationAlgorithm": "shap", "predictionWarningEnabled": True},
        {"maxExplanations": 2, "explanationAlgorithm": "shap", "predictionWarningEnabled": "true"}, id="two of shap",
    ),
    pytest.param("multiclass_server", {"max_explanations": 2}, {"maxExplanations": 2}, id="the likeliest class"),
    pytest.param(
        "multiclass_server", {"max_explanations": 1, "explanation_num_top_classes": 2},
        {"maxExplanations": 1, "explanationNumTopClasses": 2}, id="two classes",
    ),
    pytest.param(
        "multiclass_server", {"max_explanations": 1, "explanation_class_names": ["3", "1"]},
        {"maxExplanations": 1, "explanationClassNames": ["3", "1"]}, id="classes by name",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("server_name", "keys", "query"), CASES)
@pytest.mark.parametrize("n_rows", [N_ROWS, 0], ids=["rows", "no rows"])
async def test_the_columns_are_those_of_the_server(
    server_name: str, keys: Any, query: Any, n_rows: int, job_for: Any, request: Any, tmp_path: Path
) -> None:
    """Also where no row is scored, so that one job always writes one layout."""
    url = request.getfixturevalue(server_name)
    (tmp_path / "in.csv").write_text(csv_text(people_rows(n_rows)), newline="")
    header, *expected = gold(url, csv_text(people_rows(n_rows or 1)), **query)

    await run_job(job_for(url, mini_batch_size=50, passthrough_columns=["ID"], **keys), NOBODY, options=QUICK)

    first, *rows = read_csv(tmp_path / "out.csv")
    assert first == [*header, "ID"]
    assert rows == [[*row, f"{n:05d}"] for n, row in enumerate(expected[:n_rows])]


async def test_columns_can_be_renamed_and_removed(job_for: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(5)), newline="")
    remapping = {"EXPLANATION_1_FEATURE_NAME": "because", "EXPLANATION_1_QUALITATIVE_STRENGTH": None}
    job = job_for(max_explanations=1, include_probabilities=False, column_names_remapping=remapping)

    await run_job(job, NOBODY, options=RunOptions(validate=True, retry=NO_WAIT))
    await run_job(job, NOBODY, options=QUICK)

    header = ["bought_PREDICTION", "THRESHOLD", "POSITIVE_CLASS", "because", "EXPLANATION_1_STRENGTH"]
    assert read_csv(tmp_path / "out.csv")[0] == [*header, "EXPLANATION_1_ACTUAL_VALUE"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_other_formats_have_types(suffix: str, multiclass_server: str, job_for: Any, tmp_path: Path) -> None:
    """Names, values and symbols are text, strengths are numbers, and what is not there is null."""
    (tmp_path / "in.csv").write_text(csv_text(people_rows(N_ROWS)), newline="")
    out = tmp_path / f"out.{suffix}"
    job = job_for(
        multiclass_server, max_explanations=6, threshold_high=0.5,
        output_settings={"type": "filesystem", "path": str(out)},
    )  # fmt: skip

    await run_job(job, NOBODY, options=QUICK)

    rows = (
        pq.read_table(out).to_pylist() if suffix == "parquet" else list(map(json.loads, out.read_text().splitlines()))
    )
    assert {type(row["CLASS_1"]) for row in rows} == {str}
    names = {row["CLASS_1_EXPLANATION_1_FEATURE_NAME"] for row in rows}
    assert names - {None, ""} <= set(HEADER)
    assert {type(row["CLASS_1_EXPLANATION_1_STRENGTH"]) for row in rows} == {float, type(None)}
    assert {row["CLASS_1_EXPLANATION_5_STRENGTH"] for row in rows} == {None}
    if suffix == "parquet":
        types = {field.name: field.type for field in pq.read_schema(out)}
        assert types["CLASS_1_EXPLANATION_1_ACTUAL_VALUE"] == pa.string()
        assert types["CLASS_1_EXPLANATION_6_STRENGTH"] == pa.float64()


async def test_an_answer_many_times_as_long_as_its_request(job_for: Any, tmp_path: Path) -> None:
    """Eleven numbers for each that was sent, and the names of the features in every row."""
    rows = [["", "1", "2", "", "f", ""] for _ in range(30_000)]
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")

    report = await run_job(job_for(max_explanations="all", mini_batch_size=30_000), NOBODY, options=QUICK)

    assert (report.rows_scored, report.retries) == (30_000, 0)
    assert (tmp_path / "out.csv").stat().st_size > 10 * (tmp_path / "in.csv").stat().st_size + 2**20


async def test_what_this_model_cannot_be_asked_ends_the_job(
    multiclass_server: str, job_for: Any, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(csv_text(people_rows(3)), newline="")

    with pytest.raises(ScoringServerError, match="the server refuses the job's options: SHAP explanations are not"):
        await run_job(job_for(multiclass_server, explanation_algorithm="shap"), NOBODY, options=QUICK)
