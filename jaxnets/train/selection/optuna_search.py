"""Optuna's search, for what `vmap` cannot stack: widths, depths, optimizers (extra `selection`)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from jaxnets.train.selection.results import Row, row, sorted_rows
from jaxnets.train.selection.search import Choice, Distribution, LogUniform, require_space

if TYPE_CHECKING:
    import optuna

Score: TypeAlias = Callable[[dict[str, Any]], ArrayLike | Iterator[ArrayLike]]

_SCORES = "scores"


def optuna_search(
    score: Score,
    space: Mapping[str, Distribution],
    n: int,
    *,
    seed: int | None = None,
    study: "optuna.Study | None" = None,
) -> list[Row]:
    """`n` configurations, one after the other, each suggested by Optuna from the scores so far.

    Configurations of one shape are searched faster by a population (`draw`, `halve`).

    Args:
      score: `score(config) -> float` or `[folds]`, whose mean is made small. A generator yields one
        after each part of its training, the last being the score: a study's pruner may stop it
        before. What is not finite ends a run and counts as worst.
      space: as for `draw`; the values of a `Choice` may be anything, such as strings or tuples.
      n: how many to try.
      seed: of a new study, which has Optuna's default sampler and pruner (a tree-structured Parzen
        estimator, whose first ten are random, and the median rule).
      study: one to go on with instead, which has a sampler and a pruner of its own. What was tried
        in it is part of the result.

    Returns:
      All of the study's finished trials from best to worst. What was stopped, or raised an error,
      comes last: its `scores` are empty and its `mean` is NaN.

    Raises:
      ImportError: without Optuna.
      ValueError: for `n` below 1, not exactly one of `seed` and `study`, a study that does not
        minimize one value, or a space with bounds out of order.

    Source: Akiba et al., 2019, "Optuna"; Bergstra et al., 2011, for the estimator.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("optuna_search needs Optuna: pip install 'jaxnets[selection]'") from error
    if n < 1:
        raise ValueError(f"optuna_search: n must be at least 1, got {n}")
    if (seed is None) == (study is None):
        raise ValueError(
            f"optuna_search: wants either seed or study, got seed {seed} and study {study}"
        )
    require_space("optuna_search", space)
    with _quiet(optuna):
        if study is None:
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        if study.directions != [optuna.study.StudyDirection.MINIMIZE]:
            raise ValueError(
                f"optuna_search: study must minimize one value, got {study.directions}"
            )
        suggested = {name: _suggested(optuna, of) for name, of in space.items()}
        for _ in range(n):
            trial = study.ask(suggested)
            try:
                _try(optuna, study, trial, score(_config(trial.params, space)))
            except BaseException:
                study.tell(trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
                raise
        return sorted_rows(
            row(trial.number, _config(trial.params, space), _scores(trial))
            for trial in study.trials
            if trial.state.is_finished()
        )


def _try(optuna: Any, study: Any, trial: Any, scored: Any) -> None:
    """One trial to its end, to where the pruner stops it, or to where it diverges."""
    staged = isinstance(scored, Iterator)
    parts: Iterable[ArrayLike] = scored if staged else [scored]
    values: list[float] | None = None
    for step, part in enumerate(parts):
        values = np.asarray(part, np.float64).ravel().tolist()
        if not values or not np.all(np.isfinite(values)):
            break
        if staged:
            trial.report(float(np.mean(values)), step)
            if trial.should_prune():
                _close(scored)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return
    _close(scored)
    if not values:
        raise ValueError("optuna_search: score must give at least one value, got none")
    trial.set_user_attr(_SCORES, values)
    mean = float(np.mean(values))
    # Optuna leaves out what failed; told the worst, the sampler learns to keep away
    study.tell(trial, mean if math.isfinite(mean) else math.inf)


def _close(scored: Any) -> None:
    """A generator that is not run to its end: what it holds is let go of now."""
    if hasattr(scored, "close"):
        scored.close()


def _scores(trial: Any) -> list[float]:
    """Of a trial that ran to its end; those of others' making have a value only."""
    if trial.state.name != "COMPLETE":
        return []
    found: list[float] = trial.user_attrs.get(_SCORES, [trial.value])
    return found


def _labels(values: Iterable[Any]) -> list[Any]:
    """What Optuna is told of a choice: the values if it can store and tell them apart, or their
    places.
    """
    kept = list(values)
    plain = all(v is None or type(v) in (bool, int, float, str) for v in kept)
    return kept if plain and len(set(kept)) == len(kept) else list(range(len(kept)))


def _suggested(optuna: Any, distribution: Distribution) -> Any:
    if isinstance(distribution, Choice):
        return optuna.distributions.CategoricalDistribution(_labels(distribution.values))
    log = isinstance(distribution, LogUniform)
    return optuna.distributions.FloatDistribution(distribution.low, distribution.high, log=log)


def _config(params: Mapping[str, Any], space: Mapping[str, Distribution]) -> dict[str, Any]:
    def value(name: str, label: Any) -> Any:
        of = space.get(name)
        return of.values[_labels(of.values).index(label)] if isinstance(of, Choice) else label

    return {name: value(name, label) for name, label in params.items()}


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna logs every new study; its own errors and warnings are still shown."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
