"""From a fitted estimator to a plan; needs scikit-learn only as far as the estimator itself has loaded it."""

from typing import Any

from model_repository.compiler.boosters import booster_model, is_booster
from model_repository.compiler.calibration import calibrated_model
from model_repository.compiler.columns import Column, Fitted, Numbers, Texts, blocks_of, elementwise
from model_repository.compiler.errors import NotCompilable
from model_repository.compiler.linear import is_linear, linear_model
from model_repository.compiler.transformers import gives_sparse, transformed
from model_repository.compiler.trees import HISTOGRAM, is_tree_model, tree_model
from model_repository.plan import Calibrated, Linear, Link, Op, Plan, Trees
from model_repository.predictions import Target
from model_repository.tables import Schema

__all__ = ["NotCompilable", "compile_estimator"]


def compile_estimator(estimator: Fitted, schema: Schema, target: Target) -> Plan:
    """
    The plan of a fitted estimator.

    Args:
        estimator: an estimator or a Pipeline that ends in one.
        schema: the features that the estimator was fitted on, in the order of their columns as far as they are used.
        target: what its outputs are.

    Raises:
        NotCompilable: with the step that prevents it.
    """
    model, link, columns = _model(estimator, _feature_columns(estimator, schema))
    return Plan(width=len(columns), blocks=blocks_of(columns), model=model, link=link, order=_order(estimator, target))


def _feature_columns(estimator: Fitted, schema: Schema) -> list[Column]:
    """One symbolic column per column that the estimator was fitted on."""
    places = {feature.name: place for place, feature in enumerate(schema.features)}
    fitted_on = [str(name) for name in getattr(estimator, "feature_names_in_", schema.names)]
    if len(fitted_on) == len(places):  # none is dropped; LightGBM has names of its own for some columns
        fitted_on = schema.names
    return [_feature_column(schema, places.get(name), name) for name in fitted_on]


def _feature_column(schema: Schema, place: int | None, name: str) -> Column:
    if place is None:
        return Numbers(-1, name=name)  # a column that the estimator was given but drops
    feature = schema.features[place]
    if feature.is_numeric:
        return Numbers(place, name=name)
    if feature.type != "categorical":
        raise NotCompilable(f"feature {name!r} is of type {feature.type}")
    categories: tuple[Any, ...] | None = tuple(feature.categories) if feature.categories is not None else None
    return Texts(place, feature.missing_as, name=name, categories=categories)


def _model(estimator: Fitted, columns: list[Column]) -> tuple[Linear | Trees | Calibrated, Link, list[Column]]:
    name = type(estimator).__name__
    if name == "Pipeline":
        sparse = False
        for _, step in estimator.steps[:-1]:
            columns = transformed(step, columns)
            sparse = gives_sparse(step, sparse)
        last = estimator.steps[-1][1]
        if sparse and type(last).__name__.startswith("XGB"):  # what a sparse matrix does not hold is missing to XGBoost
            columns = [elementwise(column, Op("zero-as-missing")) for column in columns]
        return _model(last, columns)
    if name == "FrozenEstimator":
        return _model(estimator.estimator, columns)
    if name == "CalibratedClassifierCV":
        return calibrated_model(estimator, columns, _model)
    if name in HISTOGRAM and estimator._preprocessor is not None:  # noqa: SLF001  # it encodes categories itself
        columns = transformed(estimator._preprocessor, columns)  # noqa: SLF001
    if is_linear(estimator):
        return *linear_model(estimator), columns
    if is_tree_model(estimator):
        return *tree_model(estimator), columns
    if is_booster(estimator):
        return booster_model(estimator, columns)
    raise NotCompilable(f"{type(estimator).__name__}: no plan for this estimator")


def _order(estimator: Fitted, target: Target) -> list[int]:
    """Where each class label of the target stands among the estimator's classes."""
    if target.class_labels is None:
        return [0]
    classes = estimator.classes_.tolist()
    return [classes.index(label) for label in target.class_labels]
