"""Every server of the comparison: how it is installed, started, asked, and what its answer means."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pandas as pd

from tests.benchmarks.inputs import Subject, csv, records

HERE: Final = Path(__file__).parent
# The model runs on the same libraries everywhere, so that the servers alone differ.
SAME: Final = tuple(f"{name}=={version(name)}" for name in ("scikit-learn", "numpy", "pandas", "scipy", "joblib"))


@dataclass(frozen=True)
class Question:
    """A request but for its host: path, content type and body."""

    path: str
    content_type: str
    body: bytes

    def http(self) -> bytes:
        """The bytes on the wire."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {self.content_type}\r\n"
        return f"{head}Accept: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n".encode() + self.body


@dataclass(frozen=True)
class Peer:
    """One server."""

    name: str
    command: Callable[[Path, Subject, int], list[str]]
    """Its ``bin`` folder, the model and the port -> the command that serves."""
    ask_json: Callable[[pd.DataFrame], Question]
    ask_csv: Callable[[pd.DataFrame], Question] | None
    answered: Callable[[bytes], list[float]]
    """The body of an answer -> the probability of ``yes`` for each row."""
    ping: str = "/ping"
    requirements: tuple[str, ...] = ()
    """Empty: it runs in this project's own environment."""
    environ: Mapping[str, str] = field(default_factory=dict, hash=False)

    def ask_bulk(self, rows: pd.DataFrame) -> Question:
        """CSV where the server reads it, else its JSON."""
        return (self.ask_csv or self.ask_json)(rows)

    def bin(self, folder: Path) -> Path:
        """Its ``bin`` folder, made on first use below *folder*."""
        if not self.requirements:
            return Path(sys.executable).parent
        place = folder / self.name
        wanted = "\n".join((*self.requirements, *SAME))
        stamp = place / "requirements.txt"
        if not (stamp.exists() and stamp.read_text() == wanted):
            print(f"installing {self.name} into {place}", file=sys.stderr)
            venv.create(place, clear=True, with_pip=True)
            subprocess.run([place / "bin" / "pip", "install", "-qq", *self.requirements, *SAME], check=True)
            stamp.write_text(wanted)
        return place / "bin"


def _ours(bin_: Path, subject: Subject, port: int) -> list[str]:
    return [
        "env",
        f"PREDICTION_API_MODEL_REPOSITORY_PATH={subject.package}",
        f"PREDICTION_API_HTTP_PORT={port}",
        "PREDICTION_API_HOST=127.0.0.1",
        str(bin_ / "prediction-api"),
        "serve",
    ]


def _ours_answered(body: bytes) -> list[float]:
    return [row["predictionValues"][0]["value"] for row in json.loads(body)["data"]]


OURS: Final = Peer(
    "prediction-api",
    _ours,
    lambda rows: Question("/predictions", "application/json", json.dumps(records(rows)).encode()),
    lambda rows: Question("/predictions", "text/csv", csv(rows)),
    _ours_answered,
)

FASTAPI: Final = Peer(
    "fastapi",
    lambda bin_, subject, port: [str(bin_ / "python"), str(HERE / "serve_fastapi.py"), str(port), str(subject.pickle)],
    lambda rows: Question("/json", "application/json", json.dumps(records(rows)).encode()),
    lambda rows: Question("/csv", "text/csv", csv(rows)),
    lambda body: [row["probabilities"]["yes"] for row in json.loads(body)["predictions"]],
    requirements=("fastapi==0.165.0", "uvicorn[standard]==0.54.0"),
)


def mlflow_model(bin_: Path, subject: Subject) -> Path:
    """The model as MLflow's own, made on first use."""
    saved = subject.pickle.with_name("mlflow")
    if not saved.exists():
        subprocess.run(
            [bin_ / "python", HERE / "save_mlflow.py", subject.pickle, saved], check=True, env=_environ(bin_)
        )
    return saved


def _mlflow(bin_: Path, subject: Subject, port: int) -> list[str]:
    return [
        str(bin_ / "mlflow"),
        "models",
        "serve",
        "-m",
        str(mlflow_model(bin_, subject)),
        "--env-manager",
        "local",
        "-p",
        str(port),
        "-w",
        "1",
    ]


def _environ(bin_: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"}


MLFLOW: Final = Peer(
    "mlflow",
    _mlflow,
    lambda rows: Question(
        "/invocations", "application/json", json.dumps({"dataframe_records": records(rows)}).encode()
    ),
    lambda rows: Question("/invocations", "text/csv", csv(rows)),
    lambda body: [row[1] for row in json.loads(body)["predictions"]],
    requirements=("mlflow==3.17.2",),
    environ={"MLFLOW_DISABLE_TELEMETRY": "true"},
)


def _mlserver(bin_: Path, subject: Subject, port: int) -> list[str]:
    place = subject.pickle.with_name("mlserver")
    place.mkdir(exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
    }
    model = {
        "name": "model",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(subject.pickle), "content_type": "pd"},
    }
    (place / "settings.json").write_text(json.dumps(settings))
    (place / "model-settings.json").write_text(json.dumps(model))
    return [str(bin_ / "mlserver"), "start", str(place)]


def _mlserver_question(rows: pd.DataFrame) -> Question:
    inputs: list[dict[str, Any]] = []
    for name in rows:
        is_text = str(name).startswith("cat")
        values = rows[name].astype(object).where(rows[name].notna(), None).tolist()
        inputs.append(
            {
                "name": name,
                "datatype": "BYTES" if is_text else "FP64",
                "shape": [len(values), 1],
                "data": values,
                **({"parameters": {"content_type": "str"}} if is_text else {}),
            }
        )
    asked = {"parameters": {"content_type": "pd"}, "inputs": inputs, "outputs": [{"name": "predict_proba"}]}
    return Question("/v2/models/model/infer", "application/json", json.dumps(asked).encode())


MLSERVER: Final = Peer(
    "mlserver",
    _mlserver,
    _mlserver_question,
    None,
    lambda body: json.loads(body)["outputs"][0]["data"][1::2],
    ping="/v2/models/model/ready",
    requirements=("mlserver==1.7.1", "mlserver-sklearn==1.7.1"),
)

PEERS: Final = (FASTAPI, MLFLOW, MLSERVER)


def echo_command(port: int, answer: Path) -> list[str]:
    """The floor under every server, run in this project's own environment."""
    return [sys.executable, str(HERE / "serve_echo.py"), str(port), str(answer)]
