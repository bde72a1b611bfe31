"""
The whole way in one go: train, package, serve, ask, stop; first one model, then many; then a whole file in batch; then
a model that forecasts.

Run by `make demo`; with --keep-serving by `make run`. Every line that starts with "$" is a command that you can type
yourself.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(os.path.relpath(Path(__file__).parent))
BIN = Path(sys.executable).parent
WORK = Path(".demo")
PACKAGE = WORK / "model" / "diabetes.mlpkg"
MODELS = WORK / "models"
PATIENTS = WORK / "all-patients.csv"
SEA = WORK / "sea"
START_LIMIT = 60.0  # seconds

PATIENTS_JSON = """\
[{"age": 59, "sex": "sex 2", "bmi": 32.1, "bp": 101, "chol": 157, "ldl": 93.2, "hdl": 38,
  "chol_ratio": 4, "log_tg": 4.86, "glucose": 87},
 {"age": 48, "sex": "sex 1", "bmi": 21.6, "bp": 87, "chol": 183, "ldl": 103.2, "hdl": 70,
  "chol_ratio": 3, "log_tg": 3.89, "glucose": null}]
"""
PATIENTS_CSV = """\
patient,age,sex,bmi,bp,chol,ldl,hdl,chol_ratio,log_tg,glucose
A-17,59,sex 2,32.1,101,157,93.2,38,4,4.86,87
A-18,48,sex 1,21.6,87,183,103.2,70,3,3.89,
"""


def main() -> int:
    """Run the demo; the exit code is the server's."""
    PACKAGE.parent.mkdir(parents=True, exist_ok=True)
    (WORK / "patients.json").write_text(PATIENTS_JSON)
    (WORK / "patients.csv").write_text(PATIENTS_CSV)

    say("1. Train a scikit-learn pipeline and package it")
    run("python", str(HERE / "train.py"), str(PACKAGE), str(PATIENTS))
    run("prediction-api", "package", "inspect", str(PACKAGE))
    run("prediction-api", "package", "report", str(PACKAGE), "-o", str(WORK / "report.html"))

    say("2. Serve the package")
    port = free_port()
    server = serve(port, PACKAGE.parent)
    try:
        wait_until_ready(server, port)
        ask(port)
        if "--keep-serving" in sys.argv[1:]:
            say(f"Serving on http://127.0.0.1:{port} until Ctrl-C")
            server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        say("4. Stop it")
        code = stop(server)
    return code or serve_many(port) or forecast(port) or score_table()


def serve_many(port: int) -> int:
    """The other mode: a directory of models, empty at first; the exit code is the server's."""
    say("5. Serve many models, from an empty directory")
    shutil.rmtree(MODELS, ignore_errors=True)
    MODELS.mkdir()
    server = serve(port, MODELS)
    try:
        wait_until_ready(server, port)
        url = f"http://127.0.0.1:{port}/deployments"
        curl(f"{url}/diabetes", "Content-Type: application/octet-stream", PACKAGE)
        curl(f"{url}/diabetes/predictions", "Content-Type: application/json", WORK / "patients.json")
        curl(url)
        curl(f"{url}/diabetes", method="DELETE")
        curl(url)
    finally:
        say("6. Stop it")
        code = stop(server)
    return code


def forecast(port: int) -> int:
    """A time series: from its past to a package, and from its last two years to the next months."""
    say("7. Fit a model that forecasts, and package it")
    package, asked, settings = SEA / "sea.mlpkg", SEA / "ask.csv", SEA / "ts.yml"
    run("python", str(HERE / "sea.py"), str(SEA))
    print(f"$ cat {settings}\n{settings.read_text()}", end="")
    past = ["create-time-series", str(SEA / "past.csv"), "--config", str(settings), "-o", str(package)]
    run("prediction-api", "package", *past)
    say("8. Ask it for the next months")
    server = serve(port, package)
    try:
        wait_until_ready(server, port)
        print(f"$ tail -8 {asked}\n{''.join(asked.read_text().splitlines(keepends=True)[-8:])}", end="")
        url = f"http://127.0.0.1:{port}/predictions?decimalsNumber=1"
        curl(url, "Content-Type: text/csv", asked, accept="text/csv")
        print(f"\nand what was measured then:\n{(SEA / 'measured.csv').read_text()}", end="")
    finally:
        say("9. Stop it")
        code = stop(server)
    return code


def score_table() -> int:
    """A whole file in one command, with a server of its own; the exit code is the command's."""
    say("10. Score a whole file in batch")
    job, result = WORK / "job.json", WORK / "scored.csv"
    definition = {
        "intake_settings": {"type": "filesystem", "path": str(PATIENTS)},
        "output_settings": {"type": "filesystem", "path": str(result)},
        "passthrough_columns": ["patient"],
    }
    job.write_text(json.dumps(definition, indent=2) + "\n")
    print(f"$ cat {job}\n{job.read_text()}", end="")
    run("prediction-api", "batch", str(job), "--serve", str(PACKAGE))
    print("$ head -5", result)
    print("".join(result.read_text().splitlines(keepends=True)[:5]), end="")
    return 0


def ask(port: int) -> None:
    """The requests of the demo."""
    url = f"http://127.0.0.1:{port}"
    say("3. Ask for predictions")
    curl(f"{url}/predictions", "Content-Type: application/json", WORK / "patients.json")
    curl(
        f"{url}/predictions?passthroughColumns=patient",
        "Content-Type: text/csv",
        WORK / "patients.csv",
        accept="text/csv",
    )
    (WORK / "patient.json").write_text(json.dumps(json.loads(PATIENTS_JSON)[:1]))
    curl(f"{url}/predictions?maxExplanations=3", "Content-Type: application/json", WORK / "patient.json")
    curl(f"{url}/info")


def serve(port: int, repository: Path) -> "subprocess.Popen[bytes]":
    """Start the server on a directory: with one package in its root, or of many models."""
    settings = {
        "PREDICTION_API_MODEL_REPOSITORY_PATH": str(repository),
        "PREDICTION_API_HOST": "127.0.0.1",
        "PREDICTION_API_HTTP_PORT": str(port),
    }
    print("$", *(f"{name}={value}" for name, value in settings.items()), "prediction-api serve &")
    return subprocess.Popen([BIN / "prediction-api", "serve"], env=os.environ | settings)


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Return once ``/ping`` answers 200."""
    began = time.monotonic()
    while time.monotonic() < began + START_LIMIT:
        if server.poll() is not None:
            raise SystemExit(f"the server ended at its start with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
                answer.read()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
        else:
            print(f"ready after {time.monotonic() - began:.2f} s")
            return
    raise SystemExit(f"no answer on /ping within {START_LIMIT:.0f} s")


def stop(server: "subprocess.Popen[bytes]") -> int:
    """SIGTERM: what runs is finished, then the server exits with 0."""
    if server.poll() is None:
        print(f"$ kill -TERM {server.pid}")
        server.send_signal(signal.SIGTERM)
    code = server.wait(timeout=60)
    print(f"exit code {code}")
    return code


def curl(
    url: str,
    header: str | None = None,
    body: Path | None = None,
    accept: str = "application/json",
    method: str | None = None,
) -> None:
    """Print the command and what it answers."""
    command = ["curl", "-s", url] if method is None else ["curl", "-s", "-X", method, url]
    if body and header:
        command += ["-H", header, "-H", f"Accept: {accept}", "--data-binary", f"@{body}"]
    print("\n$", shlex.join(command))
    if shutil.which("curl"):
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    else:
        print("(there is no curl here: asked from Python instead)")
        headers = {"Accept": accept} | (dict([header.split(": ")]) if header else {})
        request = urllib.request.Request(url, body.read_bytes() if body else None, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read().decode()
    print(readable(json.loads(answer)) if answer and accept.endswith("json") else answer.rstrip())


def readable(value: Any, indent: str = "") -> str:
    """JSON with a line for whatever fits on one."""
    line = json.dumps(value)
    if not isinstance(value, dict | list) or len(indent + line) <= 100:
        return line
    further = indent + "  "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {readable(part, further)}" for key, part in value.items()]
    else:
        parts = [readable(part, further) for part in value]
    return f"{line[0]}\n{further}" + f",\n{further}".join(parts) + f"\n{indent}{line[-1]}"


def run(program: str, *arguments: str) -> None:
    """Print a command and run it."""
    print("$", shlex.join([program, *arguments]), flush=True)
    subprocess.run([BIN / program, *arguments], check=True)


def free_port() -> int:
    """8080 if nobody has it."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 8080))
        except OSError:
            probe.close()
            with socket.socket() as other:
                other.bind(("127.0.0.1", 0))
                port: int = other.getsockname()[1]
                print(f"port 8080 is taken, so this uses {port}")
                return port
    return 8080


def say(title: str) -> None:
    """A heading."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title} ==", flush=True)


if __name__ == "__main__":
    sys.exit(main())
