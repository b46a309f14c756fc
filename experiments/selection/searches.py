"""Five searches that spend the same number of optimizer steps, each choosing by held-out data."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.selection.task import SPACE, Batch, Drawn, Grid, Task, advance, begun, judged
from jaxnets import train
from jaxnets.train import selection
from jaxnets.types import Params, PyTree

HELD_OUT_PARTS = 3
"""Of which one is held out, to choose by."""


class Amount(NamedTuple):
    """What each search may spend."""

    grid: Grid
    most: int
    """Epochs of a configuration."""


def configurations(amount: Amount) -> int:
    """As many are trained to the end by the grid, the random search and Optuna's."""
    return int(np.prod([len(values) for values in amount.grid.values()]))


class Problem(NamedTuple):
    """One repetition's."""

    task: Task
    amount: Amount
    part: Batch
    held_out: Batch
    seed: int
    """Of initial weights, draws and samplers."""


class Chosen(NamedTuple):
    """What a search came to."""

    params: Params
    config: Mapping[str, Any]
    held_out: float
    """The loss by which it was chosen."""
    tried: int
    epochs: int
    """Of all configurations together."""
    shown: Any = None
    """For pictures: halvings and their plans, or rows."""


class Result(NamedTuple):
    """A search's choice, judged by untouched data."""

    chosen: Chosen
    test_loss: float
    test_error: float
    seconds: float
    """Compilation included, where a program is new."""


def halving_plan(budget: int, most: int) -> list[selection.Rung]:
    """Of as many configurations as the budget lets begin, for one epoch and more."""
    n = 1
    while selection.cost(selection.rungs(n + 1, 1, most)) <= budget:
        n += 1
    return selection.rungs(n, 1, most)


def hyperband_epochs(most: int) -> int:
    """What all of Hyperband's brackets spend."""
    return sum(map(selection.cost, selection.brackets(most)))


def hyperband_plans(budget: int, most: int) -> list[list[selection.Rung]]:
    """All brackets, as many whole times as the budget allows.

    Raises:
      ValueError: if it does not allow them once.
    """
    plans = selection.brackets(most)
    times = budget // hyperband_epochs(most)
    if not times:
        raise ValueError(f"hyperband_plans: {budget} epochs are too few for all brackets once")
    return plans * times


def _best(problem: Problem, members: train.Member) -> Chosen:
    """Of members that are all trained to the end."""
    p, most = problem, problem.amount.most
    states, scores = advance(
        p.task, members, begun(p.task, members), p.part, p.held_out, epochs=most
    )
    best = selection.best(selection.rank(train.table(members), scores))
    n = len(members.seed)
    params = train.member(states.params, best.number)
    return Chosen(params, best.config, best.mean, n, n * most)


def grid_search(problem: Problem) -> Chosen:
    """The middles of equal parts of each range, with each other."""
    return _best(problem, train.members([problem.seed], problem.amount.grid))


def _drawn(problem: Problem, n: int, *more: int) -> train.Member:
    entropy = np.random.SeedSequence([problem.seed, *more]).generate_state(1)
    # the same initial weights for all, as of the other searches
    return train.paired([problem.seed] * n, selection.draw(SPACE, n, seed=int(entropy[0])))


def random_search(problem: Problem) -> Chosen:
    """As many draws as the grid has configurations."""
    return _best(problem, _drawn(problem, configurations(problem.amount)))


def _halved(
    problem: Problem, plan: Sequence[selection.Rung], members: train.Member
) -> selection.Halving:
    def on(stacked: PyTree, epochs: int) -> tuple[PyTree, Any]:
        members, states = stacked
        states, scores = advance(
            problem.task, members, states, problem.part, problem.held_out, epochs=epochs
        )
        return (members, states), scores

    return selection.halve((members, begun(problem.task, members)), plan, on)


def _chosen(
    found: Sequence[selection.Halving], plans: Sequence[Sequence[selection.Rung]]
) -> Chosen:
    """The best survivor of all plans, by its last score; all were trained as long."""
    ends = [
        min(search.scores[-1], key=lambda s: s if np.isfinite(s) else np.inf) for search in found
    ]
    best = int(np.argmin(np.where(np.isfinite(ends), ends, np.inf)))
    members, states = found[best].stacked
    return Chosen(
        train.member(states.params, 0),
        train.table(members)[0],
        ends[best],
        sum(plan[0].configurations for plan in plans),
        sum(map(selection.cost, plans)),
        (list(found), [list(plan) for plan in plans]),
    )


def successive_halving(problem: Problem) -> Chosen:
    """Many draws with one epoch each, the best third of them with three, and so on."""
    amount = problem.amount
    plan = halving_plan(configurations(amount) * amount.most, amount.most)
    return _chosen([_halved(problem, plan, _drawn(problem, plan[0].configurations))], [plan])


def hyperband(problem: Problem) -> Chosen:
    """Halvings from many configurations with little to few with all, each with draws of its own."""
    amount = problem.amount
    plans = hyperband_plans(configurations(amount) * amount.most, amount.most)
    found = [
        _halved(problem, plan, _drawn(problem, plan[0].configurations, 1 + bracket))
        for bracket, plan in enumerate(plans)
    ]
    return _chosen(found, plans)


def optunas(problem: Problem) -> Chosen:
    """Optuna's default, a tree-structured Parzen estimator: one after the other."""
    p, n = problem, configurations(problem.amount)
    trained: list[Params] = []

    def score(config: Mapping[str, float]) -> float:
        one = train.paired([p.seed], {name: np.array([value]) for name, value in config.items()})
        states, scores = advance(
            p.task, one, begun(p.task, one), p.part, p.held_out, epochs=p.amount.most
        )
        trained.append(train.member(states.params, 0))
        return float(scores[0])

    rows = selection.optuna_search(score, SPACE, n, seed=p.seed)
    best = selection.best(rows)
    params = trained[best.number]
    return Chosen(params, best.config, best.mean, n, n * p.amount.most, rows)


SEARCHES: dict[str, Callable[[Problem], Chosen]] = {
    "grid": grid_search,
    "random": random_search,
    "successive halving": successive_halving,
    "Hyperband": hyperband,
    "Optuna (TPE)": optunas,
}


def run_searches(task: Task, amount: Amount, drawn: Drawn, seed: int) -> dict[str, Result]:
    """Every search on the same two thirds of the examples, choosing by the last third."""
    fold = selection.stratified_kfold(drawn.development["y"], HELD_OUT_PARTS, seed=seed)[0]
    part, held_out = ({k: leaf[rows] for k, leaf in drawn.development.items()} for rows in fold)
    problem = Problem(task, amount, part, held_out, seed)
    judge = partial(judged, task)

    def run(search: Callable[[Problem], Chosen]) -> Result:
        started = time.perf_counter()
        chosen = jax.block_until_ready(search(problem))
        seconds = time.perf_counter() - started
        loss, error = map(float, judge(chosen.params, drawn.test))
        return Result(chosen, loss, error, seconds)

    return {name: run(search) for name, search in SEARCHES.items()}
