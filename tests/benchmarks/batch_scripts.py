"""What people write instead of a batch command: one process, no HTTP.  python -m tests.benchmarks.batch_scripts WHICH MODEL IN OUT"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def exact(package: str, source: str, target: str) -> None:
    """The fastest we can write: our own parser and engine, lines joined as they are."""
    from batch.chunking import MIB
    from batch.dialect import WIRE
    from model_repository.csv_codec import read_csv_tables
    from model_repository.predictions import ScoringOptions
    from model_repository.repository import load_model
    from prediction_api.writers import CsvWriter

    model = load_model(Path(package))
    manifest = model.manifest
    writer = CsvWriter(manifest.target)
    with open(source, "rb") as table, open(target, "wb") as scored:  # noqa: PTH123  as a script would
        header = table.readline()
        first = True
        for chunk in _chunks(table, MIB):
            lines: list[bytes] = []
            for block in read_csv_tables(header + chunk, manifest.schema):
                parts = writer.chunks(model.runtime.predict(block), ScoringOptions(), {})
                names, *predictions = b"".join(parts).splitlines()
                lines += predictions
            if first:
                scored.write(names + b"," + header)
                first = False
            records = WIRE.records(chunk)
            pieces = [b","] * (4 * len(records))
            pieces[0::4], pieces[2::4], pieces[3::4] = lines, records, [b"\n"] * len(records)
            scored.write(b"".join(pieces))


def _chunks(table: BinaryIO, size: int) -> Iterator[bytes]:
    from batch.chunking import Cutter
    from batch.dialect import WIRE

    cutter = Cutter(WIRE)
    while block := table.read(size):
        cutter.feed(block)
        while (chunk := cutter.take(size)) is not None:
            yield chunk
    cutter.end()
    while (chunk := cutter.take(size)) is not None:
        yield chunk


def pandas(pickle: str, source: str, target: str) -> None:
    """The usual: read_csv in chunks, the pipeline, to_csv."""
    import joblib
    import pandas as pd

    estimator = joblib.load(pickle)
    features = list(estimator.feature_names_in_)
    words = {name: str for name in features if name.startswith("cat_")}
    for number, rows in enumerate(pd.read_csv(source, chunksize=100_000, dtype=words)):
        probabilities = estimator.predict_proba(rows[features])
        for place, label in enumerate(estimator.classes_):
            rows[f"bought_{label}_PREDICTION"] = probabilities[:, place]
        rows["bought_PREDICTION"] = estimator.classes_[probabilities.argmax(axis=1)]
        rows.to_csv(target, mode="a" if number else "w", header=not number, index=False)


if __name__ == "__main__":
    {"exact": exact, "pandas": pandas}[sys.argv[1]](*sys.argv[2:])
    print(Path("/proc/self/status").read_text())
