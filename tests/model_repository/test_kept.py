"""Kept columns of many blocks as one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.kept import Chained, KeptColumns


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=5), st.slices(12))
def test_chained_is_like_one_list(parts: list[list[int]], place: slice) -> None:
    joined = [value for part in parts for value in part]
    chained = Chained(parts)
    assert list(chained) == joined
    assert len(chained) == len(joined)
    assert [chained[index] for index in range(-len(joined), len(joined))] == joined + joined
    if place.step is None or place.step > 0:
        assert chained[place] == joined[place]


@pytest.mark.parametrize("index", [2, -3])
def test_beyond_the_end(index):
    with pytest.raises(IndexError):
        Chained([[1], [2]])[index]


def test_columns_that_come_and_go():
    kept = KeptColumns()
    blocks: list[tuple[int, dict[str, list[Any]]]] = [
        (2, {"a": [1, 2]}),
        (1, {"b": ["x"]}),
        (1, {}),
        (2, {"b": ["y", "z"], "a": [3, 4]}),
    ]
    for n_rows, columns in blocks:
        kept.add(n_rows, columns)
    found = {name: list(column) for name, column in kept.columns().items()}
    assert found == {"a": [1, 2, None, None, 3, 4], "b": [None, None, "x", None, "y", "z"]}
    assert list(found) == ["a", "b"]
