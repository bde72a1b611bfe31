"""Containers of the image: what they serve, what they cannot do, and how they end. Run by `make image-check`."""

import json
import os
import signal
import time
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

import batch.adapters
from tests.image.conftest import open_to_all
from tests.image.containers import HARDENED, IMAGE, IS_SLIM, Container, engine, run, serving, started

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="no image under test: `make image-check` builds one and tests it"),
    pytest.mark.timeout(240),
]

CSV = {"Content-Type": "text/csv"}
MOST_MEGABYTES = {True: 515, False: 695}
"""Unpacked; slim and full. The libraries of models are 330 of them, the base with Python 130."""


def test_it_serves_as_nobody_on_a_read_only_root(models: Path, table: bytes) -> None:
    with serving(*HARDENED, "-v", f"{models / 'one'}:/opt/ml/model:ro") as container:
        status, body = container.ask("POST", "/predictions", table, CSV)
        user = container.execute("id", "-u").stdout.strip()
        writing = container.execute("touch", "/opt/prediction-api/x")

    assert status == 200
    assert len(json.loads(body)["data"]) == table.count(b"\n") - 1
    assert user == "10001"
    assert "Read-only file system" in writing.stderr


@pytest.mark.parametrize("user", ["12345:0", "4321:4321"])
def test_any_other_user_serves_as_well(models: Path, user: str) -> None:
    with serving(*HARDENED, "--user", user, "-v", f"{models / 'one'}:/opt/ml/model:ro") as container:
        assert container.get("/info")[0] == 200


def test_no_tools_to_build_or_fetch_with(server: Container) -> None:
    names = ["gcc", "cc", "g++", "c++", "ld", "as", "make", "pip", "pip3", "curl", "wget", "git"]
    ask = f"import shutil; print(*filter(shutil.which, {names}))"
    found = server.execute("python3", "-c", ask)
    assert (found.stdout.strip(), found.returncode) == ("", 0)


def test_no_program_runs_as_another_user(server: Container) -> None:
    """Such as `su`, `mount` and `passwd` in Debian."""
    look = "import os, stat\nfor place, _, files in os.walk('/', onerror=None):\n for name in files:\n  path = f'{place}/{name}'\n"
    look += "  if not place.startswith(('/proc', '/sys')) and os.lstat(path).st_mode & 0o6000: print(path)"
    found = server.execute("python3", "-c", look)
    assert (found.stdout.strip(), found.returncode) == ("", 0)


def test_orphans_are_reaped(server: Container) -> None:
    """A process whose parent is gone leaves no trace when it ends."""
    program = "import os, sys\nif os.fork() == 0:\n if os.fork() == 0: os._exit(3)\n os._exit(0)\nos.wait()"
    assert server.execute("python3", "-c", program).returncode == 0
    states = "import glob\nfor f in glob.glob('/proc/[0-9]*/stat'): print(open(f).read().rpartition(')')[2].split()[0])"
    deadline = time.monotonic() + 5
    while "Z" in (seen := server.execute("python3", "-c", states).stdout):
        assert time.monotonic() < deadline, seen


def test_health(server: Container) -> None:
    assert server.execute("prediction-api", "health").returncode == 0
    described = json.loads(engine("image", "inspect", IMAGE).stdout)[0]
    check = described["Config"].get("Healthcheck") or described["Healthcheck"]
    assert check["Test"] == ["CMD", "prediction-api", "health"]


def test_what_the_image_says_of_itself() -> None:
    config = json.loads(engine("image", "inspect", IMAGE).stdout)[0]["Config"]
    assert config["User"] == "10001:0"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8443/tcp"}
    assert config["StopSignal"] in ("SIGTERM", str(int(signal.SIGTERM)))
    assert config["Entrypoint"] == ["tini", "--", "prediction-api"]
    assert not config.get("Volumes")
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_it_stops_in_time(models: Path) -> None:
    with serving("-v", f"{models / 'one'}:/opt/ml/model:ro", "-e", "PREDICTION_API_WORKERS=2") as container:
        took = container.stop()
        assert container.exit_code() == 0
    assert took < 5


def test_it_stops_in_time_before_it_has_begun(models: Path) -> None:
    with started("-v", f"{models / 'one'}:/opt/ml/model:ro") as container:
        took = container.stop()
        assert container.exit_code() in (0, 128 + signal.SIGTERM)
    assert took < 5


def test_uploads_without_any_mount(models: Path) -> None:
    """`docker run IMAGE` alone serves: nothing at first. No library adds lines of its own to the log."""
    package = (models / "one" / "model.mlpkg").read_bytes()
    with serving("-e", "PREDICTION_API_LOG_FORMAT=json") as container:
        status, body = container.ask("POST", "/deployments/x", package, {"Content-Type": "application/octet-stream"})
        assert status == 201, body
        assert container.get("/deployments/x/info")[0] == 200
        assert all(json.loads(line) for line in container.log().splitlines())


def test_what_nobody_may_enter_is_said(tmp_path: Path) -> None:
    """By its name, and nothing is begun: a test that root runs cannot see this."""
    (tmp_path / "job.json").write_text(
        '{"intake_settings": {"type": "filesystem", "path": "/jobs/in.csv"},'
        ' "output_settings": {"type": "filesystem", "path": "/jobs/out.csv"}}'
    )
    open_to_all(tmp_path)
    arguments = ("batch", "/jobs/job.json", "--serve", "/root/model", "--report", "/root/report.json")
    done = run("-v", f"{tmp_path}:/jobs", IMAGE, *arguments)
    assert done.returncode == 2
    assert "error: --serve: /root/model: permission denied\n" in done.stderr
    assert "error: --report: /root/report.json cannot be written\n" in done.stderr


def test_uploads_into_a_volume_outlive_the_container(models: Path) -> None:
    package = (models / "one" / "model.mlpkg").read_bytes()
    volume = f"models-{os.getpid()}"
    options = [*HARDENED, "-v", f"{volume}:/opt/ml"]
    try:
        with serving(*options) as container:
            header = {"Content-Type": "application/octet-stream"}
            assert container.ask("POST", "/deployments/x", package, header)[0] == 201
            container.stop()
        with serving(*options) as container:
            assert container.get("/deployments/x/info")[0] == 200
    finally:
        engine("volume", "rm", "--force", volume)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_config_is_read(models: Path, tmp_path: Path, kind: str) -> None:
    config = tmp_path / "config"
    file = config if kind == "file" else config / "settings"
    file.parent.mkdir(exist_ok=True)
    file.write_text("PREDICTION_API_HTTP_PORT=9090\nPREDICTION_API_LOG_FORMAT=json\n")
    open_to_all(tmp_path)
    mounts = ("-v", f"{models / 'one'}:/opt/ml/model:ro", "-v", f"{config}:/opt/ml/config:ro")
    with serving(*mounts, inner_port=9090) as container:
        assert container.execute("prediction-api", "health").returncode == 0
        assert all(json.loads(line) for line in container.log().splitlines() if line.strip())


@pytest.mark.parametrize("place", ["one", "many/spending"])
def test_packages_give_their_golden_rows_here(models: Path, place: str) -> None:
    """Through the plan and through the original estimator: the libraries are whole, after what was taken out."""
    done = run("-v", f"{models}:/models:ro", IMAGE, "package", "verify", f"/models/{place}/model.mlpkg")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "sklearn"])
def test_estimators_that_no_plan_can_hold(made: Any, tmp_path: Path, library: str) -> None:
    """What was trained outside serves inside by its own library."""
    from lightgbm import LGBMRegressor
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.pipeline import make_pipeline
    from xgboost import XGBRegressor

    from tests.conftest import tree_inputs

    model = {
        "lightgbm": lambda: LGBMRegressor(n_estimators=5, min_child_samples=2, verbose=-1, linear_tree=True),
        "xgboost": lambda: XGBRegressor(n_estimators=5, booster="dart"),
        "sklearn": lambda: ExtraTreesRegressor(n_estimators=5, random_state=0),
    }[library]()
    packaged = made(library, make_pipeline(tree_inputs(), model), "spent")
    (tmp_path / "m.mlpkg").write_bytes(packaged.path.read_bytes())
    open_to_all(tmp_path)
    done = run("-v", f"{tmp_path}:/models:ro", IMAGE, "package", "verify", "/models/m.mlpkg")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_in_it_is_written_in_it(server: Container) -> None:
    bill = json.loads(server.execute("cat", "/opt/prediction-api/sbom.cdx.json").stdout)
    versions = {part["name"]: part["version"] for part in bill["components"]}
    ask = "import importlib.metadata as m; print(*{d.metadata['Name'].lower().replace('_', '-') for d in m.distributions()})"
    installed = set(server.execute("python3", "-c", ask).stdout.split())
    assert bill["metadata"]["component"]["name"] == "portable-prediction-server"
    assert {"tini", "python3", "libgomp1"} <= set(versions)
    assert installed - {"portable-prediction-server"} <= {name.replace(".", "-") for name in versions} | set(versions)
    constraints = dict(line.split(" ;")[0].split("==") for line in Path("constraints.txt").read_text().splitlines())
    assert versions["numpy"] == constraints["numpy"]


@pytest.mark.skipif(IS_SLIM, reason="the slim image has none of their SDKs on purpose")
@pytest.mark.parametrize("name", [module.name for module in iter_modules(batch.adapters.__path__)])
def test_adapters_can_be_loaded(server: Container, name: str) -> None:
    done = server.execute("python3", "-c", f"import batch.adapters.{name}")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(IS_SLIM, reason="the slim image has none of their SDKs on purpose")
def test_amazons_ways_to_sign_in_are_left(server: Container) -> None:
    """Of all the services that its SDK describes."""
    program = (
        "from botocore.session import get_session\n"
        "for name in ('s3', 'sts', 'sso', 'sso-oidc', 'signin'):\n"
        " get_session().create_client(name, region_name='eu-central-1')"
    )
    done = server.execute("python3", "-c", program)
    assert done.returncode == 0, done.stderr


OBJECTS = {
    "s3": "s3://incoming/a.csv",
    "azure": "https://me.blob.core.windows.net/incoming/a.csv",
    "gcs": "gs://incoming/a.csv",
}
DATABASES = {
    "jdbc": {"url": "jdbc:h2:mem:x", "class_name": "org.h2.Driver", "driver_path": "/h2.jar"},
    "snowflake": {"url": "jdbc:snowflake://me.snowflakecomputing.com/"},
    "synapse": {"url": "jdbc:sqlserver://me.sql.azuresynapse.net;database=pool"},
}


@pytest.mark.skipif(not IS_SLIM, reason="the full image has all of them")
@pytest.mark.parametrize("extra", [*OBJECTS, *DATABASES])
def test_the_slim_image_says_what_it_lacks(server: Container, extra: str) -> None:
    type_ = {"gcs": "gcp"}.get(extra, extra)
    place = {"url": OBJECTS[extra]} if extra in OBJECTS else {"table": "people"}
    job = {
        "prediction_endpoint": "http://127.0.0.1:1",
        "intake_settings": {"type": type_, **place},
        "output_settings": {"type": "filesystem", "path": "/tmp/out.csv"},
        **({"jdbc_settings": DATABASES[extra]} if extra in DATABASES else {}),
    }
    writing = f"import pathlib; pathlib.Path('/tmp/{extra}.json').write_text({json.dumps(job)!r})"
    assert server.execute("python3", "-c", writing).returncode == 0

    done = server.execute("prediction-api", "batch", f"/tmp/{extra}.json")

    assert done.returncode == 2
    assert f"portable-prediction-server[{extra}]" in done.stderr


def test_its_size_is_what_is_stated() -> None:
    assert int(os.environ["IMAGE_BYTES"]) / 1e6 < MOST_MEGABYTES[IS_SLIM]


def test_every_extra_of_the_variant_is_complete(server: Container) -> None:
    wanted = {"signing", "lightgbm", "xgboost"} if IS_SLIM else {"all"}
    program = (
        "import importlib.metadata as m, re, sys\n"
        "def missing(extras):\n"
        " for line in m.requires('portable-prediction-server'):\n"
        "  name, _, marker = line.partition(';')\n"
        "  if 'extra' not in marker or any(repr(e).strip(chr(39)) in marker for e in extras):\n"
        "   inner = re.match(r'portable-prediction-server\\[(.*)\\]', name)\n"
        "   if inner: missing(inner[1].split(','))\n"
        "   else: m.version(re.split(r'[<>=\\[ !~(]', name)[0])\n"
        f"missing({sorted(wanted)})"
    )
    done = server.execute("python3", "-c", program)
    assert done.returncode == 0, done.stderr
