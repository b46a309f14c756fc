"""What a step of training looks like from inside: a `Flow` of sites, and its updates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.gradients.measures import SPREAD, Spread, spread_of
from jaxnets.gradients.site_norms import site_norms
from jaxnets.types import Array, Params

AFTER = " > "
"""Between a parameter's path and the nonlinearity that follows it, in names of sites."""


class About(NamedTuple):
    """What a site is; no array, and the same for every step."""

    kind: str
    """`dot`, `conv` or `gather`: products; `elementwise` or `other`; `tag`; or a nonlinearity."""
    path: str | None
    """Of the parameter that is met."""
    place: tuple[int, ...]
    """Which of all sites it is, with the loops that it stands in."""
    sliced: tuple[bool, ...]
    """For each loop around it, whether its turns are layers, with slices of the parameter each; of
    a nonlinearity or a tag, of the parameter before it."""
    reverse: tuple[bool, ...] = ()
    """For each loop, whether its last turn comes first."""
    carried: tuple[bool, ...] = ()
    """For each loop, whether the site's result is made of the one in the turn before."""
    made_of: tuple[tuple[int, ...], ...] = ()
    """The places of the products whose results its own is made of."""
    is_term: bool = False
    """Whether the parameter is a term of a sum or a loop's first value, which lets through whatever
    it is beside."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SiteFlow:
    """What one site looks like in one step: scalars, or one for each turn of the loops around it.

    NaN is what does not apply, or is not known.
    """

    activation: Spread
    """Of the site's result; for a layer's bias, what enters the nonlinearity."""
    entering: Spread
    """Of what meets the parameter, at matrix products and convolutions."""
    error: Spread
    """Of the error signal: the derivative of each example's own loss by the site's result."""
    error_norm: Array
    """`‖δᵢ‖` of one example, its mean over the batch."""
    error_norm_std: Array
    """Its spread over the batch."""
    weight_norm: Array
    """`‖θ‖` of the parameter; if a loop over layers slices it, of the slice of each turn."""
    gradient_norm: Array
    """`‖∂L/∂θ‖` of the mean loss; over all turns of a loop that share the parameter."""
    gradient_ratio: Array
    """`‖∂L/∂θ‖ / ‖θ‖`"""
    update_ratio: Array
    """`‖Δθ‖ / ‖θ‖`, once `with_updates` has been told the updates."""
    dead: Array
    """Share of units that are 0 for all examples (`relu`); elsewhere, of those to which no error
    signal came back for any."""
    saturated: Array
    """Share of `tanh` or `sigmoid` units whose mean slope is below a tenth of its largest."""
    differing: Array
    """Which share of the squares differs between units, in activation or error signal, whichever
    has more; 0 if all units are alike."""
    activation_rank: Array
    """Effective rank of some activations, `(Σ σ²)² / Σ σ⁴` of their singular values: about in how
    many directions they lie."""
    error_rank: Array
    """The same of error signals."""
    units: Array
    """How many there are: outputs of a dense layer, channels of a convolution."""
    about: About = field(metadata={"static": True})


_SPREADS = ("activation", "entering", "error")
_OTHERS = [f.name for f in fields(SiteFlow) if f.name not in (*_SPREADS, "about")]
_FIRST = 3 * SPREAD
_WEIGHT, _UPDATE = (_FIRST + _OTHERS.index(name) for name in ("weight_norm", "update_ratio"))


def packed(spreads: Sequence[Array], others: Mapping[str, Array]) -> Array:
    """`[…, numbers]`, of the numbers of the three spreads, and of the other fields."""
    return jnp.concatenate([*spreads, jnp.stack([others[name] for name in _OTHERS], -1)], -1)


def _site_flow(numbers: Array, about: About) -> SiteFlow:
    """Of `[…, numbers]`."""
    spreads: dict[str, Any] = {
        name: spread_of(numbers[..., i * SPREAD : (i + 1) * SPREAD])
        for i, name in enumerate(_SPREADS)
    }
    others: dict[str, Any] = {name: numbers[..., _FIRST + i] for i, name in enumerate(_OTHERS)}
    return SiteFlow(**spreads, **others, about=about)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SiteFlows(Mapping[str, SiteFlow]):
    """`SiteFlow`s by name, in the order of the forward pass.

    A pytree of very few arrays, whatever the number of sites: all numbers of those with the same
    turns are in one. So it is cheap to hand back from a compiled step; its arrays may be stacked,
    averaged and taken apart along axes in front.
    """

    numbers: tuple[Array, ...]
    """`[…, turns …, S, numbers]`: of a site its spreads, and then its other fields."""
    found: tuple[tuple[str, About, int, int], ...] = field(metadata={"static": True})
    """Name, what it is, which array, and where in it."""
    unmet: tuple[str, ...] = field(default=(), metadata={"static": True})
    """Paths of parameters that the loss is not made of."""

    def __getitem__(self, name: str) -> SiteFlow:
        for known, about, which, i in self.found:
            if known == name:
                return _site_flow(self.numbers[which][..., i, :], about)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, *_ in self.found)

    def __len__(self) -> int:
        return len(self.found)


class Flow(NamedTuple):
    """What a step looked like, a pytree of arrays: it passes through `jit`, `scan` and `cond`."""

    loss: Array
    """Mean over the batch."""
    loss_std: Array
    """Over the batch; NaN for a loss of a whole batch."""
    sites: SiteFlows
    """In the order of the forward pass: a parameter's path, `path > relu` for a nonlinearity behind
    it, or a tag; `#2` and so on for a further one of the same name."""


def with_updates(flow: Flow, params: Params, updates: Params) -> Flow:
    """`flow`, with the ratio of an optimizer's updates to the parameters that they are added to.

    Raises:
      ValueError: if a parameter has no update, or one of another shape.
    """
    weights, steps = (dict(tree.flatten_with_paths(x)) for x in (params, updates))
    for path, weight in weights.items():
        if path not in steps or jnp.shape(steps[path]) != jnp.shape(weight):
            got = jnp.shape(steps[path]) if path in steps else "nothing"
            raise ValueError(f"with_updates: {path!r} is {jnp.shape(weight)}, its update is {got}")
    told = []
    for which, numbers in enumerate(flow.sites.numbers):
        members = [about for _, about, own, _ in flow.sites.found if own == which]
        here = [None if about.path is None else steps[about.path] for about in members]
        sizes = site_norms(here, [about.sliced for about in members], numbers.shape[:-2])
        ratios = ratio(jnp.moveaxis(sizes, 0, -1), numbers[..., _WEIGHT])
        told.append(jnp.asarray(numbers).at[..., _UPDATE].set(ratios))
    return flow._replace(sites=replace(flow.sites, numbers=tuple(told)))


def ratio(above: Array, below: Array) -> Array:
    """`above / below`; NaN where below is 0."""
    return above / jnp.where(below == 0, jnp.nan, below)
