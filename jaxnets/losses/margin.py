"""Margin losses: 0 once the right answer leads by 1, then linear.

Losses are computed and returned in float32, or float64 for float64 inputs.

All raise `TypeError` for scores that are not floating and `ValueError` for shapes that differ
(nothing broadcasts) or are empty, both inside `jit` too. Labels out of range are a `ValueError`;
traced by `jit` or `vmap`, where they have no values to check, they give NaN in loss and gradient,
which `checkify.checkify(..., errors=checkify.nan_checks)` reports.
"""

import jax.numpy as jnp

from jaxnets.losses._inputs import check_labels, fill, integer_labels, is_label, mask, matched
from jaxnets.types import Array, ArrayLike


def hinge_loss(
    predictor_outputs: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    """The hinge loss `max(0, 1 - y f)` of outputs `f` and targets `y` in {-1, 1}.

    Args:
      predictor_outputs: `f`, floating, of any shape `[...]`.
      targets: `y`, `[...]`, -1 or 1 (labels of 0 and 1 are `2 * labels - 1`).
      where: boolean `[...]`; what it masks out has loss and gradient 0, whatever it holds.

    Returns:
      `[...]`, at least 0.

    Reference: Cortes and Vapnik, Support-Vector Networks, 1995.
    """
    function = "hinge_loss"
    f, y = matched(function, predictor_outputs=predictor_outputs, targets=targets)
    included = mask(function, where, predictor_outputs=f.shape)
    (f,), (y,) = fill(included, 0.0, f), fill(included, 1.0, y)
    valid = jnp.abs(y) == 1
    factor = check_labels(function, valid, "-1 or 1", included, dtype=f.dtype, targets=y)
    return factor * jnp.maximum(0.0, 1 - y * f)


def multiclass_hinge_loss(
    scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    """The multiclass hinge loss `max_c (s_c + [c ≠ y] - s_y)`, 0 once `s_y` leads by 1.

    At scores of ±∞ the loss is its limit (equal infinities differ by 0) and the gradient is finite.

    Args:
      scores: `s`, floating, `[..., C]`.
      labels: `y`, integers in `[0, C)`, `[...]`.
      where: boolean `[...]`; what it masks out has loss and gradient 0, whatever it holds.

    Returns:
      `[...]`, the shape of `labels`, at least 0.

    Reference: Crammer and Singer, On the Algorithmic Implementation of Multiclass Kernel-based
    Vector Machines, 2001.
    """
    function = "multiclass_hinge_loss"
    (s,) = matched(function, scores=scores)
    labels = jnp.asarray(labels)
    included = mask(function, where, labels=labels.shape)
    labels, factor = integer_labels(function, labels, included, scores=s)
    right = is_label(labels, s)
    if included is not None:
        (s,) = fill(included[..., None], 0.0, s)
    score = jnp.sum(jnp.where(right, s, 0.0), axis=-1, keepdims=True)
    # the label's own margin is 0, and so is ∞ - ∞, which NaN detectors must not see computed
    tie = right | ((s == score) & jnp.isinf(s))
    margins = jnp.where(tie, 0.0, jnp.where(tie, 0.0, s) - score)
    margins = margins + (~right).astype(s.dtype)
    return factor * jnp.max(margins, axis=-1)
