"""One forward pass of a batch, and factors for any error signals at the model's outputs.

A loss has one gradient; K-FAC needs two backward passes through the same forward pass, from the
data's targets and from the model's own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.gradients.per_example import check
from jaxnets.gradients.program import NO_PROBES, Factors, factors_of_run, find, no_taps, trace
from jaxnets.types import Array, Params, PyTree


class Run(NamedTuple):
    """A batch's outputs, and the way back."""

    outputs: Array
    """`[B, ...]`"""
    factors: Callable[[Array], Factors]
    """`factors(errors)`: of the gradients of `⟨errors[i], outputs[i]⟩`."""


def forward(outputs: Callable[..., Array], params: Params, inputs: tuple[PyTree, ...]) -> Run:
    """Run a batch forward, keeping what its factors need.

    Args:
      outputs: `outputs(params, *inputs) -> array`, for one example.
      params: a pytree of arrays.
      inputs: the example's arguments, with a leading axis each.

    Raises:
      TypeError: if the outputs are not one floating array.
      ValueError: as `per_example_grad`.
    """
    check(params, inputs)

    def one_example(params: Params, *example: PyTree) -> tuple[Array, None]:
        z = outputs(params, *example)
        if not jax.tree_util.all_leaves([z]) or not jnp.issubdtype(
            jnp.result_type(z), jnp.floating
        ):
            raise TypeError(
                "outputs must return one real, floating array for one example, got "
                f"{jax.tree.map(jax.typeof, z)}"
            )
        return jnp.asarray(z), None

    traced = trace(one_example, params, inputs)
    record = find(traced)

    def batched(taps: list[Any]) -> Any:
        def each(taps: list[Any], example: tuple[PyTree, ...]) -> Any:
            value, _, now = traced.one(traced.leaves, taps, example, NO_PROBES)
            return value, now.saved

        return jax.vmap(each)(taps, traced.batch)

    z, backward, saved = jax.vjp(batched, no_taps(traced, record), has_aux=True)

    def factors(errors: Array) -> Factors:
        (signals,) = backward(errors.astype(z.dtype))
        return factors_of_run(traced, record, saved, signals)

    return Run(z, factors)
