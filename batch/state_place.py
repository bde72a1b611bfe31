"""Where the state of an unfinished job is: found by what it writes, so that a changed job is noticed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Final

import msgspec

from batch.errors import JobError, OutputError
from batch.job import Job

DEFAULT: Final = Path(".prediction-api-batch")


def state_directory(job: Job, asked_for: Path | None) -> Path:
    """
    Beside a local file, so that the result can be renamed to its name; else below *asked_for*.

    A local output ignores *asked_for*. Where it is a link, beside means beside what the link leads to.

    Raises:
        OutputError: there is no directory for the output, and none is made for a misspelt path.
    """
    output = job.output_settings
    path = getattr(output.settings, "path", None)
    if path is not None and output.type in ("filesystem", "localFile"):
        place = Path(os.path.realpath(path))
        try:
            os.stat(f"{place.parent}/.")  # noqa: PTH116 - the dot, which Path drops, asks whether it may be entered
        except OSError as exc:
            raise OutputError(f"{path}: {(exc.strerror or str(exc)).lower()}: {place.parent}") from exc
        return place / ".resume" if str(path).endswith("/") else place.with_name(f".{place.name}.resume")
    settings = msgspec.to_builtins(output.settings)
    server = job.jdbc_settings.url if job.jdbc_settings is not None and output.is_database else None
    text = json.dumps([output.type, output.format, settings, *filter(None, [server])], sort_keys=True, default=str)
    return (asked_for or DEFAULT) / hashlib.sha256(text.encode()).hexdigest()[:16]


def check_place_for_state(directory: Path) -> None:
    """
    See before the work whether the state can be kept.

    Raises:
        OutputError: it cannot.
    """
    there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{directory}: cannot be written")


def check_place_for_errors(job: Job, root: Path | None) -> None:
    """
    See before the work, not after it, whether ``errors.path`` can be written.

    Raises:
        OutputError: it cannot.
        JobError: it lies outside of *root*.
    """
    if job.errors is None or job.errors.path is None:
        return
    name, place = job.errors.path, Path(os.path.realpath(job.errors.path))
    if root is not None and not place.is_relative_to(os.path.realpath(root)):
        raise JobError(f"errors.path: {name}: lies outside of PREDICTION_API_BATCH_ROOT, {root}")
    try:
        is_writable = os.access(place.parent, os.W_OK | os.X_OK) and not place.is_dir()
    except OSError:
        is_writable = False
    if not is_writable:
        raise OutputError(f"errors.path: {name}: cannot be written")
