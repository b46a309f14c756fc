"""How each parameter's squared norms come from its factors: the cheapest of several exact ways."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.gradients.graph import Key, apart
from jaxnets.gradients.outer import Outer
from jaxnets.gradients.program import Factors
from jaxnets.gradients.uses import (
    PRODUCTS,
    Use,
    View,
    factors_of,
    parameters,
    results,
    uses,
    view,
)
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


class Plan(NamedTuple):
    """What is to be computed for a parameter, and what that costs for the batch."""

    way: str
    flops: float
    bytes: float
    why: str = ""
    """What keeps a parameter whose way is `local` from a better one."""


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


def outer_products(used: Used) -> Outer:
    """`[B, n, t, d]` and `[B, n, t, k]`; see `factors_of`."""
    assert used.seen is not None
    seen = used.seen
    x, error = jax.vmap(lambda s, e: factors_of(used.use, seen, s, e))(used.saved, used.error)
    if used.scale is None:
        return Outer(x, error)
    error = wide(error)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        # with the size of each x_t in δ_t, that of their product: where one of them is 0, nothing
        # of the other's size is left to overflow
        x = wide(x)
        largest = jnp.max(jnp.abs(x), 3, keepdims=True, initial=0)
        size = jnp.where(jnp.isfinite(largest), largest, 1)
        x, error = x / jnp.where(size > 0, size, 1), error * size
    return Outer(x, error * broadcast(used.scale, error))


def same_product(a: Used, b: Used) -> bool:
    """Whether factors of two uses have the same sides of a matrix in the same order."""
    if a.seen is None or a.seen.axes is None or a.seen != b.seen:
        return False
    sites = a.use.site, b.use.site
    kinds = [(s.kind, s.operand, str(s.inner and s.inner.params)) for s in sites]
    return kinds[0] == kinds[1] and kinds[0][0] == "dot"


def wide(x: Array) -> Array:
    """In float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def broadcast(weights: Array, values: Array) -> Array:
    """`weights [B]` with as many axes as `values [B, ...]`, in their dtype."""
    shaped: Array = weights.reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype)
    return shaped


# how many operations a machine does while it moves one byte to or from its memory: a CPU 2 where
# arrays stay in its caches and 40 where their memory is fresh, accelerators 10 to 100
_FLOPS_PER_BYTE = 10.0


def _cost(plan: Plan) -> float:
    return plan.flops + _FLOPS_PER_BYTE * plan.bytes


def _matrix(used: Used, size: tuple[int, ...]) -> bool:
    """Whether a use is one matrix product with, or some rows of, a whole matrix."""
    seen = used.seen
    if seen is None or seen.axes is None or any(seen.stacked) or seen.part or len(size) != 2:
        return False
    if used.use.site.kind == "gather":
        return seen.axes == (0, 1) and not used.use.loops
    if used.use.site.kind != "dot":
        return False
    contracted, _ = used.use.site.inner.params["dimension_numbers"]
    if len(contracted[0]) != 1:
        return False
    return bool(jax.eval_shape(lambda: outer_products(used)).x.shape[1] == 1)


def _why_local(found: Sequence[Used]) -> str:
    """What keeps the uses of a parameter from being products."""
    for used in found:
        site = used.use.site
        name = "" if site.equation is None else site.equation.primitive.name
        if site.kind == "other":
            return f"meets the example in {name}"
        if site.kind in PRODUCTS and used.seen is None:
            return f"reaches {name} by more than a rearrangement"
    if len(found) > 1:
        return f"has {len(found)} uses, whose products are not all of one whole matrix"
    return "is cheaper than the products"


def choose(found: Sequence[Used], parameter: Any) -> Plan:
    """The cheapest way for a parameter."""
    return min(ways(found, parameter), key=_cost)


def ways(found: Sequence[Used], parameter: Any) -> list[Plan]:
    """Every exact way for a parameter that could be the cheapest."""
    if not found:
        return [Plan("unused", 0, 0)]
    size = parameter.size
    examples = jax.tree.leaves(found[0].error)[0].shape[0]
    own = 2.0 * examples * size, 8.0 * examples * size
    if all(used.use.site.kind == "elementwise" for used in found):
        return [Plan("sum", *own)]
    local = Plan("local", *own, why=_why_local(found))
    if jnp.iscomplexobj(parameter):
        return [local._replace(why="is complex")]
    if len(found) > 1 and _are_parts(found):
        each = [choose([used], parameter) for used in found]
        return [Plan("parts", sum(p.flops for p in each), sum(p.bytes for p in each))]
    if len(found) > 1:
        if not all(_matrix(used, parameter.shape) for used in found):
            return [local]
        t = sum(_length(used) for used in found)
        cost = 2.0 * examples * t * t * sum(parameter.shape), 8.0 * examples * t * t
        return [local._replace(why="is cheaper than the products"), Plan("tied", *cost)]
    (used,) = found
    if used.seen is None:
        return [local]
    kind, loops = used.use.site.kind, used.use.loops
    shapes = jax.eval_shape(lambda: outer_products(used))
    _, n, t, k = shapes.error.shape
    pairs = examples * n * t * t
    if kind == "gather":
        rows = Plan("rows", 2.0 * pairs * k, 8.0 * pairs)
        return [local] if any(used.seen.stacked) else [local, rows]
    d = shapes.x.shape[3]
    if t == 1:
        return [Plan("rank one", 2.0 * examples * n * (d + k), 4.0 * examples * n * (d + k))]
    # what a convolution's products are made of has to be written out first
    written = 8.0 * examples * n * t * d if kind == "conv" else 0.0
    gram = Plan("gram", 2.0 * pairs * (d + k), 16.0 * pairs + written)
    flops = 2.0 * examples * n * t * d * k
    if loops or used.seen.part:
        return [gram, Plan("folded", flops, 8.0 * examples * n * d * k + written)]
    return [gram, Plan("direct", flops, 8.0 * examples * n * d * k)]


def _are_parts(found: Sequence[Used]) -> bool:
    """Whether all uses are products with parts of a parameter, no two of which overlap."""
    seen = [used.seen for used in found if used.use.site.kind in ("dot", "conv")]
    views = [view for view in seen if view is not None]
    return len(views) == len(found) and apart([view.part for view in views])


def _length(used: Used) -> int:
    return int(jax.eval_shape(lambda: outer_products(used)).error.shape[2])


def choose_all(factors: Factors) -> dict[int, Plan]:
    """The plan of every parameter."""
    by_parameter = uses_by_parameter(factors)
    return {i: choose(found, factors.params[i]) for i, found in by_parameter.items()}


def own_gradients(found: Sequence[Used], key: Key, values: Mapping[Hashable, Any]) -> Array:
    """`[B, *parameter]`: each example's gradient."""
    total: Array | None = None
    for used in found:

        def backward(saved: Any, error: Any, used: Used = used) -> Array:
            def of(parameter: Array) -> Any:
                return results(used.use, {**values, key: parameter}, saved, alone=True)

            _, pull = jax.vjp(of, values[key])
            gradient: Array
            (gradient,) = pull(error)
            return gradient

        gradient = jax.vmap(backward)(used.saved, used.error)
        total = gradient if total is None else total + gradient
    assert total is not None
    return total
