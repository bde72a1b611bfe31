"""
Score a file of a million rows: this batch command against scripts, in one run.

    python -m tests.benchmarks.batch [--rows N] [--rounds N] [--only NAME ...] [--memory]

The server (two workers) and the command share the machine; the scripts have it for themselves. Everybody reads the same
file of 28 columns and writes the predictions and all columns; our output and that of the fastest script must be the same
bytes.
``--memory`` runs the command alone, with as many rows and with ten times as many, and says its highest memory use.
"""

import argparse
import filecmp
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.__main__ import FOLDER
from tests.benchmarks.inputs import CATEGORIES, NUMBERS, Subject, dataset, subjects
from tests.benchmarks.processes import MIB, free_ports, serving

BLOCK_ROWS: Final = 100_000
OURS: Final = "prediction-api batch"
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


def commands(subject: Subject, url: str, source: Path, folder: Path) -> dict[str, Callable[[Path], list[str]]]:
    """By name, what writes the scored table to a path."""
    script = [sys.executable, "-m", "tests.benchmarks.batch_scripts"]
    return {
        OURS: lambda target: batch_command(url, source, target),
        EXACT: lambda target: [*script, "exact", str(subject.package), str(source), str(target)],
        PANDAS: lambda target: [*script, "pandas", str(subject.pickle), str(source), str(target)],
    }


def compare(subject: Subject, source: Path, n_rows: int, rounds: int, only: Sequence[str], folder: Path) -> None:
    """Print rows/s and ratios."""
    runs: dict[str, list[Run]] = {}
    port = free_ports(1)
    environ = {"PREDICTION_API_MODEL_REPOSITORY_PATH": str(subject.package), "PREDICTION_API_WORKERS": "2"}
    serve = [sys.executable, "-m", "prediction_api", "serve", "--port", str(port)]
    with serving(serve, port, "/ping", environ):
        todo = commands(subject, f"http://127.0.0.1:{port}", source, folder)
        for _ in range(rounds):
            for name in only or todo:
                target = folder / f"{list(todo).index(name)}.out.csv"
                target.unlink(missing_ok=True)
                runs.setdefault(name, []).append(measured(todo[name](target)))
                _check(target, n_rows)
            _check_same([folder / f"{list(todo).index(name)}.out.csv" for name in (OURS, EXACT) if name in runs])
    ours = statistics.median(run.seconds for run in runs[OURS]) if OURS in runs else float("nan")
    print(f"\n{subject.name}, {n_rows:,} rows, median of {rounds}")
    for place in folder.glob("*.out.csv"):
        place.unlink()
    for name, done in runs.items():
        seconds = statistics.median(run.seconds for run in done)
        peak = max(run.peak for run in done) / MIB
        print(
            f"  {name:34} {n_rows / seconds / 1e3:8.0f}k rows/s {peak:7.0f} MiB   ours is {seconds / ours:5.2f}x",
            flush=True,
        )


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
    arguments.add_argument("--only", nargs="*", default=[], choices=[OURS, EXACT, PANDAS])
    arguments.add_argument("--memory", action="store_true")
    options = arguments.parse_args()

    folder = FOLDER.resolve() / "batch"
    folder.mkdir(parents=True, exist_ok=True)
    models = subjects(FOLDER.resolve())
    source = table(folder, options.rows)
    if options.memory:
        memory(models[0], [(n, table(folder, n)) for n in (options.rows, 10 * options.rows)], folder)
        return
    for subject in models:
        compare(subject, source, options.rows, options.rounds, options.only, folder)


if __name__ == "__main__":
    main()
