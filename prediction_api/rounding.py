"""
Rounding to decimals as Python's ``round`` does it, but for whole arrays.

``np.round`` multiplies, rounds and divides; where the product lands near a tie its own rounding error decides, and up
to one in twenty money amounts comes out wrong. Here the error of such products is computed (Dekker's exact product) and
the comparison with the tie made exact. The division is right as it is: both sides are whole numbers below 2**53.
"""

from typing import Final

import numpy as np

from model_repository.tables import FloatArray

_SPLITTER: Final = 134217729.0  # 2**27 + 1
_WHOLE_FROM: Final = 2.0**53
"""From here on neighbouring products are one apart or more: a float is already the nearest to its rounded self."""


def rounded(values: FloatArray, decimals: int) -> FloatArray:
    """
    *values* correctly rounded, exact ties to even; never ``-0.0``.

    Args:
        values: finite, any shape.
        decimals: 0 to 15.
    """
    factor = float(10**decimals)
    with np.errstate(over="ignore", invalid="ignore"):
        products = values * factor
        wholes = np.rint(products)
        sizes = np.abs(products)
        # A product is off by at most half a unit in its last place, which is at most its size times 2**-53.
        near = (0.5 - np.abs(products - wholes) <= sizes * 2.0**-52) & (sizes < _WHOLE_FROM)
        if near.any():
            wholes[near] = _exact_wholes(values[near], factor)
        result: FloatArray = np.where(sizes < _WHOLE_FROM, wholes / factor, values) + 0.0  # -0.0 + 0.0 is 0.0
    return result


def _exact_wholes(values: FloatArray, factor: float) -> FloatArray:
    """``values * factor`` rounded to whole numbers as if the product were exact."""
    products = values * factor
    high, low = _halves(values)
    factor_high, factor_low = _halves(np.array(factor))
    errors = ((high * factor_high - products) + high * factor_low + low * factor_high) + low * factor_low
    wholes = np.rint(products)
    rests = products - wholes  # exact, as are the two differences below
    above, below = rests - 0.5, rests + 0.5
    odd = wholes % 2 != 0
    up = (above > -errors) | ((above == -errors) & odd)
    down = (below < -errors) | ((below == -errors) & odd)
    result: FloatArray = wholes + up - down
    return result


def _halves(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each value as a sum of two that have half its bits."""
    scaled = values * _SPLITTER
    high = scaled - (scaled - values)
    return high, values - high
