"""
The ``prediction-api`` command: the only module that reads the environment and that knows both the server and batch.

A command's modules are imported only when that command runs, so that ``--help`` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from model_repository.errors import SettingsError

if TYPE_CHECKING:
    from prediction_api.config_file import Config

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
"""Wrong arguments or settings."""

DISTRIBUTION: Final = "portable-prediction-server"
NATIVE_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FLAGS: Final = {
    "PREDICTION_API_MODEL_REPOSITORY_PATH": "model_repository",
    "PREDICTION_API_HOST": "host",
    "PREDICTION_API_HTTP_PORT": "port",
    "PREDICTION_API_HTTPS_PORT": "port",  # only one of the two is served
    "PREDICTION_API_WORKERS": "workers",
}
"""Variables, and the options of ``serve`` that win over them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 wrong arguments or settings."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # A command is only missing when nothing at all or an option of `serve` comes first.
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given = ["serve", *given]
    parsed = _parser(given[0]).parse_args(given)
    try:
        return {"serve": _serve, "package": _package, "batch": _batch, "health": _health}[parsed.command](parsed)
    except SettingsError as error:
        for problem in str(error).splitlines():
            _say(problem)
        return EXIT_USAGE


def native_threads(environ: Mapping[str, str], workers: int, cores: int) -> dict[str, str]:
    """
    What the variables of OpenMP and BLAS should say, so that *workers* together never use more than *cores*.

    One thread each unless the operator asked for more and there are cores for it: small requests gain nothing from
    threads, and several pools on the same cores are slower than one.
    """
    share = max(1, cores // workers)
    wanted = {}
    for name in NATIVE_THREADS:
        given = environ.get(name, "")
        wanted[name] = str(min(int(given), share) if given.isdecimal() and int(given) else 1)
    return wanted


class _Version(argparse.Action):
    """``--version``, found out only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version(DISTRIBUTION)
        except PackageNotFoundError:  # run from its sources
            number = "unknown"
        sys.stdout.write(f"prediction-api {number}\n")
        parser.exit()


def _parser(command: str) -> argparse.ArgumentParser:
    """The command line; only *command* gets its own arguments where finding them out costs imports."""
    parser = argparse.ArgumentParser(
        prog="prediction-api",
        description="Serve packaged models over HTTP, or work with packages. Without a command: serve.",
        epilog="All settings are environment variables, PREDICTION_API_...: see docs/settings.md.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", help="answer predictions over HTTP (the default)")
    serve.add_argument("--model-repository", metavar="PATH", help="a .mlpkg file, or a directory of them")
    serve.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", help="port (default: 8080, or 8443 with TLS; 0: any free one, which is printed)")
    serve.add_argument("--workers", help="worker processes (default: 1)")
    package = commands.add_parser("package", help="make, look at and verify packages")
    if command == "package":
        from model_repository.package_cli import add_arguments

        add_arguments(package)
    batch = commands.add_parser("batch", help="score a table from a store into a store")
    if command == "batch":
        from batch.cli import add_arguments as add_batch_arguments

        add_batch_arguments(batch)
    commands.add_parser("health", help="whether the server of these settings can score: status 0, else 1")
    return parser


def _config() -> "Config":
    """What the config file says."""
    from prediction_api.config_file import read_config
    from prediction_api.settings import CONFIG_PATH, PREFIX

    path = os.environ.get(f"{PREFIX}CONFIG_PATH", "").strip()
    return read_config(Path(path) if path else CONFIG_PATH, required=bool(path))


def _serve(parsed: argparse.Namespace) -> int:
    from prediction_api.settings import settings_from, warnings_about

    config = _config()
    given = {variable: getattr(parsed, option) for variable, option in FLAGS.items()}
    flags = {variable: text for variable, text in given.items() if text is not None}
    settings = settings_from(os.environ, config.values, flags)
    for warning in (*config.warnings, *warnings_about(settings, os.environ, config.values)):
        _say(f"warning: {warning}")
    cores = len(os.sched_getaffinity(0))
    os.environ.update(native_threads(os.environ, settings.workers, cores))  # numpy reads them when it is imported

    from prediction_api.server import serve

    return serve(settings)


def _health(_: argparse.Namespace) -> int:
    from prediction_api.health import problem_with
    from prediction_api.settings import settings_from

    problem = problem_with(settings_from(os.environ, _config().values))
    if problem is not None:
        _say(problem)
    return EXIT_OK if problem is None else EXIT_FAILED


def _package(parsed: argparse.Namespace) -> int:
    from model_repository.package_cli import run

    return run(parsed)


def _batch(parsed: argparse.Namespace) -> int:
    from batch.cli import run
    from prediction_api.loopback import serving

    return run(parsed, os.environ, serving)


def _say(line: str) -> None:
    sys.stderr.write(f"prediction-api: {line}\n")
