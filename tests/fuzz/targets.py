"""
What is fuzzed: each function takes bytes, and anything but a quiet return is a finding.

Every refusal that the product words itself is quiet. `tests/fuzz/test_findings.py` runs all that was ever found.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from batch.definition import definition_from
from batch.errors import JobError
from batch.job import fingerprint, options_of
from batch.job_file import object_from
from batch.template_variables import RunTimes, filled, missing_times
from model_repository.deployment_config import config_from
from model_repository.errors import PackageError, ServingError
from model_repository.estimators import load_estimator
from model_repository.manifest import manifest_from
from model_repository.mlpkg import Package
from model_repository.plan import plan_from
from model_repository.predictions import Target
from model_repository.runtimes.compiled import CompiledRuntime
from model_repository.tables import Feature, Rows, Schema, Table
from tests.model_repository.test_csv_codec import SCHEMA, by_columns, by_rows
from tests.model_repository.test_json_codec import SCHEMA as JSON_SCHEMA
from tests.model_repository.test_json_codec import in_pieces, whole

PLAN_SCHEMA: Final = Schema(
    (
        Feature(name="x", type="numeric", dtype="float64"),
        Feature(name="city", type="categorical", dtype="str"),
    )
)
PLAN_TARGET: Final = Target(name="t", type="Binary", class_labels=["yes", "no"])
PLAN_ROWS: Final = Rows([[1.5, "Oslo"], [None, None], [float("inf"), "nowhere"]])


def csv(data: bytes) -> None:
    """Both readers agree in every value, every kept text and every word of an error, in blocks of any size."""
    block_bytes = 48 + sum(data[:1])
    for keep in ((), ("k",)):
        body = b"n,b,s,k\n" + data[1:]
        assert by_columns(body, SCHEMA, keep, block_bytes=block_bytes) == by_rows(body, SCHEMA, keep)


def csv_with_any_header(data: bytes) -> None:
    """The same, where the header is made up as well, in any encoding."""
    encoding = ("utf-8", "utf-16", "latin-1", "cp1252")[sum(data[:1]) % 4]
    assert by_columns(data[1:], SCHEMA, "all", encoding) == by_rows(data[1:], SCHEMA, "all", encoding)


def json(data: bytes) -> None:
    """The same of the two readers of JSON."""
    found, expected = in_pieces(data[1:], JSON_SCHEMA, (), 1 + sum(data[:1])), whole(data[1:], JSON_SCHEMA, ())
    if "number is infinity" in str(expected[1]):  # where nobody asked for it, it is only seen when a row is odd as well
        return
    are_refusals = isinstance(found[0], type) and isinstance(expected[0], type)  # of two errors either may come first
    assert are_refusals or found == expected


def archive(data: bytes) -> None:
    """A package of any bytes."""
    descriptor = os.memfd_create("package")
    os.write(descriptor, data)
    with suppress(PackageError), _closing_on_refusal(descriptor, len(data)) as package:
        package.verify_members()


def _closing_on_refusal(descriptor: int, size: int) -> Package:
    try:
        return Package(Path("fuzzed.mlpkg"), descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def manifest(data: bytes) -> None:
    """A package's description."""
    with suppress(PackageError):
        manifest_from(data)


def config(data: bytes) -> None:
    """A deployment's configuration."""
    with suppress(ServingError):
        config_from(data)


def job(data: bytes) -> None:
    """A job's definition, up to the point where something would be opened."""
    with suppress(JobError, UnicodeDecodeError):
        read = definition_from(object_from(data.decode())).job
        assert fingerprint(options_of(read))
        times = RunTimes.now(read.schedule)
        if not list(missing_times(read, times)):
            filled(read, times)


def plan(data: bytes) -> None:
    """A compiled plan: read or refused; what was read scores rows in either form, and alike."""
    with suppress(struct.error, ServingError):
        (size,) = struct.unpack_from("<I", data)
        read = plan_from(data[4 : 4 + size], data[4 + size :], PLAN_SCHEMA, PLAN_TARGET)
        runtime = CompiledRuntime(read, PLAN_SCHEMA, PLAN_TARGET)
        few = runtime.predict_rows(PLAN_ROWS)
        many = runtime.predict(Table.from_rows(PLAN_ROWS, PLAN_SCHEMA))
        assert few.shape == many.shape == (3, 2)
        assert np.array_equal(few, many, equal_nan=True)


def estimator(data: bytes) -> None:
    """The tree of a skops file: what is not trusted is refused, whatever else is wrong with it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("schema.json", data)
    with suppress(PackageError):
        load_estimator(archive.getvalue(), "skops")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "archive": archive,
    "config": config,
    "csv": csv,
    "csv-header": csv_with_any_header,
    "estimator": estimator,
    "job": job,
    "json": json,
    "manifest": manifest,
    "plan": plan,
}
