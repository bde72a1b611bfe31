"""What fuzzing begins with: small real inputs of each target, and words that inputs are made of."""

import io
import json
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from model_repository import create_package
from model_repository.mlpkg import Package

TABLES: Final = [
    b"1,true,x,y\n",
    b'"1","","a,b",\n,,,\n',
    b'1,0,x,\xc3\xa9\r\n2,1,"two\nlines",k\r\n' * 40,
    b"nan,t,NA,1e5\r",
]
DEFINITIONS: Final = Path(__file__).parents[1] / "batch" / "definitions"
WORDS: Final = {
    "csv": ['"', '""', ",", "\n", "\r\n", "\r", "NA", "nan", "inf", "true", "1e400", "\0", "\ufeff"],
    "job": [
        '"type":"',
        '"url":"',
        '"jdbc:',
        '"query":"{{',
        '"schedule":{',
        '"minute":[',
        '"*"',
        '"errors":{',
        "null",
        "1e999",
    ],
    "json": ['[{"n":', "},{", '"b":true', "null", '\\"', "\\ud800", "1e999", "[[[[", '{"s":"'],
    "manifest": ['"format_version":', '"features":[', '"target":{', '"type":"', '"members":[', "null", "1e999", "NaN"],
    "config": ["prediction_threshold:", "deployment_id:", "&a", "*a", "!!python/object:", "<<:", "? ", "- "],
    "plan": ['"indptr":', '"leaf":', '"blocks":[', '"model":{', "-1", "1e308", "null", '"type":"trees"'],
    "estimator": [
        '"__class__":',
        '"__module__":',
        '"__loader__":',
        '"__id__":',
        '"ObjectNode"',
        '"posix"',
        '"content":',
    ],
}


@cache
def seeds() -> dict[str, list[bytes]]:
    """Inputs by target."""
    with tempfile.TemporaryDirectory() as directory:
        packages = [_package(Path(directory) / f"{number}.mlpkg", last) for number, last in enumerate(_estimators())]
    csv = [b"\0" + table for table in TABLES]
    return {
        "archive": [raw for raw, _ in packages],
        "config": [b"deployment_id: a\nprediction_threshold: 0.25\n"],
        "csv": csv,
        "csv-header": [b"\0n,b,s,k\n" + table for table in TABLES],
        "estimator": [members["schema.json"] for _, members in packages],
        "job": [path.read_bytes() for path in sorted(DEFINITIONS.glob("*.json"))],
        "json": [
            b"\x40" + json.dumps([{"n": 1, "b": True, "s": "x"}, {"n": None, "k": [{}]}] * n).encode() for n in (1, 9)
        ],
        "manifest": [members["manifest.json"] for _, members in packages],
        "plan": [_framed(members["plan.json"], members["plan.bin"]) for _, members in packages],
    }


def dictionary(target: str) -> str:
    """libFuzzer's way to write down words."""
    words = WORDS.get(target.partition("-")[0], [])
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in words)


def _framed(document: bytes, arrays: bytes) -> bytes:
    return struct.pack("<I", len(document)) + document + arrays


def _estimators() -> list[Any]:
    numbers, words = (StandardScaler(), ["x"]), ["city"]
    one_hot = make_column_transformer(numbers, (OneHotEncoder(handle_unknown="ignore"), words))
    ordinal = make_column_transformer(
        numbers, (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), words)
    )
    return [
        make_pipeline(one_hot, LogisticRegression()),
        make_pipeline(one_hot, RandomForestClassifier(2, max_depth=2, random_state=0)),
        make_pipeline(ordinal, HistGradientBoostingClassifier(max_iter=2, max_depth=2)),
    ]


def _package(path: Path, estimator: Any) -> tuple[bytes, dict[str, bytes]]:
    """The file, and its members with the skops file's tree among them."""
    rows = pd.DataFrame({"x": np.linspace(-3, 3, 60), "city": ["Oslo", "Bergen", "Voss"] * 20})
    outcome = pd.Series(np.where(rows["x"] > 0, "yes", "no"), name="t")
    create_package(path, estimator.fit(rows, outcome), rows.join(outcome), target="t", positive_class="yes")
    with Package.open(path) as package:
        manifest = package.manifest
        assert manifest.plan is not None
        members = {
            "manifest.json": package.manifest_content,
            "plan.json": package.member(manifest.plan.member),
            "plan.bin": package.member(manifest.plan.arrays),
        }
        with zipfile.ZipFile(io.BytesIO(package.member(manifest.estimator.member))) as skops:
            members["schema.json"] = skops.read("schema.json")
    return path.read_bytes(), members
