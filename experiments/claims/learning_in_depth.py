"""What nets of few and of many layers learn from each way to draw their first weights."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import beside, between, taken
from experiments.claims.claim import Seen, Tested
from experiments.claims.deep_nets import LEARNS, Shape, learnt
from experiments.claims.initial_weights import ACTIVATIONS, ByDepth, ByWay, Config, naive, ways
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.rates import GridEndError, best_of_others
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets.types import Key

CHANCE = 0.9


def trained_errors(
    config: Config, activation: str, depth: int, keys: Key
) -> tuple[ByWay, list[str]]:
    """On the test digits after training, each at its best rate; and what is said of those whose
    best rate may lie beyond the grid, which are left out: the others took as long to train."""
    stds = ways(config)
    found = learnt(
        Shape(depth, config.width, ACTIVATIONS[activation]), keys,
        jnp.array(list(stds.values())), jnp.array(config.rates),
        steps=config.steps, batch_size=config.batch_size,
    )  # fmt: skip

    errors, narrow = {}, []
    for i, way in enumerate(stds):
        what = f"{activation}, {depth} layers, {way}"
        try:
            best = best_of_others(config.rates, found.loss[:, i], what)
        except GridEndError as error:
            narrow.append(str(error))
        else:
            errors[way] = taken(found.error[:, i], best)
    return errors, narrow


def sentences(config: Config, errors: Mapping[str, ByDepth]) -> list[Tested]:
    """On deep nets, and the same on shallow ones as a control: what depth alone makes hard."""
    small, large = naive(config)
    deep, shallow = (
        {name: {d: e for d, e in by_depth.items() if (d >= config.deep) == many}
         for name, by_depth in errors.items()}
        for many in (True, False)
    )  # fmt: skip

    def better(activation: str, way: str, *others: str) -> list[Comparison]:
        return [
            between(
                values, way, other, where=f"with {depth} layers, beside {other}",
                quantity="test error", expected="less", margin=0.05,
            )
            for depth, values in deep[activation].items()
            for other in others
            if {way, other} <= values.keys()
        ]  # fmt: skip

    def as_well(activation: str, than: str, *others: str) -> list[Comparison]:
        return [
            between(
                values, way, than, where=f"with {depth} {activation} layers, {way} beside {than}",
                quantity="test error", expected="not more", margin=0.05,
            )
            for depth, values in shallow[activation].items()
            for way in others
            if {way, than} <= values.keys()
        ]  # fmt: skip

    def beside_chance(
        of: Mapping[str, ByDepth], expected: Expected, margin: float
    ) -> list[Comparison]:
        return [
            beside(
                CHANCE, "chance", Arm(way, values[way]), where=f"with {depth} layers, {way}",
                quantity="test error", expected=expected, margin=margin,
            )
            for depth, values in of["sigmoid"].items()
            for way in values
        ]  # fmt: skip

    found = [
        Tested(
            "Deep tanh nets learn better from Xavier's than from weights that are too small.",
            better("tanh", "Xavier", small),
        ),
        Tested(
            "They learn better from Xavier's than from weights that are too large.",
            better("tanh", "Xavier", large),
        ),
        Tested(
            "Deep relu nets learn better from He's than from naive ones.",
            better("relu", "He", small, large),
        ),
        Tested(
            "They learn better from He's than from Xavier's.",
            better("relu", "He", "Xavier"),
        ),
        Tested("Deep sigmoid nets learn from none of them.", beside_chance(deep, "not less", 0.1)),
        Tested(
            "Shallow tanh and relu nets learn from naive weights as well.",
            as_well("tanh", "Xavier", small, large) + as_well("relu", "He", small, large),
        ),
        Tested(
            "Shallow relu nets learn from Xavier's as well as from He's.",
            as_well("relu", "He", "Xavier"),
        ),
        Tested(
            "Shallow sigmoid nets learn from all of them.", beside_chance(shallow, "less", LEARNS)
        ),
    ]
    return [
        t if t.comparisons else t._replace(why="no such net is trained, or its grid is too narrow")
        for t in found
    ]


def picture(config: Config, errors: Mapping[str, ByDepth]) -> Seen:
    """Test errors by depth."""
    with panels(list(errors)) as (figure, row):
        for axes, by_depth in zip(row, errors.values(), strict=True):
            lines = {
                way: 100 * _of_each_depth([values.get(way) for values in by_depth.values()])
                for way in ways(config)
            }
            draw_lines(axes, list(by_depth), lines, x_label="layers", log_x=True)
            axes.axhline(100 * CHANCE, color="#888888", linestyle=":", linewidth=1)
        row[0].set_ylabel("test error, %")
        # between tanh nets that learn and those that do not
        row[0].legend(loc="center right")
    return Seen(
        figure,
        "The test error after training, by depth; dotted, that of guessing, and above it nets "
        "whose scores are not finite, which count as wrong. Median of seeds; the band is from the "
        "least to the greatest.",
    )


def _of_each_depth(errors: Sequence[np.ndarray | None]) -> np.ndarray:
    """`[seeds, depths]`, without a number where the grid of rates was too narrow."""
    values = [np.array([np.nan]) if of is None else of for of in errors]
    return np.stack(np.broadcast_arrays(*values), 1)
