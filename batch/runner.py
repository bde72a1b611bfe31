"""
One job from its start to its end; knows nothing of command lines.

    intake -> chunks of whole records -> requests, several at once -> reordered -> spool, journal, output

Whatever ends a run early leaves its state, and the same job continues from there.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, nullcontext
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

import anyio
import anyio.lowlevel
import httpx
from anyio import to_thread

from batch.errors import BatchError, RowRefused, ScoringServerError
from batch.expected_answer import expected_columns
from batch.isolation import Outcome, score_all
from batch.job import Job, options_of
from batch.layout import layout_for
from batch.model_info import identity_of
from batch.opening import open_intake, open_output
from batch.ports import Intake, TableIntake
from batch.progress import Counts
from batch.records import START
from batch.report import Report
from batch.run import Run, RunOptions
from batch.series import score_series
from batch.series_run import prepare_series
from batch.settings import Credentials
from batch.sources import Source
from batch.state import identity_left, is_unfinished, open_state
from batch.state_place import check_place_for_errors, check_place_for_state, state_directory
from batch.template_variables import RunTimes, variables_in
from batch.unloads import NotedUnloads, noted_unloads
from batch.writing import Writing, place_of

__all__ = ["RunOptions", "http_client", "run_job"]

CONNECT_SECONDS: Final = 10.0
ROWS_TRIED: Final = 10
"""So many rows are asked for to see whether a job is valid."""
RUN_TIMES: Final = "times of the run"


async def run_job(
    job: Job,
    credentials: Credentials,
    *,
    endpoint: str | None = None,
    client: httpx.AsyncClient | None = None,
    options: RunOptions | None = None,
    counts: Counts | None = None,
    ended: Callable[[Report], None] = lambda report: None,
) -> Report:
    """
    Score the whole input.

    Args:
        endpoint: base URL of the prediction server; else the job's own.
        client: what speaks HTTP with it; else one that follows no redirects and no proxy variables.
        counts: kept up to date as the job runs.
        ended: told what was done, also of a job that failed or was cancelled.

    Raises:
        BatchError: one of its leaves; whatever was done stays as the job's state.
    """
    url = endpoint or job.prediction_endpoint
    if url is None:
        raise ScoringServerError("prediction_endpoint: no server is known")
    async with AsyncExitStack() as stack:
        http = client if client is not None else await stack.enter_async_context(http_client(job, credentials))
        options = await to_thread.run_sync(_with_times, job, credentials, options or RunOptions())
        run = Run(job, credentials, url, http, options, counts or Counts())
        began = monotonic()
        try:
            await _done(run)
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            report = _told(run, monotonic() - began)
            ended(report)
        return report


def _with_times(job: Job, credentials: Credentials, options: RunOptions) -> RunOptions:
    """A continued run reads what the first one read, so its times are those of the first one."""
    if options.restart or not job.resume or not any(variables_in(job)):
        return options
    left = identity_left(state_directory(job, options.state_dir or credentials.state_dir))
    times = left.get(RUN_TIMES)
    return options if times is None else replace(options, times=RunTimes.from_json(times))


def http_client(job: Job, credentials: Credentials) -> httpx.AsyncClient:
    """A client for the prediction server; the environment's proxies and passwords are none of its business."""
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        verify=not credentials.allow_self_signed_certs,
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # the whole request has a limit of its own
        limits=httpx.Limits(max_connections=job.num_concurrent + 1, max_keepalive_connections=job.num_concurrent + 1),
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first: of errors raised side by side, the one that was raised on purpose."""
    errors = [error for error in _leaves(group) if not isinstance(error, anyio.get_cancelled_exc_class())]
    return next((error for error in errors if isinstance(error, BatchError)), errors[0] if errors else group)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


async def _done(run: Run) -> None:
    """What is wrong on our side is seen before the server is asked, which may take long."""
    check_place_for_errors(run.job, run.credentials.root)
    directory, restart = _state(run)
    if not is_unfinished(directory):  # else its output may be there already, and only its state knows
        await _look_at_output(run)
        check_place_for_state(directory)
    with _unloads(run, directory, restart) as unloads:
        async with open_intake(run.job, run.credentials, unloads) as intake:
            run.files = intake.files
            run.info = await run.server.info()
            await prepare_series(run, intake)
            if run.options.validate:
                await _validate(run, intake)
                run.status = "VALIDATED"
            else:
                run.outputs = await _scored(run, intake, directory, restart)
                run.status = "COMPLETED"


def _unloads(run: Run, directory: Path, restart: bool) -> AbstractContextManager[NotedUnloads | None]:
    """Nothing is unloaded where few rows or none are read."""
    if not run.job.intake_settings.is_staged or run.options.validate or run.options.limit is not None:
        return nullcontext()
    return noted_unloads(directory, continues=not restart and bool(identity_left(directory)))


async def _look_at_output(run: Run) -> None:
    """See that it can be written, and leave nothing."""
    with anyio.CancelScope() as scope:
        async with open_output(run.job, run.credentials):
            scope.cancel()  # leaving by a cancellation publishes nothing
            await anyio.lowlevel.checkpoint()


async def _validate(run: Run, intake: Intake | TableIntake) -> None:
    """Look at the columns of every file, and ask the server for the first rows with all that the job wants."""
    sources = [await run.source(intake, number) for number in range(len(intake.files))]
    answered = await _tried(run, intake, sources)
    columns = answered or expected_columns(run.job, run.info)
    if sources[0].names and columns:
        layout_for(columns, run.columns_to_pass(sources[0].names, columns), run.output_options())


async def _tried(run: Run, intake: Intake | TableIntake, sources: Sequence[Source]) -> Sequence[str] | None:
    """The columns of the server's answer; None: there is no row."""
    for number, source in enumerate(sources):
        async with aclosing(run.chunks(source, START, intake.files[number].name)) as chunks:
            async for chunk in chunks:
                outcome: Outcome
                if run.series is not None:
                    outcome = series = await score_series(chunk.records, run.series, run.ask)
                    chunk = series.chunk_of(chunk)
                else:
                    rows = chunk.records.part(0, min(ROWS_TRIED, len(chunk.records)))
                    outcome = await score_all(rows, run.ask, isolate=not run.job.disable_row_level_error_handling)
                if outcome.problems and run.policy.at_first:
                    row, problem = min(outcome.problems.items())
                    raise RowRefused(f"{place_of(intake, chunk, row)}: {problem.message}")
                return outcome.names
    return None


async def _scored(run: Run, intake: Intake | TableIntake, directory: Path, restart: bool) -> Sequence[str]:
    # A place inside of a file is no beginning of a series: jobs of series start over.
    restart = restart or run.series is not None
    state = await to_thread.run_sync(lambda: open_state(directory, _identity(run, intake), restart=restart))
    try:
        outputs = await Writing(run, intake, state).published()
        state.worth_keeping = False
        return outputs
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(state.close)


def _state(run: Run) -> tuple[Path, bool]:
    """Where the state is, and whether to begin anew."""
    directory = state_directory(run.definition, run.options.state_dir or run.credentials.state_dir)
    return directory, run.options.restart or not run.job.resume


def _identity(run: Run, intake: Intake | TableIntake) -> dict[str, Any]:
    """What a continued run must agree with."""
    files = {f"input {file.name}": f"{file.size} bytes, version {file.version}" for file in intake.files}
    model = {"model": identity_of(run.info)}
    limit = {"--limit": run.options.limit} if run.options.limit is not None else {}
    times = {RUN_TIMES: run.options.times.as_json()} if any(variables_in(run.definition)) else {}
    identity: dict[str, Any] = json.loads(
        json.dumps({**options_of(run.definition), **files, **model, **limit, **times})
    )
    return identity


def _told(run: Run, seconds: float) -> Report:
    counts, traffic = run.counts, run.server.traffic
    new = counts.rows_done - counts.rows_before
    return Report(
        status=run.status,
        name=run.job.name,
        rows_read=counts.rows_read,
        rows_scored=counts.rows_scored,
        rows_failed=counts.rows_failed,
        rows_skipped=counts.rows_skipped,
        rows_resumed=counts.rows_before,
        bytes_read=counts.bytes_read,
        bytes_written=counts.bytes_written,
        seconds={"total": seconds, "scoring": traffic.seconds, "writing": run.seconds_writing},
        rows_per_second=new / seconds if seconds else 0.0,
        requests=traffic.requests,
        retries=traffic.retries,
        retry_reasons=traffic.statuses,
        model=run.info,
        inputs=[{"name": file.name, "size": file.size, "version": file.version} for file in run.files],
        outputs=run.outputs,
    )
