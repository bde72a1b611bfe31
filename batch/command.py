"""
The ``batch`` command: a definition and the environment in, an exit status out.

Everything that goes wrong on purpose becomes one line on standard error and a status; no secret is in any line. A
signal ends the job cleanly, a second one at once.
"""

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, Final

import anyio
import msgspec

from batch.adapters import database_for
from batch.addresses import refuse_link_local
from batch.definition import Definition, read_definition
from batch.errors import AdapterUnavailable, BatchError, JobAborted, JobError, JobRunning, StateMismatch
from batch.job import Job, fingerprint, options_of
from batch.logs import LOG, configure_logs, redacted
from batch.progress import Counts, Lines, View, bar, progress_fields, shown, speed_of
from batch.redaction import Redactor
from batch.report import Report
from batch.retries import RetryPolicy
from batch.rules import is_file_of, is_in_a_state
from batch.runner import RunOptions, http_client, run_job
from batch.scoring_client import ScoringClient
from batch.settings import Credentials, credentials_from
from batch.template_variables import RunTimes, missing_times
from batch.writeback import WriteBack, announcement, api_root, written_back
from model_repository.errors import ServingError

Serve = Callable[[Path], AbstractAsyncContextManager[str]]
"""As `batch.cli` explains it."""

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
LAST_WORDS: Final = 15.0
"""Seconds that telling the platform of an end may take."""


@dataclass
class Command:
    """One run of the command."""

    arguments: argparse.Namespace
    credentials: Credentials
    definition: Definition
    redact: Redactor
    serve: Serve
    times: RunTimes
    counts: Counts = field(default_factory=Counts)
    report: Report | None = None
    """What was done, once there was something to do."""
    began: float = field(default_factory=monotonic)

    @property
    def job(self) -> Job:
        """What is to be done."""
        return self.definition.job

    @property
    def options(self) -> RunOptions:
        """What the arguments say to the engine."""
        given = self.arguments
        return RunOptions(
            limit=given.limit,
            validate=given.validate,
            restart=given.restart,
            state_dir=given.state_dir,
            times=self.times,
        )


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    error: Exception | None = None

    @property
    def exit_code(self) -> int:
        """The command's status."""
        if self.error is None:
            return EXIT_OK
        return self.error.exit_code if isinstance(self.error, BatchError) else EXIT_FAILED


def run_command(arguments: argparse.Namespace, environ: Mapping[str, str], serve: Serve) -> int:
    """Run the job that *arguments* name; the exit status."""
    log_format = arguments.log_format or "text"
    configure_logs(log_format, verbose=arguments.verbose, redact=Redactor([arguments.api_token or ""]))
    try:
        command = _prepared(arguments, environ, serve)
    except JobError as error:
        _complain(error)
        return EXIT_USAGE
    configure_logs(log_format, verbose=arguments.verbose, redact=command.redact)
    for warning in command.definition.warnings:
        LOG.warning("%s", warning)
    try:
        ending = anyio.run(_until_stopped, command)
    except KeyboardInterrupt:  # before anybody listened for it
        ending = Ending(error=JobAborted("aborted"))
    except Exception as error:  # the outermost place: what is not ours becomes a line, too
        LOG.debug("%s", "".join(traceback.format_exception(error)))
        ending = Ending(error=error)
    return _concluded(command, ending)


def _prepared(arguments: argparse.Namespace, environ: Mapping[str, str], serve: Serve) -> Command:
    """All that can be known to be wrong before anything is read or written."""
    problems: list[str] = []
    credentials, definition, times = Credentials(), None, RunTimes.now()
    try:
        credentials = credentials_from(environ)
    except JobError as error:
        problems += error.problems
    try:
        definition = read_definition(arguments.job, served=arguments.serve is not None)
        problems += _not_available(definition.job)
        times = RunTimes.now(definition.job.schedule)
        problems += missing_times(definition.job, times)
    except JobError as error:
        problems += error.problems
    problems += _wrong_arguments(arguments, credentials, definition)
    if definition is not None:
        problems += _overwritten(arguments, definition.job)
    if problems or definition is None:
        raise JobError(problems)
    secrets = (*credentials.secrets, *definition.secrets, *filter(None, [arguments.api_token]))
    return Command(arguments, credentials, definition, Redactor(secrets), serve, times)


def _not_available(job: Job) -> Iterator[str]:
    for name, store in (("intake_settings", job.intake_settings), ("output_settings", job.output_settings)):
        if store.is_database:
            try:
                database_for(store.type)
            except AdapterUnavailable as error:
                yield f"{name}.type: {error}"


def _wrong_arguments(
    arguments: argparse.Namespace, credentials: Credentials, definition: Definition | None
) -> list[str]:
    problems = []
    token = arguments.api_token or credentials.api_token
    if arguments.api_host is not None and not token:
        problems.append("--api_host: --api_token or PREDICTION_API_BATCH_API_TOKEN is required with it")
    if arguments.api_host is None and arguments.api_token is not None:
        problems.append("--api_token: --api_host is required with it")
    if arguments.api_host is not None:
        try:
            api_root(arguments.api_host)
        except ValueError as error:
            problems.append(f"--api_host: {error}")
    if arguments.serve is not None:
        try:
            arguments.serve.stat()
        except OSError as error:
            problems.append(f"--serve: {arguments.serve}: {(error.strerror or str(error)).lower()}")
    if arguments.report is not None:
        problems += _wrong_report(arguments.report, definition)
    return problems


def _wrong_report(path: Path, definition: Definition | None) -> list[str]:
    try:
        is_writable = os.access(path.parent, os.W_OK | os.X_OK) and not path.is_dir()
    except OSError:
        is_writable = False
    if not is_writable or is_in_a_state(path):
        return [f"--report: {path} cannot be written"]
    if definition is not None:
        job = definition.job
        errors = job.errors.path if job.errors is not None else None
        is_errors = errors is not None and Path(errors).resolve() == path.resolve()
        if is_errors or is_file_of(job.intake_settings, path) or is_file_of(job.output_settings, path):
            return [f"--report: {path} is the job's own data"]
    return []


def _overwritten(arguments: argparse.Namespace, job: Job) -> Iterator[str]:
    """Neither the definition nor the package that is served may be written over."""
    written = {
        "output_settings.path": getattr(job.output_settings.settings, "path", None),
        "errors.path": job.errors and job.errors.path,
        "--report": arguments.report,
    }
    for kept in filter(None, (arguments.job, arguments.serve)):
        for name, place in written.items():
            if place and Path(place).resolve() == kept.resolve():
                yield f"{name}: would overwrite {kept}"


async def _until_stopped(command: Command) -> Ending:
    """Run until the end or until a signal; a second signal finds no handler, and ends the process at once."""
    ending = Ending(error=JobAborted("aborted"))
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as work:
            tasks.start_soon(_listen, work)
            ending = await _told(command)
        tasks.cancel_scope.cancel()
    return ending


async def _listen(work: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            LOG.warning("%s: stopping; again to stop at once", signal.Signals(number).name)
            break
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    work.cancel()


async def _told(command: Command) -> Ending:
    """Run, and tell the platform if there is one."""
    host, token = command.arguments.api_host, command.arguments.api_token or command.credentials.api_token
    if host is None or token is None:
        return await _attempted(command, None)
    ending = Ending(error=JobAborted("aborted"))
    async with written_back(host, token, command.counts) as platform:
        try:
            ending = await _attempted(command, platform)
        finally:
            with anyio.move_on_after(LAST_WORDS, shield=True):
                text = "Job done processing" if ending.error is None else command.redact(_in_words(ending.error))
                await platform.end(completed=ending.error is None, text=text)
    return ending


async def _attempted(command: Command, platform: WriteBack | None) -> Ending:
    """Run; what goes wrong on purpose is an ending, too."""
    try:
        async with AsyncExitStack() as stack:
            endpoint = command.job.prediction_endpoint or ""
            if command.arguments.serve is not None:
                endpoint = await stack.enter_async_context(command.serve(command.arguments.serve))
            elif not command.credentials.private_addresses_enabled:
                await refuse_link_local(endpoint)
            if platform is not None:
                deployment_id = await _deployment_id(command, endpoint)
                await platform.begin(announcement(command.job, deployment_id))
            await _scored(command, endpoint)
            return Ending()
    except ServingError as error:
        return Ending(error=error)


async def _deployment_id(command: Command, endpoint: str) -> str | None:
    """The platform's name for the model, which its package knows."""
    async with http_client(command.job, command.credentials) as http:
        server = ScoringClient(http, endpoint, command.job.deployment_id, retry=RetryPolicy(tries=3))
        try:
            info = await server.info()
        except ServingError as error:
            LOG.warning("status write-back: %s", error)
            info = None
    return (info or {}).get("deploymentId") or command.job.deployment_id


async def _scored(command: Command, endpoint: str) -> None:
    """The engine, and on standard error how far it is."""
    ending = Ending()

    def ended(report: Report) -> None:
        command.report = report

    with _view(command) as view:
        async with shown(command.counts, view):
            try:
                await run_job(
                    command.job,
                    command.credentials,
                    endpoint=endpoint,
                    options=command.options,
                    counts=command.counts,
                    ended=ended,
                )
            except ServingError as error:  # kept out of the task group, which would wrap it
                ending = Ending(error)
    if ending.error is not None:
        raise ending.error


@contextmanager
def _view(command: Command) -> Iterator[View]:
    """A bar for people, lines for whoever collects them."""
    wants_lines = command.arguments.log_format == "json" or not sys.stderr.isatty()
    if wants_lines or find_spec("rich") is None:
        yield Lines(command.redact)
    else:
        with bar(command.redact(command.job.name or command.arguments.job.name)) as view:
            yield view


def _concluded(command: Command, ending: Ending) -> int:
    """Say how it ended, write the report; the exit status."""
    if ending.error is None:
        LOG.info("%s", _summary(command), extra={"fields": _figures(command)})
    else:
        _complain(ending.error, hint=_hint(command, ending.error))
    if command.arguments.report is None:
        return ending.exit_code
    try:
        _write_report(command, ending)
    except OSError as error:
        LOG.error("--report: %s: %s", command.arguments.report, error.strerror)
        return ending.exit_code or EXIT_FAILED
    return ending.exit_code


def _summary(command: Command) -> str:
    if command.arguments.validate:
        return "the job is valid: input, output and server are there; nothing was written"
    counts, seconds = command.counts, monotonic() - command.began
    return (
        f"completed: {counts.rows_read:,} rows read = {counts.rows_scored:,} scored + {counts.rows_failed:,} failed "
        f"+ {counts.rows_skipped:,} skipped; {seconds:.1f} s, "
        f"{speed_of(counts, seconds).rows_per_second:,.0f} rows/s"
    )


def _figures(command: Command) -> dict[str, Any]:
    return progress_fields(command.counts, speed_of(command.counts, monotonic() - command.began))


def _hint(command: Command, error: Exception) -> str:
    done = command.counts.rows_done
    if not done or command.arguments.validate or isinstance(error, StateMismatch | JobRunning):
        return ""
    return f"{done:,} rows are done: the same command continues behind them, --restart starts over"


def _complain(error: Exception, hint: str = "") -> None:
    """One line for each problem."""
    problems = error.problems if isinstance(error, JobError) else [_in_words(error)]
    for problem in (*problems, *filter(None, [hint])):
        LOG.log(logging.INFO if problem is hint else logging.ERROR, "%s", problem)


def _in_words(error: Exception) -> str:
    if isinstance(error, ServingError):
        return str(error)
    leaf = _leaf(error)
    return f"unexpected {type(leaf).__name__}: {leaf}; --verbose says where"


def _leaf(error: BaseException) -> BaseException:
    """Of errors in task groups, the first."""
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _write_report(command: Command, ending: Ending) -> None:
    """Whole or not at all, as everything else."""
    told = msgspec.to_builtins(command.report or Report(status="ABORTED", name=command.job.name))
    if ending.error is not None:
        told["status"] = "ABORTED"
    error = None if ending.error is None else _in_words(ending.error)
    told |= {"exit_code": ending.exit_code, "error": error, "job_fingerprint": fingerprint(options_of(command.job))}
    path: Path = command.arguments.report
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(
            json.dumps(redacted(told, command.redact), ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
