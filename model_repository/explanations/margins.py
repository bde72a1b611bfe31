"""
The scale on which a model adds up: what its strengths are measured in.

A linear model and an ensemble of trees are sums before their link. The margin of an output is that sum, turned so that
a larger one always means more of the output:

=====================  =============================================  ============================
link                   margin of an output                            of the answer *p*
=====================  =============================================  ============================
identity, probability  the sum itself                                 p
exp                    the sum                                        log p
expit                  the sum, for the negative class its negative   log-odds: log p / (1 - p)
softmax                the class's sum minus the mean of all classes' log p minus the mean of log p
one-vs-rest            the class's sum                                log-odds before normalising
vote, modified-huber   the decision value of the class                -
isolation              minus the sum over the scale                   log2 p
=====================  =============================================  ============================

Everything else (calibrated models, and whatever is not compiled) is explained on the scale of its answer itself.
"""

from typing import Final

import numpy as np

from model_repository.plan import Calibrated, Plan
from model_repository.tables import FloatArray

SINGLE_TOLERANCE: Final = 1e-5
"""How far a sum may miss its margin where the library itself adds in float32 (XGBoost)."""
TOLERANCE: Final = 1e-9
"""The same elsewhere. Relative where the margin is above 1."""


def margin_weights(plan: Plan) -> FloatArray | None:
    """
    The matrix that makes margins of raw sums: ``raw @ weights.T``, shape ``(n_outputs, n_raw)``.

    ``None`` if the model is no sum on any scale.
    """
    if isinstance(plan.model, Calibrated):
        return None
    n_raw, link = plan.model.n_raw, plan.link
    if n_raw == 1 and len(plan.order) == 2:  # one sum decides between two classes: it speaks for the second
        scale = link.scale if link.name == "expit" else 1.0
        return np.array([[scale if place == 1 else -scale] for place in plan.order])
    if link.name == "isolation":
        return np.array([[-1.0 / link.scale]])
    every = np.eye(n_raw)
    if link.name in {"softmax", "softmax32"}:
        every -= 1.0 / n_raw
    return every[plan.order]
