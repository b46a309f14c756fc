"""Xavier's and He's initializations against naive ones, in depth."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import learning_in_depth
from experiments.claims.arms import beside, between
from experiments.claims.claim import Outcome, Seen, Tested
from experiments.claims.deep_nets import LEAST, MOST, Shape, first_by_last, off, signals
from experiments.claims.initial_weights import ACTIVATIONS, ByDepth, ByWay, Config, naive, ways
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets.types import Key

TITLE = "Initialization in depth"

FULL = Config()
QUICK = Config(
    trained_depths=(2, 5, 20),
    rates=(0.002, 0.01, 0.05, 0.25, 1.25, 6.25),
    steps=120,
    batch_size=32,
)


def examine(config: Config, keys: Key) -> Outcome:
    """Error signals before training, and test errors after it, for every way and depth."""
    kept = {
        name: {d: _kept(config, Shape(d, config.width, activation), keys) for d in config.depths}
        for name, activation in ACTIVATIONS.items()
    }
    trained = {
        name: {d: learning_in_depth.trained_errors(config, name, d, keys)
               for d in config.trained_depths}
        for name in ACTIVATIONS
    }  # fmt: skip
    errors = {name: {d: of for d, (of, _) in found.items()} for name, found in trained.items()}
    narrow = [
        what for found in trained.values() for _, left_out in found.values() for what in left_out
    ]
    return Outcome(
        setting=(
            f"Digits; nets of {config.width} units a layer without normalization or residuals, of "
            f"{config.depths} hidden layers. Hidden kernels are normal: Xavier's √(2/(in + out)), "
            f"He's √(2/in), or naively {config.small:g} or {config.large:g}, whatever the width. "
            f"Error signals are of {config.examples} training digits, before training; one is "
            "carried if the first layer's is within a factor of 10 of the last one's. Then plain "
            "SGD, "
            f"{config.trained_depths} layers, batches of {config.batch_size}, {config.steps} "
            f"steps, of rates {config.rates} that of the least training loss for the other seeds, "
            "for each way; a loss above that of guessing, or without a number, counts as that. "
            f"Deep nets, and many layers, are those of {config.deep} or more; shallow nets, of "
            "fewer, are the control: what they learn from is not what depth alone makes hard."
        ),
        tested=[*_signals(config, kept), *learning_in_depth.sentences(config, errors)],
        seen=[_picture(config, kept), learning_in_depth.picture(config, errors)],
        notes=(
            "Relu layers are homogeneous: Xavier's signal is He's divided by √2 in each layer, but "
            "for where they start, so what is said of the one and of the other is one measurement. "
            "A signal that is not finite counts as 1e30. After a first run the rates of the short "
            "form were spread, since an end of them was the best one of many nets; and where nets "
            "of 2 layers were added to those that are trained, one more rate, since to sigmoid "
            "ones the highest was the best. What is said of shallow nets was added then, before "
            "any of them was judged."
            + "".join(f"\n\nLeft out of all that is said of learning: {what}." for what in narrow)
        ),
    )


def _kept(config: Config, shape: Shape, keys: Key) -> ByWay:
    """The error signal at the first layer by that at the last."""
    stds = ways(config)
    profiles = signals(shape, keys, jnp.array(list(stds.values())), examples=config.examples)
    ratio = np.asarray(jax.vmap(jax.vmap(first_by_last))(jnp.asarray(profiles)))
    return {way: ratio[:, i] for i, way in enumerate(stds)}


def _signals(config: Config, kept: dict[str, ByDepth]) -> list[Tested]:
    small, large = naive(config)

    def carried(
        activation: str, way: str, expected: Expected = "same", least: int = 0
    ) -> list[Comparison]:
        """Beside a signal that stays as it is, through so many layers at least."""
        return [
            beside(
                1.0, "as it was", Arm(way, values[way], LEAST, MOST),
                where=f"with {depth} layers, {way}",
                quantity="error signal at the first layer by that at the last",
                expected=expected, margin=10.0, ratio=True,
            )
            for depth, values in kept[activation].items()
            if depth >= least
        ]  # fmt: skip

    def farther(activation: str, way: str, *others: str) -> list[Comparison]:
        """It grows or shrinks by a smaller factor."""
        return [
            between(
                {name: off(values[name]) for name in (way, other)}, way, other,
                where=f"with {depth} layers, beside {other}",
                quantity="factor between the error signals at the first and the last layer",
                expected="less", margin=2.0, ratio=True, cap=MOST,
            )
            for depth, values in kept[activation].items()
            for other in others
        ]  # fmt: skip

    halved = [
        beside(
            0.5, "half", Arm("Xavier", values["Xavier"] ** (2 / (depth - 1))),
            where=f"with {depth} layers",
            quantity="squared error signal at a layer by that at the next", expected="same",
            margin=1.1, ratio=True,
        )
        for depth, values in kept["relu"].items()
    ]  # fmt: skip
    return [
        Tested(
            "Xavier's initialization carries the error signal through many tanh layers.",
            carried("tanh", "Xavier", least=config.deep),
        ),
        Tested(
            "It carries it farther than naive ones through tanh.",
            farther("tanh", "Xavier", small, large),
        ),
        Tested(
            "He's carries it through many relu layers.",
            carried("relu", "He", least=config.deep),
        ),
        Tested(
            "It carries it farther than naive ones through relu.",
            farther("relu", "He", small, large),
        ),
        Tested("Xavier's loses half of its square in each relu layer.", halved),
        Tested(
            "Neither Xavier's nor He's carries it through sigmoid layers.",
            carried("sigmoid", "Xavier", "less") + carried("sigmoid", "He", "less"),
        ),
        Tested(
            "Through sigmoid layers, large weights carry it farther than theirs.",
            farther("sigmoid", large, "Xavier", "He"),
        ),
    ]


def _picture(config: Config, kept: dict[str, ByDepth]) -> Seen:
    with panels(list(kept)) as (figure, row):
        for axes, by_depth in zip(row, kept.values(), strict=True):
            lines = {
                way: np.stack([values[way] for values in by_depth.values()], 1)
                for way in ways(config)
            }
            draw_lines(axes, config.depths, lines, x_label="layers", log_x=True, log_y=True)
            axes.set_ylim(1e-31, 1e31)
        row[0].set_ylabel("error signal, first / last layer")
        row[-1].legend(loc="lower left")
    return Seen(
        figure,
        "What is left of the error signal at the first layer, by depth, before training; beyond "
        "1e±30 it is cut off, and one that is not finite is at 1e30. Median of seeds; the band is "
        "from the least to the greatest.",
    )
