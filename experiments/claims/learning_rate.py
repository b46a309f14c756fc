"""The learning rate: too high, too low, found by a range test, and changed along the way."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import learning_rate_pictures as pictures_of
from experiments.claims.arms import beside
from experiments.claims.claim import Outcome, Tested
from experiments.claims.rates import at_best, best_of_others, highest, shifted
from experiments.claims.scheduled import FALLING, WARM, end, net
from experiments.claims.training import (
    LEAST,
    WORST,
    digits,
    mlp_loss,
    rates_around,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison, Expected
from jaxnets import models, optim
from jaxnets.types import Array, Key

TITLE = "The learning rate"


@dataclass(frozen=True)
class Config:
    """Momentum SGD on the digits at many rates, constant and scheduled."""

    steps: int = 1000
    batch_size: int = 32
    momentum: float = 0.9
    hidden: tuple[int, ...] = (64, 64)
    low: float = 1e-4
    high: float = 10.0
    per_decade: int = 4
    off: int = 6
    """By how many rates of the grid one is too low, or too high."""
    top_per_decade: int = 8
    """Of rates from 0.03 to `high`, among which the highest that works is looked for."""
    range_ends: tuple[float, float] = (1e-4, 10.0)
    range_steps: int = 100
    """Of the range test."""
    warmup: float = 0.1
    """The share of steps in which the rate rises."""
    redrawn: float = 0.3
    """The share of labels drawn anew in each batch, where gradients are to stay noisy."""


FULL = Config()
QUICK = Config(steps=400)

WORKS = 1.0
"""Nats: at a rate at which the loss ends below, training works."""


def examine(config: Config, keys: Key) -> Outcome:
    """Final losses at every rate; each seed's rate is the best of the other seeds."""
    rates = rates_around(config.low, config.high, config.per_decade)
    ends = {}
    for name in ("constant", *FALLING, WARM):
        losses, errors = sweep(partial(end, config, name), keys, rates)
        ends[name] = np.asarray(losses), np.asarray(errors)
    best = {name: best_of_others(rates, losses, name) for name, (losses, _) in ends.items()}
    noisy_losses = {
        name: np.asarray(sweep(partial(end, config, name, redrawn=config.redrawn), keys, rates)[0])
        for name in ("constant", "cosine")
    }
    noisy = {name: at_best(rates, losses, name) for name, losses in noisy_losses.items()}
    seeds = np.arange(len(keys))
    constant, chosen = ends["constant"][0], best["constant"]
    suggested = np.asarray(_suggested(config, keys))
    by_test = np.asarray(_at_rates(config, keys, jnp.asarray(suggested)))
    fine = rates_around(0.03, config.high, config.top_per_decade)
    fine_losses = {
        name: np.asarray(sweep(partial(end, config, name), keys, fine)[0])
        for name in ("cosine", WARM)
    }
    top = {
        name: highest(fine, losses, below=WORKS, of=name) for name, losses in fine_losses.items()
    }

    def loss_arm(name: str, values: np.ndarray) -> Arm:
        return Arm(name, values, floor=LEAST, cap=WORST)

    def than(
        where: str, treated: Arm, control: Arm, expected: Expected = "more", margin: float = 1.5
    ) -> Comparison:
        return Comparison(where, "training loss", treated, control, expected, margin, ratio=True)

    good = loss_arm("the best rate", constant[seeds, chosen])
    at = {name: loss_arm(name, losses[seeds, best[name]]) for name, (losses, _) in ends.items()}
    factor = 10 ** (config.off / config.per_decade)
    below, above = (
        loss_arm(name, constant[seeds, shifted(chosen, by, len(rates))])
        for name, by in (("too low", -config.off), ("too high", config.off))
    )
    step = 10 ** (1 / config.top_per_decade)
    return Outcome(
        setting=(
            f"Digits, an MLP {config.hidden}, SGD with momentum {config.momentum:g}, batches of "
            f"{config.batch_size}, {config.steps} steps; the loss on all training digits at the "
            f"end. Rates from {config.low:g} to {config.high:g}, {config.per_decade} a decade, for "
            "each schedule, whose highest rate it is; the best for a seed is the one that was best "
            "for the others. Training fails if its loss ends where guessing is. "
            "Losses above ln 10 = 2.30 (what who knows nothing has) or not finite count as that, "
            f"and effects with them as bounds. The range test: {config.range_steps} "
            f"steps in which the rate rises from {config.range_ends[0]:g} to "
            f"{config.range_ends[1]:g}, and the rate at which the loss falls fastest; so it costs "
            f"1/{config.steps * len(rates) / config.range_steps:.0f} of the search. Falling rates: "
            f"{'; '.join(FALLING.values())} (rate / √(1 + step / 10)). Since this net learns the "
            "digits by heart, its gradients vanish by themselves; so, added after a first run, one "
            f"of them also where they cannot: with {config.redrawn:.0%} of the labels drawn anew "
            "in each batch, by the expected loss above the labels' own entropy. The highest rate "
            f"that works is looked for on a grid of its own, of {config.top_per_decade} rates a "
            f"decade: it is known to a factor of {step:.2f}, which is not in the interval but less "
            "than the margin."
        ),
        tested=[
            Tested(
                "Too low a rate leaves the loss higher after as many steps.",
                [than(f"at 1/{factor:.0f} of the best", below, good)],
            ),
            Tested(
                "Too high a rate makes training fail.",
                [
                    beside(
                        WORST,
                        "guessing",
                        above,
                        where=f"at {factor:.0f} times the best",
                        quantity="training loss",
                        expected="not less",
                        margin=1.05,
                        ratio=True,
                    )
                ],
            ),
            Tested(
                "A short range test finds a rate as good as a search does.",
                [
                    than(
                        f"with {config.range_steps} steps of it",
                        loss_arm("range test", by_test),
                        good,
                        "not more",
                    )
                ],
            ),
            Tested(
                "A rate that falls along the way ends lower than a constant one.",
                [
                    than(where, at[name], at["constant"], "less", 1.2)
                    for name, where in FALLING.items()
                ]
                + [
                    than(
                        f"along half a cosine with {config.redrawn:.0%} of labels drawn anew",
                        loss_arm("cosine", noisy["cosine"]),
                        loss_arm("constant", noisy["constant"]),
                        "less",
                        1.2,
                    )
                ],
            ),
            Tested(
                "Warm-up permits higher rates.",
                [
                    Comparison(
                        f"over {config.warmup:.0%} of the steps",
                        f"highest rate at which the loss ends below {WORKS:g}",
                        Arm(WARM, top[WARM]),
                        Arm("cosine", top["cosine"]),
                        "more",
                        1.5,
                        ratio=True,
                    )
                ],
            ),
        ],
        seen=[
            pictures_of.by_rate(config, rates, ends, suggested),
            pictures_of.noise_and_warmup(config, (rates, noisy_losses), (fine, fine_losses), WORKS),
        ],
        notes=(
            f"Suggested by the range test: {_listed(suggested)}; best by the search: "
            f"{_listed(np.asarray(rates)[chosen])}."
        ),
    )


def _listed(rates: np.ndarray) -> str:
    return ", ".join(f"{rate:.2g}" for rate in rates)


def _suggested(config: Config, keys: Key) -> Array:
    loss = mlp_loss(net(config))

    def one(key: Key) -> Array:
        init_key, run_key = jax.random.split(key)
        data = digits().train
        n = (config.range_steps, config.batch_size)
        rows = jax.random.randint(run_key, n, 0, len(data["y"]))
        curve = optim.learning_rate_range(
            lambda params, batch: loss(params, batch, None),
            partial(optim.sgd, momentum=config.momentum),
            models.init_mlp(init_key, net(config)),
            jax.tree.map(lambda leaf: leaf[rows], data),
            low=config.range_ends[0],
            high=config.range_ends[1],
        )
        return optim.suggest_rate(*curve)

    return jnp.asarray(jax.jit(jax.vmap(one))(keys))


def _at_rates(config: Config, keys: Key, rates: Array) -> Array:
    """The final loss of each seed at a rate of its own."""
    return jnp.asarray(jax.jit(jax.vmap(partial(end, config, "constant")))(keys, rates)[0])
