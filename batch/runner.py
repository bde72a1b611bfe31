"""
One job from its start to its end; knows nothing of command lines.

    intake -> chunks of whole records -> requests, several at once -> reordered -> spool, journal, output

Whatever ends a run early leaves its state, and the same job continues from there.
"""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, Final

import anyio
import httpx
from anyio import to_thread

from batch.adapters import adapter_for
from batch.errors import BatchError, ScoringServerError
from batch.job import Job, options_of
from batch.layout import layout_for
from batch.model_info import answer_columns, identity_of
from batch.ports import Intake
from batch.progress import Counts
from batch.report import Report
from batch.run import Run, RunOptions
from batch.series_run import prepare_series
from batch.settings import Credentials
from batch.state import open_state
from batch.state_place import check_place_for_errors, state_directory
from batch.writing import Writing

__all__ = ["RunOptions", "http_client", "run_job"]

CONNECT_SECONDS: Final = 10.0


async def run_job(
    job: Job,
    credentials: Credentials,
    *,
    endpoint: str | None = None,
    client: httpx.AsyncClient | None = None,
    options: RunOptions | None = None,
    counts: Counts | None = None,
) -> Report:
    """
    Score the whole input.

    Args:
        endpoint: base URL of the prediction server; else the job's own.
        client: what speaks HTTP with it; else one that follows no redirects and no proxy variables.
        counts: kept up to date as the job runs.

    Raises:
        BatchError: one of its leaves; whatever was done stays as the job's state.
    """
    url = endpoint or job.prediction_endpoint
    if url is None:
        raise ScoringServerError("prediction_endpoint: no server is known")
    async with AsyncExitStack() as stack:
        http = client if client is not None else await stack.enter_async_context(http_client(job, credentials))
        run = Run(job, credentials, url, http, options or RunOptions(), counts or Counts())
        try:
            return await _reported(run)
        except BaseExceptionGroup as group:
            raise _first(group) from group


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


async def _reported(run: Run) -> Report:
    """Do it, and tell."""
    began = monotonic()
    check_place_for_errors(run.job, run.credentials.root)
    intake_module = adapter_for(run.job.intake_settings.type)
    async with intake_module.open_intake(run.job.intake_settings.settings, run.credentials) as intake:
        run.info = await run.server.info()
        await prepare_series(run, intake)
        outputs = await (_validated(run, intake) if run.options.validate else _scored(run, intake))
        return _told(run, intake, outputs, monotonic() - began)


async def _validated(run: Run, intake: Intake) -> Sequence[str]:
    """Open everything, look at every file's columns, leave nothing."""
    output_module = adapter_for(run.job.output_settings.type)
    with anyio.CancelScope() as scope:
        async with output_module.open_output(run.job.output_settings.settings, run.credentials):
            sources = [await run.source(intake, number) for number in range(len(intake.files))]
            if sources[0].names and (columns := answer_columns(run.info)):
                layout_for(columns, run.columns_to_pass(sources[0].names, columns), run.output_options())
            scope.cancel()  # leaving by a cancellation publishes nothing
            await anyio.lowlevel.checkpoint()
    return ()


async def _scored(run: Run, intake: Intake) -> Sequence[str]:
    directory = state_directory(run.job, run.options.state_dir or run.credentials.state_dir)
    # A place inside of a file is no beginning of a series: jobs of series start over.
    restart = run.options.restart or not run.job.resume or run.series is not None
    state = await to_thread.run_sync(lambda: open_state(directory, _identity(run, intake), restart=restart))
    try:
        outputs = await Writing(run, intake, state).published()
        state.worth_keeping = False
        return outputs
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(state.close)


def _identity(run: Run, intake: Intake) -> dict[str, Any]:
    """What a continued run must agree with."""
    files = {f"input {file.name}": f"{file.size} bytes, version {file.version}" for file in intake.files}
    model = {"model": identity_of(run.info)}
    limit = {"--limit": run.options.limit} if run.options.limit is not None else {}
    identity: dict[str, Any] = json.loads(json.dumps({**options_of(run.job), **files, **model, **limit}))
    return identity


def _told(run: Run, intake: Intake, outputs: Sequence[str], seconds: float) -> Report:
    counts, traffic = run.counts, run.server.traffic
    new = counts.rows_done - counts.rows_before
    return Report(
        status="VALIDATED" if run.options.validate else "COMPLETED",
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
        inputs=[{"name": file.name, "size": file.size, "version": file.version} for file in intake.files],
        outputs=outputs,
    )
