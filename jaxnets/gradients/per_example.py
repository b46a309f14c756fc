"""Every example's own gradient, and what follows from it directly: norms and clipping.

`loss(params, *example) -> scalar` is a function of one example; here it meets a batch, one more
leading axis on every argument after `params`. A loss whose examples interact (batch norm in
training) has no such gradient: evaluate batch norm with its running moments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.checks import concrete
from jaxnets.gradients.factors import norms as norms_of
from jaxnets.gradients.factors import weighted_sum
from jaxnets.gradients.program import Factors, factorize
from jaxnets.types import Array, ArrayLike, Params, PyTree


def per_example_grad(
    loss: Callable[..., Any], *, has_aux: bool = False, keep_batch_dim: bool = False
) -> Callable[..., tuple[Any, Factors]]:
    """`vmap(value_and_grad(loss))`, with the gradients held as `Factors`.

    Args:
      loss: `loss(params, *example) -> scalar`, or `-> (scalar, aux)` with `has_aux`.
      has_aux: whether `loss` returns something beside the scalar.
      keep_batch_dim: hands `loss` each example with a leading axis of 1, for losses written for
        batches.

    Returns:
      `f(params, *batch) -> (losses [B], factors)`, or `((losses, aux), factors)` with `has_aux`.
      Every leaf of every argument after `params` has the batch as its first axis: inputs, targets,
      and PRNG keys, one for each example.

    Raises:
      ValueError: (on call) if the batch is empty, a leaf has no batch axis, leading sizes differ,
        or `loss` is not scalar.
      TypeError: (on call) if a parameter is not floating.

    Example:
      >>> def loss(params, x, y):
      ...     return jnp.square(jnp.dot(x, params["w"]) - y)
      >>> params = {"w": jnp.array([1.0, 2.0])}
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0.0, 0.0])
      >>> losses, factors = per_example_grad(loss)(params, x, y)
      >>> materialize(factors)["w"]
      Array([[2., 0.],
             [0., 4.]], dtype=float32)
    """

    def one_example(params: Params, *example: PyTree) -> Any:
        if keep_batch_dim:
            example = jax.tree.map(lambda leaf: leaf[None], example)
        out = loss(params, *example)
        value, aux = out if has_aux else (out, None)
        if jnp.shape(value) != ():
            raise ValueError(
                "per_example_grad: loss must return a scalar for one example, "
                f"got shape {jnp.shape(value)}; take the mean, or pass keep_batch_dim=True"
            )
        return value, aux

    def apply(params: Params, *batch: PyTree) -> tuple[Any, Factors]:
        _check(params, batch)
        losses, aux, factors = factorize(one_example, params, batch)
        return ((losses, aux) if has_aux else losses), factors

    return apply


def _check(params: Params, batch: tuple[PyTree, ...]) -> None:
    if not jax.tree.leaves(params):
        raise ValueError("per_example_grad: params has no leaves")
    for leaf in jax.tree.leaves(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                "per_example_grad: params must be floating, got a leaf of "
                f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}; close over what is not trained"
            )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if not shapes:
        raise ValueError("per_example_grad: needs a batch after params, got none")
    if () in shapes:
        raise ValueError(
            "per_example_grad: every leaf of the batch needs a leading batch axis, got a scalar; "
            "close over what all examples share"
        )
    sizes = {shape[0] for shape in shapes}
    if len(sizes) > 1:
        raise ValueError(
            "per_example_grad: all leaves of the batch need the same leading size, "
            f"got shapes {shapes}"
        )
    if sizes == {0}:
        raise ValueError("per_example_grad: the batch is empty (leading size 0)")


def per_example_norms(
    loss: Callable[..., Any], *, has_aux: bool = False, keep_batch_dim: bool = False
) -> Callable[..., Array]:
    """`f(params, *batch) -> [B]`: the Euclidean norm `‖∇loss(params, example)‖` of each example.

    Arguments and errors as for `per_example_grad`.
    """
    gradient = per_example_grad(loss, has_aux=has_aux, keep_batch_dim=keep_batch_dim)

    def norms(params: Params, *batch: PyTree) -> Array:
        _, factors = gradient(params, *batch)
        return norms_of(factors)

    return norms


class ClippedGradMetrics(NamedTuple):
    """What `clipped_grad` saw: of each example, before clipping."""

    losses: Array
    """`[B]`"""
    norms: Array
    """`[B]`"""
    clipped: Array
    """`[B]`, whether the norm was above `clip_norm` (or not finite)."""
    aux: Any
    """What `loss` returned beside the scalar, stacked; `None` without `has_aux`."""


def clipped_grad(
    loss: Callable[..., Any],
    clip_norm: ArrayLike,
    *,
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> Callable[..., tuple[Params, ClippedGradMetrics]]:
    """The batch mean of per-example gradients, each scaled to a norm of at most `clip_norm`.

    `1/B Σᵢ gᵢ · min(1, clip_norm / ‖gᵢ‖)`. An example whose gradient, or whose norm, is not finite
    contributes 0.
    With `clip_norm=jnp.inf` it is the gradient of the mean loss.

    Note that it is the mean: noise for privacy is calibrated to the sum, whose sensitivity is
    `clip_norm`, so its standard deviation here is `noise_multiplier · clip_norm / B`.

    Args:
      loss: `loss(params, *example) -> scalar`, or `-> (scalar, aux)` with `has_aux`.
      clip_norm: positive.
      has_aux, keep_batch_dim: as for `per_example_grad`.

    Returns:
      `f(params, *batch) -> (gradient, ClippedGradMetrics)`.

    Raises:
      ValueError: if a concrete `clip_norm` is not positive; on call, as for `per_example_grad`.

    Abadi et al., "Deep learning with differential privacy", 2016.
    """
    if jnp.shape(clip_norm) != ():
        raise ValueError(f"clipped_grad: clip_norm must be a scalar, got {jnp.shape(clip_norm)}")
    bound = concrete(clip_norm)
    if bound is not None and not bound > 0:
        raise ValueError(f"clipped_grad: clip_norm must be positive, got {bound}")
    gradient = per_example_grad(loss, has_aux=has_aux, keep_batch_dim=keep_batch_dim)

    def clipped(params: Params, *batch: PyTree) -> tuple[Params, ClippedGradMetrics]:
        out, factors = gradient(params, *batch)
        losses, aux = out if has_aux else (out, None)
        norms = norms_of(factors)
        above = norms > clip_norm
        finite = jnp.isfinite(norms)
        scale = jnp.where(above & finite, clip_norm / jnp.where(above, norms, 1), 1)
        weights = jnp.where(finite, scale, 0) / norms.size
        metrics = ClippedGradMetrics(losses, norms, above | ~finite, aux)
        return weighted_sum(factors, weights), metrics

    return clipped
