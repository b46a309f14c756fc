"""Pictures of what was found, each a function to a Matplotlib figure (the extra `experiments`).

Figures are made without pyplot: no backend is chosen, and no global list holds them. What is not
finite is a cross above the axes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxnets.train.selection.results import Row, described
from jaxnets.train.selection.search import (
    Choice,
    Distribution,
    Halving,
    LogUniform,
    Rung,
    is_number,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, which colour-blind readers can tell apart
_BLUE, _VERMILLION, _GREY = "#0072B2", "#D55E00", "#888888"
_ABOVE = 1.02
"""Where crosses are, in heights of the axes."""


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _tidy(axis: Any) -> None:
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _require(function: str, rows: Sequence[Any], of: str = "row") -> None:
    if not rows:
        raise ValueError(f"{function}: wants at least one {of}, got none")


def _crosses(axis: Any, at: Sequence[Any]) -> None:
    """Failures, above what is on the axes whatever its scale."""
    if not len(at):  # nothing drawn outside of axes has no extent, and upsets the layout
        return
    axis.plot(
        at, np.full(len(at), _ABOVE), "x", color=_VERMILLION, markersize=5, clip_on=False,
        transform=axis.get_xaxis_transform(),
    )  # fmt: skip


def plot_ranking(rows: Sequence[Row], *, most: int = 20, score: str = "score") -> "Figure":
    """The best configurations downwards: mean ± standard error, and the folds' scores behind.

    Args:
      rows: from best to worst, as `rank` returns them; those without a finite mean are left out.
      most: how many.
      score: the axis's name.

    Raises:
      ValueError: if no row has a finite mean.
    """
    shown = [row for row in rows if math.isfinite(row.mean)][:most]
    _require("plot_ranking", shown, "row with a finite mean")
    figure = _figure(8, 1.1 + 0.28 * len(shown))
    axis = figure.subplots()
    for place, row in enumerate(shown):
        if len(row.scores) > 1:
            axis.plot(row.scores, [place] * len(row.scores), "|", color=_GREY, markersize=7)
        # a single fold has no error
        error = 0.0 if math.isnan(row.standard_error) else row.standard_error
        axis.errorbar(row.mean, place, xerr=error, fmt="o", color=_BLUE, markersize=5, capsize=3)
    axis.set_yticks(range(len(shown)), [described(row.config) for row in shown], fontsize=8)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel(f"{score}: mean ± standard error; marks are folds")
    _tidy(axis)
    return figure


def plot_search(
    rows: Sequence[Row], space: Mapping[str, Distribution] | None = None, *, score: str = "score"
) -> "Figure":
    """The score against each hyper-parameter, one panel each; the best is marked.

    Args:
      rows: in any order.
      space: what was searched: `LogUniform` has a logarithmic axis, a `Choice` its values side by
        side. Without it every entry of the configurations but their `seed` has a panel, numbers on
        an axis that is logarithmic where they are positive and span a factor of 30.
      score: the axis's name.

    Raises:
      ValueError: for no rows, or nothing to draw them against.
    """
    _require("plot_search", rows)
    names = list(space or (name for name in rows[0].config if name != "seed"))
    _require("plot_search", names, "hyper-parameter")
    figure = _figure(3.2 * len(names) + 0.8, 3.4)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    means = np.array([row.mean for row in rows])
    kept = np.isfinite(means)
    for axis, name in zip(panels, names, strict=True):
        at = _places(axis, [row.config.get(name) for row in rows], (space or {}).get(name))
        axis.plot(at[kept], means[kept], "o", color=_BLUE, alpha=0.6, markersize=4.5)
        if kept.any():
            first = int(np.argmin(np.where(kept, means, np.inf)))
            axis.plot(at[first], means[first], "o", color=_VERMILLION, markersize=8, mfc="none")
        _crosses(axis, at[~kept])
        axis.set_xlabel(name)
        _tidy(axis)
    panels[0].set_ylabel(score)
    return figure


def _places(axis: Any, values: Sequence[Any], of: Distribution | None) -> NDArray[Any]:
    """Where each value lies along x, which is given its scale or its names."""
    numbers = all(map(is_number, values))
    if isinstance(of, Choice) or not numbers:
        among = list(of.values) if isinstance(of, Choice) else sorted(set(values), key=str)
        axis.set_xticks(range(len(among)), [_short(value) for value in among])
        axis.set_xlim(-0.5, len(among) - 0.5)
        return np.array([among.index(value) for value in values])
    at = np.array(values, np.float64)
    positive = at.min() > 0
    if isinstance(of, LogUniform) or (of is None and positive and at.max() > 30 * at.min()):
        axis.set_xscale("log")
    return at


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plot_halving(
    searches: Sequence[Halving], plans: Sequence[Sequence[Rung]], *, score: str = "score"
) -> "Figure":
    """The score against the budget, a line for each configuration, as far as it was trained.

    A panel for each search: one of successive halving, or Hyperband's brackets. Lines end
    where a configuration was given up; the chosen one is marked.

    Raises:
      ValueError: for no searches, or where their plans are not as many or not theirs.
    """
    _require("plot_halving", searches, "search")
    if len(plans) != len(searches):
        raise ValueError(f"plot_halving: got {len(plans)} plans for {len(searches)} searches")
    for search, plan in zip(searches, plans, strict=True):
        had, wanted = [len(t) for t in search.tried], [r.configurations for r in plan]
        if not had or had != wanted[: len(had)]:
            raise ValueError(
                f"plot_halving: plans must be those of the searches, got {wanted} for {had}"
            )
    figure = _figure(2.6 * len(searches) + 2.2, 3.6)
    panels = figure.subplots(1, len(searches), sharey=True, squeeze=False)[0]
    for axis, search, plan in zip(panels, searches, plans, strict=True):
        _draw_halving(axis, search, plan)
        axis.set_title(f"{plan[0].configurations} configurations", fontsize=10)
        axis.set_xlabel("budget")
        _tidy(axis)
    panels[0].set_ylabel(score)
    return figure


def _draw_halving(axis: Any, search: Halving, plan: Sequence[Rung]) -> None:
    budgets = [rung.budget for rung in plan[: search.rung]]
    course: dict[int, list[float]] = {one: [] for one in search.tried[0]}
    for tried, scores in zip(search.tried, search.scores, strict=True):
        for one, value in zip(tried, scores, strict=True):
            course[one].append(value)
    chosen = search.left[0]
    for one, values in course.items():
        known = np.where(np.isfinite(values), values, np.nan)
        best = one == chosen
        axis.plot(
            budgets[: len(values)], known, "o-", color=_VERMILLION if best else _BLUE,
            alpha=1 if best else 0.15 + 0.55 * (len(values) > 1), zorder=3 if best else 2,
            markersize=4, linewidth=2.0 if best else 0.9,
        )  # fmt: skip
    _crosses(
        axis,
        [
            budget
            for values in course.values()
            for budget, value in zip(budgets, values, strict=False)
            if not math.isfinite(value)
        ],
    )
    axis.set_xscale("log")
    axis.set_xticks(budgets, [str(budget) for budget in budgets])
    axis.minorticks_off()
