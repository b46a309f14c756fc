"""Penalties on parameters, chosen by path.

`rules` says what is penalized (see `jaxnets.tree`). A regular expression, by default `"kernel$"`,
which lets biases and norms' scales go free, takes the leaves whose path it is found in. A mapping
from regular expressions to relative strengths takes every leaf by the first that fits, and must
cover them all: `{"embedding$": 0.1, "kernel$": 1.0, ".*": 0.0}`. A rule that fits no leaf is an
error.

    loss = losses.softmax_cross_entropy(logits, labels).mean() + losses.l2(params, 1e-4)

Penalties are scalars, computed in float32 (float64 for float64 parameters).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.checks import require_real
from jaxnets.losses._inputs import absolute, require_scalar_in, widen
from jaxnets.types import Array, ArrayLike, Params

Rules = str | Mapping[str, ArrayLike]


def _penalty(
    function: str,
    params: Params,
    weight: ArrayLike,
    rules: Rules,
    of_leaf: Callable[[Array], Array],
) -> Array:
    """`weight · Σ_leaves strength · of_leaf(leaf)`."""
    require_scalar_in(function, 0.0, float("inf"), weight=weight)
    if isinstance(rules, str):
        strengths = tree.match(rules, params)
    else:
        require_scalar_in(function, 0.0, float("inf"), **rules)
        strengths = tree.apply_rules(rules, params)

    total = jnp.zeros((), jnp.float32)
    pairs = zip(tree.flatten_with_paths(params).items(), jax.tree.leaves(strengths), strict=True)
    for (path, leaf), strength in pairs:
        # a leaf without a penalty may be of any dtype, and must not add 0 · ∞
        if isinstance(strength, bool | int | float) and strength == 0:
            continue
        leaf = jnp.asarray(leaf)
        require_real(function, **{path: leaf})
        (leaf,) = widen(leaf)
        total = total + jnp.asarray(strength, leaf.dtype) * of_leaf(leaf)
    return jnp.asarray(weight, total.dtype) * total


def l1(params: Params, weight: ArrayLike, rules: Rules = "kernel$") -> Array:
    """The L1 penalty (lasso) `λ Σ|w|`; its gradient at 0 is 0.

    Args:
      params: a pytree of arrays.
      weight: the scalar λ, at least 0.
      rules: what is penalized, see above.

    Returns:
      A scalar.

    Raises:
      TypeError: if a penalized leaf is not floating.
      ValueError: if λ is negative, a rule fits no leaf, or a mapping leaves a leaf uncovered.

    Reference: Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996.
    """
    return _penalty("l1", params, weight, rules, lambda w: jnp.sum(absolute(w)))


def l2(params: Params, weight: ArrayLike, rules: Rules = "kernel$") -> Array:
    """The L2 penalty (ridge, weight decay in the loss) `λ ½ Σw²`; its gradient is `λ w`.

    Half the squares, as in `l2_loss`: with plain gradient descent it equals decay by λ, as
    PyTorch's `weight_decay`. A `λ Σw²` from elsewhere is `l2(params, 2 * λ)`.

    Args:
      params: a pytree of arrays.
      weight: the scalar λ, at least 0.
      rules: what is penalized, see above.

    Returns:
      A scalar.

    Raises:
      TypeError: if a penalized leaf is not floating.
      ValueError: if λ is negative, a rule fits no leaf, or a mapping leaves a leaf uncovered.

    Reference: Hoerl and Kennard, Ridge Regression, 1970.
    """
    return _penalty("l2", params, weight, rules, lambda w: 0.5 * jnp.sum(jnp.square(w)))


def elastic_net(
    params: Params, weight: ArrayLike, rules: Rules = "kernel$", *, l1_ratio: ArrayLike = 0.5
) -> Array:
    """The elastic net `λ (ρ Σ|w| + (1 - ρ) ½ Σw²)`, with scikit-learn's λ and ρ.

    Args:
      params: a pytree of arrays.
      weight: the scalar λ, at least 0.
      rules: what is penalized, see above.
      l1_ratio: the scalar ρ in [0, 1]: 1 is `l1`, 0 is `l2`.

    Returns:
      A scalar.

    Raises:
      TypeError: if a penalized leaf is not floating.
      ValueError: if λ or ρ is out of range, a rule fits no leaf, or a mapping leaves a leaf
        uncovered.

    Reference: Zou and Hastie, Regularization and Variable Selection via the Elastic Net, 2005.
    """
    require_scalar_in("elastic_net", 0.0, 1.0, l1_ratio=l1_ratio)

    def of_leaf(w: Array) -> Array:
        rho = jnp.asarray(l1_ratio, w.dtype)
        return rho * jnp.sum(absolute(w)) + (1 - rho) * 0.5 * jnp.sum(jnp.square(w))

    return _penalty("elastic_net", params, weight, rules, of_leaf)
