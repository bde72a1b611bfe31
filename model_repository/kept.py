"""Columns to pass through, gathered while a body is read block by block."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, overload


class Chained(Sequence[Any]):
    """Sequences one after another as one; a slice of it is a list."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + len(part))

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._parts)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return self._between(*place.indices(len(self)))
        index = range(len(self))[place]
        part = bisect_right(self._starts, index) - 1
        return self._parts[part][index - self._starts[part]]

    def _between(self, start: int, stop: int, step: int) -> list[Any]:
        found: list[Any] = []
        first = bisect_right(self._starts, start) - 1
        for offset, part in zip(self._starts[first:], self._parts[first:], strict=False):
            if offset >= stop:
                break
            found += part[max(start - offset, 0) : stop - offset]
        return found[::step]


class KeptColumns:
    """
    The kept columns of all blocks, without copying them.

    A JSON column may begin or end anywhere; where a block lacks it, its values are ``None``.
    """

    def __init__(self) -> None:
        self._n_rows = 0
        self._parts: dict[str, list[Sequence[Any]]] = {}
        self._lengths: dict[str, int] = {}

    def add(self, n_rows: int, kept: Mapping[str, Sequence[Any]]) -> None:
        """Take the next block's columns."""
        for name, column in kept.items():
            self._fill(name)
            self._parts[name].append(column)
            self._lengths[name] += n_rows
        self._n_rows += n_rows

    def columns(self) -> dict[str, Sequence[Any]]:
        """All columns, each as long as all blocks together, in order of first appearance."""
        for name in self._parts:
            self._fill(name)
        return {name: Chained(parts) for name, parts in self._parts.items()}

    def _fill(self, name: str) -> None:
        gap = self._n_rows - self._lengths.setdefault(name, 0)
        parts = self._parts.setdefault(name, [])
        if gap:
            parts.append([None] * gap)
            self._lengths[name] += gap
