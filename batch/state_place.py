"""Where the state of an unfinished job is: found by what it writes, so that a changed job is noticed."""

import hashlib
import json
from pathlib import Path
from typing import Final

import msgspec

from batch.job import Job

DEFAULT: Final = Path(".prediction-api-batch")


def state_directory(job: Job, asked_for: Path | None) -> Path:
    """
    Beside a local file, so that the result can be renamed to its name; else below *asked_for*.

    A local output ignores *asked_for* unless it lies on another file system anyway.
    """
    output = job.output_settings
    path = getattr(output.settings, "path", None)
    if path is not None and output.type in ("filesystem", "localFile"):
        place = Path(path)
        return place / ".resume" if str(path).endswith("/") else place.with_name(f".{place.name}.resume")
    settings = msgspec.to_builtins(output.settings)
    text = json.dumps([output.type, output.format, settings], sort_keys=True, default=str)
    return (asked_for or DEFAULT) / hashlib.sha256(text.encode()).hexdigest()[:16]
