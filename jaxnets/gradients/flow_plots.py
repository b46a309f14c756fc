"""Pictures of a flow, each a function from `Flow` to a Matplotlib figure (the extra `experiments`).

Figures are made without pyplot: no backend is chosen, and no global list holds them.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.gradients.activations import NONLINEARITIES
from jaxnets.gradients.measures import histogram_edges
from jaxnets.gradients.site_flow import Flow, SiteFlow
from jaxnets.gradients.turns import turn_by_turn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, which colour-blind readers can tell apart
_BLUE, _VERMILLION, _GREY = "#0072B2", "#D55E00", "#888888"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _rows(flow: Flow, name: str, *, steps: bool = False) -> tuple[list[str], list[SiteFlow]]:
    rows = turn_by_turn(flow, steps=steps)
    if not rows:
        raise ValueError(f"{name}: the flow has no site, since no parameter meets an example")
    return [row for row, _ in rows], [site for _, site in rows]


def _check(flow: Flow, steps: bool, name: str) -> None:
    if np.ndim(flow.loss) != int(steps):
        wanted = "a history, stacked over steps" if steps else "the flow of one step"
        raise ValueError(f"{name}: wants {wanted}, got a loss of shape {np.shape(flow.loss)}")


def _label(axis: Any, names: list[str]) -> None:
    """Names along y, the forward pass downwards; not more than can be read."""
    every = -(-len(names) // 40)
    axis.set_yticks(range(0, len(names), every), names[::every], fontsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)


def _tidy(axis: Any) -> None:
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def plot_depth(flow: Flow) -> "Figure":
    """The spread of activations and the size of error signals along the forward pass."""
    from matplotlib.ticker import NullFormatter

    _check(flow, False, "plot_depth")
    names, sites = _rows(flow, "plot_depth")
    figure = _figure(9, 1.4 + 0.26 * min(len(names), 40))
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(names))
    shown = (
        (left, _BLUE, [s.activation.std for s in sites], [0] * len(sites), "activation, std"),
        (
            right, _VERMILLION, [s.error_norm for s in sites],
            [s.error_norm_std for s in sites], "error signal of an example, norm ± std",
        ),
    )  # fmt: skip
    for axis, color, sizes, spreads, title in shown:
        middle, around = np.asarray(sizes, float), np.asarray(spreads, float)
        kept = np.where(middle > 0, middle, np.nan)
        axis.plot(kept, places, "o-", color=color, markersize=4, linewidth=1.2)
        low = np.maximum(kept - around, kept / 10)
        axis.fill_betweenx(places, low, kept + around, color=color, alpha=0.2, linewidth=0)
        axis.set_xscale("log")
        known = kept[np.isfinite(kept)]
        if known.size and known.max() > 10 * known.min():
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.tick_params(axis="x", which="both", labelsize=8, labelrotation=30)
        axis.set_xlabel(title)
        _tidy(axis)
    _label(left, names)
    left.set_ylabel("forward pass, downwards")
    return figure


def plot_history(flow: Flow, *, quantity: str = "error_norm") -> "Figure":
    """A heat map of one number, sites by steps, in powers of ten; what is 0 or unknown is grey.

    Args:
      flow: a history, stacked over steps.
      quantity: a field of `SiteFlow` with one number, such as `gradient_norm` or `update_ratio`.

    Raises:
      ValueError: for another field, or one that is nowhere known.
    """
    _check(flow, True, "plot_history")
    numbers = {f.name for f in fields(SiteFlow)} - {"activation", "entering", "error", "about"}
    if quantity not in numbers:
        raise ValueError(
            f"plot_history: quantity must be one of {sorted(numbers)}, got {quantity!r}"
        )
    names, sites = _rows(flow, "plot_history", steps=True)
    values = np.array([getattr(s, quantity) for s in sites], float)
    known = [i for i in range(len(names)) if np.isfinite(values[i]).any()]
    if not known:
        raise ValueError(
            f"plot_history: {quantity} is known at no site and step"
            + ("; `with_updates` tells it" if quantity == "update_ratio" else "")
        )
    names, values = [names[i] for i in known], values[known]
    logs = np.full(values.shape, np.nan)
    np.log10(values, out=logs, where=np.isfinite(values) & (values > 0))
    figure = _figure(9, 1.6 + 0.26 * min(len(names), 40))
    axis = figure.subplots()
    axis.set_facecolor("#cccccc")
    image = axis.imshow(logs, aspect="auto", cmap="cividis", interpolation="nearest")
    _label(axis, names)
    axis.set_xlabel("step")
    figure.colorbar(image, ax=axis, label=f"log10 of {quantity.replace('_', ' ')}")
    return figure


def plot_histograms(flow: Flow) -> "Figure":
    """How large activations and error signals are, site by site: shares of half decades."""
    _check(flow, False, "plot_histograms")
    names, sites = _rows(flow, "plot_histograms")
    figure = _figure(10, 1.6 + 0.26 * min(len(names), 40))
    axes = figure.subplots(1, 2, sharey=True)
    edges = np.log10(histogram_edges())
    for axis, field in zip(axes, ("activation", "error"), strict=True):
        shares = np.array([getattr(s, field).histogram for s in sites])
        image = axis.imshow(
            shares, aspect="auto", cmap="cividis", vmin=0, vmax=max(0.5, float(np.nanmax(shares))),
            extent=(edges[0], edges[-1], len(names) - 0.5, -0.5), interpolation="nearest",
        )  # fmt: skip
        axis.set_xlabel(f"log10 of |{'error signal' if field == 'error' else field}|")
        axis.grid(False)
    _label(axes[0], names)
    figure.colorbar(image, ax=axes, label="share of values")
    return figure


def plot_examples(flow: Flow) -> "Figure":
    """How unlike the examples of the batch are: the spread of error norms over their mean."""
    _check(flow, False, "plot_examples")
    names, sites = _rows(flow, "plot_examples")
    kept = [i for i, site in enumerate(sites) if site.about.kind not in NONLINEARITIES]
    names, sites = [names[i] for i in kept], [sites[i] for i in kept]
    mean = np.array([s.error_norm for s in sites], float)
    std = np.array([s.error_norm_std for s in sites], float)
    share = np.divide(std, mean, out=np.full(mean.shape, np.nan), where=mean > 0)
    figure = _figure(8, 1.4 + 0.26 * min(len(names), 40))
    axis = figure.subplots()
    axis.barh(np.arange(len(names)), share, color=_BLUE, height=0.7)
    axis.axvline(1, color=_GREY, linewidth=1, linestyle="--")
    _label(axis, names)
    axis.set_xlabel("std / mean of the examples' error norms")
    _tidy(axis)
    return figure
