"""What the engine makes of a loss: for each parameter its sites, its plan and what that costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxnets.gradients.per_example import per_example_grad
from jaxnets.gradients.plans import Used, choose, uses_by_parameter
from jaxnets.types import Params, PyTree


class ParameterPlan(NamedTuple):
    """How the norms of one parameter's per-example gradients are computed."""

    path: str
    shape: tuple[int, ...]
    sites: tuple[str, ...]
    """The operation at each use, and the loops around it."""
    way: str
    """`rank one`, `gram`, `direct`, `folded`, `rows`, `tied`, `parts`, `sum`, `local`, `unused`."""
    flops: float
    bytes: float
    fallback: str
    """Why the way is `local`; else empty."""


def _site(used: Used) -> str:
    site = used.use.site
    name = "as a value of the example"
    if site.equation is not None:
        name = str(site.equation.primitive.name)
        if site.inner is not site.equation:
            name = f"{site.inner.primitive.name} with a derivative of its own"
    return name + " in scan" * len(used.use.loops)


def plan(
    loss: Callable[..., Any],
    params: Params,
    *batch: PyTree,
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> list[ParameterPlan]:
    """What `explain` prints, as rows. Nothing is computed; arguments as for `per_example_grad`."""
    gradient = per_example_grad(loss, has_aux=has_aux, keep_batch_dim=keep_batch_dim)

    def factors(params: Params, *batch: PyTree) -> Any:
        return gradient(params, *batch)[1]

    found = jax.eval_shape(factors, params, *batch)
    rows = []
    for i, used in uses_by_parameter(found).items():
        chosen = choose(used, found.params[i])
        rows.append(
            ParameterPlan(
                found.program.paths[i], found.params[i].shape, tuple(map(_site, used)),
                chosen.way, chosen.flops, chosen.bytes,
                chosen.why if chosen.way == "local" else "",
            )
        )  # fmt: skip
    return rows


def explain(
    loss: Callable[..., Any],
    params: Params,
    *batch: PyTree,
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> str:
    """A table: for each parameter the sites found, the way its norms are computed, and its cost.

    Costs are of the norms alone, in millions of operations and of bytes moved for the whole batch.
    The ways, where for one example a parameter's gradient is `Σ_t x_t ⊗ δ_t`:

    - rank one: `|x|² |δ|²`, where there is one t;
    - gram: `Σ ⟨x_t, x_s⟩ ⟨δ_t, δ_s⟩`;
    - direct: the gradient itself, of this parameter alone; folded: that of all turns of a loop;
    - rows: as gram, for rows of a table;
    - tied: as gram, over all uses of one matrix;
    - parts: over uses of slices that do not overlap, each in one of these ways;
    - sum: the gradient itself, of a bias, a scale or the like, which is as small as a layer's
      output;
    - local: the gradient itself, by a derivative at the site. This is the fallback, and the table
      says why; it is exact, and costs a batch times the parameter's size.

    Example:
      >>> print(explain(loss, params, x, y))
    """
    rows = plan(loss, params, *batch, has_aux=has_aux, keep_batch_dim=keep_batch_dim)
    table = [("parameter", "shape", "sites", "way", "Mflop", "MB", "")]
    table += [
        (
            row.path or "(all)", "x".join(map(str, row.shape)) or "scalar",
            ", ".join(row.sites), row.way, f"{row.flops / 1e6:.3g}", f"{row.bytes / 1e6:.3g}",
            row.fallback,
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join(lines)
