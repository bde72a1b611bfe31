"""How many rows may fail before the job does. Pure."""

from dataclasses import dataclass
from typing import Final

from batch.job import Job

FEW: Final = 100
SHARE: Final = 0.01
"""Without a number of its own a job stops where more than `FEW` rows and more than this share of them failed."""


@dataclass(frozen=True)
class ErrorPolicy:
    """When to stop."""

    most: int | None
    """So many may fail; None: any number."""
    share: float = 0.0
    """And if more do, only stop above this share of the rows."""

    @property
    def at_first(self) -> bool:
        """Whether a single bad row ends the job."""
        return self.most == 0

    def stops(self, failed: int, read: int) -> bool:
        """Whether *failed* of the first *read* rows are too many."""
        return self.most is not None and failed > self.most and failed > self.share * read

    def __str__(self) -> str:
        """What is allowed, for a message."""
        share = f" and {self.share:.0%} of the rows" if self.share else ""
        return f"at most {self.most} may fail{share}"


def policy_of(job: Job) -> ErrorPolicy:
    """``errors`` rules; without it ``abort_on_error`` and whether failed rows are kept with their status."""
    if job.errors is not None:
        if job.errors.max_errors is not None:
            return ErrorPolicy(job.errors.max_errors)
        return ErrorPolicy(0 if job.errors.mode == "abort" else None)
    if not job.abort_on_error:
        return ErrorPolicy(None)
    return ErrorPolicy(FEW, SHARE) if job.include_prediction_status else ErrorPolicy(0)
