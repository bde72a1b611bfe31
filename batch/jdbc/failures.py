"""
What a driver says of a failure, in words that show no values of rows.

Drivers quote what they could not write. Where the failure is about values (SQL states 22 and 23) only the kind of
failure and the names of columns and constraints are told.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

ABOUT_VALUES: Final = ("22", "23")
KINDS: Final = {
    "OOM": "Java has not enough memory; PREDICTION_API_BATCH_JVM_MEMORY gives more",
    "22001": "a text is too long for its column",
    "22003": "a number is out of the range of its column",
    "22007": "a text is no value of its column's type",
    "22008": "a date or time is out of the range of its column",
    "22018": "a text is no value of its column's type",
    "22P02": "a text is no value of its column's type",
    "22021": "a text has a character that the database does not take",
    "23502": "null in a column that takes none",
    "23503": "a row that another table must have is not there",
    "23505": "a value that must be unique is there twice",
    "23514": "a value that a check of the table forbids",
    "22": "a value does not fit its column",
    "23": "a rule of the table forbids a row",
    "28": "the database refuses the user or the password",
    "08": "the database cannot be reached",
    "42501": "the user may not do that",
}
_DUPLICATE: Final = re.compile(r"(?i)duplicate|unique")
_TOO_LONG: Final = re.compile(r"(?i)too long|truncat")
_NULL: Final = re.compile(r"(?i)cannot be null|not[ -]null")
_CONSTRAINT: Final = re.compile(
    r"(?i)(?:constraint(?: or index violation\s*;)?|for key|primary key violation:)"
    r"""\s*["']?(?!violation|or )([\w.$]{1,100})"""
)
_COPIED: Final = re.compile(r"(?s)\bCOPY [^\n]*?\d.*")
"""Where PostgreSQL was in a COPY: the line, in whatever language, and then all of the row."""
_SHOWN: Final = 400


def explained(causes: Sequence[tuple[str, str]], url: str = "", columns: Iterable[str] = ()) -> str:
    """The most telling of some failures, given as SQL state and message."""
    causes = [(state, text.partition("; SQL statement:")[0]) for state, text in causes]
    for state, text in reversed(causes):  # the first ones of a batch have all of its text
        if state[:2] in ABOUT_VALUES:
            return _about_values(state, text, columns)
    state, text = next((cause for cause in causes if cause[0]), causes[-1])
    if state == "OOM":
        return KINDS["OOM"]
    text = _COPIED.sub("", text)
    said = " ".join((text.replace(url, "***") if url else text).split())[:_SHOWN]
    kind = KINDS.get(state) or KINDS.get(state[:2])
    return f"{kind}: {said}" if kind else said


def _about_values(state: str, text: str, columns: Iterable[str]) -> str:
    if state not in KINDS and _DUPLICATE.search(text):
        state = "23505"
    elif state not in KINDS and _NULL.search(text):
        state = "23502"
    elif _TOO_LONG.search(text):
        state = "22001"
    kind = KINDS.get(state) or KINDS[state[:2]]
    words = set(re.findall(r"\w+", text.lower()))
    named = [name for name in columns if name.lower() in words]
    of = f", column {', '.join(map(repr, named))}" if named else ""
    constraint = _CONSTRAINT.search(text) if state.startswith("23") else None
    by = f", constraint {constraint[1]}" if constraint else ""
    return f"{kind}{of}{by} (SQL state {state})"
