"""
Fitted estimators as bytes, and back.

The usual form is skops: a ZIP with a tree of nodes in ``schema.json``, each naming a type and how to rebuild it, plus
arrays. Before skops sees it, the tree is walked here and every pair of loader and type must stand, letter by letter, in
``trusted_types.txt``; skops' own audit then runs as well. That is stricter than skops alone: a loader that calls a type
with arguments from the file may do so only with the types that are really written that way.

What this does not promise: a crafted *array* behind a trusted type (a tree with wild child indices) can still crash a
prediction. Unknown packages are therefore tried in a process of their own before they are served.

The other form is joblib, a pickle: reading it runs whatever code it holds.
"""

import io
import json
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, Final, assert_never

from model_repository.errors import CannotPackage, InvalidPackage, PackageError, UntrustedPackage
from model_repository.manifest import Serializer

PICKLE_REFUSED: Final = (
    "the package holds a pickle, which the server loads only when the operator mounted it and "
    "PREDICTION_API_PICKLE_PACKAGES_ENABLED is true"
)
MAX_SKOPS_FILES: Final = 200_000
MAX_SKOPS_BYTES: Final = 2 * 1024**3
"""All arrays and the tree together, unpacked."""
_LOWEST_PROTOCOL: Final = 2
"""Of skops; a file chooses by its protocol which code reads it, and the code for older ones is laxer."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def dump_estimator(estimator: Any, serializer: Serializer) -> bytes:
    """
    A fitted estimator as bytes; equal estimators give equal bytes, as far as skops allows.

    Raises:
        CannotPackage: it cannot be written in this form, or could not be read again.
    """
    match serializer:
        case "skops":
            return _skops_dump(estimator)
        case "joblib":
            return _joblib_dump(estimator)
        case _:
            assert_never(serializer)


def load_estimator(data: bytes, serializer: Serializer, *, pickle_allowed: bool = False) -> Any:
    """
    The estimator that was dumped.

    Raises:
        UntrustedPackage: it is a pickle and those are not allowed, or holds a type that is not on the list.
        InvalidPackage: damaged, or written by libraries that these ones do not understand.
        PackageError: a library that it needs is not installed.
    """
    match serializer:
        case "skops":
            return _skops_load(data)
        case "joblib":
            if not pickle_allowed:
                raise UntrustedPackage(PICKLE_REFUSED)
            return _joblib_load(data)
        case _:
            assert_never(serializer)


@cache
def trusted_types() -> frozenset[tuple[str, str]]:
    """Pairs of skops loader and dotted name."""
    lines = Path(__file__).with_name("trusted_types.txt").read_text(encoding="ascii").splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return frozenset((loader, name) for loader, name in pairs)


def _skops_dump(estimator: Any) -> bytes:
    import skops.io

    try:
        data = _with_stable_names(skops.io.dumps(estimator))
    except Exception as exc:
        raise CannotPackage(
            f"skops cannot write this estimator ({type(exc).__name__}: {exc}); serializer='joblib' writes a package "
            "that holds a pickle"
        ) from exc
    try:
        _audited_names(data)
    except UntrustedPackage as exc:
        raise CannotPackage(
            f"{exc}; use what scikit-learn offers instead of own code, or serializer='joblib', which writes a package "
            "that holds a pickle"
        ) from exc
    return data


def _with_stable_names(data: bytes) -> bytes:
    """The same skops file with counters for memory addresses and random names, and without the blanks of its JSON."""
    ids: dict[int, int] = {}
    files: dict[str, str] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        schema = json.loads(old.read("schema.json"))
        for node in _nodes(schema):
            if isinstance(node.get("__id__"), int):
                node["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
            if isinstance(node.get("file"), str):
                suffix = Path(node["file"]).suffix
                node["file"] = files.setdefault(node["file"], f"{len(files) + 1}{suffix}")
        renamed = io.BytesIO()
        with zipfile.ZipFile(renamed, "w") as new:
            new.writestr(zipfile.ZipInfo("schema.json", _EPOCH), json.dumps(schema, separators=(",", ":")))
            for old_name, new_name in files.items():
                new.writestr(zipfile.ZipInfo(new_name, _EPOCH), old.read(old_name))
    return renamed.getvalue()


def _nodes(schema: Any) -> list[dict[str, Any]]:
    """Every JSON object below *schema*, without recursion: a hostile file is as deep as it likes."""
    found = []
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found.append(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found


def _skops_load(data: bytes) -> Any:
    import skops.io

    try:
        names = _audited_names(data)
        with warnings.catch_warnings():  # another version of scikit-learn: the golden rows tell whether that matters
            warnings.simplefilter("ignore")
            return skops.io.loads(data, trusted=sorted(names))
    except PackageError:
        raise
    except ModuleNotFoundError as exc:
        raise PackageError(f"the estimator needs {exc.name}, which is not installed here") from exc
    except Exception as exc:
        raise InvalidPackage(f"the estimator cannot be read: {type(exc).__name__}: {exc}") from exc


def _audited_names(data: bytes) -> set[str]:
    """
    The types that a skops file names, all of them trusted.

    Raises:
        UntrustedPackage: naming those that are not.
        InvalidPackage: not a skops file, or one that unpacks to too much.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        _check_unpacked_size(infos)
        for info in infos:
            if info.filename.endswith(".npz"):  # a sparse matrix is a ZIP again
                with zipfile.ZipFile(io.BytesIO(archive.read(info))) as inner:
                    _check_unpacked_size(inner.infolist())
        schema = json.loads(archive.read("schema.json"))
    if not isinstance(schema, dict) or not isinstance(schema.get("protocol"), int):
        raise InvalidPackage("the estimator is not a skops file")
    if schema["protocol"] < _LOWEST_PROTOCOL:
        raise InvalidPackage(
            f"the estimator is a skops file of protocol {schema['protocol']}, which is not read any more"
        )
    nodes = _nodes(schema)
    if any(_opens_files(node) for node in nodes):
        raise UntrustedPackage("the estimator holds a vectorizer with input='filename', which opens files")
    kinds = {_kind(node) for node in nodes if node.keys() & {"__loader__", "__module__", "__class__"}}
    if unknown := sorted(f"{name} ({loader})" for loader, name in kinds - trusted_types()):
        raise UntrustedPackage(f"the estimator holds types that are not trusted: {', '.join(unknown)}")
    return {name for _, name in kinds}


def _kind(node: dict[str, Any]) -> tuple[str, str]:
    return str(node.get("__loader__")), f"{node.get('__module__')}.{node.get('__class__')}"


def _opens_files(attributes: dict[str, Any]) -> bool:
    """A text vectorizer that takes its text from files would read the server's, for whoever names them in a row."""
    value = attributes.get("input")
    return isinstance(value, dict) and "filename" in str(json.loads(str(value.get("content") or "null")))


def _check_unpacked_size(infos: list[zipfile.ZipInfo]) -> None:
    """`zipfile` never yields more than a file declares, so the sum of what is declared bounds the memory."""
    if len(infos) > MAX_SKOPS_FILES:
        raise InvalidPackage(f"the estimator has {len(infos)} parts, at most {MAX_SKOPS_FILES} are read")
    size = sum(info.file_size for info in infos)
    if size > MAX_SKOPS_BYTES:
        raise InvalidPackage(f"the estimator unpacks to {size} bytes, at most {MAX_SKOPS_BYTES} are read")


def _joblib_dump(estimator: Any) -> bytes:
    import joblib

    buffer = io.BytesIO()
    try:
        joblib.dump(estimator, buffer)
    except Exception as exc:
        raise CannotPackage(f"this estimator cannot be pickled: {type(exc).__name__}: {exc}") from exc
    return buffer.getvalue()


def _joblib_load(data: bytes) -> Any:
    import joblib

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return joblib.load(io.BytesIO(data))
    except ModuleNotFoundError as exc:
        raise PackageError(f"the estimator needs {exc.name}, which is not installed here") from exc
    except Exception as exc:
        raise InvalidPackage(f"the estimator cannot be read: {type(exc).__name__}: {exc}") from exc
