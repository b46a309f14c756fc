"""A linear probe: what a linear classifier can read out of features, solved to convergence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import losses, optim
from jaxnets.checks import concrete, require_positive, require_real
from jaxnets.types import Array, ArrayLike, Params, PyTree


class Probe(NamedTuple):
    """A solved probe; `nn.dense(params, features)` are its logits."""

    params: Params
    """`{"kernel": [features, classes], "bias": [classes]}`; NaN where no optimum was looked for."""
    steps: Array
    """Taken by L-BFGS."""
    gradient: Array
    """The largest element of the objective's gradient at the end; at most `tol` where it is solved,
    which NaN is not."""


def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    n_classes: int,
    *,
    inverse_l2: ArrayLike = 1.0,
    max_steps: int = 500,
    tol: float = 1e-4,
) -> Probe:
    """Logistic regression: `min_W  s/2 ‖W‖² / (C n) + 1/n Σ CE(x W + b, y)`, `b` not penalized.

    The optimum of scikit-learn's `LogisticRegression(C=inverse_l2)`. `s` is 1, of two classes 2:
    there scikit-learn has one column, `w`, and penalizes it, and here it is the difference of two,
    at the optimum `± w/2`, so that `‖w‖²` is `2 ‖W‖²`. By L-BFGS from 0, in one `while` loop: to be
    jitted, and mapped over `inverse_l2`.

    Args:
      features: `[n, features]`, floating. L-BFGS needs fewer steps where they are standardized.
      labels: integers `[n]`, in `[0, n_classes)`.
      n_classes: at least 2.
      inverse_l2: `C`, positive.
      max_steps: at most so many.
      tol: stop once no element of the gradient of the whole, as written above, is larger.

    Returns:
      The probe. Where values are known only when the program runs (inside `jit`, `vmap`), a `C`
      that is not positive, or features that are not finite, give parameters and a gradient of NaN.

    Raises:
      TypeError: if features are not real and floating.
      ValueError: if the shapes do not fit, `n_classes` is below 2, or, as far as they are known,
        `inverse_l2` is not positive or a feature not finite.
    """
    x, y = jnp.asarray(features), jnp.asarray(labels)
    require_real("linear_probe", features=x)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"linear_probe: features must be [n, d] and labels [n], got {x.shape} and {y.shape}"
        )
    if n_classes < 2:
        raise ValueError(f"linear_probe: n_classes must be at least 2, got {n_classes}")
    require_positive("linear_probe", "inverse_l2", inverse_l2)
    known = concrete(x)
    if known is not None and not np.all(np.isfinite(known)):
        raise ValueError("linear_probe: features must be finite, got NaN or infinity")
    n, size = x.shape
    start = {"kernel": jnp.zeros((size, n_classes), x.dtype), "bias": jnp.zeros(n_classes, x.dtype)}

    scale = 2 if n_classes == 2 else 1
    # a negative C has no optimum, and steps towards it would not end
    penalty = jnp.where(jnp.asarray(inverse_l2) > 0, scale / (2 * inverse_l2 * n), jnp.nan)
    penalty = penalty.astype(x.dtype)

    def objective(params: Params) -> Array:
        logits = x @ params["kernel"] + params["bias"][None]
        loss = losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(loss) + penalty * jnp.sum(params["kernel"] ** 2)

    optimizer = optim.lbfgs()
    value_and_grad = optim.value_and_grad_from_state(objective)

    def largest(grad: Params) -> Array:
        return jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grad)]).max()

    def unsolved(carry: tuple[Params, PyTree, Array, Array]) -> Array:
        _, _, steps, gradient = carry
        return (steps < max_steps) & (gradient > tol)

    def move(
        carry: tuple[Params, PyTree, Array, Array],
    ) -> tuple[Params, PyTree, Array, Array]:
        params, state, steps, _ = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=objective
        )
        params = optim.apply_updates(params, updates)
        _, after = value_and_grad(params, state=state)
        return params, state, steps + 1, largest(after)

    first = largest(jax.grad(objective)(start))
    params, _, steps, gradient = jax.lax.while_loop(
        unsolved, move, (start, optimizer.init(start), jnp.zeros((), jnp.int32), first)
    )
    # as without steps they would be the zeros of the start, which look like a probe
    params = jax.tree.map(lambda p: jnp.where(jnp.isfinite(gradient), p, jnp.nan), params)
    return Probe(params, steps, gradient)
