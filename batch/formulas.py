"""
Keep a spreadsheet from taking a cell for a formula: text that begins like one gets a ``'`` before it. Pure.

Numbers are left as they are, whatever their sign; so is everything that no spreadsheet would run.
"""

import re
from functools import cache
from typing import Final

from batch.dialect import Dialect

BEGINNINGS: Final = tuple("=+-@\t\r\n")
NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|infinity|nan)", re.IGNORECASE)


def escaped(record: bytes, dialect: Dialect) -> bytes:
    """A record, with every cell in it that could be a formula made plain text; most records as they are."""
    if not _may_hold_one(dialect).search(record):
        return record
    return dialect.separator.join(_cell(raw, dialect) for raw in dialect.raw_cells(record))


def _cell(raw: bytes, dialect: Dialect) -> bytes:
    text = dialect.cells(raw)[0] if raw else ""
    if not text.startswith(BEGINNINGS) or NUMBER.fullmatch(text):
        return raw
    return dialect.field(f"'{text}")


@cache
def _may_hold_one(dialect: Dialect) -> re.Pattern[bytes]:
    """Finds the beginning of every such cell, and at times what is inside of quotes."""
    separator, quote = re.escape(dialect.separator), re.escape(dialect.quotechar.encode())
    return re.compile(b"(?:^|%b)(?:%b)?[=+\\-@\t\r\n]" % (separator, quote))
