"""Per-example gradients of any JAX loss, and what follows from them."""

from jaxnets.gradients import accounting, privacy
from jaxnets.gradients.explain import ParameterPlan, explain, plan
from jaxnets.gradients.factors import (
    dot,
    gram,
    materialize,
    norms,
    second_moment,
    sq_norms,
    sq_norms_by_leaf,
    weighted_sum,
)
from jaxnets.gradients.per_example import (
    ClippedGradMetrics,
    clipped_grad,
    per_example_grad,
    per_example_norms,
)
from jaxnets.gradients.program import Factors

__all__ = [
    "ClippedGradMetrics",
    "Factors",
    "ParameterPlan",
    "accounting",
    "clipped_grad",
    "dot",
    "explain",
    "gram",
    "materialize",
    "norms",
    "per_example_grad",
    "per_example_norms",
    "plan",
    "privacy",
    "second_moment",
    "sq_norms",
    "sq_norms_by_leaf",
    "weighted_sum",
]
