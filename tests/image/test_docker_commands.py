"""The docker commands that people copy: read as data everywhere, and run where there is an image under test."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.batch.test_writeback import Platform
from tests.image.conftest import open_to_all
from tests.image.containers import IMAGE, Container, DockerCommand, docker_commands, run, serving
from tests.prediction_api.test_tls import client_context

COMMANDS = docker_commands(Path(__file__).with_name("docker_commands.md").read_text())
SERVE = [command for command in COMMANDS if not command.is_batch]
BATCH = [command for command in COMMANDS if command.is_batch]
SPOOL = "spooler_type=filesystem;directory=/tmp;max_files=50;file_max_size=102400000"
PLACE = "/tmp/portable_batch_predictions"

needs_image = pytest.mark.skipif(not IMAGE, reason="no image under test: `make image-check` builds one and tests it")


def titled(command: DockerCommand) -> str:
    return command.title


def test_commands_are_read_as_they_are_meant() -> None:
    """Also those that lack a continuation."""
    assert len(SERVE) == 7
    assert len(BATCH) == 7
    reporting = next(command for command in BATCH if command.title == "batch that reports")
    assert reporting.arguments[1:] == (
        "/tmp/job_definition.json",
        "--api_host",
        "$API_HOST",
        "--api_token",
        "$API_TOKEN",
    )
    assert reporting.values("--env-file") == ["$CREDENTIALS_PATH"]
    azure = next(command for command in BATCH if command.title == "batch with azure")
    assert azure.places == {PLACE: "/host/filesystem/path/portable_batch_predictions"}


@pytest.mark.parametrize("command", BATCH, ids=titled)
def test_our_command_line_takes_their_arguments(command: DockerCommand) -> None:
    from prediction_api.cli import _parser

    parsed = _parser("batch").parse_args(list(command.arguments))

    assert parsed.command == "batch"
    assert (parsed.api_host is None) == ("--api_host" not in command.arguments)


@pytest.fixture(scope="module")
def certificate() -> tuple[trustme.CA, dict[str, str]]:
    """Who issued it, and what the page takes from files by ``cat``."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain = "".join(pem.bytes().decode() for pem in issued.cert_chain_pems)
    key = issued.private_key_pem.bytes().decode()
    return authority, {"PREDICTION_API_TLS_CERTIFICATE": chain, "PREDICTION_API_TLS_CERTIFICATE_KEY": key}


def filled_in(option: str, pem: dict[str, str]) -> str:
    """What a person would put where the page has a placeholder."""
    name, _, value = option.partition("=")
    if "$(cat" in value:
        return f"{name}={pem[name]}"
    return option.replace("<settings>", SPOOL).replace("<token>", "t0ken")


@needs_image
@pytest.mark.timeout(240)
@pytest.mark.parametrize("command", SERVE, ids=titled)
def test_serving(command: DockerCommand, models: Path, table: bytes, certificate: tuple[trustme.CA, Any]) -> None:
    (host,) = command.places.values()
    mounted = models / "one" / "model.mlpkg" if host.endswith(".mlpkg") else models / "one"
    options = [filled_in(text, certificate[1]) for text in command.with_values(**{"/opt/ml/model": str(mounted)})]
    is_secure = "PREDICTION_API_TLS_ENABLED=true" in options
    tls = client_context(certificate[0]) if is_secure else None
    with serving(*options, tls=tls, inner_port=8443 if is_secure else 8080) as container:
        status, body = container.ask("POST", "/predictions", table, {"Content-Type": "text/csv"})
        assert status == 200
        assert set(json.loads(body)["data"][0]) >= {"prediction", "predictionValues"}
        assert container.execute("prediction-api", "health").returncode == 0
        assert "t0ken" not in container.log()


@needs_image
@pytest.mark.timeout(240)
@pytest.mark.parametrize("command", BATCH, ids=titled)
def test_batch(
    command: DockerCommand,
    server: Container,
    many: Container,
    table: bytes,
    platform: Platform,
    tmp_path: Path,
) -> None:
    wanted = many if "many" in command.title else server
    place = PLACE if PLACE in command.places else "/data"
    job = {
        "prediction_endpoint": f"http://127.0.0.1:{wanted.port}",
        "deployment_id": "people",
        "intake_settings": {"type": "filesystem", "path": f"{place}/datasets/intake_dataset.csv"},
        "output_settings": {"type": "filesystem", "path": f"{place}/output/results.csv"},
    }
    (tmp_path / "datasets").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "datasets" / "intake_dataset.csv").write_bytes(table)
    (tmp_path / "job_definition.json").write_text(json.dumps(job))
    (tmp_path / "credentials.env").write_text("AWS_ACCESS_KEY_ID=a\nJDBC_PASSWORD=b\n")
    open_to_all(tmp_path)
    mounts = {at: str(tmp_path if at == PLACE else tmp_path / "job_definition.json") for at in command.places}
    options = command.with_values(**mounts, **{"--env-file": str(tmp_path / "credentials.env")})
    told = {"$API_HOST": platform.url, "https://app.datarobot.com": platform.url, "$API_TOKEN": "t0ken"}
    arguments = [told.get(word, word) for word in command.arguments]

    done = run(*options, *([] if PLACE in mounts else ["-v", f"{tmp_path}:/data"]), IMAGE, *arguments)

    assert done.returncode == 0, done.stderr
    expected = httpx.post(
        f"http://127.0.0.1:{wanted.port}/{'deployments/people/' if wanted is many else ''}predictions",
        content=table,
        headers={"Content-Type": "text/csv", "Accept": "text/csv"},
        trust_env=False,
    )
    assert (tmp_path / "output" / "results.csv").read_text().splitlines() == expected.text.splitlines()
    assert bool(platform.told) == ("--api_host" in arguments)
