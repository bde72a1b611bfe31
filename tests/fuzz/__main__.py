"""
Everything that is fuzzed, one after the other, each for so many seconds:  make fuzz FUZZ_SECONDS=60

Property tests of the suite with fresh seeds; the readers under atheris; servers by their own OpenAPI documents. The
exit status is 1 if anything was found; the inputs then lie in .tools/fuzz.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.fuzz.seeds import dictionary, seeds
from tests.fuzz.targets import TARGETS
from tests.prediction_api.server_process import serving

FOUND: Final = Path(".tools/fuzz")
HANGS_AFTER_SECONDS: Final = 20
MOST_MEGABYTES: Final = 2048


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description="Malformed requests, packages and tables.")
    parser.add_argument("--seconds", type=int, default=60, help="for each (default: 60)")
    parser.add_argument("only", nargs="*", help=f"some of: properties, {', '.join(TARGETS)}, one, many")
    given = parser.parse_args()
    FOUND.mkdir(parents=True, exist_ok=True)
    names = given.only or ["properties", *TARGETS, "one", "many"]
    failed = [line for name in names if (line := _outcome(name, given.seconds))]
    print("\n".join(failed) if failed else "nothing found")
    return 1 if failed else 0


def _outcome(name: str, seconds: int) -> str | None:
    """What was found, in a line."""
    began = time.monotonic()
    done, log, summary = _run(name, seconds)
    print(f"{name:12} {time.monotonic() - began:4.0f} s  {summary}", flush=True)
    if not done:
        return None
    path = FOUND / f"{name}.log"
    path.write_text(log)
    return f"{name}: found something, see {path} and the inputs beside it"


def _run(name: str, seconds: int) -> tuple[int, str, str]:
    if name == "properties":
        return _properties(seconds)
    if name in TARGETS:
        return _atheris(name, seconds)
    return _openapi(name, seconds)


def _properties(seconds: int) -> tuple[int, str, str]:
    """The property tests of the suite, again and again."""
    deadline = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < deadline:
        seed = secrets.randbelow(2**32)
        status, log = _output(
            *("pytest", "-q", "-m", "hypothesis", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"),
            *("tests/model_repository", "tests/prediction_api", "tests/batch"),
        )
        rounds += 1
        if status:
            return status, log, f"failed with seed {seed}"
    return 0, "", f"{rounds} rounds of all property tests"


def _atheris(name: str, seconds: int) -> tuple[int, str, str]:
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds()[name]):
            (corpus / str(number)).write_bytes(seed)
        words = Path(directory) / "words"
        words.write_text(dictionary(name) or '"PK"\n')
        status, log = _output(
            *("tests.fuzz.atheris_run", name, str(corpus), f"-dict={words}", f"-max_total_time={seconds}"),
            *(f"-timeout={HANGS_AFTER_SECONDS}", f"-rss_limit_mb={MOST_MEGABYTES}", "-max_len=65536"),
            f"-artifact_prefix={FOUND}/{name}-",
        )
    runs = [line for line in log.splitlines() if " DONE " in line]
    return status, log, runs[-1].strip() if runs else log.strip().splitlines()[-1]


def _openapi(name: str, seconds: int) -> tuple[int, str, str]:
    """Requests that a server's own document describes, and others, in sequences."""
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory) / "model.mlpkg"
        package.write_bytes(seeds()["archive"][0])
        place = package if name == "one" else _many(Path(directory), package)
        with serving("prediction_api", model_repository_path=place, workers=2, access_log_enabled=False) as server:
            base = f"http://127.0.0.1:{server.port}"
            status, log = _output(
                *("schemathesis.cli", "fuzz", f"{base}/openapi.json", f"--max-time={seconds}", "--continue-on-failure"),
                # A schema cannot say which values a model takes, nor that a column must stand in some row.
                *(
                    "--checks=all",
                    "--exclude-checks=positive_data_acceptance",
                    "--request-timeout=20",
                    "--suppress-health-check=all",
                    "--warnings=off",
                ),
                place=Path(directory),  # it leaves files where it runs
            )
            log += server.log
            is_alive = server.status_of("/ping") == 200
    if "Traceback" in log or not is_alive:
        return 1, log, "the server broke"
    return status, log, next((line.strip() for line in log.splitlines() if "generated" in line), "see the log")


def _many(directory: Path, package: Path) -> Path:
    """A repository with one deployment."""
    root = directory / "repository"
    (root / "a").mkdir(parents=True)
    package.rename(root / "a" / "model.mlpkg")
    return root


def _output(*arguments: str, place: Path | None = None) -> tuple[int, str]:
    """Status and words of a Python module."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=place,
        env=dict(_environment()),
        capture_output=True,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout + done.stderr


def _environment() -> Iterator[tuple[str, str]]:
    yield from os.environ.items()
    yield "NO_COLOR", "1"
    yield "COLUMNS", "120"


if __name__ == "__main__":
    sys.exit(main())
