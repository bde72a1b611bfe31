"""From raw sums to what the estimator answers: each link as scikit-learn, LightGBM or XGBoost computes it."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_repository.plan import Link

Array = NDArray[Any]


def linked(link: Link, raw: Array) -> Array:
    """
    The estimator's answer.

    Args:
        raw: shape ``(n_rows, n_raw)``.

    Returns:
        Shape ``(n_rows, n_outputs)``, float64; two columns where one raw score decides between two classes.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.asarray(_LINKS[link.name](raw, link.scale), dtype=np.float64)


def _two(positive: Array) -> Array:
    """Probabilities of class 0 and class 1 from that of class 1, shape ``(n_rows, 1)``."""
    return np.concatenate([1 - positive, positive], axis=1)


def _sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def _expit(raw: Array, scale: float) -> Array:
    return _two(_sigmoid(raw * scale if scale != 1.0 else raw))


def _softmax(raw: Array, _: float) -> Array:
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _normalized(positive: Array) -> Array:
    """Per-class probabilities that sum to 1; uniform where all are 0."""
    total = positive.sum(axis=1, keepdims=True)
    return np.where(total == 0, 1 / positive.shape[1], positive / np.where(total == 0, 1, total))


def _modified_huber(raw: Array, _: float) -> Array:
    """Zadrozny and Elkan, "Transforming classifier scores into multiclass probability estimates", KDD 2002."""
    positive = (np.clip(raw, -1, 1) + 1) / 2
    return _two(positive) if raw.shape[1] == 1 else _normalized(positive)


def _vote(raw: Array, _: float) -> Array:
    """A classifier without probabilities: 1 for the class it predicts, 0 for the others."""
    if raw.shape[1] == 1:
        return _two((raw > 0).astype(np.float64))
    return np.asarray(np.eye(raw.shape[1])[raw.argmax(axis=1)])


_STEPS: Final = 32
_POWERS: Final = 2.0 ** (np.arange(_STEPS) / _STEPS)
_C0, _C1, _C2 = (float.fromhex(c) / _STEPS**n for c, n in (
    ("0x1.c6af84b912394p-5", 3), ("0x1.ebfce50fac4f3p-3", 2), ("0x1.62e42ff0c52d6p-1", 1),
))  # fmt: skip


def _exp32(x: Array) -> Array:
    """
    float32 ``exp`` to the bit as the C library gives it to XGBoost; numpy's own differs in the last place.

    Source: the C library's algorithm (Nagy, ARM optimized routines): in double, ``2 ** (k / 32)`` times a cubic in
    the rest.
    """
    scaled = np.clip(x.astype(np.float64), -200.0, 200.0) * (_STEPS / np.log(2.0))
    whole = np.rint(scaled)
    rest = scaled - whole
    k = np.where(np.isnan(whole), 0, whole).astype(np.int64)
    power = np.ldexp(_POWERS[k % _STEPS], k // _STEPS)
    return np.asarray((((_C0 * rest + _C1) * (rest * rest) + (_C2 * rest + 1.0)) * power).astype(np.float32))


def _expit32(raw: Array, _: float) -> Array:
    one = np.float32(1)
    return _two(one / (one + _exp32(-raw.astype(np.float32))))


def _softmax32(raw: Array, _: float) -> Array:
    raw = raw.astype(np.float32)
    powers = _exp32(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32))


_LINKS: Final[dict[str, Callable[[Array, float], Array]]] = {
    "identity": lambda raw, _: raw,
    "probability": lambda raw, _: raw,
    "exp": lambda raw, _: np.asarray(np.exp(raw)),
    "expit": _expit,
    "softmax": _softmax,
    "one-vs-rest": lambda raw, _: _normalized(_sigmoid(raw)),
    "modified-huber": _modified_huber,
    "vote": _vote,
    "isolation": lambda raw, scale: 2.0 ** -(raw / scale),
    "exp32": lambda raw, _: _exp32(raw.astype(np.float32)),
    "expit32": _expit32,
    "softmax32": _softmax32,
}
