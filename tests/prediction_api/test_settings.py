"""Where settings come from, and what is said about wrong ones."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.errors import SettingsError
from prediction_api.config_file import MAX_BYTES, config_from, read_config
from prediction_api.settings import FLAGS, PREFIX, Settings, rows, settings_from, settings_table, warnings_about

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
WORKERS = f"{PREFIX}WORKERS"


def test_defaults() -> None:
    settings = settings_from({}, {})

    assert settings == Settings()
    assert settings.host == "127.0.0.1"
    assert settings.max_body_bytes == 52_428_800
    assert settings.max_request_line == 8192
    assert settings.port == 8080


def test_tls_has_its_own_port() -> None:
    assert settings_from({f"{PREFIX}TLS_ENABLED": "1"}, {}).port == 8443


def test_nearer_sources_win() -> None:
    environ, config, flags = {WORKERS: "2"}, {WORKERS: "3"}, {WORKERS: "4"}

    assert settings_from({}, config).workers == 3
    assert settings_from(environ, config).workers == 2
    assert settings_from(environ, config, flags).workers == 4
    assert settings_from({WORKERS: " "}, config).workers == 3


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.field)
def test_every_default_can_be_written_out(row) -> None:
    if row.default is not None:
        text = str(row.default)
        assert getattr(settings_from({row.names[0]: text}, {}), row.field) == row.default


@pytest.mark.parametrize(("text", "value"), [*FLAGS.items(), ("TRUE", True), ("No", False), (" Y ", True)])
def test_flags(text: str, value: bool) -> None:
    assert settings_from({f"{PREFIX}MONITORING_ENABLED": text}, {}).monitoring_enabled is value


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        pytest.param("WORKERS", "0", "a whole number from 1 to 512", id="too few"),
        pytest.param("WORKERS", "1.5", "a whole number from 1 to 512", id="no whole number"),
        pytest.param("WORKERS", "1_0", "a whole number from 1 to 512", id="underscore"),
        pytest.param("WORKERS", "٢", "a whole number from 1 to 512", id="other digits"),
        pytest.param("WORKERS", "9" * 5000, "a whole number from 1 to 512", id="5000 digits"),
        pytest.param("HTTP_PORT", "65536", "a whole number from 0 to 65535", id="no port"),
        pytest.param("HEADER_TIMEOUT", "nan", "a number from 0.1 to 3600", id="not a number"),
        pytest.param("HEADER_TIMEOUT", "inf", "a number from 0.1 to 3600", id="infinite"),
        pytest.param("TLS_ENABLED", "on", "true, yes, y, 1, false, no, n or 0", id="flag"),
        pytest.param("LOG_FORMAT", "xml", "text or json", id="choice"),
        pytest.param("MODEL_REPOSITORY_PATH", "/a\0b", "a path", id="NUL in a path"),
    ],
)
def test_wrong_values(name: str, text: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({PREFIX + name: text}, {})

    message = str(caught.value)
    assert message.startswith(f"{PREFIX}{name}=")
    assert message.endswith(f" (environment): expected {allowed}")
    assert len(message) < 250


def test_all_problems_at_once_each_with_its_source() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from(
            {WORKERS: "many", f"{PREFIX}TLS_ENABLED": "yes", f"{PREFIX}TLS_PROTOCOLS": "TLSv1.2 TLSv9"},
            {f"{PREFIX}LOG_LEVEL": "loud", f"{PREFIX}MONITORING_SETTINGS": "nonsense"},
            {f"{PREFIX}HTTP_PORT": "http"},
        )

    assert [line.split(":")[0].split("=")[0] for line in str(caught.value).splitlines()] == [
        WORKERS,
        f"{PREFIX}HTTP_PORT",
        f"{PREFIX}LOG_LEVEL",
        f"{PREFIX}MONITORING_SETTINGS",
        f"{PREFIX}TLS_PROTOCOLS",
    ]
    assert "(environment)" in str(caught.value)
    assert "(config file)" in str(caught.value)
    assert "(command line)" in str(caught.value)


def test_both_spellings_of_the_monitoring_settings() -> None:
    spelled = {f"PORTABLE_{PREFIX}MONITORING_SETTINGS": "spooler_type=SQS;queue=q"}

    assert settings_from(spelled, {}).monitoring_settings == "spooler_type=SQS;queue=q"
    assert warnings_about(Settings(), spelled, {}) == []


def test_secrets_are_shown_nowhere() -> None:
    secrets = {name: f"hush\0{name}" for row in rows() if row.secret for name in row.names}
    settings = settings_from({name: text.replace("\0", "=") for name, text in secrets.items()}, {})

    assert "hush" not in repr(settings)
    assert "hush" not in str(settings.__rich_repr__())
    with pytest.raises(SettingsError) as caught:
        settings_from(secrets, {})
    assert "hush" not in str(caught.value)
    assert f"{PREFIX}TLS_CERTIFICATE_KEY (environment): expected text" in str(caught.value)


def test_what_the_operator_should_know() -> None:
    environ = {f"{PREFIX}WORKER": "2", f"{PREFIX}RPC_DUAL_COMPUTE_ENABLED": "x", "PYTHON3_SERVICES": "x", "HOME": "/"}

    found = warnings_about(Settings(monitoring_agent=True), environ, {"WORKERS": "2"})

    assert found == [
        f"{PREFIX}WORKER (environment) is not a setting",
        "'WORKERS' (config file) is not a setting",
        "monitoring is switched on, but not available yet: nothing is reported",
    ]


@given(st.dictionaries(st.sampled_from([name for row in rows() for name in row.names]), st.text(max_size=20)))
def test_any_values_give_settings_or_a_settings_error(environ: dict[str, str]) -> None:
    try:
        settings = settings_from(environ, {})
    except SettingsError as error:
        assert str(error)
    else:
        assert settings_from(environ, environ) == settings


# The config file


def test_config_lines() -> None:
    text = "\ufeff# comment\r\n\r\n A = b=c \nQUOTED=\"x y\"\nINNER='it''s'\nEMPTY=\n  # more\nA2='\nlast=\"1'"

    assert config_from(text, "f") == {
        "A": "b=c",
        "QUOTED": "x y",
        "INNER": "it''s",
        "EMPTY": "",
        "A2": "'",
        "last": "\"1'",
    }


def test_lines_that_are_none_are_named_by_number_and_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        config_from("KEY=-----BEGIN\nMIIsecret\n=x\nA=\0", "/opt/ml/config")

    assert str(caught.value).splitlines() == [
        f"/opt/ml/config, line {number}: expected KEY=VALUE" for number in (2, 3, 4)
    ]


def test_file_and_directory(tmp_path: Path) -> None:
    (tmp_path / "10").write_text("A=1\nB=1")
    (tmp_path / "20").write_text("B=2")
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "30").write_text("B=3")
    (tmp_path / "30").symlink_to(tmp_path / "..data" / "30")  # as Kubernetes mounts a ConfigMap
    os.mkfifo(tmp_path / "40")

    assert read_config(tmp_path / "10", required=True).values == {"A": "1", "B": "1"}
    assert read_config(tmp_path, required=True).values == {"A": "1", "B": "3"}


def test_absent_file(tmp_path: Path) -> None:
    assert read_config(tmp_path / "none", required=False).values == {}
    with pytest.raises(SettingsError, match=r"CONFIG_PATH=.*no such file"):
        read_config(tmp_path / "none", required=True)


def test_a_path_that_cannot_even_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CONFIG_PATH=.*: File name too long"):
        read_config(tmp_path / ("x" * 300), required=False)


def test_files_that_could_block_or_flood(tmp_path: Path) -> None:
    pipe, large, binary = tmp_path / "pipe", tmp_path / "large", tmp_path / "binary"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    binary.write_bytes(b"A=\xff")

    for path, problem in (
        (pipe, "expected a regular file"),
        (Path("/dev/zero"), "expected a regular file"),
        (large, "expected at most"),
        (binary, "expected UTF-8"),
    ):
        with pytest.raises(SettingsError, match=f"{path}: {problem}"):
            read_config(path, required=True)


def test_readable_secrets_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(f"{PREFIX}TLS_CERTIFICATE_KEY=hush")

    path.chmod(stat.S_IRUSR)
    assert read_config(path, required=True).warnings == ()
    path.chmod(0o644)
    assert read_config(path, required=True).warnings == (f"{path} holds a secret and is readable by everybody",)


def test_documentation_lists_every_setting() -> None:
    """To renew it: ``python -m prediction_api.settings``."""
    assert settings_table() in DOCS.read_text()
