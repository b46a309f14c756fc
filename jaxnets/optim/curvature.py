"""Estimates of the Hessian's diagonal, as transformations: gradients in, diagonals out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.leaves import abs_sq
from jaxnets.optim.transform import GradientTransformation, Updates
from jaxnets.types import Array, Key, Params


class HutchinsonState(NamedTuple):
    """The key of the random numbers to come."""

    key: Key


class GaussNewtonBartlettState(NamedTuple):
    """The key of the labels to come."""

    key: Key


def _first_key(random_seed: Key | None) -> Key:
    return jax.random.PRNGKey(0) if random_seed is None else random_seed


def _require(name: str, **arguments: Any) -> None:
    for argument, value in arguments.items():
        if value is None:
            call = f"update(gradients, state, params, {argument}=...)"
            raise ValueError(f"{name}: {argument} is needed; call {call}")


def _signs_like(key: Key, params: Params) -> Params:
    """±1 for each value."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    signs = [
        jax.random.rademacher(k, jnp.shape(p), jnp.float32).astype(jnp.result_type(p))
        for k, p in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, signs)


@by_value
def hutchinson_estimator_diag_hessian(random_seed: Key | None = None) -> GradientTransformation:
    """Hutchinson's estimate of the Hessian's diagonal: `s ⊙ H s` for random signs `s`.

    Unbiased, at the cost of one Hessian-vector product. `update` needs the parameters and
    `obj_fn`, the loss as a function of the parameters alone. For complex parameters it is not
    defined.

    Args:
      random_seed: the key of the signs; by default `jax.random.PRNGKey(0)`.

    Raises:
      ValueError: for an update without params or `obj_fn`.

    References:
      Hutchinson, [A stochastic estimator of the trace of the influence
      matrix](https://doi.org/10.1080/03610918908812806), 1989.
    """

    def init(params: Params) -> HutchinsonState:
        return HutchinsonState(_first_key(random_seed))

    def update(
        updates: Updates,
        state: HutchinsonState,
        params: Params | None = None,
        obj_fn: Callable[[Params], Array] | None = None,
        **extra: Any,
    ) -> tuple[Updates, HutchinsonState]:
        _require("hutchinson_estimator_diag_hessian", params=params, obj_fn=obj_fn)
        key, subkey = jax.random.split(state.key)
        signs = _signs_like(subkey, params)
        products = jax.jvp(jax.grad(obj_fn), (params,), (signs,))[1]  # type: ignore[arg-type]
        return jax.tree.map(jnp.multiply, products, signs), HutchinsonState(key)

    return GradientTransformation(init, update)


@by_value
def gauss_newton_bartlett_estimator_diag_hessian(
    random_seed: Key | None = None,
) -> GradientTransformation:
    """The diagonal of the Gauss-Newton matrix of a classifier: `B ĝ²`, at the cost of a gradient.

    `ĝ` is the gradient of the mean cross-entropy of `B` examples with labels drawn from the model's
    own predictions. Never negative. `update` needs the parameters and `logits_fn`, from the
    parameters to the batch's logits `[..., classes]`. Optax has no such estimator.

    Args:
      random_seed: the key of the labels; by default `jax.random.PRNGKey(0)`.

    Raises:
      ValueError: for an update without params or `logits_fn`.

    Example:
      >>> estimator = gauss_newton_bartlett_estimator_diag_hessian()
      >>> optimizer = sophia(1e-3, hessian_diagonal_fn=estimator, gamma=0.05)
      >>> logits_fn = lambda params: model(params, inputs)
      >>> updates, state = optimizer.update(gradients, state, params, logits_fn=logits_fn)

    References:
      Liu et al., [Sophia](https://arxiv.org/abs/2305.14342), 2023, algorithm 2.
    """

    def init(params: Params) -> GaussNewtonBartlettState:
        return GaussNewtonBartlettState(_first_key(random_seed))

    def update(
        updates: Updates,
        state: GaussNewtonBartlettState,
        params: Params | None = None,
        logits_fn: Callable[[Params], Array] | None = None,
        **extra: Any,
    ) -> tuple[Updates, GaussNewtonBartlettState]:
        _require("gauss_newton_bartlett_estimator_diag_hessian", params=params, logits_fn=logits_fn)
        assert logits_fn is not None
        key, subkey = jax.random.split(state.key)
        logits, backward = jax.vjp(logits_fn, params)
        labels = jax.random.categorical(subkey, logits)
        # of the sum of the cross-entropies; its mean's square, times B, is this one's over B
        error = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])
        (grads,) = backward(error.astype(logits.dtype))
        diagonal = jax.tree.map(lambda g: abs_sq(g) / labels.size, grads)
        return diagonal, GaussNewtonBartlettState(key)

    return GradientTransformation(init, update)
