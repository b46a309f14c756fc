"""All parameters as one vector."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.leaves import leaves_like
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Array, Params


def _vector(leaves: list[Any]) -> Array:
    return jnp.concatenate([jnp.reshape(x, -1) for x in leaves]) if leaves else jnp.zeros(0)


@by_value
@combines(lambda call, state: {"": (call["inner"], state)})
def flatten(inner: GradientTransformation) -> GradientTransformation:
    """Give `inner` one vector instead of a tree, with the state to match.

    The vector has the widest dtype of the leaves. What depends on shapes or paths (factored
    moments, masks, norms per leaf) sees one leaf without a name. A gradient of None counts as 0.

    Args:
      inner: the transformation.

    Raises:
      ValueError: for gradients of None if `update` gets no params.

    Example:
      >>> flatten(adam(1e-3)).init(params)[0].mu.ndim
      1
    """
    inner = with_extra_args_support(inner)

    def init(params: Params) -> State:
        return inner.init(_vector(jax.tree.leaves(params)))

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        reference = updates if params is None else params
        leaves, like, structure = leaves_like(updates, reference, "params")
        if any(x is None for x in like):
            raise ValueError(
                "flatten: the size of a gradient of None is known from params only; "
                "call update(gradients, state, params)"
            )
        filled = [jnp.zeros_like(p) if g is None else g for g, p in zip(leaves, like, strict=True)]
        vector, state = inner.update(
            _vector(filled), state, None if params is None else _vector(like), **extra
        )
        ends = np.cumsum([math.prod(jnp.shape(g)) for g in filled])
        pieces = jnp.split(vector, ends[:-1]) if filled else []
        shaped = [
            None if g is None else piece.reshape(jnp.shape(g)).astype(jnp.result_type(g, p))
            for g, p, piece in zip(leaves, like, pieces, strict=True)
        ]
        return structure.unflatten(shaped), state

    return GradientTransformation(init, update)
