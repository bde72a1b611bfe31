"""
Find the rows that make the server refuse a chunk, by halves.

A bad row among n costs 2 * log2(n) requests. What is known of a row comes from the server, asked for that row alone.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from batch.records import Records
from batch.scoring_client import TOO_LARGE, Answer, Refused

Ask = Callable[[Records], Awaitable[Answer]]

_PLACE: Final = re.compile(r"^(?:line \d+|row \d+)[:,] ")
"""How the server says where: in its request, which has this row alone."""


@dataclass(frozen=True)
class Problem:
    """Why a row has no prediction."""

    code: int
    """The server's status."""
    message: str


@dataclass(frozen=True)
class Outcome:
    """What became of some rows, in order."""

    names: tuple[str, ...] | None
    """Columns of the predictions; None: no row was scored."""
    lines: list[bytes | None]
    """By row, the predictions; None: the row failed."""
    problems: dict[int, Problem]
    """By row, why."""


async def score_all(records: Records, ask: Ask, *, isolate: bool = True, first_only: bool = False) -> Outcome:
    """
    Every row's prediction or problem.

    Args:
        isolate: look for the bad rows; otherwise all rows of a refused request failed.
        first_only: stop at the first bad row: the rows after it are left without either.
    """
    try:
        answer = await ask(records)
        return Outcome(answer.names, list(answer.lines), {})
    except Refused as refusal:
        n_rows = len(records)
        if n_rows == 1 or not (isolate or refusal.status == TOO_LARGE):
            problem = Problem(refusal.status, _PLACE.sub("", refusal.message))
            return Outcome(None, [None] * n_rows, dict.fromkeys(range(n_rows), problem))
    middle = n_rows // 2
    left = await score_all(records.part(0, middle), ask, isolate=isolate, first_only=first_only)
    if first_only and left.problems:
        return left
    right = await score_all(records.part(middle, n_rows), ask, isolate=isolate, first_only=first_only)
    moved = {row + middle: problem for row, problem in right.problems.items()}
    return Outcome(left.names or right.names, [*left.lines, *right.lines], left.problems | moved)
