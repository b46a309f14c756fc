"""The backward pass seen: statistics of activations and error signals at every site of a loss.

The engine's taps (see `sites`) give the error signal wherever a parameter, a tag or a nonlinearity
is met. Of activations some rows are kept where they are made; error signals come from the backward
pass that also gives the gradient, so that a step that looks has one backward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.looking import look
from jaxnets.gradients.per_example import check, tracer
from jaxnets.gradients.program import trace
from jaxnets.gradients.site_flow import Flow
from jaxnets.types import Params, PyTree


def flow(
    loss: Callable[..., Any],
    *,
    batched: bool = False,
    has_aux: bool = False,
    examples: int | None = None,
    rank_rows: int = 32,
    rows: int | None = 32,
) -> Callable[..., Flow]:
    """`f(params, *batch) -> Flow`; arguments and errors as for `value_and_grad_flow`.

    Example:
      >>> seen = jax.jit(gradients.flow(loss))(params, x, y)
      >>> print(gradients.diagnose(seen))
    """
    whole = value_and_grad_flow(
        loss, batched=batched, has_aux=has_aux, examples=examples, rank_rows=rank_rows, rows=rows
    )

    def apply(params: Params, *batch: PyTree) -> Flow:
        seen: Flow = whole(params, *batch)[2]
        return seen

    return apply


def value_and_grad_flow(
    loss: Callable[..., Any],
    *,
    batched: bool = False,
    has_aux: bool = False,
    examples: int | None = None,
    rank_rows: int = 32,
    rows: int | None = 32,
) -> Callable[..., tuple[Any, Params, Flow]]:
    """The mean loss, its gradient, and what flowed, by one forward and one backward pass.

    Args:
      loss: `loss(params, *example) -> scalar` of one example; or, with `batched`, `loss(params,
        *batch) -> scalar`, the mean over a batch, in which examples may meet (as in batch norm).
      batched: whether `loss` is of a whole batch. Error signals are multiplied by its size, which
        for a mean makes them each example's own; their axis is followed through the loss, and
        `error_norm` is NaN where it is lost. Where examples have met each other, the first axis is
        taken for theirs if it is as long.
      has_aux: whether `loss` returns `(scalar, aux)`.
      examples: with `batched`, of how many examples the loss is the mean; if not given, the leading
        size of the first array of the batch. The arguments may then be anything that the loss
        takes, as graphs and PRNG keys; those with so long a first axis have the examples there.
      rank_rows: of how many of these rows the effective ranks are, `rows` at most; 0 for none.
      rows: of how many examples and positions means, spreads, histograms and saturated units are,
        at most; each is drawn from an equal part of the batch, always the same. Extremes, dead
        units and norms are of all. None takes all, and longer.

    Returns:
      `f(params, *batch) -> (value, gradient, flow)`, where `value` is `(value, aux)` with
      `has_aux`; aux is stacked for a loss of one example.

    Raises:
      ValueError, TypeError: as `per_example_grad`; with `batched`, batch norm in training is let
        pass, and leaves of any shapes. Also for `rows` or `examples` below 1, for `examples`
        without `batched`, and if it is not given and the first array has no axis.

    Example:
      >>> @jax.jit
      ... def step(params, state, x, y):
      ...     value, gradient, seen = gradients.value_and_grad_flow(loss)(params, x, y)
      ...     updates, state = optimizer.update(gradient, state, params)
      ...     seen = gradients.with_updates(seen, params, updates)
      ...     return optax.apply_updates(params, updates), state, seen
    """
    for name, count in (("rows", rows), ("rank_rows", rank_rows)):
        if count is not None and count < (name == "rows"):
            raise ValueError(f"flow: {name} must be at least {int(name == 'rows')}, got {count}")
    if examples is not None and (not batched or examples < 1):
        raise ValueError(
            f"flow: examples must be at least 1, and goes with batched=True, got {examples}"
        )
    one = tracer(loss, has_aux=has_aux, keep_batch_dim=False, who="flow")

    def of_batch(params: Params, *batch: PyTree) -> Any:
        out = loss(params, *batch)
        value, aux = out if has_aux else (out, None)
        if jnp.shape(value) != ():
            raise ValueError(
                f"flow: with batched=True loss must return a scalar, got shape {jnp.shape(value)}; "
                "take the mean over the batch"
            )
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(f"flow: loss must be real and floating, got {jnp.result_type(value)}")
        return value, aux

    def apply(params: Params, *batch: PyTree) -> tuple[Any, Params, Flow]:
        if batched:
            check(params, batch, "flow", together=True)
            together = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
            traced = trace(of_batch, params, together, may_mix=True)
        else:
            traced = one(params, batch)
        size = examples or _leading(jax.tree.leaves(batch)[0])
        value, aux, gradient, seen = look(traced, batch, size, batched, rank_rows, rows)
        return ((value, aux) if has_aux else value), gradient, seen

    return apply


def _leading(first: Any) -> int:
    if not jnp.shape(first):
        raise ValueError("flow: the first array of the batch is a scalar; say how many examples")
    if jnp.shape(first)[0] == 0:
        raise ValueError("flow: the batch is empty (leading size 0)")
    return int(jnp.shape(first)[0])
