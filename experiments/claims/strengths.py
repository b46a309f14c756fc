"""Remedies at several strengths, and whether a better one may lie beyond those tried."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.claims import rates
from experiments.claims.claim import Tested
from experiments.claims.few_digits import Config, Setting, Trained, runs
from jaxnets.types import Key


class Tried(NamedTuple):
    """Of one remedy."""

    runs: Trained
    """`[seeds, strengths, …]`"""
    end: str
    """Why a better strength may lie beyond; empty where an inner one is the best."""


def tried(config: Config, keys: Key) -> dict[str, Tried]:
    """Of each remedy that has a strength."""
    grids = {
        "L2": ("l2", config.l2),
        "L1": ("l1", config.l1),
        "dropout": ("dropout", config.dropout),
        "label smoothing": ("smoothing", config.smoothing),
    }
    found = {}
    for name, (field, strengths) in grids.items():
        trained = runs(config, keys, [Setting(**{field: strength}) for strength in strengths])
        found[name] = Tried(trained, at_end(strengths, trained, name))
    return found


def at_end(strengths: Sequence[float], trained: Trained, of: str) -> str:
    """`Tried.end`, by the mean over seeds of the validation error."""
    try:
        rates.require_inside(strengths, trained.validation_error.mean(0), of, kind="strength")
    except rates.GridEndError as error:
        return str(error)
    return ""


def inside(tested: Tested, of: Mapping[str, Tried]) -> Tested:
    """The sentence, untested if it is of a remedy whose best strength ends its grid."""
    named = {arm.name for c in tested.comparisons for arm in (c.treated, c.control)}
    why = "; ".join(each.end for name, each in of.items() if each.end and name in named)
    return tested._replace(comparisons=[], why=why) if why else tested
