"""Per-example gradients of any JAX loss, and what follows from them."""

from jaxnets.gradients.factors import (
    Factors,
    dot,
    gram,
    materialize,
    norms,
    second_moment,
    sq_norms,
    weighted_sum,
)
from jaxnets.gradients.per_example import (
    ClippedGradMetrics,
    clipped_grad,
    per_example_grad,
    per_example_norms,
)

__all__ = [
    "ClippedGradMetrics",
    "Factors",
    "clipped_grad",
    "dot",
    "gram",
    "materialize",
    "norms",
    "per_example_grad",
    "per_example_norms",
    "second_moment",
    "sq_norms",
    "weighted_sum",
]
