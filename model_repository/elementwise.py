"""The plan's elementwise ops, on whole columns and on single numbers, equal as far as the C library allows."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_repository.plan import Op

Array = NDArray[np.float64]
EPSILON: Final = float(np.finfo(np.float64).eps)
TINY_POWER: Final = 1e-19
_NUMPY_NAMES: Final = {"abs": "absolute"}


def apply_op(op: Op, x: Array) -> Array:
    """The op on a column; the input stays as it was."""
    with np.errstate(all="ignore"):
        if op.name in _COLUMN_OPS:
            return _COLUMN_OPS[op.name](x, *op.args)
        return np.asarray(getattr(np, _NUMPY_NAMES.get(op.name, op.name))(x), dtype=np.float64)


def apply_ops(ops: list[Op], x: Array) -> Array:
    """All ops on a column, in order."""
    for op in ops:
        x = apply_op(op, x)
    return x


def number_function(ops: list[Op]) -> Callable[[float], float] | None:
    """
    All ops as one function of one number (NaN for missing); None when there is nothing to do.

    The usual chains are one function call each: a row is scored in microseconds, and calls are what it costs.
    """
    if not ops:
        return None
    if ops[0].name == "fill":
        return _filled(ops[0].args[0], ops[1:])
    if [op.name for op in ops] == ["sub", "div"]:
        shift, scale = ops[0].args[0], ops[1].args[0]
        return lambda x: (x - shift) / scale
    return _chained([_number_op(op) for op in ops])


def _filled(value: float, ops: list[Op]) -> Callable[[float], float]:
    """What a missing number becomes is known beforehand."""
    rest = number_function(ops)
    if rest is None:
        return lambda x: value if x != x else x  # NaN, three times faster than math.isnan
    instead = rest(value)
    if [op.name for op in ops] == ["sub", "div"]:
        shift, scale = ops[0].args[0], ops[1].args[0]
        return lambda x: instead if x != x else (x - shift) / scale
    return lambda x: instead if x != x else rest(x)


def _chained(steps: list[Callable[[float], float]]) -> Callable[[float], float]:
    if len(steps) == 1:
        return steps[0]

    def chain(x: float) -> float:
        for step in steps:
            x = step(x)
        return x

    return chain


def _number_op(op: Op) -> Callable[[float], float]:
    if op.name in _NUMBER_OPS:
        return _NUMBER_OPS[op.name](*op.args)
    quick = _MATH_OPS.get(op.name)

    def one(x: float) -> float:
        try:
            if quick is not None:
                return quick(x, *op.args)
        except (ValueError, OverflowError, ZeroDivisionError):
            pass  # where Python raises, numpy answers with NaN or an infinity
        return float(apply_op(op, np.array([x]))[0])

    return one


def _fill(value: float) -> Callable[[float], float]:
    return lambda x: value if math.isnan(x) else x


def _yeo_johnson(x: Array, power: float) -> Array:
    """Yeo and Johnson, "A new family of power transformations", Biometrika 2000."""
    x = np.asarray(x, dtype=np.float64)
    out = np.empty_like(x)
    up = x >= 0
    out[up] = np.log1p(x[up]) if abs(power) < EPSILON else np.expm1(power * np.log1p(x[up])) / power
    down = ~up  # NaN goes this way and stays NaN
    mirrored = 2 - power
    logs = np.log1p(-x[down])
    out[down] = -np.expm1(mirrored * logs) / mirrored if abs(mirrored) > EPSILON else -logs
    return out


def _yeo_johnson_number(x: float, power: float) -> float:
    if x >= 0:
        return math.log1p(x) if abs(power) < EPSILON else math.expm1(power * math.log1p(x)) / power
    mirrored = 2 - power
    log = math.log1p(-x)
    return -math.expm1(mirrored * log) / mirrored if abs(mirrored) > EPSILON else -log


def _box_cox(x: Array, power: float) -> Array:
    """Box and Cox, "An analysis of transformations", Journal of the Royal Statistical Society B, 1964."""
    if abs(power) < TINY_POWER:
        return np.log(x)
    return np.asarray(np.expm1(power * np.log(x)) / power)


def _box_cox_number(x: float, power: float) -> float:
    log = math.log(x)
    return log if abs(power) < TINY_POWER else math.expm1(power * log) / power


_COLUMN_OPS: Final[dict[str, Callable[..., Array]]] = {
    "fill": lambda x, value: np.asarray(np.where(np.isnan(x), value, x)),
    "sub": lambda x, value: x - value,
    "div": lambda x, value: x / value,
    "mul": lambda x, value: x * value,
    "add": lambda x, value: x + value,
    "clip": lambda x, low, high: np.asarray(np.clip(x, low, high)),
    "zero-as-missing": lambda x: np.asarray(np.where(x == 0, np.nan, x)),
    "isnan": lambda x: np.isnan(x).astype(np.float64),
    "float32": lambda x: x.astype(np.float32).astype(np.float64),
    "yeo-johnson": _yeo_johnson,
    "box-cox": _box_cox,
}

_NUMBER_OPS: Final[dict[str, Callable[..., Callable[[float], float]]]] = {
    "fill": _fill,
    "sub": lambda value: lambda x: x - value,
    "div": lambda value: lambda x: x / value,
    "mul": lambda value: lambda x: x * value,
    "add": lambda value: lambda x: x + value,
    "clip": lambda low, high: lambda x: min(max(x, low), high),  # NaN stays: both keep their first argument then
    "zero-as-missing": lambda: lambda x: x or math.nan,
    "isnan": lambda: lambda x: 1.0 if math.isnan(x) else 0.0,
}
_MATH_OPS: Final[dict[str, Callable[..., float]]] = {
    "yeo-johnson": _yeo_johnson_number,
    "box-cox": _box_cox_number,
    "abs": abs,
    "negative": lambda x: -x,
    **{
        name: getattr(math, name)
        for name in ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tan", "tanh")
    },
    "arctan": math.atan,
}
