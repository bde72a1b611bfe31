"""The command as a user types it."""

import os
import socket
import subprocess
import sys
import time

import pytest
import trustme

from prediction_api.cli import NATIVE_THREADS, main, native_threads
from prediction_api.settings import PREFIX
from tests.prediction_api.server_process import serving

HEAVY = ("sklearn", "pandas", "numpy", "starlette", "uvicorn", "pyarrow")


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "prediction_api", *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_light_options_import_nothing_heavy(option: str) -> None:
    program = (
        "import sys\nfrom prediction_api.cli import main\n"
        f"try: main([{option!r}])\nexcept SystemExit as end: assert not end.code\n"
        f"sys.exit([name for name in {HEAVY!r} if name in sys.modules] or 0)"
    )
    began = time.monotonic()

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "prediction-api" in done.stdout
    assert time.monotonic() - began < 1  # 0.3 s on a quiet machine


def test_wrong_settings_are_one_line_each() -> None:
    done = run("serve", PREDICTION_API_WORKERS="0", PREDICTION_API_LOG_FORMAT="xml")

    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "prediction-api: PREDICTION_API_WORKERS='0' (environment): expected a whole number from 1 to 512",
        "prediction-api: PREDICTION_API_LOG_FORMAT='xml' (environment): expected text or json",
    ]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        pytest.param(os.mkfifo, "expected a regular file", id="pipe"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "expected a regular file", id="device"),
        pytest.param(lambda path: path.write_bytes(b"#" * 10**7), "expected at most", id="10 MB"),
        pytest.param(lambda path: path.write_bytes("A=1".encode("utf-16")), "expected UTF-8", id="UTF-16"),
        pytest.param(
            lambda path: path.write_text(f"{PREFIX}MANAGEMENT_TOKEN=hush\nhush"), "line 2: expected KEY", id="no line"
        ),
        pytest.param(
            lambda path: path.write_text(f"\ufeff{PREFIX}WORKERS=hush"), "(config file): expected a whole", id="value"
        ),
        pytest.param(lambda path: None, "no such file", id="none"),
    ],
)
def test_config_files_that_stop_the_start(tmp_path, make, problem: str) -> None:
    """At once, with one line."""
    path = tmp_path / "config"
    make(path)

    done = run("serve", PREDICTION_API_CONFIG_PATH=str(path))

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert problem in done.stderr
    assert ("hush" in done.stderr) == ("WORKERS" in done.stderr)


def test_a_wrong_key_stops_the_start() -> None:
    authority = trustme.CA()
    ours, other = (authority.issue_cert("localhost") for _ in range(2))

    done = run(
        "serve",
        PREDICTION_API_TLS_ENABLED="yes",
        PREDICTION_API_TLS_CERTIFICATE=ours.cert_chain_pems[0].bytes().decode(),
        PREDICTION_API_TLS_CERTIFICATE_KEY=other.private_key_pem.bytes().decode(),
    )

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "TLS_CERTIFICATE_KEY: belongs to another certificate" in done.stderr
    assert not any(line in done.stderr for line in other.private_key_pem.bytes().decode().splitlines())


def test_options_win_over_the_environment() -> None:
    done = run("--port", "no port", PREDICTION_API_HTTP_PORT="1")

    assert done.returncode == 2
    assert "PREDICTION_API_HTTP_PORT='no port' (command line)" in done.stderr


def test_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--port", str(taken.getsockname()[1]))

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "the port is taken" in done.stderr


def test_no_repository(tmp_path) -> None:
    done = run("--port", "0", "--model-repository", str(tmp_path / "nothing"))

    assert done.returncode == 1
    assert "nothing': there is no such file or directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_damaged_package(tmp_path) -> None:
    (tmp_path / "x.mlpkg").write_bytes(b"no package")
    done = run("--port", "0", "--model-repository", str(tmp_path))

    assert done.returncode == 1
    assert f"cannot start: {tmp_path / 'x.mlpkg'}: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_serves_a_package(binary) -> None:
    """From the command line to an answer of a real model, and to the end."""
    with serving("prediction_api", "--model-repository", str(binary.path), "--workers", "2") as server:
        assert server.get("/ping")[0] == 200
        assert server.get("/info")[0] == 200
        assert server.end() == 0


def test_batch_names_a_definition_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own command line and messages are tested with it."""
    assert main(["batch", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["sing"], ["serve", "--colour"], ["--nonsense"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.parametrize(
    ("given", "workers", "cores", "threads"),
    [
        pytest.param("", 1, 8, 1, id="one thread unless asked for"),
        pytest.param("4", 1, 8, 4, id="as asked for"),
        pytest.param("4", 4, 8, 2, id="no more than there are cores"),
        pytest.param("4", 16, 8, 1, id="never none"),
        pytest.param("0", 1, 8, 1, id="zero means all: not given"),
        pytest.param("4,2", 1, 8, 1, id="nested levels: not given"),
    ],
)
def test_workers_and_their_threads_fit_the_cores(given: str, workers: int, cores: int, threads: int) -> None:
    assert native_threads({"OMP_NUM_THREADS": given}, workers, cores)["OMP_NUM_THREADS"] == str(threads)
    assert set(native_threads({}, workers, cores)) == set(NATIVE_THREADS)
