"""Which configuration, and how good it is: folds, searches, and what they found as a table."""

from jaxnets.train.selection.folds import (
    Fold,
    StackedFolds,
    kfold,
    repeated,
    stacked,
    stratified_kfold,
)
from jaxnets.train.selection.optuna_search import optuna_search
from jaxnets.train.selection.results import (
    Comparison,
    Row,
    best,
    compare,
    described,
    markdown,
    rank,
)
from jaxnets.train.selection.search import (
    Choice,
    Halving,
    LogUniform,
    Rung,
    Uniform,
    begin,
    brackets,
    climb,
    cost,
    draw,
    halve,
    like_after,
    rungs,
)
from jaxnets.train.selection.seeds import over_seeds
from jaxnets.train.selection.validation import Nested, cross_validate, nested

__all__ = [
    "Choice",
    "Comparison",
    "Fold",
    "Halving",
    "LogUniform",
    "Nested",
    "Row",
    "Rung",
    "StackedFolds",
    "Uniform",
    "begin",
    "best",
    "brackets",
    "climb",
    "compare",
    "cost",
    "cross_validate",
    "described",
    "draw",
    "halve",
    "kfold",
    "like_after",
    "markdown",
    "nested",
    "optuna_search",
    "over_seeds",
    "rank",
    "repeated",
    "rungs",
    "stacked",
    "stratified_kfold",
]
