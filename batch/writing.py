"""The output of a run: scored chunks to spool, journal and store, and what is published in the end."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final

from anyio import to_thread

from batch.errors import (
    IntakeError,
    ModelChanged,
    RowRefused,
    RowsUnaccounted,
    ScoringServerError,
    TooManyErrors,
)
from batch.expected_answer import expected_columns
from batch.formats import Writer, finish_for, writer_for
from batch.formats.streams import AsItIs, is_gzip
from batch.isolation import Outcome, Problem, score_all
from batch.journal import Done
from batch.layout import Layout, layout_for
from batch.model_info import labels_are_numbers
from batch.opening import open_output
from batch.pipeline import run_pipeline
from batch.ports import Intake, Output, TableIntake, TableOutput
from batch.products import Product, open_product
from batch.records import START, Chunk, Position, Records
from batch.run import Run
from batch.series import SeriesOutcome, score_series
from batch.sources import Source
from batch.spool import Spool, publish_copy
from batch.state import NotedLeftovers, State, open_errors

SYNC_SECONDS: Final = 1.0
"""How much work a machine that stops may cost; a process that is killed costs only what is in flight."""


class Writing:
    """The output of a run, from the place where an earlier one ended."""

    def __init__(self, run: Run, intake: Intake | TableIntake, state: State) -> None:
        self.run = run
        self.intake = intake
        self.state = state
        self.answer: tuple[str, ...] = tuple(state.last.answer) if state.last else ()
        self.layout: Layout | None = None
        self.columns: Sequence[str] = ()
        self.no_rows: Records | None = None
        self.errors: Spool = open_errors(state)
        self.synced = monotonic()
        counts = run.counts
        counts.bytes_total = _total(intake)
        if state.last:
            run.server.model = state.last.model
            counts.rows_read = counts.rows_before = state.last.read
            counts.rows_scored, counts.rows_failed = state.last.scored, state.last.failed
            done = sum(file.size or 0 for file in islice(intake.files, state.last.file))
            counts.bytes_read = counts.bytes_before = done + state.last.offset

    async def published(self) -> Sequence[str]:
        """Write, check and publish every file of the output; their names."""
        run, settings = self.run, self.run.job.output_settings
        try:
            single = not settings.is_directory or bool(settings.partition_columns)
            groups = [range(len(self.intake.files))] if single else [[n] for n in range(len(self.intake.files))]
            names = [None] if single else [f"part-{n:05d}.{settings.format}" for n in range(len(groups))]
            if set(range(len(groups))) - self.state.published:
                leftovers: NotedLeftovers = self.state.leftovers
                async with open_output(run.job, run.credentials, leftovers) as output:
                    for number, files in enumerate(groups):
                        if number not in self.state.published:
                            await self._product(output, number, names[number], list(files))
            await to_thread.run_sync(self._publish_errors)
            return [name or settings.place or settings.table for name in names]
        finally:
            self.errors.close()

    async def _product(self, output: Output | TableOutput, number: int, name: str | None, files: Sequence[int]) -> None:
        run, settings = self.run, self.run.job.output_settings
        parted = settings.partition_columns
        typed = parted or settings.is_database
        finish = AsItIs() if typed else finish_for(settings.format, name or settings.place)
        async with open_product(output, self.state, number, name, finish, parted) as product:
            done = self.state.done.get(number)
            async with aclosing(self._chunks(files, done)) as chunks:
                await run_pipeline(
                    chunks,
                    self._score,
                    lambda chunk, outcome: self._write(product, chunk, outcome),
                    concurrency=run.job.num_concurrent,
                )
            if not product.spool.length and self.columns:
                await self._append(product, self._nothing(self._layout()))
            counts = run.counts
            if counts.rows_read != counts.rows_done:
                raise RowsUnaccounted(
                    f"{counts.rows_read} rows were read, but {counts.rows_scored} scored, {counts.rows_failed} failed "
                    f"and {counts.rows_skipped} skipped; nothing was published"
                )
            await run.check_model()

    async def _chunks(self, files: Sequence[int], done: Done | None) -> AsyncGenerator[Chunk, None]:
        """All that is not done of some files."""
        run = self.run
        for number in files:
            source = await run.source(self.intake, number)
            self._check_columns(number, source)
            if done is not None and number < done.file:
                continue
            behind = done is not None and number == done.file
            start = Position(done.offset, done.rows, done.lines, done.check) if done is not None and behind else START
            async with aclosing(self.run.chunks(source, start, self.intake.files[number].name)) as chunks:
                async for chunk in chunks:
                    if limited := self._within_limit(chunk):
                        run.counts.rows_read += len(limited.records)
                        yield limited
                    if limited is not chunk:
                        return

    def _within_limit(self, chunk: Chunk) -> Chunk | None:
        limit = self.run.options.limit
        if limit is None or self.run.counts.rows_read + len(chunk.records) <= limit:
            return chunk
        rest = limit - self.run.counts.rows_read
        return replace(chunk, records=chunk.records.part(0, rest)) if rest > 0 else None

    def _check_columns(self, number: int, source: Source) -> None:
        """All files have the same columns, or passing them through would be guessing."""
        if not source.names:
            return
        if not self.columns:
            self.columns, self.no_rows = source.names, source.no_rows
        elif set(self.columns) != set(source.names) and self.run.job.intake_settings.format != "jsonl":
            file = self.intake.files[number].name
            raise IntakeError(f"{file}: has other columns than the files before: {', '.join(source.names)}")

    async def _score(self, chunk: Chunk) -> Outcome:
        run, began = self.run, monotonic()
        if run.series is not None:
            return await score_series(chunk.records, run.series, run.ask)
        outcome = await score_all(
            chunk.records,
            run.ask,
            isolate=not run.job.disable_row_level_error_handling,
            first_only=run.policy.at_first,
        )
        if not outcome.problems:
            run.size.took(chunk.size, monotonic() - began)
        return outcome

    async def _write(self, product: Product, chunk: Chunk, outcome: Outcome) -> None:
        """One chunk's rows; the only place where anything is written."""
        began = monotonic()
        if isinstance(outcome, SeriesOutcome):
            chunk = outcome.chunk_of(chunk)
        if outcome.problems:
            self._judge(chunk, outcome)
        data = await to_thread.run_sync(self._spooled, product, chunk, outcome)
        await product.stored(data)
        self.run.seconds_writing += monotonic() - began

    def _judge(self, chunk: Chunk, outcome: Outcome) -> None:
        """End the job if too many rows have failed."""
        counts, policy = self.run.counts, self.run.policy
        row, problem = next(iter(sorted(outcome.problems.items())))
        failed = counts.rows_failed + len(outcome.problems)
        if policy.at_first:
            raise RowRefused(f"{place_of(self.intake, chunk, row)}: {problem.message}")
        if policy.stops(failed, counts.rows_done + len(chunk.records)):
            place = place_of(self.intake, chunk, row)
            raise TooManyErrors(f"{failed} rows failed, {policy}; one of the last: {place}: {problem.message}")

    def _spooled(self, product: Product, chunk: Chunk, outcome: Outcome) -> bytes:
        """Spool, errors and journal of one chunk, in this order; on a worker thread."""
        counts = self.run.counts
        layout = self._layout(outcome.names)
        problems = {row: problem.message for row, problem in outcome.problems.items()}
        writer = self._writer()
        data = writer.rows(layout, chunk.records, outcome.lines, problems, counts.rows_done)
        if not product.spool.length:
            data = self._opening(layout) + data
        product.spool.append(data)
        for row, problem in sorted(outcome.problems.items()):
            self.errors.append(self._error_line(chunk, row, problem))
        counts.rows_failed += len(problems)
        if isinstance(outcome, SeriesOutcome):
            counts.rows_skipped += outcome.skipped
            counts.rows_scored += outcome.scored
        else:
            counts.rows_scored += len(outcome.lines) - len(problems)
        counts.bytes_read += chunk.size
        counts.bytes_written += len(data)
        self._note(product, chunk)
        return data

    def _note(self, product: Product, chunk: Chunk) -> None:
        counts, now = self.run.counts, monotonic()
        synced = now - self.synced >= SYNC_SECONDS
        if synced:
            product.spool.sync()
            self.errors.sync()
            self.synced = now
        done = Done(
            product=product.number,
            file=chunk.file,
            offset=chunk.end.offset,
            rows=chunk.end.rows,
            lines=chunk.end.lines,
            read=counts.rows_done,
            scored=counts.rows_scored,
            failed=counts.rows_failed,
            spool=product.spool.mark(),
            errors=self.errors.mark(),
            synced=synced,
            answer=self.answer,
            model=self.run.server.model,
            check=chunk.end.check,
        )
        self.state.note(done.entry(), sync=synced)

    def _error_line(self, chunk: Chunk, row: int, problem: Problem) -> bytes:
        line = chunk.records.line_of(row)
        entry = {
            "file": self.intake.files[chunk.file].name,
            "row": chunk.row(row),
            "line": None if line is None else chunk.start.lines + line + 1,
            "code": problem.code,
            "message": problem.message,
            "input": chunk.records.shown(row),
        }
        return json.dumps(entry, ensure_ascii=False).encode(errors="replace") + b"\n"

    async def _append(self, product: Product, data: bytes) -> None:
        """Bytes that belong to no row."""
        await to_thread.run_sync(product.spool.append, data)
        await product.stored(data)

    def _layout(self, answer: tuple[str, ...] | None = None) -> Layout:
        """Made once: from the first answer, or from what the server says of its model if no row was scored yet."""
        if answer is not None and self.answer and answer != self.answer:
            raise ModelChanged(
                f"the server's answers have other columns now: {', '.join(self.answer)} became {', '.join(answer)}"
            )
        self.answer = self.answer or answer or expected_columns(self.run.job, self.run.info) or ()
        if not self.answer:
            raise ScoringServerError("no row was scored, and the server does not tell its model's columns on /info")
        if self.layout is None:
            columns = self.run.columns_to_pass(self.columns, self.answer)
            self.layout = layout_for(self.answer, columns, self.run.output_options())
        return self.layout

    def _writer(self) -> Writer:
        run = self.run
        return writer_for(
            "parquet" if run.job.output_settings.is_database else run.job.output_settings.format,
            run.dialect,
            run.job.csv_settings,
            self.answer,
            numeric_labels=labels_are_numbers(run.info),
            escapes_formulas=run.job.csv_formula_escape,
        )

    def _opening(self, layout: Layout) -> bytes:
        return self._writer().opening(layout)

    def _nothing(self, layout: Layout) -> bytes:
        """An output without rows, which may have types."""
        rows = b"" if self.no_rows is None else self._writer().rows(layout, self.no_rows, [], {}, 0)
        return self._opening(layout) + rows

    def _publish_errors(self) -> None:
        """The reports of bad rows to where the job wants them; a copy, so that a killed run can do it again."""
        errors = self.run.job.errors
        if errors is not None and errors.path is not None:
            publish_copy(self.errors, Path(errors.path))


def place_of(intake: Intake | TableIntake, chunk: Chunk, row: int) -> str:
    """Where a row of a chunk stands, for people."""
    line = chunk.records.line_of(row)
    place = "" if line is None else f" (line {chunk.start.lines + line + 1})"
    return f"{intake.files[chunk.file].name}, row {chunk.row(row)}{place}"


def _total(intake: Intake | TableIntake) -> int | None:
    sizes = [file.size for file in intake.files]
    zipped = any(is_gzip(file.name) for file in intake.files)  # what is read is counted unzipped
    return None if zipped or None in sizes else sum(size or 0 for size in sizes)
