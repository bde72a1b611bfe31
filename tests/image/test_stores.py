"""A job for every adapter, in the full image on a read-only root as its own user; stores stand on this machine."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from batch.declared import keys_of
from batch.settings import Credentials, variable_of
from tests.batch import test_jdbc as jdbc
from tests.batch.adapters import test_snowflake as snowflake
from tests.batch.adapters import test_synapse as synapse
from tests.batch.adapters.conftest import (  # noqa: F401  fixtures
    Case,
    azure_case,
    filesystem_case,
    gcs_case,
    nanio_case,
)
from tests.databases import Sql, jar
from tests.image.conftest import open_to_all
from tests.image.containers import HARDENED, IMAGE, IS_SLIM, Container, run
from tests.snowflake_stand_in import Account, snowflake_server, started_account  # noqa: F401  fixtures
from tests.stores import Web, started_azurite, started_gcs, started_nanio, started_web  # noqa: F401  fixtures
from tests.tds_stand_in import Pool, pool, with_synapse  # noqa: F401  fixtures

pytestmark = [
    pytest.mark.skipif(not IMAGE or IS_SLIM, reason="no full image under test: `make image-check` builds one"),
    pytest.mark.timeout(240),
]


@dataclass(frozen=True)
class Runner:
    """Runs jobs against a server, both in containers."""

    server: Container
    directory: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def __call__(self, definition: dict[str, Any], credentials: Credentials, *mounts: str | Path) -> None:
        """Run it; *mounts* have the same path inside as outside."""
        (self.directory / "job.json").write_text(json.dumps({"prediction_endpoint": self.url, **definition}))
        open_to_all(self.directory)
        given = ((row, getattr(credentials, row.field)) for row in keys_of(Credentials))
        variables = [f"{variable_of(row)}={value}" for row, value in given if value != row.default]
        places = [f"{self.directory / 'job.json'}:/job.json:ro", *(f"{place}:{place}" for place in mounts)]
        options = [
            *(word for each in variables for word in ("-e", each)),
            *(word for each in places for word in ("-v", each)),
        ]
        done = run(*HARDENED, "--network", "host", *options, IMAGE, "batch", "/job.json")
        assert done.returncode == 0, done.stderr

    def expected(self, table: bytes) -> bytes:
        """What the server says of the table."""
        headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
        return httpx.post(f"{self.url}/predictions", content=table, headers=headers, trust_env=False).content


@pytest.fixture
def runs(server: Container, tmp_path: Path) -> Runner:
    (tmp_path / "job").mkdir()
    return Runner(server, tmp_path / "job")


@pytest.mark.parametrize("name", ["filesystem", "nanio", "azure", "gcs"])
def test_files(name: str, request: pytest.FixtureRequest, runs: Runner, table: bytes, tmp_path: Path) -> None:
    case: Case = request.getfixturevalue(f"{name}_case")
    case.put("in.csv", table)
    open_to_all(tmp_path)
    at = "path" if case.type == "filesystem" else "url"
    stores = {
        f"{kind}_settings": {"type": case.type, at: case.address(f"{kind}.csv"), **case.options}
        for kind in ("intake", "output")
    }
    stores["intake_settings"][at] = case.address("in.csv")
    keyfile = case.credentials.google_storage_keyfile_path
    if keyfile:
        keyfile.chmod(0o644)

    runs(stores, case.credentials, *([keyfile] if keyfile else [tmp_path / "store"] if at == "path" else []))

    assert case.stored()["output.csv"] == runs.expected(table)


def test_http(web: Web, runs: Runner, table: bytes) -> None:
    web.files["in.csv"] = table
    stores = {
        "intake_settings": {"type": "http", "url": f"{web.url}/in.csv"},
        "output_settings": {"type": "http", "url": f"{web.url}/out.csv"},
    }

    runs(stores, Credentials(private_addresses_enabled=True))

    assert web.files["out.csv"] == runs.expected(table)


def test_jdbc(runs: Runner, tmp_path: Path) -> None:
    """A database in a volume, its driver mounted beside it."""
    home = tmp_path / "database"
    home.mkdir()
    driver = jar("hsqldb.jar").resolve()
    database = Sql(
        "hsqldb", f"jdbc:hsqldb:file:{home}/people;shutdown=true", "org.hsqldb.jdbc.JDBCDriver", driver, "SA", ""
    )
    name, rows = jdbc.filled(database, 100)
    open_to_all(tmp_path)
    for path in home.iterdir():
        path.chmod(0o666)
    definition = {
        "intake_settings": {"type": "jdbc", "table": name},
        "output_settings": {"type": "jdbc", "table": "scored", "statement_type": "create_table"},
        "jdbc_settings": database.settings,
        "passthrough_columns": ["id"],
    }

    runs(definition, database.credentials, home, driver)

    found = jdbc.scores(database, "scored")
    assert len(found) == 100
    jdbc.agrees(found, jdbc.expected(runs.url, rows))


def test_snowflake(account: Account, runs: Runner) -> None:
    snowflake.fill(account)
    definition = {
        "intake_settings": {"type": "snowflake", "table": "PEOPLE", "schema": "LOANS"},
        "output_settings": {
            "type": "snowflake", "table": "scored", "schema": "LOANS", "statement_type": "create_table",
        },
        "jdbc_settings": {"url": account.jdbc_url},
        "passthrough_columns": ["ID", "note", "income"],
    }  # fmt: skip

    runs(definition, account.credentials)

    assert snowflake.scored(account) == snowflake.expected(runs.url)


def test_synapse(pool: Pool, runs: Runner) -> None:  # noqa: F811
    synapse.fill(pool)
    definition = {
        "intake_settings": {"type": "synapse", "table": "people", "schema": "dbo"},
        "output_settings": {"type": "synapse", "table": "scored", "statement_type": "create_table"},
        "jdbc_settings": {"url": pool.jdbc_url},
        "passthrough_columns": ["ID", "note", "income", "member"],
    }

    runs(definition, with_synapse(Credentials()))

    assert synapse.scored(pool) == synapse.expected(runs.url)
