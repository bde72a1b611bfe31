"""The text of a job definition: read within limits, and parsed so that every mistake in it has a place."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from batch.declared import below
from batch.errors import JobError

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS: Final = re.compile(r"[\[\]{}]")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


class _Object(dict[str, Any]):
    """A JSON object that knows which keys it had more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs) if len(pairs) > len(self) else {}
        self.repeated = tuple(name for name, count in counts.items() if count > 1)


def read_text(path: Path) -> str:
    """
    The text of the file at *path*.

    Raises:
        JobError: no such file, none that can be read to its end, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise JobError(f"{path}: larger than {MAX_BYTES} bytes, expected a job definition")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise JobError(f"{path}: not UTF-8 at byte {exc.start}") from exc
    except (OSError, ValueError) as exc:  # a NUL in the path is a ValueError
        raise JobError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


def object_from(text: str) -> dict[str, Any]:
    """
    The JSON object that *text* holds.

    Raises:
        JobError: not JSON (with line and column), not an object, nested too deeply, a key twice in one object, NaN, a
            number or a string that nothing can take.
    """
    try:
        value = json.loads(text, object_pairs_hook=_Object, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise JobError(_TOO_DEEP) from exc
    except json.JSONDecodeError as exc:
        raise JobError(f"line {exc.lineno}, column {exc.colno}: {_in_words(exc)}") from exc
    except ValueError as exc:  # NaN, or a number with thousands of digits
        raise JobError(str(exc)) from exc
    if _depth(text) > MAX_DEPTH:
        raise JobError(_TOO_DEEP)
    if not isinstance(value, dict):
        raise JobError("expected a JSON object: {...}")
    problems = list(_problems(value, ""))
    if problems:
        raise JobError(problems)
    return value


def _in_words(exc: json.JSONDecodeError) -> str:
    found = exc.doc[exc.pos : exc.pos + 1]  # no more of it: it may be a secret
    return f"not JSON: {exc.msg[0].lower()}{exc.msg[1:]}, {f'got {found!r}' if found else 'but the text ends'}"


def _depth(text: str) -> int:
    """Of a text that is JSON: in another, looking for the end of a string that has none takes for ever."""
    deepest = depth = 0
    for bracket in _BRACKETS.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number that a job can use")


def _problems(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Object):
        for name in value.repeated:
            yield f"{below(path, name)}: given twice"
        for name, inner in value.items():
            yield from _problems(name, f"{below(path, name)} (its name)")
            yield from _problems(inner, below(path, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _problems(inner, f"{path}[{place}]")
    elif isinstance(value, str) and ("\0" in value or _SURROGATES.search(value)):
        yield f"{path}: holds a NUL or half a character"
