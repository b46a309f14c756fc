"""How each parameter's squared norms come from its factors: the cheapest of several exact ways."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.graph import Key
from jaxnets.gradients.outer import Outer
from jaxnets.gradients.program import Factors
from jaxnets.gradients.uses import Use, View, factors_of, parameters, results, uses, view
from jaxnets.types import Array


@dataclass(frozen=True)
class Used:
    """One use of a parameter, with its arrays for the batch."""

    use: Use
    seen: View | None
    saved: Any
    error: Any
    scale: Array | None = None
    """`[B]`: what squares are asked of is `scale[i] gᵢ`, since those of `gᵢ` overflow or vanish."""


@dataclass(frozen=True)
class Plan:
    """What is to be computed for a parameter, and what that costs for the batch."""

    way: str
    flops: float
    bytes: float
    why: str = ""


def uses_by_parameter(factors: Factors, scale: Array | None = None) -> dict[int, list[Used]]:
    """All uses of each parameter."""
    found: dict[int, list[Used]] = {i: [] for i in range(len(factors.params))}
    pairs = zip(
        uses(factors.program.sites, factors.saved),
        uses(factors.program.sites, factors.errors),
        strict=True,
    )
    for (use, saved), (_, error) in pairs:
        for key in parameters(use):
            found[key].append(Used(use, view(use), saved, error, scale))  # type: ignore[index]
    return found


def values_of(factors: Factors) -> dict[Key, Any]:
    """Of parameters and constants, by key."""
    constants = {("constant", i): c for i, c in enumerate(factors.constants)}
    return dict(enumerate(factors.params)) | constants


def outer_products(used: Used) -> Outer:
    """`[B, n, t, d]` and `[B, n, t, k]`; see `factors_of`."""
    assert used.seen is not None
    seen = used.seen
    x, error = jax.vmap(lambda s, e: factors_of(used.use, seen, s, e))(used.saved, used.error)
    if used.scale is None:
        return Outer(x, error)
    factor = used.scale
    if jnp.issubdtype(x.dtype, jnp.inexact):
        largest = jnp.max(jnp.abs(x), (1, 2, 3), initial=0)
        size = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        x, factor = x / broadcast(size, x), factor * size
    return Outer(x, error * broadcast(factor, error))


def broadcast(weights: Array, values: Array) -> Array:
    """`weights [B]` with as many axes as `values [B, ...]`, in their dtype."""
    return weights.reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype)


# how many operations a machine does while it moves one byte to or from its memory
_FLOPS_PER_BYTE = 10.0


def _cost(flops: float, moved: float) -> float:
    return flops + _FLOPS_PER_BYTE * moved


def _matrix(used: Used, size: tuple[int, ...]) -> bool:
    """Whether a use is one matrix product with, or some rows of, a whole matrix."""
    if used.seen is None or used.seen.axes is None or any(used.seen.stacked) or len(size) != 2:
        return False
    if used.use.site.kind == "gather":
        return used.seen.axes == (0, 1) and not used.use.loops
    if used.use.site.kind != "dot":
        return False
    contracted, _ = used.use.site.inner.params["dimension_numbers"]
    if len(contracted[0]) != 1:
        return False
    return bool(jax.eval_shape(lambda: outer_products(used)).x.shape[1] == 1)


def choose(found: Sequence[Used], parameter: Any) -> Plan:
    """The cheapest way for a parameter."""
    if not found:
        return Plan("unused", 0, 0)
    size = parameter.size
    examples = jax.tree.leaves(found[0].error)[0].shape[0]
    local = Plan("local", 2.0 * examples * size, 8.0 * examples * size)
    if jnp.iscomplexobj(parameter):
        return local
    if len(found) > 1:
        gathers = sum(used.use.site.kind == "gather" for used in found)
        if gathers <= 1 and all(_matrix(used, parameter.shape) for used in found):
            t = sum(_length(used) for used in found)
            d = sum(parameter.shape)
            tied = Plan("tied", 2.0 * examples * t * t * d, 8.0 * examples * t * t)
            if _cost(tied.flops, tied.bytes) < _cost(local.flops, local.bytes):
                return tied
        return local
    (used,) = found
    if used.seen is None:
        return local
    if used.use.site.kind == "gather":
        if any(used.seen.stacked):
            return local
        rows = jax.eval_shape(lambda: outer_products(used))
        _, n, t, k = rows.error.shape
        table = Plan("rows", 2.0 * examples * n * t * t * k, 8.0 * examples * n * t * t)
        return min(table, local, key=lambda plan: _cost(plan.flops, plan.bytes))
    shapes = jax.eval_shape(lambda: outer_products(used))
    _, n, t, d = shapes.x.shape
    k = shapes.error.shape[-1]
    if t == 1:
        return Plan("rank one", 2.0 * examples * n * (d + k), 4.0 * examples * n * (d + k))
    gram = Plan("gram", 2.0 * examples * n * t * t * (d + k), 16.0 * examples * n * t * t)
    direct = Plan("direct", 2.0 * examples * n * t * d * k, 8.0 * examples * n * d * k)
    return min(gram, direct, key=lambda plan: _cost(plan.flops, plan.bytes))


def _length(used: Used) -> int:
    return int(jax.eval_shape(lambda: outer_products(used)).error.shape[2])


def choose_all(factors: Factors) -> dict[int, Plan]:
    """The plan of every parameter."""
    by_parameter = uses_by_parameter(factors)
    return {i: choose(found, factors.params[i]) for i, found in by_parameter.items()}


def own_gradients(found: Sequence[Used], key: int, values: Mapping[Hashable, Any]) -> Array:
    """`[B, *parameter]`: each example's gradient."""
    total: Array | None = None
    for used in found:

        def backward(saved: Any, error: Any, used: Used = used) -> Array:
            def of(parameter: Array) -> Any:
                return results(used.use, {**values, key: parameter}, saved, alone=True)

            _, pull = jax.vjp(of, values[key])
            (gradient,) = pull(error)
            return gradient

        gradient = jax.vmap(backward)(used.saved, used.error)
        total = gradient if total is None else total + gradient
    assert total is not None
    return total
