"""Each use of parameters at a site, with all loops around it, as a function of one example."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.equations import bind
from jaxnets.gradients.graph import (
    Input,
    Key,
    Node,
    Part,
    evaluate,
    put_back,
    rearranged,
    trained_inputs,
)
from jaxnets.gradients.outer import Outer, batch_gradient, gradient, outer
from jaxnets.gradients.site_record import Loop, Site, Sites
from jaxnets.gradients.sites import apply
from jaxnets.types import Array

PRODUCTS = ("dot", "conv", "gather")
"""The kinds of sites whose gradients are outer products."""


@dataclass(frozen=True, eq=False)
class Use:
    """A site and the loops that it stands in, the outermost first."""

    site: Site
    loops: tuple[Loop, ...]


def uses(
    sites: Sites, arrays: Sequence[Any], loops: tuple[Loop, ...] = ()
) -> Iterator[tuple[Use, Any]]:
    """Each use, and what `arrays`, one entry for each site, has for it."""
    for site, entry in zip(sites, arrays, strict=True):
        if isinstance(site, Loop):
            yield from uses(site.sites, entry, (*loops, site))
        else:
            yield Use(site, loops), entry


def before(key: Key, loop: Loop) -> Node:
    """What an input of a loop's body is outside of it."""
    return loop.sliced[key] if key in loop.sliced else loop.whole[key]


def parameters(use: Use) -> list[Key]:
    """The parameters that are used."""
    return list(sliced(use))


def sliced(use: Use) -> dict[Key, tuple[bool, ...]]:
    """The parameters that are used, and for each loop around, the outermost first, whether it
    slices them as they are.

    That is along the first axis, or along the next for a loop inside another that does. What is
    made of a parameter before it is sliced is not told apart.
    """
    inputs = trained_inputs([node for node in use.site.operands if node is not None])
    found: dict[Key, tuple[bool, ...]] = dict.fromkeys(inputs, ())
    for loop in reversed(use.loops):
        outside: dict[Key, tuple[bool, ...]] = {}
        for key, inner in found.items():
            node = before(key, loop)
            own = key in loop.sliced and isinstance(node, Input)
            for outer_key in trained_inputs([node]):
                outside.setdefault(outer_key, (own, *inner))
        found = outside
    return found


@dataclass(frozen=True)
class View:
    """A parameter whose elements a site sees, each of them once."""

    key: Key
    stacked: tuple[bool, ...]
    """For each loop around, whether each of its turns has elements of its own."""
    axes: tuple[int, ...] | None
    """For each axis of the site's operand the parameter's; None where they do not correspond."""
    part: Part | None
    """Which of the parameter's elements these are; None for all."""


def view(use: Use) -> View | None:
    """The parameter of a product, if nothing but a rearrangement lies between."""
    site = use.site
    operand = site.operands[site.operand]
    if site.kind not in PRODUCTS or operand is None:
        return None
    seen = rearranged(operand)
    stacked: list[bool] = []
    for loop in reversed(use.loops):
        if seen is None:
            return None
        key = seen.input.key
        stacked.append(key in loop.sliced)
        outside = rearranged(before(key, loop))
        axes = None
        if seen.part is not None:
            # of what the loop's body sees, which must be the whole parameter then
            if outside is None or outside.part is not None or stacked[-1]:
                return None
            if outside.axes != tuple(range(len(seen.part))):
                return None
            outside = outside._replace(part=seen.part)
        if outside is not None and outside.axes and seen.axes is not None and not stacked[-1]:
            axes = tuple(outside.axes[i] for i in seen.axes)
        seen = outside and outside._replace(axes=axes)
    return seen and View(seen.input.key, tuple(reversed(stacked)), seen.axes, seen.part)


def total_gradient(use: Use, saved: Sequence[Any], error: Sequence[Any]) -> Array:
    """The gradient of a product's parameter, summed over the batch in float32 at least.

    For sites whose dtype is narrower: there each partial sum would be rounded.
    """

    def inside(depth: int, saved: Sequence[Any], error: Any) -> Any:
        if depth == len(use.loops):
            node = use.site.operands[use.site.operand]
            total: Any = batch_gradient(use.site, saved, error)
        else:
            # turns are behind the batch
            loop = use.loops[depth]
            turns = jax.vmap(lambda s, e: inside(depth + 1, s, e), 1)(saved, error)
            key = keys[depth]
            node = before(key, loop)
            total = turns if key in loop.sliced else jnp.sum(turns, 0)
        assert node is not None
        return put_back(node, total)

    keys: list[Key] = []
    node = use.site.operands[use.site.operand]
    for loop in reversed(use.loops):
        assert node is not None
        seen = rearranged(node)
        assert seen is not None
        keys.insert(0, seen.input.key)
        node = before(seen.input.key, loop)
    (only,) = error
    summed: Array = inside(0, saved, only)
    return summed


def _by_windows(site: Site, kernel: Any, saved: Sequence[Any]) -> Any:
    """A convolution, whose derivative by the kernel is `gradient`.

    For one example at a time: what `vmap` makes of XLA's own is slow.
    """
    dtype = jnp.result_type(kernel)

    @jax.custom_vjp
    def result(kernel: Any, saved: Any) -> Any:
        (y,) = bind(site.equation, [*saved, kernel])
        return y

    def forward(kernel: Any, saved: Any) -> Any:
        return result(kernel, saved), saved

    def backward(saved: Any, error: Array) -> Any:
        return gradient(site, saved, error).astype(dtype), None

    result.defvjp(forward, backward)
    return result(kernel, saved)


def results(
    use: Use,
    values: Mapping[Key, Any],
    saved: Sequence[Any],
    *,
    alone: bool,
    depth: int = 0,
) -> list[Any]:
    """What one example's taps were added to, as a function of the parameters.

    Args:
      use: the site and its loops.
      values: of parameters and constants.
      saved: the site's operands from the example.
      alone: whether derivatives are for each example, rather than for a sum over many.
      depth: how many of the loops `values` are inside of.
    """
    memo: dict[Any, Any] = {}
    if depth < len(use.loops):
        loop = use.loops[depth]
        whole = {key: evaluate(node, values, memo) for key, node in loop.whole.items()}
        sliced = {key: evaluate(node, values, memo) for key, node in loop.sliced.items()}

        def turn(slices: Mapping[Key, Any], saved: Sequence[Any]) -> list[Any]:
            return results(use, {**whole, **slices}, saved, alone=alone, depth=depth + 1)

        turns: list[Any] = jax.vmap(turn)(sliced, saved)
        return turns
    site = use.site
    given = iter(saved)
    operands = [
        next(given) if node is None else evaluate(node, values, memo) for node in site.operands
    ]
    if site.equation is None:
        return operands
    if site.kind == "conv" and alone:
        return [_by_windows(site, operands[1], saved)]
    everything = apply(site.equation, operands)
    return [everything[i] for i in site.tapped]


def factors_of(use: Use, seen: View, saved: Sequence[Array], error: Sequence[Array]) -> Outer:
    """The outer products of one example, those of all turns of the loops together.

    Turns with elements of their own count as `n`, those that share them as `t`.
    """

    def inside(depth: int, saved: Sequence[Array], error: Array) -> Outer:
        if depth == len(use.loops):
            return outer(use.site, saved, error)
        turns = jax.vmap(lambda s, e: inside(depth + 1, s, e))(saved, error)

        def merged(y: Array, axis: int) -> Array:
            # [turns, n, t, ...]
            y = y if seen.stacked[depth] else jnp.moveaxis(y, 0, 1)
            shape = y.shape
            return y.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])

        return Outer(*(merged(y, 0 if seen.stacked[depth] else 1) for y in turns))

    (only,) = error
    return inside(0, saved, only)
