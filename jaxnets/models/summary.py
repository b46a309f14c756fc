"""What a model is made of: paths, shapes, parameters, and what one call costs."""

from collections.abc import Callable
from typing import Any

import jax

from jaxnets import tree
from jaxnets.types import Params


def flops(function: Callable[..., Any], *args: Any) -> float | None:
    """Floating-point operations of `jit(function)(*args)`, from XLA's cost analysis.

    `None` where the backend reports none. XLA counts a loop's body once, whatever its length.
    """
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return None if not cost or "flops" not in cost else float(cost["flops"])


def summary(params: Params, function: Callable[..., Any] | None = None, *args: Any) -> str:
    """A table of every leaf's path, shape, dtype and number of values, and the total.

    Args:
      params: any pytree of arrays (or of `jax.ShapeDtypeStruct`, as from `jax.eval_shape`).
      function: if given, `function(params, *args)` is compiled and its FLOPs are the last line.
      *args: its further arguments.
    """
    rows = [
        (path, "×".join(map(str, leaf.shape)) or "scalar", str(leaf.dtype), f"{leaf.size:,}")
        for path, leaf in tree.flatten_with_paths(params).items()
    ]
    heading = ("path", "shape", "dtype", "parameters")
    total = ("total", "", "", f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}")
    table = [heading, *rows, total]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {dtype:<{widths[2]}}  {count:>{widths[3]}}"
        for path, shape, dtype, count in table
    ]
    rule = "-" * len(lines[0])
    text = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
    if function is not None:
        count = flops(function, params, *args)
        text.append(
            "FLOPs  not reported by this backend" if count is None else f"FLOPs  {count:,.0f}"
        )
    return "\n".join(text)
