"""The command as its user has it: arguments in, lines on standard error and an exit status out."""

import argparse
import json
import logging
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batch import cli
from model_repository.errors import SettingsError
from tests.batch.faults import proxy
from tests.batch.jobs import ROOT, csv_text, gold, people_rows, read_csv
from tests.batch.test_writeback import Platform, platform  # noqa: F401

PROCESS = """
import argparse, os, sys
from batch import cli
parser = argparse.ArgumentParser()
cli.add_arguments(parser)
sys.exit(cli.run(parser.parse_args(), os.environ, None))
"""


@dataclass(frozen=True)
class Ended:
    """What the command did."""

    code: int
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """The command sets up the process's logging."""
    root, batch = logging.getLogger(), logging.getLogger("batch")
    before = root.handlers[:], root.level, batch.level
    yield
    root.handlers[:], root.level, batch.level = before
    logging.captureWarnings(capture=False)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs ``batch`` with some arguments."""

    def run(*arguments: object, environ: Mapping[str, str] | None = None, serve: Any = None) -> Ended:
        parser = argparse.ArgumentParser()
        cli.add_arguments(parser)
        code = cli.run(parser.parse_args([str(argument) for argument in arguments]), environ or {}, serve)
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return Ended(code, err.splitlines())

    return run


EXPLANATION = ("FEATURE_NAME", "STRENGTH", "ACTUAL_VALUE", "QUALITATIVE_STRENGTH")


@pytest.fixture
def job_file(server: str, tmp_path: Path) -> Callable[..., Path]:
    """A definition on disk, and an input of 300 rows beside it."""
    (tmp_path / "in.csv").write_text(csv_text(people_rows(300)), newline="")

    def make(**keys: Any) -> Path:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(definition(tmp_path, server) | keys))
        return path

    return make


def definition(place: Path, url: str) -> dict[str, Any]:
    return {
        "prediction_endpoint": url,
        "intake_settings": {"type": "filesystem", "path": str(place / "in.csv")},
        "output_settings": {"type": "filesystem", "path": str(place / "out.csv"), "write_mode": "overwrite"},
        "mini_batch_size": 50,
    }


def test_a_job(command: Any, job_file: Any, server: str, tmp_path: Path) -> None:
    ended = command(job_file(), "--report", tmp_path / "report.json")
    assert ended.code == 0, ended.text
    assert read_csv(tmp_path / "out.csv") == gold(server, (tmp_path / "in.csv").read_text())
    assert re.fullmatch(
        r"prediction-api: completed: 300 rows read = 300 scored \+ 0 failed \+ 0 skipped; \S+ s, \S+ rows/s",
        ended.lines[-1],
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == "COMPLETED"
    assert (report["rows_read"], report["rows_scored"], report["requests"], report["exit_code"]) == (300, 300, 6, 0)
    assert report["model"]["name"] == "binary"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "job.json", "out.csv", "report.json"]


def test_explanations(command: Any, job_file: Any, server: str, tmp_path: Path) -> None:
    """The options of a definition reach the server, and its columns the output, before what is passed through."""
    job = job_file(max_explanations=2, thresholdHigh=0.5, thresholdLow=0.1, passthrough_columns=["ID"])
    text = (tmp_path / "in.csv").read_text()
    header, *rows = gold(server, text, maxExplanations=2, thresholdHigh=0.5, thresholdLow=0.1)

    assert command(job, "--validate").code == 0
    ended = command(job)

    assert ended.code == 0, ended.text
    first, *scored = read_csv(tmp_path / "out.csv")
    assert first == [*header, "ID"]
    assert first[5:-1] == [f"EXPLANATION_{n}_{name}" for n in (1, 2) for name in EXPLANATION]
    assert scored == [[*row, f"{n:05d}"] for n, row in enumerate(rows)]
    explained = sum(row[5] != "" for row in scored)
    assert 0 < explained < 300
    assert explained == sum(not 0.1 <= float(row[0]) <= 0.5 for row in scored)


def test_the_first_rows(command: Any, job_file: Any, tmp_path: Path) -> None:
    assert command(job_file(), "--limit", 70).code == 0
    assert len(read_csv(tmp_path / "out.csv")) == 71


@pytest.mark.parametrize("flag", ["--validate", "--dry_run", "--dry-run"])
def test_looking_without_writing(flag: str, command: Any, job_file: Any, tmp_path: Path) -> None:
    ended = command(job_file(), flag)
    assert ended.code == 0, ended.text
    assert "the job is valid" in ended.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "job.json"]


def test_looking_finds_a_missing_column(command: Any, job_file: Any, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("age,income,city\n30,1,Oslo\n")
    ended = command(job_file(), "--validate")
    assert (ended.code, ended.lines[-1]) == (1, "prediction-api: error: in.csv: missing columns: member")


def test_a_server_of_its_own(command: Any, job_file: Any, server: str, tmp_path: Path) -> None:
    left = []

    @asynccontextmanager
    async def serve(path: Path, environ: Mapping[str, str]) -> AsyncIterator[str]:
        assert path == tmp_path
        assert environ == {"PATH": "/bin"}  # it needs no credentials
        yield server
        left.append(path)

    environ = {"PATH": "/bin", "JDBC_PASSWORD": "s", "export AWS_SESSION_TOKEN": "s", "PREDICTION_API_BATCH_ROOT": "/"}
    ended = command(job_file(prediction_endpoint=None), "--serve", tmp_path, serve=serve, environ=environ)
    assert ended.code == 0, ended.text
    assert left == [tmp_path]


def test_a_server_that_does_not_start(command: Any, job_file: Any, tmp_path: Path) -> None:
    @asynccontextmanager
    async def serve(path: Path, environ: Mapping[str, str]) -> AsyncIterator[str]:
        raise SettingsError(f"{path}: no package")
        yield ""

    ended = command(job_file(), "--serve", tmp_path, serve=serve)
    assert (ended.code, ended.lines[-1]) == (1, f"prediction-api: error: {tmp_path}: no package")


@pytest.mark.parametrize(
    ("keys", "arguments", "environ", "problems"),
    [
        pytest.param({"num_concurrent": 0, "x": 1}, [], {}, ["JOB: x: no such key", "JOB: num_concurrent: expected a whole number from 1 to 256, got 0"], id="definition"),
        pytest.param({"prediction_endpoint": None}, [], {}, ["JOB: prediction_endpoint: required, unless --serve starts a server for the job"], id="no server"),
        pytest.param({"intake_settings": {"type": "dataset", "dataset_id": "1"}}, [], {}, [r"JOB: intake_settings.type: type 'dataset' needs the platform; .*"], id="platform"),
        pytest.param({"intake_settings": {"type": "jdbc", "table": "t"}, "jdbc_settings": {"url": "jdbc:pg://h", "class_name": "a", "driver_path": "b"}}, [], {}, ["jdbc_settings.driver_path: b: no such file or directory"], id="jdbc"),
        pytest.param({}, [], {"ALLOW_SELF_SIGNED_CERTS": "perhaps"}, ["ALLOW_SELF_SIGNED_CERTS='perhaps': expected .*"], id="variable"),
        pytest.param({}, ["--api_host", "http://h"], {}, ["--api_host: --api_token or PREDICTION_API_BATCH_API_TOKEN is required with it"], id="host without token"),
        pytest.param({}, ["--api_token", "t"], {}, ["--api_token: --api_host is required with it"], id="token without host"),
        pytest.param({}, ["--api_host", "h", "--api_token", "t"], {}, ["--api_host: expected an http or https URL, such as https://app.example.com"], id="no host"),
        pytest.param({}, ["--serve", "/nowhere"], {}, ["--serve: /nowhere: no such file or directory"], id="nothing to serve"),
        pytest.param({}, ["--serve", "x" * 300], {}, ["--serve: x+: file name too long"], id="nothing that can be served"),
        pytest.param({}, ["--report", "x" * 300], {}, ["--report: x+ cannot be written"], id="no name for a report"),
        pytest.param({}, ["--report", "/nowhere/r.json"], {}, ["--report: /nowhere/r.json cannot be written"], id="report"),
        pytest.param({"name": 3}, ["--report", "/nowhere/r"], {"ALLOW_SELF_SIGNED_CERTS": "x"}, ["ALLOW_.*", "JOB: name: expected text, got 3", "--report: .*"], id="all at once"),
    ],
)  # fmt: skip
def test_wrong_usage(
    keys: Any, arguments: Any, environ: Any, problems: list[str], command: Any, job_file: Any, tmp_path: Path
) -> None:
    """Status 2, before anything is read or written."""
    job = job_file(**keys)
    ended = command(job, *arguments, environ=environ)
    assert ended.code == 2
    assert len(ended.lines) == len(problems), ended.text
    for line, problem in zip(ended.lines, problems, strict=True):
        assert re.fullmatch("prediction-api: error: " + problem.replace("JOB", re.escape(str(job))), line)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('{"name"', "line 1, column 8: not JSON: .*", id="cut off"),
        pytest.param('{"name":' * 100_000, "nested deeper than 32 levels", id="depth bomb"),
        pytest.param('{"name": "a", "name": "b"}', "name: given twice", id="a key twice"),
        pytest.param(" " * 2_000_000, "larger than 1048576 bytes, .*", id="too large"),
        pytest.param('{"name": "a\\u0000b"}', "name: holds a NUL or half a character", id="NUL"),
        pytest.param("[]", "expected a JSON object: .*", id="a list"),
    ],
)
def test_a_text_that_is_no_definition(text: str, problem: str, command: Any, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(text)
    ended = command(job)
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert re.fullmatch(rf"prediction-api: error: {re.escape(str(job))}: {problem}", ended.lines[0])
    assert list(tmp_path.iterdir()) == [job]


@pytest.mark.parametrize("place", ["in.csv", "out.csv"])
def test_a_report_is_not_the_data(place: str, command: Any, job_file: Any, tmp_path: Path) -> None:
    ended = command(job_file(), "--report", tmp_path / "." / place)
    assert (ended.code, ended.lines) == (
        2,
        [f"prediction-api: error: --report: {tmp_path / place} is the job's own data"],
    )


@pytest.mark.parametrize(
    ("keys", "report", "name"),
    [
        pytest.param({"output_settings": {"type": "filesystem", "path": "{kept}"}}, "r.json", "output_settings.path", id="output"),
        pytest.param({"errors": {"mode": "skip", "path": "{kept}"}}, "r.json", "errors.path", id="errors"),
        pytest.param({}, "{kept}", "--report", id="report"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kept", ["job.json", "model.mlpkg"])
def test_neither_the_definition_nor_the_package_is_written_over(
    kept: str, keys: Any, report: str, name: str, command: Any, job_file: Any, tmp_path: Path
) -> None:
    package, place = tmp_path / "model.mlpkg", str(tmp_path / "." / kept)
    package.touch()
    job = job_file(**json.loads(json.dumps(keys).replace("{kept}", place)))
    before = job.read_bytes()

    ended = command(job, "--serve", package, "--report", tmp_path / report.replace("{kept}", kept))

    assert (ended.code, ended.lines) == (2, [f"prediction-api: error: {name}: would overwrite {place}"])
    assert (job.read_bytes(), package.read_bytes()) == (before, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no job"),
        pytest.param(["a", "b"], id="two jobs"),
        pytest.param(["a", "--limit", "0"], id="no rows"),
        pytest.param(["a", "--limit", "many"], id="no number"),
        pytest.param(["a", "--log-format", "xml"], id="no format"),
        pytest.param(["a", "--dry"], id="ambiguous"),
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2


def test_help_is_quick() -> None:
    """It imports nothing but the standard library."""
    script = "import sys; from batch import cli; import argparse; cli.add_arguments(argparse.ArgumentParser())\n"
    script += "print(sorted(name for name in sys.modules if name in ('anyio', 'httpx', 'msgspec', 'numpy', 'pyarrow', 'rich')))"
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_a_failure_is_reported(command: Any, job_file: Any, tmp_path: Path) -> None:
    """A bad row in a later chunk: what is done is said, and how to go on."""
    rows = people_rows(300)
    rows[270][1] = "old"
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")
    ended = command(job_file(num_concurrent=1, name="nightly"), "--report", tmp_path / "report.json")
    assert ended.code == 1
    assert "row 270" in ended.lines[-2]
    assert "age" in ended.lines[-2]
    assert ended.lines[-1] == (
        "prediction-api: 250 rows are done: the same command continues behind them, --restart starts over"
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["status"], report["name"], report["exit_code"]) == ("ABORTED", "nightly", 1)
    assert (report["rows_scored"], report["retries"], report["model"]["name"]) == (250, 0, "binary")
    assert report["requests"] > 6
    assert "row 270" in report["error"]
    assert not (tmp_path / "out.csv").exists()

    rows[270][1] = "70"
    (tmp_path / "in.csv").write_text(csv_text(rows), newline="")
    ended = command(job_file(num_concurrent=1))
    assert ended.code == 1, "the input is another one now"
    assert "--restart" in ended.text
    assert command(job_file(num_concurrent=1), "--restart").code == 0
    assert len(read_csv(tmp_path / "out.csv")) == 301


def test_json_lines(command: Any, job_file: Any) -> None:
    ended = command(job_file(model_id="x"), "--log-format", "json")
    lines = [json.loads(line) for line in ended.lines]
    assert {"time", "level", "message"} <= set(lines[0])
    assert lines[0]["level"] == "warning"
    assert lines[-1]["rows_scored"] == 300
    assert lines[-1]["message"].startswith("completed: ")


@pytest.mark.parametrize("outside", ["intake_settings", "output_settings"])
def test_jobs_stay_below_the_root(outside: str, command: Any, job_file: Any, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    inside = {"type": "filesystem", "path": str(tmp_path / "root/x.csv")}
    stores = {name: inside for name in ("intake_settings", "output_settings") if name != outside}
    (tmp_path / "root/x.csv").write_text((tmp_path / "in.csv").read_text() if outside == "output_settings" else "")

    ended = command(job_file(**stores), environ={"PREDICTION_API_BATCH_ROOT": str(tmp_path / "root")})

    assert ended.code == 2
    assert "lies outside of PREDICTION_API_BATCH_ROOT" in ended.text
    assert not (tmp_path / "out.csv").exists()
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["x.csv"]


def test_link_local_servers_are_refused(
    command: Any, job_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: resolve(
            "169.254.77.77" if host in (b"model.example", "model.example") else host, *rest, **more
        ),
    )
    for host in ("169.254.77.77", "2852015437", "[::ffff:169.254.77.77]", "model.example"):
        ended = command(job_file(prediction_endpoint=f"http://{host}:80"))
        assert ended.code == 1
        assert "is the link-local address" in ended.text
        assert not (tmp_path / "out.csv").exists()


@pytest.fixture
def hostile_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What the environment names for every connection, with a password for every host."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.upper(), url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login bob password hunter2\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        monkeypatch.setenv("HOME", str(tmp_path))
        listening.setblocking(False)
        yield listening


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    hostile_proxy: socket.socket,
    job_file: Any,
    server: str,
    platform: Platform,  # noqa: F811
) -> None:
    """Neither for the server nor for a platform; for the stores see their own tests."""
    async with proxy(server) as between:
        job = job_file(prediction_endpoint=between.url)
        token = {"PREDICTION_API_BATCH_API_TOKEN": "s3cret-token"}
        process = started(job, "--api_host", platform.url, env=os.environ | token, stderr=subprocess.PIPE)
        _, said = await in_thread(process.communicate)

    assert process.returncode == 0, said.decode()
    assert b"warning" not in said
    assert not any(b"authorization" in head.lower() for head in between.heads)
    with pytest.raises(BlockingIOError):  # nobody came
        hostile_proxy.accept()


def test_no_secret_is_said(command: Any, job_file: Any, server: str, tmp_path: Path) -> None:
    """Not of the variables, not of the definition, not of a URL; on every way out."""
    secrets = {"JDBC_PASSWORD": "hunter2-jdbc", "AWS_SECRET_ACCESS_KEY": "hunter2-aws"}
    url = f"{server.replace('//', '//bob:hunter2-url@')}/nowhere"
    keys = {
        "prediction_endpoint": url,
        "name": "hunter2-jdbc hunter2-aws",
        "prediction_instance": {"hostName": "h", "apiKey": "hunter2-key"},
    }
    report = tmp_path / "report.json"
    for more in (
        {},
        {"num_concurrent": url},
        {"output_settings": {"type": "http", "url": url, "headers": {"a": "hunter2-h", "b": 1}}},
    ):
        for form in ("text", "json"):
            ended = command(
                job_file(**keys | more), "--verbose", "--report", report, "--log-format", form, environ=secrets
            )
            assert ended.code in (1, 2)
            assert "hunter2" not in ended.text
    assert "hunter2" not in report.read_text()


def test_a_fault_of_ours_is_one_line(job_file: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where it happened is only said when asked for."""

    @asynccontextmanager
    async def serve(_: Path, environ: Mapping[str, str]) -> AsyncIterator[str]:
        raise ZeroDivisionError("hunter2-jdbc")
        yield ""

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    for more in ([], ["--verbose"]):
        arguments = parser.parse_args([str(job_file()), "--serve", str(tmp_path), *more])
        assert cli.run(arguments, {"JDBC_PASSWORD": "hunter2-jdbc"}, serve) == 1
        err = capfd.readouterr().err
        last = "prediction-api: error: unexpected ZeroDivisionError: ***; --verbose says where"
        assert err.splitlines()[-1] == last
        assert ("Traceback" in err) == bool(more)
        assert "hunter2" not in err


def test_the_platform_is_told(command: Any, job_file: Any, platform: Platform) -> None:  # noqa: F811
    environ = {"PREDICTION_API_BATCH_API_TOKEN": "s3cret-token"}
    assert command(job_file(deployment_id="loans"), "--api_host", platform.url, environ=environ).code == 0
    assert [told[2].get("status") for told in platform.told] == [None, "RUNNING", "COMPLETED"]
    assert platform.told[0][2]["deploymentId"] == "loans"
    assert platform.told[-1][2]["scoredRows"] == 300
    assert platform.tokens == {"Bearer s3cret-token"}


def test_a_failing_platform_fails_no_job(command: Any, job_file: Any, platform: Platform) -> None:  # noqa: F811
    platform.answer = (500, b"")
    ended = command(job_file(), "--api_host", platform.url, "--api_token", "s3cret-token")
    assert ended.code == 0
    assert "warning: status write-back: POST /batchPredictions/ failed" in ended.text
    assert "s3cret-token" not in ended.text


def started(job: Path, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", PROCESS, str(job), *arguments], cwd=ROOT, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_signal_ends_the_job_so_that_it_can_go_on(
    number: signal.Signals, job_file: Any, server: str, tmp_path: Path
) -> None:
    process: list[subprocess.Popen[bytes]] = []

    def arrived(request: int) -> None:
        if request == 3:
            process[0].send_signal(number)

    async with proxy(server, lambda n: "hang" if n == 3 else "pass") as between:
        between.arrived = arrived
        job = job_file(prediction_endpoint=between.url, num_concurrent=1)
        report = tmp_path / "report.json"
        process.append(started(job, "--report", str(report), stderr=subprocess.PIPE))
        err = (await in_thread(process[0].communicate))[1].decode()
    assert process[0].returncode == 1, err
    assert f"{number.name}: stopping" in err
    done = re.search(r"(100|150) rows are done: the same command continues behind them", err)
    assert done is not None, err
    assert "Traceback" not in err
    assert json.loads(report.read_text())["error"] == "aborted"
    assert not (tmp_path / "out.csv").exists()

    async with proxy(server) as between:
        again = started(job_file(prediction_endpoint=between.url, num_concurrent=1), stderr=subprocess.PIPE)
        await in_thread(again.communicate)
        assert len(between.seen) == (300 - int(done[1])) / 50, "only the rest is scored"
    assert again.returncode == 0
    assert read_csv(tmp_path / "out.csv") == gold(server, (tmp_path / "in.csv").read_text())


STUCK = """
import argparse, os, sys
from contextlib import asynccontextmanager
import anyio
from batch import cli

@asynccontextmanager
async def serve(path, environ):
    try:
        yield "http://127.0.0.1:9"
    finally:
        print("leaving", flush=True)
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

parser = argparse.ArgumentParser()
cli.add_arguments(parser)
print("begun", flush=True)
sys.exit(cli.run(parser.parse_args(), os.environ, serve))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals, job_file: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUCK, str(job_file()), "--serve", str(tmp_path), "--log-format", "json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"progress" in process.stderr.readline()  # the job runs
        process.send_signal(number)
        assert [process.stdout.readline(), process.stdout.readline()] == [b"begun\n", b"leaving\n"]
        process.send_signal(number)
        process.communicate()
        assert process.returncode == -number


async def test_a_bar_on_a_terminal(job_file: Any) -> None:
    main, terminal = pty.openpty()
    process = started(job_file(), stderr=terminal, env=os.environ | {"TERM": "xterm"})
    os.close(terminal)
    shown = await in_thread(lambda: read_all(main))
    assert await in_thread(process.wait) == 0
    assert "completed: 300 rows read" in shown
    assert '"progress"' not in shown


def read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            parts.append(os.read(descriptor, 65536))
        except OSError:  # how a terminal says that nobody writes any more
            break
    os.close(descriptor)
    return b"".join(parts).decode()


async def in_thread(work: Callable[[], Any]) -> Any:
    from anyio import to_thread

    return await to_thread.run_sync(work)
