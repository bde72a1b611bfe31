"""
What a cell means: text or a JSON value becomes a number, a flag, a text, or missing.

The one place for these rules; every reader uses them or proves that it agrees with them. A cell that cannot be taken
raises `ValueError` with the problem in the client's words; the reader knows the row and the column.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from model_repository.tables import Cell, Feature

NULL_TOKENS: Final = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null"}
)  # fmt: skip
"""Cells of a CSV that mean "missing": the list of ``pandas.read_csv``, so that training and scoring agree."""
MAX_COLUMNS: Final = 10_000
SHOWN_CHARACTERS: Final = 60

_FLAGS: Final = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "y", "t"), 1.0),
    **dict.fromkeys(("false", "0", "0.0", "no", "n", "f"), 0.0),
}


def shown(text: str) -> str:
    """*text* quoted for a message, cut when it is long."""
    return repr(text) if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]!r}..."


def number_from(text: str) -> float | None:
    """A CSV cell as a number; every spelling of NaN is missing."""
    try:
        number = float(text)
    except ValueError:
        if text in NULL_TOKENS:
            return None
        raise ValueError(f"{shown(text)} is not a number") from None
    if "_" in text or not text.isascii():  # Python reads 1_000 and digits of other scripts; no other tool does
        raise ValueError(f"{shown(text)} is not a number")
    if number - number:  # NaN, which is what a number minus itself is unless it is finite
        return _not_finite(number, text)
    return number


def _not_finite(number: float, text: str) -> float | None:
    if math.isnan(number):
        return None
    if "inf" not in text.lower():
        raise ValueError(f"{shown(text)} is too large for a number")
    return number


def flag_from(text: str) -> float | None:
    """A CSV cell as 1.0 or 0.0."""
    if text in NULL_TOKENS:
        return None
    flag = _FLAGS.get(text.strip(" \t").lower())
    if flag is None:
        raise ValueError(f"{shown(text)} is neither true nor false")
    return flag


def text_from(text: str) -> str | None:
    """A CSV cell as it stands, or missing."""
    return None if text in NULL_TOKENS else text


def number_category_from(text: str) -> str | None:
    """A CSV cell of a column whose categories are numbers: ``2.0`` and ``2`` are one category."""
    if text in NULL_TOKENS:
        return None
    try:
        number = number_from(text)
    except ValueError:
        return text
    return text if number is None else category_text(number)


def flag_category_from(text: str) -> str | None:
    """A CSV cell of a column whose categories are flags: ``True`` and ``true`` are one category."""
    try:
        flag = flag_from(text)
    except ValueError:
        return text
    return None if flag is None else category_text(bool(flag))


def number_from_json(value: Any) -> float | None:
    """A JSON value as a number: a string is read as a CSV cell, but only the empty one is missing."""
    if isinstance(value, str):
        return _present(number_from(value), value, "a number")
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{_kind(value)} is not a number")


def flag_from_json(value: Any) -> float | None:
    """A JSON value as 1.0 or 0.0."""
    if isinstance(value, str):
        return _present(flag_from(value), value, "true or false")
    if value is None:
        return None
    if isinstance(value, int | float) and value in (0, 1):
        return float(value)
    raise ValueError(f"{_kind(value)} is neither true nor false")


def text_from_json(value: Any) -> str | None:
    """A JSON string as it stands; a number or a flag as its shortest text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return _kind(value)
    raise ValueError(f"{_kind(value)} is not a text")


def category_from_json(read: Callable[[str], str | None], value: Any) -> str | None:
    """A JSON value of a column whose categories are not texts, brought to one form by *read*."""
    if value is None:
        return None
    if isinstance(value, bool | int | float | str):
        return read(category_text(value))
    raise ValueError(f"{_kind(value)} is not a category")


def _present(value: float | None, text: str, wanted: str) -> float | None:
    if value is None and text != "":
        raise ValueError(f"{shown(text)} is not {wanted}")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return "an array" if isinstance(value, list) else "an object"


def csv_converter(feature: Feature) -> Callable[[str], Cell]:
    """How a CSV cell of *feature* is read."""
    return {"numeric": number_from, "boolean": flag_from}.get(feature.type) or text_converter(feature)


def json_converter(feature: Feature) -> Callable[[Any], Cell]:
    """How a JSON value of *feature* is read."""
    read = text_converter(feature)
    as_text = text_from_json if read is text_from else partial(category_from_json, read)
    return {"numeric": number_from_json, "boolean": flag_from_json}.get(feature.type, as_text)


def text_converter(feature: Feature) -> Callable[[str], str | None]:
    """How a CSV cell of a *feature* that is no number to us is read."""
    match feature.categories:
        case [bool(), *_]:
            return flag_category_from
        case [int() | float(), *_]:
            return number_category_from
    return text_from


def category_text(category: object) -> str:
    """How a category of any type is written in the input: whole numbers without a point, booleans in lower case."""
    if isinstance(category, bool):
        return str(category).lower()
    if isinstance(category, float) and category.is_integer():
        return str(int(category))
    return str(category)
