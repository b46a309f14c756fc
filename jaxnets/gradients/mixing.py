"""Whether the examples of a batch interact in a loss that was written for batches.

The loss is traced for a batch, and the axis of the examples is followed from equation to equation.
A sum over the examples is all that may happen to them, and nothing but linear steps may come after
it: then the loss is a sum of losses of single examples. A maximum over the axis, a product of
examples with examples, or a sum that meets single examples again makes of each what others are too.
Where the axis cannot be followed (an unknown operation, a permutation), nothing is said.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.following import Calls, follow
from jaxnets.gradients.mixing_rules import Along, Mixed, State, state_after
from jaxnets.types import PyTree


def what_mixes(
    loss: Callable[..., Any], params: PyTree, batch: tuple[PyTree, ...]
) -> str | None:  # fmt: skip
    """What makes examples interact in `loss(params, *batch) -> (scalar, aux)`, as far as is known.

    Args:
      loss: written for batches.
      params: a pytree of arrays.
      batch: with a leading axis of more than one example.
    """
    state = state_of(loss, params, batch)
    return state.what if isinstance(state, Mixed) else None


def state_of(loss: Callable[..., Any], params: PyTree, batch: tuple[PyTree, ...]) -> State:
    """What has become of the examples in the loss; arguments as for `what_mixes`."""
    closed = jax.make_jaxpr(lambda p, b: loss(p, *b)[0])(params, batch)
    own: list[State] = [None] * len(jax.tree.leaves(params))
    # keys are drawn from, one by one, in ways of their own
    own += [
        None if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else Along(0)
        for leaf in jax.tree.leaves(batch)
    ]
    (state,) = follow(closed.jaxpr, own, _after)
    return state


def _after(equation: Any, states: Sequence[State], calls: Calls) -> State:
    # a program may have been traced at an earlier call
    line = next(filter(None, map(_line, (*calls, equation))), "")
    name = equation.primitive.name
    return state_after(equation, states, f"{name} (in {line})" if line else name)


def _line(equation: Any) -> str:
    """`net, net.py:12`: the innermost line that is not JAX's own."""
    traceback = getattr(equation.source_info, "traceback", None)
    own = str(Path(jax.__file__).parent), str(Path(__file__).parent)
    for frame in getattr(traceback, "frames", ()):
        if not frame.file_name.startswith(own):
            return f"{frame.function_name}, {Path(frame.file_name).name}:{frame.line_num}"
    return ""
