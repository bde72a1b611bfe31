"""What no server of ours can beat: read, score and write in one process, with no HTTP around it."""

import time
from typing import Final

from model_repository.csv_codec import read_csv_tables
from model_repository.predictions import ScoringOptions
from model_repository.repository import load_model
from prediction_api.writers import JsonWriter
from tests.benchmarks.inputs import Subject
from tests.benchmarks.processes import Load

IN_PROCESS: Final = "in process, no HTTP"


def in_process(subject: Subject, body: bytes, seconds: float) -> Load:
    """CSV in, JSON out, again and again."""
    model = load_model(subject.package)
    schema, writer = model.manifest.schema, JsonWriter(model.manifest.target)
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        start = time.perf_counter()
        for table in read_csv_tables(body, schema, (), "utf-8"):
            b"".join(writer.chunks(model.runtime.predict(table), ScoringOptions(), {}))
        times.append(time.perf_counter() - start)
    times.sort()
    return Load(len(times), len(times) / sum(times), times[len(times) // 2], times[int(len(times) * 0.99)])
