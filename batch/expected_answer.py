"""What the server's answers to a job look like before there is one: their columns, and how long they can be. Pure."""

from typing import Final

from batch.job import Job
from batch.model_info import Info, answer_columns, feature_names, model_type
from batch.records import Records
from batch.scoring_client import answer_limit

FIELDS: Final = ("FEATURE_NAME", "STRENGTH", "ACTUAL_VALUE", "QUALITATIVE_STRENGTH")
LEAST_OF_ALL: Final = 10
"""So many explanations have columns even where the model has fewer features."""
FIELD_BYTES: Final = 96
"""More than the numbers and commas of one explanation, and what the name of a derived feature has beside a column's."""


def expected_columns(job: Job, info: Info) -> tuple[str, ...] | None:
    """The columns of an answer; ``None`` where the server does not tell enough of its model."""
    columns, features = answer_columns(info), feature_names(info)
    if columns is None or (features is None and explains(job)):
        return None
    more = _explanation_columns(job, info, len(features or ()))
    return (*columns, *more, *(["IS_OUTLIER_PREDICTION"] if job.prediction_warning_enabled else []))


def explains(job: Job) -> bool:
    """Whether explanations are asked for."""
    return job.max_explanations != 0 or job.explanation_algorithm == "shap"


def most_bytes(job: Job, body: bytes, records: Records) -> int:
    """How long an honest answer to *body* is at most: an explanation repeats a name and a cell of its row."""
    if not explains(job):
        return answer_limit(body)
    longest = max((len(name.encode(errors="replace")) for name in records.names), default=0)
    slots = _per_class(job, len(records.names)) * max(1, _n_classes(job))
    return answer_limit(body) + slots * (2 * len(body) + len(records) * (2 * longest + FIELD_BYTES))


def _explanation_columns(job: Job, info: Info, n_features: int) -> list[str]:
    if not explains(job):
        return []
    numbers = range(1, _per_class(job, n_features) + 1)
    fields = [f"EXPLANATION_{number}_{field}" for number in numbers for field in FIELDS]
    if model_type(info) == "Multiclass":
        classes = [f"CLASS_{number}" for number in range(1, _n_classes(job) + 1)]
        return [name for one in classes for name in (one, *(f"{one}_{field}" for field in fields))]
    return [*fields, "SHAP_REMAINING_TOTAL", "SHAP_BASE_VALUE"] if is_shap(job) else fields


def is_shap(job: Job) -> bool:
    """Whether explanations, if any, are SHAP values."""
    return job.explanation_algorithm == "shap" or (job.explanation_algorithm is None and job.max_explanations == "all")


def _per_class(job: Job, n_features: int) -> int:
    if job.max_explanations in (0, "all"):
        return n_features
    return min(int(job.max_explanations), max(n_features, LEAST_OF_ALL))


def _n_classes(job: Job) -> int:
    return len(dict.fromkeys(job.explanation_class_names)) or job.explanation_num_top_classes or 1
