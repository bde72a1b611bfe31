"""Why a row got its prediction: exact SHAP values where there are such, and strengths by exemplars for every model."""

from model_repository.explanations.explained import MOST_XEMP, Explanations, ShapWarnings
from model_repository.explanations.explainer import Explainer
from model_repository.explanations.gathered import Explained, Gathered, by_feature
from model_repository.explanations.symbols import SYMBOLS
from model_repository.predictions import Algorithm, ExplanationOptions

__all__ = [
    "MOST_XEMP",
    "SYMBOLS",
    "Algorithm",
    "Explained",
    "Explainer",
    "ExplanationOptions",
    "Explanations",
    "Gathered",
    "ShapWarnings",
    "by_feature",
]
