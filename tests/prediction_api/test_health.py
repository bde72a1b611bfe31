"""The command that a container's HEALTHCHECK runs, against real servers."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.prediction_api.server_process import ServerProcess, serving, started, until
from tests.prediction_api.test_tls import client_context


def health(**variables: object) -> "subprocess.CompletedProcess[str]":
    settings = {f"PREDICTION_API_{name.upper()}": str(value) for name, value in variables.items()}
    command = [sys.executable, "-m", "prediction_api", "health"]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=20, check=False)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(host="0.0.0.0") as server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_server_that_can_score(server: ServerProcess, host: str) -> None:
    done = health(host=host, http_port=server.port)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_port_of_the_config_file(server: ServerProcess, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"PREDICTION_API_HTTP_PORT={server.port}\n")

    assert health(config_path=config).returncode == 0


@pytest.mark.parametrize(
    "offered", [{}, {"tls_protocols": "TLSv1.1"}, {"tls_protocols": "TLSv1.2", "tls_ciphers": "ECDHE-ECDSA-AES128-SHA"}]
)
def test_over_https_with_a_certificate_of_whomever(offered: dict[str, str]) -> None:
    """Also where only what Python's clients do not offer by themselves is spoken."""
    authority = trustme.CA()
    issued = authority.issue_cert("models.example")
    pem = {
        "tls_enabled": "yes",
        "tls_certificate": issued.cert_chain_pems[0].bytes().decode(),
        "tls_certificate_key": issued.private_key_pem.bytes().decode(),
    }
    context = client_context(authority)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    with serving(tls=context, **pem, **offered) as server:
        assert health(https_port=server.port, **pem).returncode == 0
        assert health(http_port=server.port).returncode == 1


def test_a_server_that_is_still_loading(free_port: int, tmp_path: Path) -> None:
    with started(stand_in=f"wait:{tmp_path / 'never'}", http_port=free_port) as server:
        server.port = free_port
        until(lambda: server.status_of("/ping") == 503, "an open door")
        done = health(http_port=free_port)

    assert (done.returncode, done.stderr) == (1, "prediction-api: /ping answers 503\n")


def test_nobody_listens(free_port: int) -> None:
    done = health(http_port=free_port)

    assert done.returncode == 1
    assert done.stderr == f"prediction-api: 127.0.0.1, port {free_port}: [Errno 111] Connection refused\n"


def test_any_free_port_cannot_be_asked() -> None:
    assert "nobody but the server knows" in health(http_port=0).stderr


def test_wrong_settings_are_no_sign_of_health() -> None:
    assert health(workers="none").returncode == 2
