"""Log-probabilities of a softmax, accurate relative to their own size, and finite gradients.

Two forms: of all classes, for targets that are distributions; and of one class, for integer labels,
which needs a single pass over the exponentials.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.losses._inputs import is_label
from jaxnets.types import Array


@jax.custom_jvp
def log_softmax(x: Array) -> Array:
    """`log p_c = x_c - log Σ_k e^{x_k}` over the last axis.

    `jax.nn.log_softmax` is accurate relative to 1; here the terms at the maximum, which are exactly
    1, are counted apart from the others, so that `log(1 + rest)` keeps the digits of a small rest.
    """
    largest = jnp.max(x, axis=-1, keepdims=True)
    at_max = x == largest
    # the inner where keeps ∞ - ∞ from being computed at all: NaN detectors see it
    shifted = jnp.where(at_max, 0.0, jnp.where(at_max, 0.0, x) - largest)
    others = jnp.sum(jnp.where(at_max, 0.0, jnp.exp(shifted)), axis=-1, keepdims=True)
    rest = others + (jnp.sum(at_max, axis=-1, keepdims=True, dtype=x.dtype) - 1)
    return shifted - jnp.log1p(rest)


@log_softmax.defjvp
def _log_softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    log_p = log_softmax(x)
    return log_p, x_dot - jnp.sum(jnp.exp(log_p) * x_dot, axis=-1, keepdims=True)


def _relative_to_max(x: Array, labels: Array) -> tuple[Array, Array, Array]:
    """`x - max x`, that of the label, and `Σ e^{x_c - max x}` over the other classes."""
    largest = jnp.max(x, axis=-1, keepdims=True)
    finite = jnp.clip(largest, np.finfo(x.dtype).min, np.finfo(x.dtype).max)  # no ∞ - ∞
    shifted = jnp.where(x == largest, 0.0, x - finite)
    others = jnp.where(is_label(labels, x), 0.0, jnp.exp(shifted))

    inside = jnp.clip(labels, 0, x.shape[-1] - 1)[..., None]
    own = jnp.take_along_axis(x, inside, axis=-1)
    below = jnp.where(jnp.isinf(largest), -jnp.inf, own - finite)
    return shifted, jnp.where(own == largest, 0.0, below), jnp.sum(others, axis=-1, keepdims=True)


@jax.custom_jvp
def _softmax(x: Array, labels: Array) -> Array:
    """`e^{x_c} / Σ_k e^{x_k}`, from the sums that `label_cost` takes too."""
    shifted, own, others = _relative_to_max(x, labels)
    return jnp.exp(shifted) / (jnp.exp(own) + others)


@_softmax.defjvp
def _softmax_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, labels), (x_dot, _) = primals, tangents
    p = _softmax(x, labels)
    return p, p * (x_dot - jnp.sum(p * x_dot, axis=-1, keepdims=True))


@jax.custom_jvp
def label_cost(x: Array, labels: Array) -> Array:
    """`-log p_y`, in one pass over the exponentials; labels out of range have gradient NaN.

    `log(1 + Σ_{c≠y} e^{x_c - x_y})` where the label leads, which keeps the digits of a small loss;
    elsewhere `log Σ_c e^{x_c - max x} - (x_y - max x)`, where neither term is small.
    """
    _, own, others = _relative_to_max(x, labels)
    cost = jnp.where(own == 0, jnp.log1p(others), jnp.log(others + jnp.exp(own)) - own)
    return cost[..., 0]


@label_cost.defjvp
def _label_cost_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, labels), (x_dot, _) = primals, tangents
    valid = (labels >= 0) & (labels < x.shape[-1])
    residual = _softmax(x, labels) - is_label(labels, x)
    residual = jnp.where(valid[..., None], residual, jnp.nan)
    return label_cost(x, labels), jnp.sum(residual * x_dot, axis=-1)
