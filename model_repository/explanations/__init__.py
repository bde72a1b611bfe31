"""Why a row got its prediction: exact SHAP values where there are such, and strengths by exemplars for every model."""

from model_repository.explanations.explained import (
    MOST_XEMP,
    Algorithm,
    ExplanationOptions,
    Explanations,
    ShapWarnings,
)
from model_repository.explanations.explainer import Explainer
from model_repository.explanations.symbols import SYMBOLS

__all__ = [
    "MOST_XEMP",
    "SYMBOLS",
    "Algorithm",
    "Explainer",
    "ExplanationOptions",
    "Explanations",
    "ShapWarnings",
]
