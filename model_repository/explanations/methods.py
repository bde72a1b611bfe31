"""What every way to explain a model gives."""

from dataclasses import dataclass
from typing import Protocol

from model_repository.predictions import Algorithm
from model_repository.tables import FloatArray, Table


@dataclass(frozen=True)
class Shap:
    """SHAP values of some rows."""

    strengths: FloatArray
    """Shape ``(n_rows, n_features)``, in units of the margin of output 0."""
    margins: FloatArray
    """What the model itself says, shape ``(n_rows,)``: base value and strengths must add up to it."""
    tolerance: float
    """How far they may miss it; see `margins`."""
    standard_errors: FloatArray | None = None
    """As the strengths, if these are estimates."""


class Method(Protocol):
    """One way to explain a model."""

    @property
    def is_exact(self) -> bool:
        """Whether its SHAP values are no estimates."""
        ...

    @property
    def base_value(self) -> float:
        """What the SHAP values of output 0 start from."""
        ...

    def rows_at_once(self, algorithm: Algorithm) -> int:
        """How many rows it should be given in one call: what takes a second or so, and no less than is quick."""
        ...

    def shap(self, table: Table) -> Shap:
        """SHAP values of output 0."""
        ...

    def exemplar_strengths(self, table: Table, outputs: list[int]) -> FloatArray:
        """
        For each output, how far each feature moves its margin away from what it is with the exemplars' values.

        Returns:
            Shape ``(n_rows, len(outputs), n_features)``.
        """
        ...
