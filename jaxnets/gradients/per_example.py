"""Every example's own gradient, as factors, and its norm.

`loss(params, *example) -> scalar` is a function of one example; here it meets a batch, one more
leading axis on every argument after `params`. A loss whose examples interact (batch norm in
training) has no such gradient: evaluate batch norm with its running moments.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.mixing import what_mixes
from jaxnets.gradients.program import Factors, Traced, factorize, trace
from jaxnets.gradients.two_passes import run
from jaxnets.tree import flatten_with_paths
from jaxnets.types import Array, Params, PyTree

PER_EXAMPLE = "per_example_grad"


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
        `loss` is not scalar, or it mixes the examples: batch norm in training; with
        `keep_batch_dim` whatever the trace shows, see `jaxnets.gradients.mixing`; or if an array is
        sharded over explicit axes of a mesh, or varies over those of a `shard_map` that checks it.
      TypeError: (on call) if a parameter or the loss is not floating.

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

    traced = tracer(loss, has_aux=has_aux, keep_batch_dim=keep_batch_dim)

    def apply(params: Params, *batch: PyTree) -> tuple[Any, Factors]:
        losses, aux, factors = factorize(traced(params, batch))
        return ((losses, aux) if has_aux else losses), factors

    return apply


def tracer(
    loss: Callable[..., Any], *, has_aux: bool, keep_batch_dim: bool, who: str = PER_EXAMPLE
) -> Callable[[Params, tuple[PyTree, ...]], Traced]:
    """`(params, batch) -> Traced`; arguments and errors, from `who`, as for `per_example_grad`."""

    def with_aux(params: Params, *arguments: PyTree) -> Any:
        out = loss(params, *arguments)
        return out if has_aux else (out, None)

    def one_example(params: Params, *example: PyTree) -> Any:
        if keep_batch_dim:
            example = jax.tree.map(lambda leaf: leaf[None], example)
        value, aux = with_aux(params, *example)
        shape = jax.tree.map(jnp.shape, value)
        if shape != ():
            other = "or pass keep_batch_dim=True, " if who == PER_EXAMPLE else ""
            raise ValueError(
                f"{who}: loss must return a scalar for one example, got shape {shape}; take the "
                f"mean, {other}or has_aux=True where it returns (scalar, aux)"
            )
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(f"{who}: loss must be real and floating, got {jnp.result_type(value)}")
        return value, aux

    def traced(params: Params, batch: tuple[PyTree, ...]) -> Traced:
        check(params, batch, who)
        if keep_batch_dim and (mixer := _mixer(with_aux, params, batch)):
            raise ValueError(
                f"per_example_grad: loss mixes the examples of a batch by {mixer}; alone, with a "
                "leading axis of 1, an example would have another gradient than in its batch"
            )
        return trace(one_example, params, batch)

    return traced


def _mixer(loss: Callable[..., Any], params: Params, batch: tuple[PyTree, ...]) -> str | None:
    """What makes two examples interact, if `loss` can be traced for two, and it shows."""
    two = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *jnp.shape(x)[1:]), x.dtype), batch)
    try:
        return what_mixes(loss, params, two)
    except Exception:  # a loss for batches of one alone, whose errors are of any kind
        return None


def check(
    params: Params, batch: tuple[PyTree, ...], who: str = PER_EXAMPLE, together: bool = False
) -> None:
    """Raise `ValueError` or `TypeError` unless there are parameters and a batch of one size.

    Args:
      who: the function that was called.
      together: whether the batch is seen as a whole, so that its leaves may have any shapes.
    """
    if not jax.tree.leaves(params):
        raise ValueError(f"{who}: params has no leaves")
    for path, leaf in flatten_with_paths(params).items():
        at = f"at {path!r}" if path else "as a whole"
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise TypeError(
                f"{who}: params must be arrays, got a {type(leaf).__name__} {at}; partition the "
                "model, and close over what is not trained"
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"{who}: params must be floating, got {jnp.result_type(leaf)}"
                f"{list(jnp.shape(leaf))} {at}; close over what is not trained"
            )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if not shapes:
        raise ValueError(f"{who}: needs a batch after params, got none")
    if not together:
        _check_sizes(shapes, who)
    _check_sharding([jax.typeof(leaf) for leaf in jax.tree.leaves((params, batch))], who)


def _check_sizes(shapes: list[tuple[int, ...]], who: str) -> None:
    if () in shapes:
        raise ValueError(
            f"{who}: every leaf of the batch needs a leading batch axis, got a scalar; "
            "close over what all examples share"
        )
    sizes = {shape[0] for shape in shapes}
    if len(sizes) > 1:
        raise ValueError(
            f"{who}: all leaves of the batch need the same leading size, got shapes {shapes}"
        )
    if sizes == {0}:
        raise ValueError(f"{who}: the batch is empty (leading size 0)")


def _check_sharding(avals: list[Any], who: str) -> None:
    for aval in avals:
        explicit = [axis for axis in aval.sharding.spec if axis is not None]
        if explicit:
            raise ValueError(
                f"{who}: {aval} is sharded over explicit axes of a mesh ({explicit}), "
                "on which JAX wants every sum's sharding spelled out; wrap the call, as in "
                'jax.sharding.auto_axes(per_example_norms(loss), out_sharding=jax.P("data"))'
            )
        manual = getattr(aval, "manual_axis_type", None)
        varying = getattr(aval, "vma", ()) if manual is None else manual.varying
        if varying:
            raise ValueError(
                f"{who}: {aval} varies over {sorted(varying)}, which shard_map checks "
                "of every operation; pass it check_vma=False, and add up what comes out yourself, "
                "as by jax.lax.pmean"
            )


def per_example_norms(
    loss: Callable[..., Any], *, has_aux: bool = False, keep_batch_dim: bool = False
) -> Callable[..., Array]:
    """`f(params, *batch) -> [B]`: the Euclidean norm `‖∇loss(params, example)‖` of each example.

    Arguments and errors as for `per_example_grad`.
    """
    traced = tracer(loss, has_aux=has_aux, keep_batch_dim=keep_batch_dim)

    def norms(params: Params, *batch: PyTree) -> Array:
        (roots,) = run(traced(params, batch)).norms([range(len(jax.tree.leaves(params)))])
        return roots

    return norms
