"""What compose.yaml composes, run service by service: its options, its command and its job, on other ports."""

import csv
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.image.conftest import open_to_all
from tests.image.containers import IMAGE, IS_SLIM, run, serving
from tests.stores import S3, started_nanio  # noqa: F401  a fixture

ROOT = Path(__file__).parent.parent.parent

pytestmark = [
    pytest.mark.skipif(not IMAGE or IS_SLIM, reason="no full image under test: `make image-check` builds one"),
    pytest.mark.timeout(240),
]


def options_of(service: dict[str, Any]) -> list[str]:
    """What compose would say to the engine, but for names of networks and mounts."""
    return [
        *(["--read-only"] if service["read_only"] else []),
        *(word for place in service["tmpfs"] for word in ("--tmpfs", place)),
        *(word for name in service["cap_drop"] for word in ("--cap-drop", name)),
        *(word for rule in service["security_opt"] for word in ("--security-opt", rule.removesuffix(":true"))),
    ]


def test_the_job_scores_a_table_of_the_store(models: Path, people: Any, nanio: S3, tmp_path: Path) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    table = people.drop(columns=["bought", "tier", "spent", "loyal"])
    table.insert(0, "patient", [f"P-{number}" for number in range(len(table))])
    store = nanio.client()
    for bucket in ("tables", "scored"):
        store.create_bucket(Bucket=bucket)
    store.put_object(Bucket="tables", Key="patients.csv", Body=table.to_csv(index=False).encode())
    keys = ("-e", f"AWS_ACCESS_KEY_ID={nanio.key_id}", "-e", f"AWS_SECRET_ACCESS_KEY={nanio.secret}")
    hosts = ("--network", "host", "--add-host", "server:127.0.0.1", "--add-host", "minio:127.0.0.1")

    with serving(*options_of(services["server"]), "-v", f"{models / 'one'}:/opt/ml/model:ro") as server:
        job = (ROOT / "examples" / "compose" / "job.json").read_text()
        job = job.replace("server:8080", f"server:{server.port}").replace(
            "minio:9000", f"minio:{urlsplit(nanio.url).port}"
        )
        (tmp_path / "job.json").write_text(job)
        open_to_all(tmp_path)
        mounts = ("-v", f"{tmp_path}:/job:ro")
        done = run(*options_of(services["batch"]), *hosts, *keys, *mounts, IMAGE, *services["batch"]["command"])

    assert done.returncode == 0, done.stderr
    scored = store.get_object(Bucket="scored", Key="patients.csv")["Body"].read().decode()
    header, *rows = csv.reader(scored.splitlines())
    assert header[0] == "patient"
    assert [row[0] for row in rows] == table["patient"].tolist()
