"""
From strengths to the symbols that people read: ``+++`` for much, ``<+`` for next to nothing.

A strength is weighed against the sum of the ten largest of its row: *q* = strength / sum. What counts as much depends
on how many features the model has:

=========  ==============  ==============  =========
features   one mark        two             three
=========  ==============  ==============  =========
1                                          the rest
2          up to 0.25      up to 0.75      the rest
3 to 9     up to 1/(2N)    up to 2/N       the rest
10 or more up to 0.05      up to 0.2       the rest
=========  ==============  ==============  =========

Below 0.001 it is trivial. A value on a border gets the weaker symbol. A negative strength has the same in minus.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.tables import FloatArray

SYMBOLS: Final = ("---", "--", "-", "<-", "", "<+", "+", "++", "+++")
"""What the codes of `symbol_codes` mean, from 4 below to 4 above the middle; the middle stands for no explanation."""
NO_SYMBOL: Final = 4
"""The code of the middle."""
TRIVIAL: Final = 0.001
MOST_WEIGHED: Final = 10
"""The largest strengths of a row, against whose sum each is weighed."""
_ROUNDING: Final = 1e-12
"""How far a quotient may exceed a border by rounding alone: 1/10 + 2/10 is not 3/10 in floating point."""


def symbol_codes(strengths: FloatArray, n_features: int) -> NDArray[np.int8]:
    """
    The symbol of each strength, as its place in `SYMBOLS`.

    Args:
        strengths: shape ``(..., n)``, strongest first, at least ten of them if the row has as many; NaN where there
            is none.
        n_features: of the model.

    Returns:
        The same shape; 4, the empty symbol, for NaN.
    """
    sizes = np.abs(np.nan_to_num(strengths))
    most = sizes[..., :MOST_WEIGHED].sum(axis=-1, keepdims=True)
    q = np.divide(sizes, most, out=np.zeros_like(sizes), where=most > 0) - _ROUNDING
    codes = np.ones(q.shape, dtype=np.int8)
    for border in _borders(n_features):
        codes += q > border
    codes[q + 2 * _ROUNDING < TRIVIAL] = 1
    signed: NDArray[Any] = np.where(strengths < 0, -codes, codes) + NO_SYMBOL
    return np.where(np.isnan(strengths), NO_SYMBOL, signed).astype(np.int8)


def _borders(n_features: int) -> tuple[float, float, float]:
    """Above which a symbol has one, two and three marks; the first is met by trivial ones, sorted out before."""
    if n_features <= 1:
        return 0.0, 0.0, 0.0
    if n_features == 2:
        return 0.0, 0.25, 0.75
    if n_features < 10:
        return 0.0, 1 / (2 * n_features), 2 / n_features
    return 0.0, 0.05, 0.2
