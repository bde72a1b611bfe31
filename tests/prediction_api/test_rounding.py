"""Arrays rounded as Python rounds numbers."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prediction_api.rounding import rounded

DECIMALS = st.integers(0, 15)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def near_ties(draw: st.DrawFn) -> float:
    """Within a few units in the last place of a number that ends in 5 after the last decimal kept."""
    value = (draw(st.integers(-(10**17), 10**17)) * 10 + 5) / 10 ** draw(st.integers(1, 17))
    for _ in range(draw(st.integers(0, 3))):
        value = math.nextafter(value, math.inf if draw(st.booleans()) else -math.inf)
    return value


@settings(max_examples=1000)
@given(st.lists(FINITE | near_ties() | st.floats(-1e6, 1e6) | st.floats(0, 1), min_size=1), DECIMALS)
@example([0.5, 1.5, 2.5, 0.125, 0.375, 2.675, 1.005, 0.285], 2)
@example([2.0**53 - 1, 2.0**53, 2.0**53 + 2, 2.0**52 + 0.5, 1.7e308], 0)
@example([900719.9254740993, 900719.9254740992, 450359.9627370496], 10)
@example([0.9999999999999999, 0.5000000000000001, 4.5035996273704955], 15)
def test_as_python_rounds(values: list[float], decimals: int) -> None:
    assert rounded(np.array(values), decimals).tolist() == [round(value, decimals) for value in values]


@pytest.mark.parametrize("decimals", range(16))
@pytest.mark.parametrize("scale", [1.0, 1e3, 225_179.0, 450_359.0, 900_719.0, 1e7])
def test_many_at_once(decimals, scale):
    """Where the products of default decimals pass 2**51, 2**52 and 2**53, and with money amounts that are near ties."""
    rng = np.random.default_rng(decimals)
    values = np.concatenate([rng.uniform(0.5, 2, 2000) * scale, np.round(rng.uniform(0, 2, 2000) * scale, 3)])
    assert rounded(values, decimals).tolist() == [round(value, decimals) for value in values.tolist()]


def test_there_is_no_negative_zero():
    assert str(rounded(np.array([[-0.0, -1e-12], [0.0, -0.4]]), 0).tolist()) == "[[0.0, 0.0], [0.0, 0.0]]"
