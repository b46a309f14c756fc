"""Depth: one layer's function over a stack of parameters, compiled once whatever the depth."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.types import Key, Params, PyTree


def init_stack(init: Callable[..., PyTree], key: Key, depth: int, *args: Any) -> PyTree:
    """`depth` layers' parameters, each leaf stacked along a new first axis.

    `init(key, *args)` is mapped over keys, so that each layer sees its own shape: an initializer
    given `[depth, in, out]` would read the depth as a window and take the wrong fan.

    Raises:
      ValueError: if `depth` is not positive.
    """
    if depth < 1:
        raise ValueError(f"init_stack: depth must be positive, got {depth}")
    return jax.vmap(lambda k: init(k, *args))(jax.random.split(key, depth))


def scan_layers(
    layer: Callable[..., Any],
    params: Params,
    x: PyTree,
    *per_layer: PyTree,
    has_aux: bool = False,
    remat: bool = False,
    unroll: int | bool = 1,
) -> PyTree:
    """`x ← layer(params[l], x, ...)` for `l = 0, 1, …`, as one `lax.scan`.

    Args:
      layer: `layer(params, x, *extras) -> x`, or `-> (x, aux)` with `has_aux`; the x that comes out
        has the shape and dtype of the x that went in.
      params: stacked along the first axis (`init_stack`).
      x: any pytree.
      *per_layer: further pytrees with that first axis, one slice for each layer: keys, states.
      has_aux: whether `layer` also returns something to be stacked over layers.
      remat: whether to recompute a layer's inner values in the backward pass instead of storing
        them: memory for one x per layer instead of everything inside it.
      unroll: how many layers to write out per loop step, `True` for all: compiles longer, runs
        faster on the CPU.

    Returns:
      The last x, or `(x, aux)` with `has_aux`.

    Raises:
      ValueError: if the first axes differ or are missing.
      TypeError: if `layer` does not keep x's structure, shapes and dtypes.
    """
    depths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((params, per_layer))}
    if len(depths) != 1 or depths == {()}:
        raise ValueError(
            "scan_layers: every leaf of params and of what goes along needs the same first axis, "
            f"got {sorted(depths)}"
        )

    def step(x: PyTree, sliced: tuple[Any, ...]) -> tuple[PyTree, Any]:
        out = layer(sliced[0], x, *sliced[1:])
        y, aux = out if has_aux else (out, None)
        if jax.tree.map(jax.typeof, y) != jax.tree.map(jax.typeof, x):
            raise TypeError(
                "scan_layers: layer must return what it takes, got "
                f"{jax.tree.map(_short, x)} -> {jax.tree.map(_short, y)}"
            )
        return y, aux

    x = jax.tree.map(jnp.asarray, x)
    body = jax.checkpoint(step) if remat else step
    y, aux = lax.scan(body, x, (params, *per_layer), unroll=unroll)
    return (y, aux) if has_aux else y


def _short(leaf: Any) -> str:
    return str(jax.typeof(leaf))
