"""Updates kept within bounds: without NaN, and so that parameters stay non-negative."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets.optim.calls import by_value
from jaxnets.optim.leaves import map_moments, map_with_params, require_params
from jaxnets.optim.transform import EmptyState, GradientTransformation, State, Updates, empty_state
from jaxnets.types import Array, Params

NonNegativeParamsState: TypeAlias = EmptyState


@by_value
def keep_params_nonnegative() -> GradientTransformation:
    """`u = max(g, -θ)`, so that `θ + u ≥ 0`; the last one of a chain.

    Raises:
      ValueError: if `update` gets no params, or complex ones.
    """

    def step(g: Array, p: Array) -> Array:
        if jnp.iscomplexobj(p):
            raise ValueError("keep_params_nonnegative: parameters must be real")
        return jnp.where(p + g < 0, -p, g)

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        require_params("keep_params_nonnegative", params)
        return map_with_params(step, updates, params), state

    return GradientTransformation(empty_state, update)


class ZeroNansState(NamedTuple):
    """For each leaf, whether its last update had a NaN."""

    found_nan: Params


@by_value
def zero_nans() -> GradientTransformation:
    """0 in place of each NaN; infinities stay."""

    def init(params: Params) -> ZeroNansState:
        return ZeroNansState(jax.tree.map(lambda _: jnp.array(False), params))

    def update(
        updates: Updates, state: ZeroNansState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ZeroNansState]:
        def step(g: Array, _: Array) -> tuple[Array, Array]:
            missing = jnp.isnan(g)
            return jnp.where(missing, 0, g), missing.any()

        updates, found = map_moments(step, updates, params=params, statistics=(state.found_nan,))
        return updates, ZeroNansState(found)

    return GradientTransformation(init, update)
