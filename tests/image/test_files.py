"""The Dockerfile and compose.yaml as text: what can be said of them without an engine."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from batch.definition import definition_from

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_all_that_the_wheel_holds_reaches_the_build() -> None:
    let_in = {line[1:].strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages <= let_in
    assert all((ROOT / name).exists() for name in let_in - packages)
    assert set(re.findall(r"tools/[a-z]+\.(?:sh|py)", DOCKERFILE.replace("/tools/", "tools/"))) <= let_in


def test_the_version_is_the_projects() -> None:
    version = re.search(r"^ARG VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    assert version
    assert version[1] == PROJECT["project"]["version"]


def test_the_slim_extras_are_told_alike() -> None:
    """In the Dockerfile's comment, the script that builds it and the page about it."""
    told = "EXTRAS=signing,lightgbm,xgboost"
    assert told in DOCKERFILE
    assert told.replace("EXTRAS=", "EXTRAS:-") in (ROOT / "tools" / "image.sh").read_text()
    assert told in (ROOT / "docs" / "image.md").read_text()
    assert set(told.removeprefix("EXTRAS=").split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_compose_keeps_to_its_schema() -> None:
    """Of the Compose Specification, Apache License 2.0, as docker-compose 1.29 carries it."""
    schema = json.loads(Path(__file__).with_name("compose_spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose())


def test_compose_refers_only_to_what_is_there() -> None:
    spec = compose()
    services, volumes = spec["services"], spec["volumes"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], other
        for source, target in (mount.split(":")[:2] for mount in service.get("volumes", ())):
            made = source.startswith("./.demo")  # by `make demo`
            assert source in volumes or made or (ROOT / source).exists(), source
            assert target.startswith("/")


def test_images_of_others_are_pinned_by_their_content() -> None:
    others = [service["image"] for service in compose()["services"].values() if "build" not in service]
    assert others
    assert all(re.fullmatch(r"[a-z/]+:[A-Z][\w.-]+@sha256:[0-9a-f]{64}", image) for image in others)


def test_composed_services_are_hardened() -> None:
    ours = [service for service in compose()["services"].values() if "build" in service]
    assert len(ours) == 2
    for service in ours:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service
    assert all(port.startswith("127.0.0.1:") for service in ours for port in service.get("ports", ()))


def test_the_composed_job_is_valid() -> None:
    job = definition_from(json.loads((ROOT / "examples" / "compose" / "job.json").read_text())).job
    stores = {store.settings.endpoint_url for store in (job.intake_settings, job.output_settings)}  # type: ignore[attr-defined]
    hosts = {urlsplit(url).hostname for url in (*stores, job.prediction_endpoint)}
    assert hosts == {"server", "minio"}
    assert hosts <= set(compose()["services"])


def test_composes_own_opinion() -> None:
    """Where its plug-in is installed."""
    ask = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(ask, capture_output=True).returncode:
        pytest.skip("not installed here: docker compose")
    done = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
