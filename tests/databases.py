"""
Databases for tests: HSQLDB, H2 and Derby in this process, PostgreSQL and MariaDB as servers on free ports.

All from Debian packages, with their own drivers; looked at from outside by their own command lines or plain JDBC.
"""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jpype
import pytest

from batch.errors import IntakeError
from batch.jdbc import jvm
from batch.jdbc.connections import Database
from batch.job import JdbcSettings
from batch.settings import Credentials
from tests.batch.jobs import free_port
from tests.stores import is_missing

JARS = Path("/usr/share/java")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
DERBY = "org.apache.derby.jdbc.EmbeddedDriver"
MARIADB = Path("/usr/sbin/mariadbd")
PASSWORD = "s3cret-of-the-tests"
USER_ID = 65534
"""Servers of databases do not run as root."""


@dataclass(frozen=True)
class Sql:
    """One database, for one session of tests."""

    name: str
    url: str
    class_name: str
    jar: Path
    user: str
    password: str

    @property
    def settings(self) -> dict[str, Any]:
        """A job's ``jdbc_settings``."""
        return {"url": self.url, "class_name": self.class_name, "driver_path": str(self.jar)}

    @property
    def credentials(self) -> Credentials:
        return Credentials(jdbc_username=self.user, jdbc_password=self.password)

    def run(self, *statements: str) -> list[list[str | None]]:
        """Execute; rows of the last one as text, if it has any."""
        connection = Database.found(JdbcSettings(**self.settings), self.credentials).connect(IntakeError)
        found: list[list[str | None]] = []
        try:
            for sql in statements:
                with connection.java.createStatement() as statement:
                    if statement.execute(sql):
                        rows = statement.getResultSet()
                        width = rows.getMetaData().getColumnCount()
                        found = []
                        while rows.next():
                            cells = [rows.getString(place + 1) for place in range(width)]
                            found.append([None if cell is None else str(cell) for cell in cells])
        finally:
            connection.java.close()
        return found

    def fresh(self) -> str:
        """A name that no table has."""
        return f"t{uuid.uuid4().hex[:10]}"


def jar(name: str) -> Path:
    path = JARS / name
    if not path.exists():
        is_missing(f"{path} (tools/setup.sh system)")
    return path


def embedded(name: str) -> Sql:
    unique = uuid.uuid4().hex
    if name == "hsqldb":
        return Sql(name, f"jdbc:hsqldb:mem:{unique}", "org.hsqldb.jdbc.JDBCDriver", jar("hsqldb.jar"), "SA", "")
    if name == "derby":
        found = Sql(name, f"jdbc:derby:memory:{unique};create=true", DERBY, jar("derby.jar"), "APP", PASSWORD)
        jvm.start(found.credentials)
        jpype.java.lang.System.setProperty("derby.stream.error.file", os.devnull)  # else it writes a log where it runs
        return found
    url = f"jdbc:h2:mem:{unique};DB_CLOSE_DELAY=-1"
    return Sql(name, url, "org.h2.Driver", jar("h2.jar"), "sa", PASSWORD)


@pytest.fixture(scope="session")
def hsqldb() -> Sql:
    return embedded("hsqldb")


@pytest.fixture(scope="session")
def h2() -> Sql:
    return embedded("h2")


@pytest.fixture(scope="session")
def derby() -> Sql:
    return embedded("derby")


def lowered(command: Sequence[str | Path]) -> list[str]:
    """*command* without the rights of root."""
    plain = [str(part) for part in command]
    if os.getuid() != 0:
        return plain
    return ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups", *plain]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Sql]:
    with postgresql_server() as sql:
        yield sql


@contextmanager
def postgresql_server() -> Iterator[Sql]:
    driver = jar("postgresql.jar")
    if not POSTGRES:
        is_missing("postgresql (tools/setup.sh system)")
    with _directory("pg") as home:
        data, secret, port = home / "data", home / "password", free_port()
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["-U", "tester", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        _quiet(lowered([POSTGRES[-1] / "initdb", "-D", data, *options]), home)
        wanted = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        said = [f"-c{name}={value}" for name, value in wanted.items()]
        process = subprocess.Popen(
            lowered([POSTGRES[-1] / "postgres", "-D", data, *said]),
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"jdbc:postgresql://127.0.0.1:{port}/postgres"
        yield from _served(Sql("postgresql", url, "org.postgresql.Driver", driver, "tester", PASSWORD), process)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Sql]:
    with mariadb_server() as sql:
        yield sql


@pytest.fixture(scope="session")
def mysql(mariadb: Sql) -> Sql:
    """The same server by MySQL's kind of URL, which MariaDB's driver takes, too, and so with MySQL's template."""
    return replace(mariadb, name="mysql", url=mariadb.url.replace("jdbc:mariadb:", "jdbc:mysql:"))


@contextmanager
def mariadb_server() -> Iterator[Sql]:
    driver = jar("mariadb-java-client.jar")
    if not MARIADB.exists():
        is_missing("mariadbd (tools/setup.sh system)")
    with _directory("my") as home:
        data, start, port = home / "data", home / "start.sql", free_port()
        start.write_text(
            f"CREATE DATABASE tests CHARACTER SET utf8mb4;CREATE USER tester@'%' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO tester@'%' WITH GRANT OPTION;\n".replace(";C", ";\nC")
        )
        start.chmod(0o644)
        install = ["--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        _quiet(lowered(["/usr/bin/mariadb-install-db", *install]), home)
        options = [f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", f"--socket={home}/socket"]
        options += [f"--pid-file={home}/pid", f"--init-file={start}", "--innodb-flush-log-at-trx-commit=0"]
        process = subprocess.Popen(
            lowered([MARIADB, "--no-defaults", *options]),
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"jdbc:mariadb://127.0.0.1:{port}/tests"
        yield from _served(Sql("mariadb", url, "org.mariadb.jdbc.Driver", driver, "tester", PASSWORD), process)


@contextmanager
def _directory(name: str) -> Iterator[Path]:
    """A directory that the servers' user may write; pytest's own are closed to it."""
    path = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    path.chmod(0o755)
    if os.getuid() == 0:
        os.chown(path, USER_ID, USER_ID)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _quiet(command: list[str], home: Path) -> None:
    finished = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:] + finished.stdout[-2000:]


def _served(sql: Sql, process: "subprocess.Popen[bytes]") -> Iterator[Sql]:
    limit = time.monotonic() + 40
    while True:
        with suppress(IntakeError):
            sql.run("SELECT 1")
            break
        assert process.poll() is None, f"{sql.name} did not start"
        assert time.monotonic() < limit, f"{sql.name} does not answer"
        time.sleep(0.05)  # another process's start can only be polled
    try:
        yield sql
    finally:
        process.terminate()
        process.wait(30)
