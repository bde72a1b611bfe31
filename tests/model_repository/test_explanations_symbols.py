import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.explanations.symbols import SYMBOLS, symbol_codes


def symbols(strengths, n_features):
    """Of strengths in any order."""
    strengths = np.array(strengths, dtype=float)
    order = np.argsort(-np.abs(np.nan_to_num(strengths)), kind="stable")
    codes = np.empty(len(order), dtype=int)
    codes[order] = symbol_codes(strengths[order], n_features)
    return [SYMBOLS[code] for code in codes.tolist()]


def shares(*q):
    """Strengths of these shares of their row: what is left over to 1 stands behind them."""
    return [*q, 1 - sum(map(abs, q))]


@pytest.mark.parametrize(
    ("n_features", "q", "symbol"),
    [
        pytest.param(1, 1.0, "+++", id="one feature"),
        pytest.param(1, -1.0, "---", id="one feature, negative"),
        pytest.param(2, 0.0005, "<+", id="2, trivial"),
        pytest.param(2, 0.2, "+", id="2, weak"),
        pytest.param(2, 0.25, "+", id="2, on the lower border"),
        pytest.param(2, 0.26, "++", id="2, medium"),
        pytest.param(2, 0.75, "++", id="2, on the upper border"),
        pytest.param(2, 0.76, "+++", id="2, strong"),
        pytest.param(5, 0.1, "+", id="5, on the lower border"),
        pytest.param(5, 0.10001, "++", id="5, above it"),
        pytest.param(5, 0.4, "++", id="5, on the upper border"),
        pytest.param(5, 0.40001, "+++", id="5, above the upper border"),
        pytest.param(5, -0.40001, "---", id="5, negative"),
        pytest.param(5, 0.00098, "<+", id="5, trivial"),
        pytest.param(5, -0.00098, "<-", id="5, trivial, negative"),
        pytest.param(5, 0.00102, "+", id="5, not trivial"),
        pytest.param(9, 1 / 18, "+", id="9, on the lower border"),
        pytest.param(9, 2 / 9, "++", id="9, on the upper border"),
        pytest.param(10, 0.05, "+", id="10, on the lower border"),
        pytest.param(10, 0.051, "++", id="10, medium"),
        pytest.param(10, 0.2, "++", id="10, on the upper border"),
        pytest.param(200, 0.21, "+++", id="200, strong"),
        pytest.param(200, 0.001, "+", id="200, no longer trivial"),
    ],
)
def test_symbol_of_a_share(n_features, q, symbol):
    row = [q] if n_features == 1 else shares(q)
    assert symbols(row, n_features)[0] == symbol


def test_borders_hold_whatever_the_scale_of_the_row():
    """0.1 of 0.3 is a third less rounding; 3 of 30 is a tenth exactly."""
    assert symbols([0.1, 0.2, 0.7], 5) == symbols([3e5, 6e5, 21e5], 5) == ["+", "++", "+++"]


def test_a_row_is_weighed_against_its_ten_largest_strengths():
    assert symbols([1.0] * 10 + [0.1] * 30, 40) == ["++"] * 10 + ["+"] * 30


def test_no_explanation_has_no_symbol():
    assert symbols([np.nan, 0.5, -0.5], 3) == ["", "++", "--"]
    assert symbols([np.nan], 3) == [""]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=15), st.integers(1, 30))
def test_a_negative_strength_mirrors_the_positive_one(strengths, n_features):
    mirrored = [-strength for strength in strengths if strength != 0]
    swapped = [text.translate(str.maketrans("+-", "-+")) for text in symbols(mirrored, n_features)]
    assert swapped == symbols([-strength for strength in mirrored], n_features)
