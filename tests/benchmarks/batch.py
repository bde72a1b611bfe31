"""
Score a file of a million rows: this batch command against scripts, in one run.

    python -m tests.benchmarks.batch [--rows N] [--rounds N] [--only NAME ...] [--memory]

The server (two workers) and the command share the machine; the others have it for themselves. Everybody reads the same
file of 28 columns and writes the predictions and all columns, except MLflow's command, which writes predictions alone;
our output and that of the fastest script must be the same bytes.
``--memory`` runs the command alone, with as many rows and with ten times as many, and says its highest memory use.
"""

import argparse
import filecmp
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from tests.benchmarks.inputs import CATEGORIES, FOLDER, NUMBERS, Subject, dataset, subjects
from tests.benchmarks.peers import MLFLOW, mlflow_model
from tests.benchmarks.processes import MIB, free_ports, serving

BLOCK_ROWS: Final = 100_000
OURS: Final = "prediction-api batch"
INTRODUCTION: Final = """\
## Batch

A file of {n_rows:,} rows to a file, 28 columns, all passed through; the median of {rounds} rounds. The batch command
shares the machine with its server of two workers (memory: the command's own); the others have both cores for
themselves. `mlflow models predict` gets the table as JSON, and writes predictions alone.\
"""
BATCH: Final = """
import asyncio, json, sys
from batch.definition import definition_from
from batch.runner import run_job
from batch.settings import Credentials
asyncio.run(run_job(definition_from(json.loads(sys.argv[1])).job, Credentials()))
print(open("/proc/self/status").read())
"""
EXACT: Final = "script: the same engine, no HTTP"
PANDAS: Final = "script: pandas chunks"
MLFLOW_COMMAND: Final = "mlflow models predict"
TARGETS: Final = {EXACT: ("1.0x", "1.0x"), PANDAS: ("7x", "3.5x"), MLFLOW_COMMAND: ("10x", "10x")}
"""For the linear model, and for boosted trees."""


@dataclass(frozen=True)
class Run:
    """One process from start to end."""

    seconds: float
    peak: int
    """Highest resident memory, bytes."""


def table(folder: Path, n_rows: int) -> Path:
    """A CSV of so many rows; the same block of rows again and again."""
    path = folder / f"{n_rows}.csv"
    if not path.exists():
        rows = dataset(min(n_rows, BLOCK_ROWS), seed=3)[NUMBERS + CATEGORIES]
        part = path.with_suffix(".part")
        rows.to_csv(part, index=False)
        body = rows.to_csv(header=False, index=False).encode()
        with part.open("ab") as file:
            for _ in range(n_rows // BLOCK_ROWS - 1):
                file.write(body)
        part.rename(path)
    return path


def as_json(source: Path) -> Path:
    """The same table for MLflow's command, which takes codes such as ``007`` in a CSV for numbers."""
    path = source.with_suffix(".json")
    if not path.exists():
        rows = pd.read_csv(source, dtype=dict.fromkeys(CATEGORIES, str), keep_default_na=False, na_values=[""])
        part = path.with_suffix(".part")
        part.write_text(f'{{"dataframe_split":{rows.to_json(orient="split", index=False, double_precision=15)}}}')
        part.rename(path)
    return path


def measured(command: Sequence[str]) -> Run:
    """Run it to its end; it prints its own status, because what the system says counts our memory before the start."""
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    return Run(seconds, int(status["VmHWM"].split()[0]) * 1024)


def batch_command(url: str, source: Path, target: Path) -> list[str]:
    """Our command; all columns passed through."""
    job = {
        "prediction_endpoint": url,
        "passthrough_columns_set": "all",
        "intake_settings": {"type": "filesystem", "path": str(source)},
        "output_settings": {"type": "filesystem", "path": str(target), "write_mode": "overwrite"},
    }
    return [sys.executable, "-c", BATCH, json.dumps(job)]


def commands(subject: Subject, url: str, source: Path) -> dict[str, Callable[[Path], list[str]]]:
    """By name, what writes the scored table to a path."""
    script = [sys.executable, "-m", "tests.benchmarks.batch_scripts"]
    mlflow = MLFLOW.bin(FOLDER)
    predict = [str(mlflow / "python"), "-m", "tests.benchmarks.predict_mlflow", str(mlflow_model(mlflow, subject))]
    return {
        OURS: lambda target: batch_command(url, source, target),
        EXACT: lambda target: [*script, "exact", str(subject.package), str(source), str(target)],
        PANDAS: lambda target: [*script, "pandas", str(subject.pickle), str(source), str(target)],
        MLFLOW_COMMAND: lambda target: [*predict, str(as_json(source)), str(target)],
    }


def compare(subject: Subject, source: Path, n_rows: int, rounds: int, only: Sequence[str]) -> dict[str, list[Run]]:
    """The runs of each, taking turns."""
    runs: dict[str, list[Run]] = {}
    port = free_ports(1)
    environ = {"PREDICTION_API_MODEL_REPOSITORY_PATH": str(subject.package), "PREDICTION_API_WORKERS": "2"}
    serve = [sys.executable, "-m", "prediction_api", "serve", "--port", str(port)]
    with tempfile.TemporaryDirectory(dir=source.parent) as folder, serving(serve, port, "/ping", environ):
        todo = commands(subject, f"http://127.0.0.1:{port}", source)
        for _ in range(rounds):
            targets = {name: Path(folder) / f"{number}.csv" for number, name in enumerate(todo)}
            for name in only or todo:
                runs.setdefault(name, []).append(measured(todo[name](targets[name])))
                if name != MLFLOW_COMMAND:
                    _check(targets[name], n_rows)
            _check_same([targets[name] for name in (OURS, EXACT) if name in runs])
            for target in targets.values():
                target.unlink(missing_ok=True)
    return runs


def batch_table(runs: Mapping[str, list[Run]], n_rows: int, place: int) -> str:
    """One line per command; *place* is that of the model in `TARGETS`."""
    lines = ["| command | rows/s | peak memory, MiB | ours is | target |", "|---|---:|---:|---:|---|"]
    ours = statistics.median(run.seconds for run in runs[OURS]) if OURS in runs else float("nan")
    for name, done in runs.items():
        seconds = statistics.median(run.seconds for run in done)
        ratio, target = ("", "") if name == OURS else (f"{seconds / ours:.2f}x", f"at least {TARGETS[name][place]}")
        peak = max(run.peak for run in done) / MIB
        lines.append(f"| {name} | {n_rows / seconds:,.0f} | {peak:.0f} | {ratio} | {target} |")
    return "\n".join(lines)


def batch_section(models: Sequence[Subject], n_rows: int, rounds: int, only: Sequence[str] = ()) -> str:
    """The part of the page about batch."""
    folder = FOLDER / "batch"
    folder.mkdir(parents=True, exist_ok=True)
    source = table(folder, n_rows)
    parts = [INTRODUCTION.format(n_rows=n_rows, rounds=rounds)]
    for place, subject in enumerate(models):
        runs = compare(subject, source, n_rows, rounds, only)
        parts.append(f"### Batch: {subject.name}\n\n{batch_table(runs, n_rows, place)}")
        print(parts[-1], flush=True)
    return "\n\n".join(parts)


def _check(target: Path, n_rows: int) -> None:
    with target.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(MIB), b""))
    if lines != n_rows + 1:
        raise AssertionError(f"{target}: {lines} lines for {n_rows} rows")


def _check_same(written: Sequence[Path]) -> None:
    for other in written[1:]:
        if not filecmp.cmp(written[0], other, shallow=False):
            raise AssertionError(f"{written[0]} and {other} differ")


def memory(subject: Subject, sources: Sequence[tuple[int, Path]], folder: Path) -> None:
    """Print the highest memory use of the command by size of the input."""
    port = free_ports(1)
    environ = {"PREDICTION_API_MODEL_REPOSITORY_PATH": str(subject.package), "PREDICTION_API_WORKERS": "2"}
    serve = [sys.executable, "-m", "prediction_api", "serve", "--port", str(port)]
    with serving(serve, port, "/ping", environ):
        for n_rows, source in sources:
            target = folder / "memory.out.csv"
            run = measured(batch_command(f"http://127.0.0.1:{port}", source, target))
            target.unlink()
            print(
                f"  {n_rows:>12,} rows: peak {run.peak / MIB:.0f} MiB, {n_rows / run.seconds / 1e3:.0f}k rows/s",
                flush=True,
            )


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(prog="python -m tests.benchmarks.batch")
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", nargs="*", default=[], choices=[OURS, *TARGETS])
    arguments.add_argument("--memory", action="store_true")
    options = arguments.parse_args()

    FOLDER.mkdir(parents=True, exist_ok=True)
    models = subjects(FOLDER)
    if options.memory:
        folder = FOLDER / "batch"
        folder.mkdir(exist_ok=True)
        memory(models[0], [(n, table(folder, n)) for n in (options.rows, 10 * options.rows)], folder)
    else:
        batch_section(models, options.rows, options.rounds, options.only)


if __name__ == "__main__":
    main()
