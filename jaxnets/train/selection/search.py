"""Which configurations are tried: draws from distributions, successive halving, Hyperband.

A grid is `train.members`. What is drawn here is plain NumPy, for `train.paired`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxnets.train.population import size
from jaxnets.types import PyTree


class Uniform(NamedTuple):
    """Any number of `[low, high)` alike."""

    low: float
    high: float


class LogUniform(NamedTuple):
    """Any factor alike: the logarithm is uniform. `0 < low <= high`."""

    low: float
    high: float


class Choice(NamedTuple):
    """One of these values, each as likely; to be drawn (`draw`), they must be numbers."""

    values: Sequence[Any]


Distribution: TypeAlias = Uniform | LogUniform | Choice


def require_space(function: str, space: Mapping[str, Distribution]) -> None:
    """Raise `ValueError`, naming `function`, for bounds out of order or nothing to choose from."""
    for name, distribution in space.items():
        match distribution:
            case Choice(values) if len(values):
                pass
            case LogUniform(low, high) if 0 < low <= high < math.inf:
                pass
            case Uniform(low, high) if -math.inf < low <= high < math.inf:
                pass
            case _:
                raise ValueError(f"{function}: {name} is no distribution, got {distribution}")


def is_number(value: Any) -> bool:
    """Whether it can be a hyper-parameter of a population: a number, NumPy's or JAX's included."""
    return isinstance(value, int | float | np.number | np.bool_ | jax.Array)


def draw(space: Mapping[str, Distribution], n: int, *, seed: int) -> dict[str, NDArray[Any]]:
    """`n` configurations drawn independently: `{name: [n]}`, for `train.paired`.

    Raises:
      ValueError: naming what has bounds out of order, nothing to choose from, or a choice that is
        no number.
    """
    require_space("draw", space)
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, distribution in space.items():
        match distribution:
            case Choice(values):
                if not all(map(is_number, values)):
                    raise ValueError(
                        f"draw: {name} must be a choice of numbers, got {list(values)}; "
                        "optuna_search takes others"
                    )
                drawn[name] = rng.choice(np.asarray(values), n)
            case LogUniform(low, high):
                drawn[name] = np.exp(rng.uniform(math.log(low), math.log(high), n))
            case Uniform(low, high):
                drawn[name] = rng.uniform(low, high, n)
    return drawn


class Rung(NamedTuple):
    """So many configurations, trained until each has had so much of the budget."""

    configurations: int
    budget: int
    """In all, that of the rungs below included."""


def rungs(configurations: int, least: int, most: int, *, eta: int = 3) -> list[Rung]:
    """Successive halving: all start with `least`, the best `1/eta` go on to `eta` times as much.

    `n_i = ⌊n / eta^i⌋` (one at least) at `r_i = least · eta^i`, up to `most` (Jamieson and
    Talwalkar, 2016). It ends where the next rung would exceed `most` or a single one is left.

    Raises:
      ValueError: for amounts below 1, `least` above `most`, or `eta` below 2.
    """
    if configurations < 1 or not 1 <= least <= most or eta < 2:
        raise ValueError(
            "rungs: wants configurations >= 1, 1 <= least <= most and eta >= 2, "
            f"got {configurations}, {least}, {most} and {eta}"
        )
    found, budget, left = [Rung(configurations, least)], least * eta, configurations // eta
    while budget <= most and found[-1].configurations > 1:
        found.append(Rung(max(left, 1), budget))
        budget, left = budget * eta, left // eta
    return found


def brackets(most: int, *, eta: int = 3) -> list[list[Rung]]:
    """Hyperband's brackets, from many configurations with little to few with `most` from the start.

    `s_max = ⌊log_eta most⌋`; bracket `s` starts `⌈(s_max + 1) eta^s / (s + 1)⌉` configurations at
    `most / eta^s`, rounded down (Li et al., 2018).

    Raises:
      ValueError: for `most` below 1 or `eta` below 2.
    """
    if most < 1 or eta < 2:
        raise ValueError(f"brackets: wants most >= 1 and eta >= 2, got {most} and {eta}")
    s_max = 0
    while eta ** (s_max + 1) <= most:
        s_max += 1
    return [
        [
            Rung(-(-(s_max + 1) * eta**s // (s + 1)) // eta**i, most // eta ** (s - i))
            for i in range(s + 1)
        ]
        for s in range(s_max, -1, -1)
    ]


def cost(plan: Sequence[Rung]) -> int:
    """The budget a plan spends in all, where survivors go on from where they are."""
    before = [0, *(rung.budget for rung in plan[:-1])]
    return sum(r.configurations * (r.budget - b) for r, b in zip(plan, before, strict=True))


class Halving(NamedTuple):
    """A search between two rungs: to be saved, and gone on from (`like_after`)."""

    stacked: PyTree
    """What `advance` trains: members and their states, those that are left."""
    left: tuple[int, ...]
    """Which of the first configurations these are."""
    rung: int = 0
    """How many rungs are done."""
    scores: tuple[tuple[float, ...], ...] = ()
    """Of each rung done, in the order of its configurations."""
    tried: tuple[tuple[int, ...], ...] = ()
    """Which configurations each rung had."""


def begin(stacked: PyTree) -> Halving:
    """Before the first rung: every member of `stacked` is in."""
    return Halving(stacked, tuple(range(size("begin", stacked))))


def like_after(stacked: PyTree, plan: Sequence[Rung], rungs: int) -> Halving:
    """A search of the shapes that it has after so many rungs: `like` of `train.restore_checkpoint`.

    Args:
      stacked: what `begin` is given.
      plan: of the search.
      rungs: how many are done, from 0 to as many as the plan has.

    Raises:
      ValueError: for another number of rungs.

    Example:
      >>> save_checkpoint(folder, search.rung, search)
      >>> done = latest_checkpoint(folder)
      >>> search = restore_checkpoint(folder, like_after(stacked, plan, done))
    """
    if not 0 <= rungs <= len(plan):
        raise ValueError(f"like_after: rungs must be from 0 to {len(plan)}, got {rungs}")
    sizes = [rung.configurations for rung in plan] + [1]
    done = sizes[:rungs]
    return Halving(
        jax.tree.map(lambda leaf: leaf[: sizes[rungs]], stacked),
        (0,) * sizes[rungs],
        rungs,
        tuple((0.0,) * size for size in done),
        tuple((0,) * size for size in done),
    )


def climb(
    search: Halving,
    plan: Sequence[Rung],
    advance: Callable[[PyTree, int], tuple[PyTree, ArrayLike]],
) -> Halving:
    """One rung: train those that are left on, score them, and keep as many as the next one takes.

    Args:
      search: from `begin`, or the rung before.
      plan: from `rungs`, or one of `brackets`.
      advance: `(stacked, budget) -> (stacked, [members])`: trains by as much more and scores each,
        smaller being better; as a `train.population` it compiles once for each rung.

    Returns:
      The search after the rung; after the last, the best one alone is left.

    Raises:
      ValueError: if no rung is left, the plan wants another number of configurations, or `advance`
        returns another number of scores.
    """
    if search.rung >= len(plan):
        raise ValueError(f"climb: all {len(plan)} rungs are done")
    here = plan[search.rung]
    if len(search.left) != here.configurations:
        raise ValueError(
            f"climb: rung {search.rung} wants {here.configurations} configurations, "
            f"got {len(search.left)}"
        )
    before = plan[search.rung - 1].budget if search.rung else 0
    stacked, scores = advance(search.stacked, here.budget - before)
    values = np.asarray(scores, np.float64)
    if values.shape != (here.configurations,):
        raise ValueError(
            f"climb: advance must return {here.configurations} scores, got shape {values.shape}"
        )
    after = search.rung + 1
    keep = plan[after].configurations if after < len(plan) else 1
    # what diverged is worst; ties go to the first
    order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")[:keep]
    return Halving(
        jax.tree.map(lambda leaf: leaf[order], stacked),
        tuple(int(search.left[i]) for i in order),
        after,
        (*search.scores, tuple(values.tolist())),
        (*search.tried, search.left),
    )


def halve(
    stacked: PyTree,
    plan: Sequence[Rung],
    advance: Callable[[PyTree, int], tuple[PyTree, ArrayLike]],
) -> Halving:
    """All rungs of a plan; see `climb`. `left[0]` of the result is the configuration it chose."""
    search = begin(stacked)
    for _ in plan:
        search = climb(search, plan, advance)
    return search
