"""Every key of a job definition: what it takes, what it refuses, and what the message says."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch import key_tables
from batch.declared import camel_case, keys_of
from batch.definition import Definition, definition_from, read_definition
from batch.errors import JobError
from batch.job import Job, Store, fingerprint, options_of
from batch.job_file import MAX_DEPTH, object_from

FILES = {
    "prediction_endpoint": "http://127.0.0.1:8080",
    "intake_settings": {"type": "filesystem", "path": "/data/in.csv"},
    "output_settings": {"type": "filesystem", "path": "/data/out.csv"},
}
JDBC = {
    "url": "jdbc:snowflake://acme.example/?warehouse=SMALL&db=SALES&schema=MAIN",
    "class_name": "example.Driver",
    "driver_path": "/jdbc/driver.jar",
    "template_name": "Snowflake",
}
FROM_TABLE = {
    "intake_settings": {"type": "jdbc", "table": "LOANS", "schema": "MAIN"},
    "output_settings": {"type": "jdbc", "table": "SCORED", "schema": "MAIN", "statement_type": "create_table"},
    "jdbc_settings": JDBC,
}
UPDATE = {"statement_type": "update", "where_columns": ["id"], "update_columns": ["p"]}
STAGED = {"type": "snowflake", "table": "T", "schema": "S", "external_stage": "STAGE"}


def job_of(changes: dict[str, Any] | None = None, *, served: bool = False, **more: Any) -> Job:
    """The files job with some keys changed."""
    return definition_from(object_from(json.dumps({**FILES, **(changes or {}), **more})), served=served).job


def problems_of(changes: dict[str, Any] | None = None, **more: Any) -> list[str]:
    with pytest.raises(JobError) as caught:
        job_of(changes, **more)
    return list(caught.value.problems)


def test_a_small_job() -> None:
    job = job_of()
    assert job.prediction_endpoint == "http://127.0.0.1:8080"
    assert job.intake_settings.type == "filesystem"
    assert job.intake_settings.format == "csv"
    assert job.intake_settings.settings.path == "/data/in.csv"  # type: ignore[attr-defined]
    assert (job.num_concurrent, job.chunk_size, job.max_explanations) == (4, "auto", 0)
    assert job.include_probabilities
    assert job.abort_on_error
    assert job.csv_settings.encoding == "utf-8"
    assert job.kept == ()


@pytest.mark.parametrize(
    "definition",
    [
        pytest.param(FILES, id="files, one model"),
        pytest.param({**FILES, "deployment_id": "loans"}, id="files, many models"),
        pytest.param(
            {**FILES, **FROM_TABLE, "passthrough_columns_set": "all", "include_probabilities": True}, id="jdbc"
        ),
        pytest.param(
            {
                **FILES,
                "deployment_id": "loans",
                "intake_settings": {"type": "s3", "url": "s3://here/in.csv", "format": "csv"},
                "output_settings": {"type": "s3", "url": "s3://there/out.csv", "format": "csv"},
            },
            id="s3",
        ),
        pytest.param(
            {
                **FILES,
                "deployment_id": "loans",
                "intake_settings": STAGED,
                "output_settings": {**STAGED, "statement_type": "insert"},
                "jdbc_settings": JDBC,
            },
            id="snowflake, its comma put right",
        ),
        pytest.param(
            {
                **FILES,
                "deployment_id": "sales_by_day",
                "intake_settings": {
                    "type": "azure",
                    "url": "https://acme.blob.core.windows.net/a/in.csv",
                    "format": "csv",
                },
                "output_settings": {
                    "type": "azure",
                    "url": "https://acme.blob.core.windows.net/b/out.csv",
                    "format": "csv",
                },
                "timeseries_settings": {
                    "type": "forecast",
                    "forecast_point": "2012-02-03",
                    "relax_known_in_advance_features_check": True,
                },
            },
            id="azure, time series",
        ),
        pytest.param(
            {
                **FILES,
                "num_concurrent": 2,
                "deployment_id": "5dc5b1015e6e762a6241f900",
                "intake_settings": {"url": "s3://a/1", "type": "s3", "format": "csv", "credential_id": "5dc5b1015e"},
                "output_settings": {"url": "s3://a/2", "type": "s3", "format": "csv", "credential_id": "5dc5b1015e"},
                "enabled": False,
                "name": "weekly",
                "schedule": None,
            },
            id="a stored definition, credentials of the platform",
        ),
        pytest.param(
            {
                **FILES,
                "enabled": True,
                "schedule": {"minute": [0], "hour": [16], "day_of_month": [1], "month": ["*"], "day_of_week": [1]},
            },
            id="a schedule",
        ),
        pytest.param(
            {
                **FILES,
                "schedule": {
                    "minute": [15, "30", 45],
                    "hour": ["*"],
                    "day_of_month": ["*"],
                    "month": ["jan", "October"],
                    "day_of_week": ["sun", "Tuesday"],
                },
            },
            id="a schedule with names",
        ),
    ],
)
def test_what_the_published_examples_look_like(definition: dict[str, Any]) -> None:
    """Every shape of definition that users have from elsewhere is taken."""
    assert definition_from(object_from(json.dumps(definition))).warnings == ()


def test_a_missing_comma_has_a_place(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(
        '{\n  "jdbc_settings": {\n    "url": "jdbc:snowflake://acme.example/?db=X"\n    "class_name": "D"\n  }\n}\n'
    )
    with pytest.raises(JobError) as caught:
        read_definition(path, served=False)
    assert str(caught.value) == f"{path}: line 4, column 5: not JSON: expecting ',' delimiter, got '\"'"


@pytest.mark.parametrize("spell", [str, camel_case], ids=["snake_case", "camelCase"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("deployment_id", "loans"),
        ("jdbc_settings", JDBC),
        ("csv_settings", {"delimiter": "tab", "quotechar": "'", "encoding": "shift_jis", "header": False, "output_header": False}),
        ("csv_settings", {"delimiter": ";", "quotechar": "", "encoding": "mskanji"}),
        ("timeseries_settings", {"type": "historical", "predictions_start_date": "1900-01-01T00:00:00.000000Z", "predictions_end_date": "2262-04-11T23:47:16.854775+00:00"}),
        ("timeseries_settings", {"forecast_point_policy": {"type": "jobRunTimeBased", "configuration": {"offset": "-P2DT5H4M"}}}),
        ("timeseries_settings", {"forecast_point": "2024-01-31 10:00"}),
        ("num_concurrent", 256),
        ("chunk_size", 65536),
        ("chunk_size", "dynamic"),
        ("mini_batch_size", 64),
        ("resume", False),
        ("passthrough_columns", ["a", "b"]),
        ("passthrough_columns_set", "all"),
        ("id_column", "ID"),
        ("include_row_id", True),
        ("include_probabilities", False),
        ("include_probabilities_classes", ["yes"]),
        ("include_prediction_status", True),
        ("prediction_threshold", 0.25),
        ("prediction_threshold", None),
        ("column_names_remapping", {"a": "b", "c": None, "d": False}),
        ("column_names_remapping", [{"input_name": "a", "output_name": "b"}, {"input_name": "c", "output_name": None}]),
        ("max_explanations", 3),
        ("max_explanations", "all"),
        ("max_ngram_explanations", "all"),
        ("explanation_algorithm", "shap"),
        ("explanation_class_names", ["a"]),
        ("explanation_num_top_classes", 2),
        ("threshold_high", 1),
        ("threshold_low", -0.5),
        ("prediction_warning_enabled", True),
        ("errors", {"mode": "skip", "max_errors": 2, "path": "/tmp/errors.jsonl"}),
        ("abort_on_error", False),
        ("disable_row_level_error_handling", True),
        ("name", "nightly"),
        ("skip_drift_tracking", True),
    ],
)  # fmt: skip
def test_a_value_that_every_key_takes(spell: Any, key: str, value: Any) -> None:
    """In both spellings, at every level, to the same job."""
    assert job_of({spell(key): _spelled(value, spell)}) == job_of({key: value})
    assert job_of({key: value}) != job_of() or value in (None, "auto")


def _spelled(value: Any, spell: Any) -> Any:
    if isinstance(value, dict):
        return {spell(key): _spelled(inner, spell) for key, inner in value.items()}
    return [_spelled(inner, spell) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"prediction_endpoint": None}, "prediction_endpoint: required, unless --serve starts a server for the job", id="no endpoint"),
        pytest.param({"prediction_endpoint": "file:///etc/passwd"}, "prediction_endpoint: not an http or https URL, expected <http or https>://<host>:<port>", id="scheme"),
        pytest.param({"prediction_endpoint": "gopher://h:70/_x"}, "prediction_endpoint: not an http or https URL, expected <http or https>://<host>:<port>", id="another scheme"),
        pytest.param({"prediction_endpoint": "http://:8080"}, "prediction_endpoint: no host, expected <http or https>://<host>:<port>", id="no host"),
        pytest.param({"prediction_endpoint": "http://h:99999"}, "prediction_endpoint: port out of range 0-65535, expected <http or https>://<host>:<port>", id="port"),
        pytest.param({"prediction_endpoint": "http://h/?a=1"}, "prediction_endpoint: has a query or a fragment, expected <http or https>://<host>:<port>", id="query"),
        pytest.param({"deployment_id": "../x"}, "deployment_id: expected 1 to 128 of A-Z a-z 0-9 . _ -", id="path in an id"),
        pytest.param({"deployment_id": ".."}, "deployment_id: expected 1 to 128 of A-Z a-z 0-9 . _ -", id="dots"),
        pytest.param({"num_concurent": 2}, "num_concurent: no such key; did you mean 'num_concurrent'?", id="misspelt key"),
        pytest.param({"environment_variables": {}}, "environment_variables: no such key", id="unknown key"),
        pytest.param({"numConcurrent": 2, "num_concurrent": 2}, "num_concurrent: given twice, also as 'numConcurrent': keep one of them", id="both spellings"),
        pytest.param({"intakeSettings": {"type": "filesystem", "path": "/x"}}, "intake_settings: given twice, also as 'intakeSettings': keep one of them", id="both spellings of a store"),
        pytest.param({"num_concurrent": -1}, "num_concurrent: expected a whole number from 1 to 256, got -1", id="too little"),
        pytest.param({"num_concurrent": 10**9}, "num_concurrent: expected a whole number from 1 to 256, got 1000000000", id="too much"),
        pytest.param({"num_concurrent": 2.5}, "num_concurrent: expected a whole number from 1 to 256, got 2.5", id="no whole number"),
        pytest.param({"num_concurrent": True}, "num_concurrent: expected a whole number from 1 to 256, got true", id="flag for a number"),
        pytest.param({"include_probabilities": 1}, "include_probabilities: expected true or false, got 1", id="number for a flag"),
        pytest.param({"chunk_size": "huge"}, 'chunk_size: expected a whole number from 1 to 1099511627776 or "auto" or "fixed" or "dynamic", got "huge"', id="unknown word"),
        pytest.param({"passthrough_columns": "id"}, 'passthrough_columns: expected a list of column names, got "id"', id="text for a list"),
        pytest.param({"passthrough_columns": ["a", 3]}, "passthrough_columns: expected a list of column names, got a list", id="number in a list of texts"),
        pytest.param({"passthrough_columns": ["a", " "]}, "passthrough_columns: a name in it is blank", id="blank name"),
        pytest.param({"passthrough_columns": ["a", "a"]}, "passthrough_columns: 'a' stands in it twice", id="name twice"),
        pytest.param({"passthrough_columns_set": "some"}, 'passthrough_columns_set: expected "all", got "some"', id="only all"),
        pytest.param({"passthrough_columns": ["a"], "passthrough_columns_set": "all"}, "passthrough_columns: excludes passthrough_columns_set, keep one of them", id="list and set"),
        pytest.param({"id_column": "a", "passthrough_columns_set": "all"}, 'id_column: excludes passthrough_columns_set "all", keep one of them', id="id and set"),
        pytest.param({"id_column": ""}, "id_column: expected a column name, got a blank one", id="blank id"),
        pytest.param({"chunk_size": 10, "mini_batch_size": 10}, "mini_batch_size: excludes chunk_size, keep one of them", id="bytes and rows"),
        pytest.param({"explanation_class_names": ["a"], "explanation_num_top_classes": 1}, "explanation_class_names: excludes explanation_num_top_classes, keep one of them", id="explained classes"),
        pytest.param({"prediction_threshold": 1.5}, "prediction_threshold: expected a number from 0 to 1, got 1.5", id="threshold"),
        pytest.param({"errors": {"mode": "ignore"}}, 'errors.mode: expected "abort" or "skip", got "ignore"', id="errors.mode"),
        pytest.param({"errors": {"max_errors": -1}}, "errors.max_errors: expected a whole number from 0 to 9007199254740992, got -1", id="errors.max_errors"),
        pytest.param({"errors": {}, "abort_on_error": False}, 'errors.mode: abort_on_error false contradicts "abort", drop one of them or say "skip"', id="contradiction"),
        pytest.param({"errors": {"path": "/data/x/../in.csv"}}, "errors.path: is the file of intake_settings", id="errors onto the input"),
        pytest.param({"errors": []}, "errors: expected an object, got an empty list", id="list for an object"),
        pytest.param({"csv_settings": {"delimiter": "ab"}}, 'csv_settings.delimiter: expected one character or "tab", got "ab"', id="delimiter"),
        pytest.param({"csv_settings": {"delimiter": "'", "quotechar": "'"}}, "csv_settings.quotechar: is the delimiter too", id="quote is delimiter"),
        pytest.param({"csv_settings": {"encoding": "rot13"}}, 'csv_settings.encoding: no text encoding is called "rot13"', id="no text encoding"),
        pytest.param({"csv_settings": {"escape": "x"}}, "csv_settings.escape: no such key", id="unknown key below"),
        pytest.param({"timeseries_settings": {"type": "both"}}, 'timeseries_settings.type: expected "forecast" or "historical", got "both"', id="time series type"),
        pytest.param({"timeseries_settings": {"predictions_start_date": "2020-01-01", "predictions_end_date": "2021-01-01"}}, 'timeseries_settings.predictions_start_date: only with type "historical"', id="range without historical"),
        pytest.param({"timeseries_settings": {"type": "historical", "predictions_end_date": "2021-01-01"}}, "timeseries_settings.predictions_end_date: predictions_start_date and predictions_end_date are given both or not at all", id="half a range"),
        pytest.param({"timeseries_settings": {"forecast_point": "2024-01-01", "forecast_point_policy": {"configuration": {"offset": "P1D"}}}}, "timeseries_settings.forecast_point: excludes forecast_point_policy, keep one of them", id="point and policy"),
        pytest.param({"csv_settings": {"quotechar": "\n"}}, 'csv_settings.quotechar: expected one character, or none, got "\\n"', id="line end as a quote"),
        pytest.param({"csv_settings": {"encoding": "a\tb"}}, 'csv_settings.encoding: no text encoding is called "a\\tb"', id="nonsense as an encoding"),
        pytest.param({"column_names_remapping": {"a": " "}}, "column_names_remapping: a new name is blank; null leaves a column out", id="blank new name"),
        pytest.param({"column_names_remapping": ["a"]}, 'column_names_remapping[0]: expected an object, got "a"', id="no renaming"),
        pytest.param({"errors": {"mode": "skip", "path": " "}}, "errors.path: expected the path of a file", id="blank errors.path"),
        pytest.param({"intake_settings": {"path": "/x"}}, "intake_settings.type: required, expected one of filesystem, localFile, s3, minio, azure, gcp, gcs, http, jdbc, snowflake, synapse", id="no type"),
        pytest.param({"timeseries_settings": {"forecast_point": "next week"}}, 'timeseries_settings.forecast_point: expected an ISO 8601 date or time, got "next week"', id="no date"),
        pytest.param({"timeseries_settings": {"forecast_point_policy": {"configuration": {"offset": "2 days"}}}}, 'timeseries_settings.forecast_point_policy.configuration.offset: expected an ISO 8601 duration, such as -P1D, got "2 days"', id="no duration"),
        pytest.param({"column_names_remapping": {"a": "x", "b": "x"}}, "column_names_remapping: 2 columns would be called 'x'", id="one name for two"),
        pytest.param({"column_names_remapping": {"a": 3}}, 'column_names_remapping: expected an object of old and new names, or a list of {"input_name", "output_name"}, got an object', id="number as a name"),
        pytest.param({"column_names_remapping": [{"outputName": "x"}]}, "column_names_remapping[0].input_name: required, expected text", id="half a renaming"),
        pytest.param({"column_names_remapping": [{"inputName": "a", "outputName": "b"}] * 2}, "column_names_remapping: a column is renamed twice", id="renamed twice"),
        pytest.param({"enabled": True}, "schedule: required where enabled is true", id="enabled without a schedule"),
        pytest.param({"schedule": {"minute": [60], "hour": ["*"], "month": ["*"], "day_of_month": ["*"], "day_of_week": ["*"]}}, "schedule.minute: 60 is not a time of it", id="minute 60"),
        pytest.param({"schedule": {"minute": [0], "hour": ["*"], "month": ["juli"], "day_of_month": ["*"], "day_of_week": ["*"]}}, "schedule.month: 'juli' is not a time of it", id="no month"),
        pytest.param({"schedule": {"minute": [0], "hour": [], "month": ["*"], "day_of_month": ["*"], "day_of_week": ["*"]}}, "schedule.hour: an empty list is not a time of it", id="no hour"),
        pytest.param({"intake_settings": "x.csv"}, 'intake_settings: expected an object, got "x.csv"', id="text for a store"),
        pytest.param({"intake_settings": {"type": "filesystem"}}, "intake_settings.path: required, expected text", id="no path"),
        pytest.param({"intake_settings": {"type": "filesystem", "path": "/x", "format": "xlsx"}}, 'intake_settings.format: expected "csv" or "jsonl" or "parquet", got "xlsx"', id="format"),
        pytest.param({"intake_settings": {"type": "filesystem", "path": "/x", "partition_columns": ["a"]}}, "intake_settings.partition_columns: only in output_settings", id="partitioned intake"),
        pytest.param({"output_settings": {"type": "filesystem", "path": "/x.csv", "partition_columns": ["a"]}}, 'output_settings.partition_columns: only with format "parquet"', id="partitioned CSV"),
        pytest.param({"output_settings": {"type": "filesystem", "path": "/x/", "format": "parquet"}}, 'output_settings.partition_columns: required with format "parquet" in a directory', id="directory without partitions"),
        pytest.param({"output_settings": {"type": "filesystem", "path": "/x.parquet", "partition_columns": ["a"]}}, "output_settings.partition_columns: only in a directory: end its path with '/'", id="partitions in a file"),
        pytest.param({"output_settings": {"type": "filesystem", "path": "/x/", "format": "parquet", "partition_columns": ["a", "a"]}}, "output_settings.partition_columns: a column stands in it twice", id="partitioned twice"),
        pytest.param({"intake_settings": {"type": "filesystem", "url": "/x"}}, "intake_settings.url: no such key", id="another store's key"),
        pytest.param({"intake_settings": {"type": "filesystem", "path": "/x/*.parquet.gz"}}, "intake_settings.format: a Parquet file is compressed inside, there is none within .gz", id="zipped Parquet in"),
        pytest.param({"output_settings": {"type": "s3", "url": "s3://b/x.gz", "format": "parquet"}}, "output_settings.format: a Parquet file is compressed inside, there is none within .gz", id="zipped Parquet out"),
        pytest.param({"csv_formula_escape": True, "output_settings": {"type": "filesystem", "path": "/x.jsonl"}}, 'csv_formula_escape: only where output_settings.format is "csv"', id="formulas in JSON"),
        pytest.param({"output_settings": {"type": "filesystem", "path": "/data/.out.csv.resume/journal"}}, "output_settings.path: lies in the state of an unfinished job", id="output onto a journal"),
        pytest.param({"intake_settings": {"type": "filesystem", "path": "/data/.resume/spool-00000"}}, "intake_settings.path: lies in the state of an unfinished job", id="input from a spool"),
        pytest.param({"errors": {"path": "/x/.prediction-api-batch/ab/journal"}}, "errors.path: lies in the state of an unfinished job", id="errors onto a journal"),
        pytest.param({"output_settings": {"type": "filesystem", "path": "/data/../data/in.csv"}}, "output_settings: would overwrite what intake_settings reads", id="onto itself"),
    ],
)  # fmt: skip
def test_refusals(changes: dict[str, Any], problem: str) -> None:
    """Every refusal names the key by its path and says what was expected."""
    assert problem in problems_of(changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"jdbc_settings": None}, "jdbc_settings: required with type 'jdbc'", id="no jdbc_settings"),
        pytest.param({"jdbc_settings": {"url": "jdbc:postgresql://h/d"}}, "jdbc_settings.class_name: required with type 'jdbc'", id="no driver"),
        pytest.param({"jdbc_settings": {**JDBC, "url": "http://x"}}, 'jdbc_settings.url: expected text that begins with "jdbc:" and the name of a database', id="no jdbc url"),
        pytest.param({"intake_settings": {"type": "jdbc"}}, "intake_settings.table: required, unless query is given", id="neither table nor query"),
        pytest.param({"intake_settings": {"type": "jdbc", "table": ""}}, "intake_settings.table: is blank", id="no name of a table"),
        pytest.param({"intake_settings": {"type": "synapse", "query": " "}}, "intake_settings.query: is blank", id="blank query"),
        pytest.param({"output_settings": {"type": "jdbc", "table": " ", "statement_type": "insert"}}, "output_settings.table: is blank", id="blank name of a table"),
        pytest.param({"intake_settings": {"type": "jdbc", "table": "a", "query": "b"}}, "intake_settings.query: excludes table, keep one of them", id="table and query"),
        pytest.param({"intake_settings": {"type": "jdbc", "table": "a", "partition_column": "id", "lower_bound": 1, "num_partitions": 4}}, "intake_settings.partition_column: partition_column, lower_bound, upper_bound, num_partitions are given all four or not at all, missing: upper_bound", id="three of four"),
        pytest.param({"intake_settings": {"type": "jdbc", "table": "a", "partition_column": "id", "lower_bound": 9, "upper_bound": 1, "num_partitions": 4}}, "intake_settings.lower_bound: must be less than upper_bound, and of the same type", id="bounds"),
        pytest.param({"intake_settings": {"type": "jdbc", "table": "a", "format": "csv"}}, "intake_settings.format: no such key", id="a table has no format"),
        pytest.param({"output_settings": {"type": "jdbc", "table": "a"}}, 'output_settings.statement_type: required, expected "insert" or "update" or "insert_update" or "insertUpdate" or "upsert" or "create_table" or "createTable"', id="no statement"),
        pytest.param({"output_settings": {"type": "jdbc", "table": "a", "statement_type": "upsert"}}, "output_settings.where_columns: required with statement_type upsert, expected a list of column names", id="update without where"),
        pytest.param({"output_settings": {"type": "jdbc", "table": "a", **UPDATE, "update_columns": ["id"]}}, "output_settings.update_columns: also in where_columns: id", id="column in both lists"),
        pytest.param({"output_settings": {"type": "jdbc", "table": "a", **UPDATE, "statement_type": "insert"}}, "output_settings.where_columns: only with statement_type update or insert_update", id="insert with where"),
        pytest.param({"intake_settings": {"type": "synapse"}}, "intake_settings.table: required, unless query is given", id="synapse without a table"),
        pytest.param({"output_settings": {"type": "synapse", "table": "a", "statement_type": "update"}}, "output_settings.statement_type: update needs type jdbc, expected insert or create_table", id="synapse cannot update"),
        pytest.param({"output_settings": {**STAGED, "statement_type": "upsert"}}, "output_settings.statement_type: upsert needs type jdbc, expected insert or create_table", id="snowflake cannot update"),
    ],
)  # fmt: skip
def test_refusals_about_databases(changes: dict[str, Any], problem: str) -> None:
    assert problem in problems_of({**FROM_TABLE, **changes})


@pytest.mark.parametrize(
    "kind", ["dataset", "dss", "dataStage", "bigquery", "databricks", "datasphere", "trino", "tableau"]
)
def test_platform_adapters_are_refused(kind: str) -> None:
    (problem,) = problems_of(intake_settings={"type": kind, "dataset_id": "1"})
    assert problem.startswith(f"intake_settings.type: type '{kind}' needs the platform")


def test_an_unknown_adapter_is_told_the_nearest() -> None:
    (problem,) = problems_of(output_settings={"type": "filesytem", "path": "/x"})
    assert problem.startswith("output_settings.type: there is no type 'filesytem'")
    assert problem.endswith("did you mean 'filesystem'?")


def test_all_problems_at_once() -> None:
    """Also those between keys, where the keys themselves are right."""
    found = problems_of(
        prediction_endpoint="nowhere",
        intakeSettings={"type": "filesystem", "pth": "/a"},
        intake_settings={"type": "s5"},
        num_concurrent=0,
        passthrough_columns=["a"],
        passthroughColumnsSet="all",
        timeseries_settings={"type": "forcast"},
        x=1,
    )
    paths = [problem.partition(": ")[0] for problem in found]
    assert {"prediction_endpoint", "num_concurrent", "passthrough_columns", "timeseries_settings.type", "x"} <= set(
        paths
    )
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "line 1, column 1: not JSON: expecting value, but the text ends", id="empty"),
        pytest.param(
            '{"a": 1,\n "b" 2}', "line 2, column 6: not JSON: expecting ':' delimiter, got '2'", id="no colon"
        ),
        pytest.param("[]", "expected a JSON object: {...}", id="a list"),
        pytest.param('{"a": NaN}', "NaN is not a number that a job can use", id="NaN"),
        pytest.param('{"a": {"b": 1, "c": 2, "b": 3}}', "a.b: given twice", id="a key twice"),
        pytest.param('{"a": "x\\u0000y"}', "a: holds a NUL or half a character", id="NUL"),
        pytest.param('{"a": ["\\ud800"]}', "a[0]: holds a NUL or half a character", id="half a character"),
        pytest.param('{"a":' * 100_000, f"nested deeper than {MAX_DEPTH} levels", id="depth bomb"),
        pytest.param('{"a":' * 33 + "1" + "}" * 33, f"nested deeper than {MAX_DEPTH} levels", id="a little too deep"),
        pytest.param('{"a": ' + "9" * 5000 + "}", None, id="a number of 5000 digits"),
        pytest.param('{"a": "' + '\\"' * 500_000, None, id="quotes without end"),
        pytest.param(
            "{" + ",".join(f'"{key}":0' for key in (*range(90_000), 89_999)) + "}",
            '"89999": given twice',
            id="a key twice among many",
        ),
    ],
)
def test_what_is_no_definition(text: str, problem: str | None) -> None:
    with pytest.raises(JobError) as caught:
        object_from(text)
    assert len(caught.value.problems) == 1
    assert problem in (None, str(caught.value))


def test_brackets_in_texts_are_no_depth() -> None:
    assert object_from(json.dumps({"a": "[" * 500 + '\\"' + "{" * 500}))


def test_a_file_that_is_no_definition(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b" " * (1024 * 1024 + 1))
    (tmp_path / "latin").write_bytes(b'{"name": "\xe5"}')
    for path, problem in {
        tmp_path / "none": "No such file or directory",
        tmp_path: "Is a directory",
        tmp_path / "large": "larger than 1048576 bytes, expected a job definition",
        tmp_path / "latin": "not UTF-8 at byte 10",
        Path("/dev/zero"): "larger than 1048576 bytes, expected a job definition",
    }.items():
        with pytest.raises(JobError) as caught:
            read_definition(path, served=False)
        assert str(caught.value) == f"{path}: {problem}"


def test_a_definition_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text("\ufeff" + json.dumps(FILES), encoding="utf-8")
    assert read_definition(path, served=False).job == job_of()


def test_a_server_of_its_own_needs_no_endpoint() -> None:
    assert job_of({"prediction_endpoint": None}, served=True).prediction_endpoint is None


def test_ignored_keys_warn() -> None:
    definition = definition_from(
        {**FILES, "modelId": "x", "predictionInstance": {"hostName": "h", "apiKey": "topsecret"}}
    )
    assert definition.warnings == (
        "modelId means nothing here and is ignored",
        "predictionInstance means nothing here and is ignored",
    )
    assert "topsecret" in definition.secrets


def test_secrets_of_a_definition_are_told() -> None:
    definition = definition_from({**FILES, **FROM_TABLE, "jdbc_settings": {**JDBC, "url": "jdbc:x://u:hunter2@h"}})
    assert definition.secrets == ("jdbc:x://u:hunter2@h",)
    (problem,) = problems_of(prediction_endpoint=["http://u:hunter2@h"])
    assert "hunter2" not in problem
    (problem,) = problems_of(name=3, prediction_endpoint="http://u:hunter2@h")
    assert "hunter2" not in problem


def test_a_suffix_says_the_format() -> None:
    def store(path: str, **more: str) -> Store:
        return job_of(intake_settings={"type": "filesystem", "path": path, **more}).intake_settings

    assert store("/a.parquet").format == "parquet"
    assert store("/a.jsonl.gz").format == "jsonl"
    assert store("/a/").format == "csv"
    assert store("/a.parquet", format="csv").format == "csv"
    assert store("/part-?.parquet").format == "parquet"
    web = {"type": "http", "url": "https://h/a.jsonl?signature=b.parquet"}
    assert job_of(intake_settings=web).intake_settings.format == "jsonl"


def test_the_id_column_comes_first_and_once() -> None:
    assert job_of(id_column="b", passthrough_columns=["a", "b"]).kept == ("b", "a")
    assert job_of(passthrough_columns_set="all").kept == "all"


def test_what_a_continued_run_must_agree_with() -> None:
    same = options_of(job_of())
    for changes in (
        {"num_concurrent": 8},
        {"name": "x"},
        {"prediction_endpoint": "http://h:1"},
        {"mini_batch_size": 5},
    ):
        assert options_of(job_of(changes)) == same, changes
    other = options_of(job_of(csv_settings={"delimiter": ";"}))
    assert {key for key in same if same[key] != other[key]} == {"csv_settings.delimiter"}
    assert fingerprint(other) != fingerprint(same)
    assert json.loads(json.dumps(other)) == other


def test_secrets_do_not_stand_among_the_options() -> None:
    definition = job_of({**FROM_TABLE, "jdbc_settings": {**JDBC, "url": "jdbc:x://u:hunter2@h"}})
    assert "hunter2" not in json.dumps(options_of(definition))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([name for row in keys_of(Job) for name in row.names])


@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_json_is_a_job_or_its_problems(changes: dict[str, Any]) -> None:
    try:
        definition = definition_from({**FILES, **changes})
    except JobError as error:
        assert error.problems
        assert all("\n" not in problem for problem in error.problems)
    else:
        assert isinstance(definition, Definition)
        options_of(definition.job)


@given(st.text(max_size=200))
def test_any_text_is_an_object_or_its_problems(text: str) -> None:
    try:
        assert isinstance(object_from(text), dict)
    except JobError as error:
        assert error.problems


def test_every_key_is_documented() -> None:
    """``python -m batch.key_tables docs/batch/job-definition.md`` writes the tables."""
    page = (Path(__file__).parents[2] / "docs/batch/job-definition.md").read_text()
    assert page.partition(key_tables.BEGINNING)[2] == key_tables.section()
    assert "|  |" not in page, "a key without a meaning"
