"""The ``batch`` command's arguments. What it does is imported when it runs, so that ``--help`` answers at once."""

import argparse
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

Serve = Callable[[Path, Mapping[str, str]], AbstractAsyncContextManager[str]]
"""
Start a server for the packages at a path, on loopback; enter with its base URL, leave when it has stopped.

It must not hear the signals of a terminal: batch ends its work with the server, then leaves.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow ``batch``."""
    parser.description = "Score a whole table through a prediction server, as a job definition says."
    parser.epilog = (
        "Exit status: 0 completed, 1 failed or aborted, 2 wrong definition, arguments or variables. "
        "After a failure or an abort the same command continues the job."
    )
    parser.add_argument("job", metavar="JOB.json", type=Path, help="the job definition")
    parser.add_argument(
        "--validate", "--dry_run", "--dry-run", action="store_true", help="check everything, write nothing"
    )
    parser.add_argument("--limit", metavar="N", type=_positive, help="score only the first N rows")
    parser.add_argument("--restart", action="store_true", help="forget what an unfinished run left, and start over")
    parser.add_argument(
        "--serve", metavar="PATH", type=Path, help="start a server for this package or directory, and use it"
    )
    parser.add_argument("--report", metavar="FILE", type=Path, help="write what was done, as JSON")
    parser.add_argument(
        "--state-dir", "--state_dir", metavar="DIR", type=Path, help="where the states of unfinished jobs are kept"
    )
    parser.add_argument(
        "--log-format", "--log_format", choices=("text", "json"), help="lines for people (default), or JSON objects"
    )
    parser.add_argument("--verbose", action="store_true", help="say more")
    parser.add_argument("--api_host", "--api-host", metavar="URL", help="platform to report the job's status to")
    parser.add_argument(
        "--api_token",
        "--api-token",
        metavar="TOKEN",
        help="token for it; others can see it here, but not in PREDICTION_API_BATCH_API_TOKEN",
    )


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return number


def run(arguments: argparse.Namespace, environ: Mapping[str, str], serve: Serve) -> int:
    """Run the job; the exit status: 0 completed, 1 failed or aborted, 2 wrong definition, arguments or variables."""
    from batch.command import run_command
    from batch.settings import without_credentials

    return run_command(arguments, environ, lambda path: serve(path, without_credentials(environ)))
