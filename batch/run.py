"""What one run knows and learns: its job, the server, how large requests may be."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from batch.chunk_size import ChunkSize
from batch.dialect import Dialect
from batch.error_policy import ErrorPolicy, policy_of
from batch.errors import IntakeError, ModelChanged, ScoringServerError
from batch.expected_answer import most_bytes
from batch.job import Job
from batch.layout import OutputOptions
from batch.model_info import feature_names, identity_of
from batch.ports import Intake, SourceFile, TableIntake
from batch.progress import Counts
from batch.records import Chunk, Position, Records
from batch.retries import RetryPolicy
from batch.scoring_client import TOO_LARGE, Answer, Refused, ScoringClient
from batch.series import SeriesColumns, whole_series
from batch.server_parameters import parameters_of
from batch.settings import Credentials
from batch.sources import Reading, Source, open_source
from batch.template_variables import RunTimes, filled
from batch.thresholds import relabelled


@dataclass(frozen=True)
class RunOptions:
    """How this run differs from any other run of the same job."""

    limit: int | None = None
    """Score only so many rows."""
    validate: bool = False
    """Look whether everything is there, and write nothing."""
    restart: bool = False
    """Forget what an earlier run left."""
    state_dir: Path | None = None
    """Where states are kept, instead of beside a local output or in the credentials' directory."""
    request_timeout: float = 120.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    times: RunTimes = field(default_factory=RunTimes.now)
    """What the variables of a query stand for; a continued run has those of the run that it continues."""


class Run:
    """One run of a job."""

    def __init__(
        self, job: Job, credentials: Credentials, url: str, http: httpx.AsyncClient, options: RunOptions, counts: Counts
    ) -> None:
        self.definition = job
        """As it was written."""
        self.job = filled(job, options.times)
        """With the values of its variables."""
        self.credentials = credentials
        self.options = options
        self.counts = counts
        self.policy: ErrorPolicy = policy_of(job)
        self.size = ChunkSize.asked_for(job.chunk_size, job.mini_batch_size)
        parameters = parameters_of(job)
        self.asks_more = bool(parameters)
        self.server = ScoringClient(
            http,
            url,
            job.deployment_id,
            parameters,
            retry=options.retry,
            request_timeout=options.request_timeout,
            limit=partial(most_bytes, job),
        )
        settings = job.csv_settings
        self.dialect = Dialect("\t" if settings.delimiter == "tab" else settings.delimiter, settings.quotechar)
        self.info: dict[str, Any] | None = None
        self.files: Sequence[SourceFile] = ()
        """What is read, as soon as it is found."""
        self.outputs: Sequence[str] = ()
        """What was published."""
        self.status = "ABORTED"
        """As the report has it."""
        self.series: SeriesColumns | None = None
        """Where the model is a time series."""
        self.seconds_writing = 0.0

    def output_options(self) -> OutputOptions:
        """What the job says of the output's columns."""
        job = self.job
        return OutputOptions(
            passthrough="all" if job.passthrough_columns_set else job.passthrough_columns,
            id_column=job.id_column,
            row_id=job.include_row_id,
            status=job.include_prediction_status,
            probabilities=job.include_probabilities,
            probability_classes=job.include_probabilities_classes,
            remapping=job.column_names_remapping,
            partitions=job.output_settings.partition_columns,
        )

    def columns_to_pass(self, columns: Sequence[str], answer: Sequence[str]) -> Sequence[str]:
        """Those of the input; where all are copied, without those that stand in every forecast already."""
        if self.series is None or not self.job.passthrough_columns_set:
            return columns
        return [name for name in columns if name not in answer]

    def chunks(self, source: Source, start: Position, file: str) -> AsyncGenerator[Chunk, None]:
        """Of one file; of a time series, whole series."""
        found = source.chunks(start)
        return whole_series(found, self.series, file) if self.series is not None and source.names else found

    async def source(self, intake: Intake | TableIntake, number: int) -> Source:
        """A file whose columns the model can take, as far as the server tells."""
        settings = self.job.csv_settings
        features = feature_names(self.info)
        wanted = (*self.job.passthrough_columns, *filter(None, [self.job.id_column]))
        reading = Reading(
            self.job.intake_settings.format,
            self.dialect,
            settings.encoding,
            settings.header,
            self.dialect,
            features,
            wanted,
        )
        source = await open_source(intake, number, reading, self.size)
        if twice := sorted(name for name, times in Counter(source.names).items() if times > 1):
            raise IntakeError(
                f"{intake.files[number].name}: columns that stand there twice: {', '.join(map(repr, twice))}"
            )
        if source.names and self.job.intake_settings.format != "jsonl":
            optional = self.series.optional if self.series is not None else ()
            missing = [name for name in features or () if name not in source.names and name not in optional]
            if missing:
                raise IntakeError(f"{intake.files[number].name}: missing columns: {', '.join(missing)}")
        return source

    async def ask(self, records: Records) -> Answer:
        """The server's answer, with the job's own class boundary."""
        try:
            answer = await self.server.score(records)
        except Refused as refusal:
            if refusal.status == TOO_LARGE:
                self.size.too_large(len(records.request()[0]), len(records))
            elif self.asks_more and len(records) == 1:
                await self._blame(records, refusal)
            raise
        threshold = self.job.prediction_threshold
        return answer if threshold is None else relabelled(answer, threshold)

    async def _blame(self, records: Records, refusal: Refused) -> None:
        """A row that is only refused with the job's options is not the one at fault."""
        try:
            await self.server.score(records, plain=True)
        except Refused:
            return
        raise ScoringServerError(f"the server refuses the job's options: {refusal.message}") from refusal

    async def check_model(self) -> None:
        """The server still has the model that it had in the beginning."""
        now = identity_of(await self.server.info())
        if now != identity_of(self.info):
            raise ModelChanged(f"the server's model changed while the job ran: {identity_of(self.info)} became {now}")
