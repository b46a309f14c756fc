"""Fine-tuning, at once or in turn, and adapters, from the head that was solved on the frozen base.

Begun with a solved head, the layers below are not torn apart by one that knows nothing (Kumar et
al., "Fine-tuning can distort pretrained features", 2022). The objective keeps the head's penalty,
so that at the start the head is at its optimum, and only what is below it has a reason to move.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.transfer.base import Base
from experiments.transfer.heads import Head, head_logits, solve
from experiments.transfer.learner import HeadChoice, Indices, Learner, Start
from jaxnets import losses, optim, train
from jaxnets.types import Array, Params, PyTree

BATCH = 16
EPOCHS = 10
LEAST = 60
"""Steps: fewer end within the dip that accuracy passes through at first."""
RANK = 8
LORA_RATES = (3e-4, 1e-3)
SHARES = (0.0, 1 / 3, 2 / 3, 1.0)
"""Of 0 steps is the frozen base: to tune nothing is among what held-out labels choose from."""

HEAD = "classifier"
"""Beside the base's own parameters in what is trained, by the kind of features it is on."""

Inner = Callable[[int], optim.GradientTransformation]
"""Of all steps: the transformation before the learning rate."""


def steps_of(n: int, most: int) -> int:
    """Ten epochs of `n` labels, within limits."""
    return min(most, max(LEAST, -(-EPOCHS * n // BATCH)))


def _at_once(steps: int) -> optim.GradientTransformation:
    return optim.adam(1.0)


def _split(base: Base, key: Array) -> tuple[Params, Params]:
    return train.split_params(base.params, base.tuned)


def _adapters(base: Base, key: Array) -> tuple[Params, Params]:
    return train.init_lora(key, base.params, base.adapted, RANK), base.params


def _merge_lora(adapters: Params, params: Params) -> Params:
    return train.merge_lora(params, adapters)


def fine_tuning(base: Base, most: int) -> Learner:
    """The upper layers trained on, all from the first step."""
    return _learner(
        base, most, base.rates, _at_once, _split, train.with_frozen, train.merge_params
    )  # fmt: skip


def gradual(base: Base, most: int) -> Learner:
    """The same, one group after the other, each for the same share of the steps one more.

    The head goes with the first group: alone, as Howard and Ruder (2018) begin, it would stay where
    it is, since it is solved.
    """

    def in_turn(steps: int) -> optim.GradientTransformation:
        n_stages = max(base.stages.values()) + 1
        starts = {rule: stage * steps // n_stages for rule, stage in base.stages.items()}
        starts = {f"^{HEAD}/": 0, **starts}
        return train.gradual_unfreezing(optim.adam(1.0), starts)

    return _learner(
        base, most, base.rates, in_turn, _split, train.with_frozen, train.merge_params
    )  # fmt: skip


def lora(base: Base, most: int) -> Learner:
    """Adapters and the head trained."""
    return _learner(
        base, most, LORA_RATES, _at_once, _adapters, train.with_lora, _merge_lora
    )  # fmt: skip


def _learner(
    base: Base,
    most: int,
    rates: tuple[float, ...],
    inner: Inner,
    split: Callable[[Base, Array], tuple[Params, Params]],
    placed: Callable[[Callable[..., Any], Params], Callable[..., Any]],
    merged: Callable[[Params, Params], Params],
) -> Learner:
    """Of what differs: how the base is split, and how a loss is one of what is trained."""

    def start(known: Indices, seed: int, of_head: HeadChoice) -> Start:
        kind, strength = of_head
        x, y = base.train.seen[kind][known], base.train_y[known]
        head = solve(x, y, len(base.classes), seed, strength).head
        trained, fixed = split(base, jax.random.key(seed))
        return Start({**trained, HEAD: {kind: head.params}}, (fixed, head))

    def parts(trained: Params, fixed: PyTree) -> tuple[Params, Params, Head, str]:
        params, head = fixed
        ((kind, own),) = trained[HEAD].items()
        body = {name: part for name, part in trained.items() if name != HEAD}
        return body, params, head._replace(params=own), kind

    def loss(
        trained: Params, fixed: PyTree, moments: PyTree, batch: PyTree, key: Array
    ) -> tuple[Array, PyTree]:
        body, params, head, kind = parts(trained, fixed)

        def of_all(params: Params, head: Head, batch: PyTree) -> Array:
            logits = head_logits(head, base.features(params, batch["inputs"])[kind])
            cross_entropy = losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
            return jnp.mean(cross_entropy) + head.penalty * jnp.sum(head.params["kernel"] ** 2)

        return placed(of_all, params)(body, head, batch), moments

    def logits(trained: Params, fixed: PyTree, moments: PyTree, inputs: PyTree) -> Array:
        body, params, head, kind = parts(trained, fixed)
        return head_logits(head, base.features(merged(body, params), inputs)[kind])

    def optimizer(rate: Any, steps: int) -> optim.GradientTransformation:
        schedule = optim.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
        return optim.chain(
            inner(steps),
            optim.scale_by_schedule(schedule),
            train.layerwise_rates(base.depths, 0.5),
        )

    def inputs(chosen: Indices | None) -> PyTree:
        if chosen is None:
            return base.test.below
        return jax.tree.map(lambda leaf: leaf[chosen], base.train.below)

    return Learner(
        rates=rates, shares=SHARES, steps=partial(steps_of, most=most), batch=BATCH, start=start,
        loss=loss, logits=logits, optimizer=optimizer, inputs=inputs, labels=base.train_y,
    )  # fmt: skip
