"""config.yml: what it says, and that nothing but a configuration is made of it."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.deployment_config import (
    NO_CONFIG,
    AssociationIdSettings,
    DeploymentConfig,
    PredictionIntervals,
    config_from,
    read_config,
)
from model_repository.errors import InvalidConfig

FULL = """
deployment_id: 5fc92906ad764dde6c3264fa
model_id: 5fae9a023ba73530157ebdae
association_id_settings:
  column_name: transaction_country
  allow_missing_values: false
prediction_threshold: 0.25
prediction_intervals: {enabled: true, percentiles: [80]}
"""


def test_everything() -> None:
    assert config_from(FULL.encode()) == DeploymentConfig(
        deployment_id="5fc92906ad764dde6c3264fa",
        model_id="5fae9a023ba73530157ebdae",
        association_id_settings=AssociationIdSettings(column_name="transaction_country"),
        prediction_threshold=0.25,
        prediction_intervals=PredictionIntervals(enabled=True, percentiles=[80]),
    )


@pytest.mark.parametrize(
    "raw", [b"", b"# nothing\n", b"---\n", b"{}", b"\xef\xbb\xbf", b"deployment_id:\nmodel_id: ~\n"]
)
def test_nothing(raw: bytes) -> None:
    assert config_from(raw) == NO_CONFIG


@pytest.mark.parametrize("id_", ["0123", "1e5", "0x1F", "12_000", "2024-01-01", "1.50", "5fc92906ad764dde6c3264fa"])
def test_ids_are_what_they_look_like(id_: str) -> None:
    """YAML would make a number or a date of most of these."""
    assert config_from(f"deployment_id: {id_}\nmodel_id: {id_}".encode()) == DeploymentConfig(
        deployment_id=id_, model_id=id_
    )


@pytest.mark.parametrize(("word", "flag"), [("yes", True), ("True", True), ("off", False), ("NO", False), ("1", True), ("'false'", False)])  # fmt: skip
def test_flags(word: str, flag: bool) -> None:
    settings = config_from(
        f"association_id_settings: {{column_name: id, allow_missing_values: {word}}}".encode()
    ).association_id_settings
    assert settings is not None
    assert settings.allow_missing_values is flag


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"- a\n", "expected `key: value` lines", id="a list"),
        pytest.param(b"a: [", "line 1: ", id="cut off"),
        pytest.param(b"a: b: c", "line 1: mapping values are not allowed", id="not YAML"),
        pytest.param(b"deployment_id: a\nmodel_id: \xff", "not UTF-8", id="not UTF-8"),
        pytest.param(b"a: \x00", "special characters are not allowed", id="NUL"),
        pytest.param(b"deployment_id: a\ndeployment_id: b", "a key stands twice", id="a key twice"),
        pytest.param(b"deployment_id: ../etc", "deployment_id", id="an id that climbs"),
        pytest.param(b"deployment_id: a..b", "deployment_id", id="two dots"),
        pytest.param(b"deployment_id: .a", "deployment_id", id="a leading dot"),
        pytest.param(b"deployment_id: 'a\n\n'", "deployment_id", id="a line end"),
        pytest.param(b"deployment_id: " + b"a" * 129, "deployment_id", id="a long id"),
        pytest.param(b"deployment_id: no", "Expected `str | null`, got `bool`", id="an id that is a flag"),
        pytest.param(b"model_id: ''", "model_id", id="an empty model id"),
        pytest.param(b"prediction_threshold: high", "prediction_threshold", id="a threshold that is no number"),
        pytest.param(b"prediction_threshold: 1.5", "prediction_threshold", id="a threshold above 1"),
        pytest.param(b"prediction_threshold: nan", "prediction_threshold", id="a threshold of nothing"),
        pytest.param(b"association_id_settings: id", "association_id_settings", id="settings that are a word"),
        pytest.param(b"association_id_settings: {allow_missing_values: true}", "column_name", id="no column"),
        pytest.param(b"prediction_intervals: {enabled: true, percentiles: [80, 90]}", "percentiles", id="two percentiles"),
        pytest.param(b"prediction_intervals: {enabled: true, percentiles: [100]}", "percentiles", id="a percentile of 100"),
        pytest.param(b"a: &x 1\nb: *x", "line 2: aliases are not read", id="an alias"),
        pytest.param(b"<<: {deployment_id: a}\nmodel_id: !!int 'x'", "line 2: tags are not read", id="a tag"),
        pytest.param(b"a: !!python/object/apply:os.system ['touch canary']", "tags are not read", id="code"),
        pytest.param(b"a: " + b"[" * 30_000, "nested more than 8 deep", id="a depth bomb"),
        pytest.param(b"#" * 70_000, "more than 65536 bytes", id="too large"),
        pytest.param(b"--- {}\n--- {}\n", "expected a single document", id="two documents"),
        pytest.param(b"? [a]\n: b", "unhashable", id="a key that is a list"),
    ],
)  # fmt: skip
def test_what_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidConfig, match=r"config\.yaml: ") as caught:
        config_from(raw, "config.yaml")
    assert message in str(caught.value)


def test_unknown_keys_are_named_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert config_from(b"deploymentId: a\nmodel_id: m") == DeploymentConfig(model_id="m")
        config_from(b"modelId: m", "config.yaml", "fraud")
    assert "config.yml: 'deploymentId' is not a setting of a deployment" in caplog.text
    assert "fraud/config.yaml: 'modelId' is not a setting" in caplog.text


def test_a_flood_of_unknown_keys_is_no_flood_of_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config_from(b"".join(b"k%d: 1\n" % number for number in range(1000)))
    assert len(caplog.messages) == 11
    assert caplog.messages[-1] == "config.yml: 990 more keys are not settings of a deployment; ignored"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_configuration_or_refused(raw: bytes) -> None:
    with suppress(InvalidConfig):
        assert isinstance(config_from(raw), DeploymentConfig)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), "config.yml: Too many levels of symbolic links", id="a link"),
        pytest.param(os.mkfifo, "config.yml: not a regular file", id="a FIFO"),
        pytest.param(lambda path: path.mkdir(), "config.yml: not a regular file", id="a directory"),
    ],
)  # fmt: skip
def test_only_regular_files_are_read(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "config.yml")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(InvalidConfig, match=message):
            read_config("config.yml", descriptor)
        with pytest.raises(FileNotFoundError):
            read_config("config.yaml", descriptor)
    finally:
        os.close(descriptor)
