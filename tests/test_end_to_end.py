"""The whole product as its user has it: real processes, real sockets, a model that was really trained."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import joblib
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from model_repository import create_package

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
START_LIMIT = 30.0


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[str]"
    url: str

    def ask(self, body: str, content_type: str, accept: str = "application/json", **query: str) -> httpx.Response:
        headers = {"Content-Type": content_type, "Accept": accept}
        answer = httpx.post(f"{self.url}/predictions", content=body, headers=headers, params=query, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer

    def pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]


def environment(package: Path, port: int) -> dict[str, str]:
    settings = {"MODEL_REPOSITORY_PATH": str(package), "HOST": "127.0.0.1", "HTTP_PORT": str(port), "WORKERS": "2"}
    return os.environ | {f"PREDICTION_API_{name}": value for name, value in settings.items()}


@contextlib.contextmanager
def serving(package: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(BIN / "prediction-api"), "serve"]
    process = subprocess.Popen(command, env=environment(package, port), stderr=subprocess.PIPE, text=True)
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        _, log = process.communicate(timeout=30)
        sys.stderr.write(log)


def wait_until_ready(server: Server) -> None:
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit and server.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/ping").status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError("the server did not become ready")


@pytest.fixture(scope="module")
def demo_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("demo") / "diabetes.mlpkg"
    subprocess.run([sys.executable, ROOT / "examples" / "train.py", package], check=True)
    return package


@pytest.fixture(scope="module")
def demo_server(demo_package: Path) -> Iterator[Server]:
    with serving(demo_package.parent) as server:
        yield server


ESTIMATORS = {
    "logistic regression": (OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
    "boosted trees": (
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        HistGradientBoostingClassifier(max_iter=20, random_state=0),
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_answers_equal_the_estimator(name: str, tmp_path: Path) -> None:
    """JSON and CSV, few rows and many, unseen categories included."""
    encoder, last = ESTIMATORS[name]
    ages = [float(20 + i % 50) for i in range(2000)]
    rows = pd.DataFrame({"age": ages, "city": [("Oslo", "Rome", "Lima")[i % 3] for i in range(2000)]})
    bought = pd.Series(["yes" if age * (1 + i % 3) > 60 else "no" for i, age in enumerate(ages)], name="bought")
    model = make_pipeline(make_column_transformer((StandardScaler(), ["age"]), (encoder, ["city"])), last)
    model.fit(rows, bought)
    create_package(tmp_path / "m.mlpkg", model, rows.join(bought), target="bought", positive_class="yes")
    rows.loc[3, "city"] = "Atlantis"
    expected = model.predict_proba(rows)[:, 1]

    with serving(tmp_path) as server:
        few = server.ask(rows[:5].to_json(orient="records"), "application/json").json()["data"]
        many = server.ask(rows.to_csv(index=False), "text/csv").json()["data"]
        table = server.ask(rows.to_csv(index=False), "text/csv", accept="text/csv").text

    assert [row["predictionValues"][0]["value"] for row in few] == pytest.approx(expected[:5], abs=1e-10)
    assert [row["predictionValues"][0]["value"] for row in many] == pytest.approx(expected, abs=1e-10)
    assert [row["prediction"] for row in many] == model.predict(rows).tolist()
    assert [float(row["bought_yes_PREDICTION"]) for row in csv.DictReader(io.StringIO(table))] == pytest.approx(
        expected, abs=1e-10
    )


def test_readme_shows_the_real_answer(demo_server: Server) -> None:
    shown = re.search(r"-d '(.*?)'\n```\n+```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown

    answer = demo_server.ask(shown[1], "application/json")

    assert answer.json() == json.loads(shown[2])


def test_a_compiled_package_is_served_without_its_library(demo_server: Server) -> None:
    """No process of the server has mapped a library of scikit-learn, pandas or scipy."""
    info = httpx.get(f"{demo_server.url}/info").json()
    assert info["runtime"]["path"] == "compiled"

    limit = time.monotonic() + START_LIMIT
    while len(pids := demo_server.pids()) != 3:  # who kept the port until the workers served may still be ending
        assert time.monotonic() < limit, pids

    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]

    assert not re.findall(r"/(?:sklearn|pandas|scipy)/", "".join(maps))


def test_stopping_exits_with_0(demo_package: Path) -> None:
    with serving(demo_package) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0


def test_a_package_that_cannot_be_served_stops_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mlpkg"
    broken.write_bytes(b"PK not really")

    done = subprocess.run(
        [BIN / "prediction-api", "serve"], env=environment(broken, 0), capture_output=True, text=True, timeout=30
    )

    assert done.returncode not in (0, None)
    assert "broken.mlpkg" in done.stderr
    assert "Traceback" not in done.stderr


def test_package_commands(demo_package: Path, tmp_path: Path) -> None:
    def prediction_api(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [str(BIN / "prediction-api"), "package", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    rows = pd.DataFrame({"x": [float(i) for i in range(40)], "y": ["no"] * 20 + ["yes"] * 20})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    joblib.dump(LogisticRegression().fit(rows[["x"]], rows["y"]), tmp_path / "model.joblib")
    made = tmp_path / "made.mlpkg"

    created = prediction_api(
        "create", tmp_path / "model.joblib", "--sample", tmp_path / "rows.csv", "--target", "y", "-o", made
    )
    inspected = prediction_api("inspect", "--json", made)
    verified = prediction_api("verify", made)

    assert created.returncode == 0, created.stderr
    assert json.loads(inspected.stdout)["target"]["class_labels"] == ["yes", "no"]
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("own_server", [True, False], ids=["own server", "running server"])
def test_a_file_in_batch(own_server: bool, demo_package: Path, demo_server: Server, tmp_path: Path) -> None:
    """The rows of the file with what the server says of them, by either way of having one."""
    header = "patient,age,sex,bmi,bp,chol,ldl,hdl,chol_ratio,log_tg,glucose\n"
    rows = [
        f"{i:05d},{20 + i % 60},sex {1 + i % 2},{18 + i % 20},{80 + i % 30},157,93.2,38,4,4.86,87" for i in range(3000)
    ]
    text = header + "\n".join(rows) + "\n"
    (tmp_path / "in.csv").write_text(text)
    job = {
        "intake_settings": {"type": "filesystem", "path": str(tmp_path / "in.csv")},
        "output_settings": {"type": "filesystem", "path": str(tmp_path / "out.csv")},
        "passthrough_columns": ["patient"],
        "mini_batch_size": 400,
    }
    (tmp_path / "job.json").write_text(
        json.dumps(job if own_server else job | {"prediction_endpoint": demo_server.url})
    )
    served = ["--serve", str(demo_package)] if own_server else []

    done = subprocess.run(
        [BIN / "prediction-api", "batch", tmp_path / "job.json", *served, "--report", tmp_path / "report.json"],
        env=os.environ | {"PREDICTION_API_BATCH_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    assert "completed: 3,000 rows read = 3,000 scored + 0 failed + 0 skipped" in done.stderr
    assert "warning" not in done.stderr
    expected = demo_server.ask(text, "text/csv", accept="text/csv", passthroughColumns="patient").text
    assert (tmp_path / "out.csv").read_text() == expected
    assert json.loads((tmp_path / "report.json").read_text())["rows_scored"] == 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "job.json", "out.csv", "report.json"]


@pytest.mark.parametrize("with_curl", [True, False], ids=["curl", "no curl"])
def test_the_demo(with_curl: bool, tmp_path: Path) -> None:
    """As ``make demo`` runs it, but in a directory of its own."""
    if with_curl and not shutil.which("curl"):
        pytest.skip("not installed here: curl")
    path = os.environ["PATH"] if with_curl else str(tmp_path)

    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    assert '"predictionValues"' in done.stdout
    assert "fast_yes_PREDICTION,fast_no_PREDICTION,fast_PREDICTION,THRESHOLD,POSITIVE_CLASS,patient" in done.stdout
    assert ("asked from Python instead" in done.stdout) is not with_curl
    assert '"outcome": "created"' in done.stdout
    assert done.stdout.count("exit code 0") == 3
