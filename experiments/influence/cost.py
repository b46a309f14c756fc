"""What the statistics cost beside a training step, measured in turns."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import Timing, interleave
from experiments.classification import Batch
from experiments.influence.training import Training, make_loss, make_step
from jaxnets import gradients, models, optim, train
from jaxnets.types import Params

PLAIN = "step"


def measure(
    training: Training, model: models.CNNConfig, state: train.TrainState, batch: Batch, rounds: int
) -> dict[str, Timing]:
    """Seconds of a step from `state` on `batch`: plain, clipped, with statistics."""
    loss = make_loss(model)
    optimizer = optim.sgd(training.learning_rate, momentum=training.momentum or None)

    def by(gradient: Callable[[Params, Batch], Any]) -> Callable[..., Any]:
        def step(state: train.TrainState, batch: Batch) -> Any:
            mean, seen = gradient(state.params, batch)
            updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
            return optim.apply_updates(state.params, updates), opt_state, seen

        return step

    def averaged(params: Params, batch: Batch) -> Any:
        losses, factors = gradients.per_example_grad(loss)(params, batch)
        size = losses.size
        return gradients.weighted_sum(factors, jnp.full(size, 1 / size)), jnp.mean(losses)

    steps = {
        PLAIN: train.step(train.batched(loss), optimizer),
        "step by factors": by(averaged),
        "step on clipped gradients": by(gradients.clipped_grad(loss, 1.0)),
        "step with all statistics": make_step(loss, optimizer),
    }
    programs = {name: jax.jit(step).lower(state, batch).compile() for name, step in steps.items()}

    def once(program: Any) -> Callable[[], int]:
        def call() -> int:
            jax.block_until_ready(program(state, batch))
            return 1

        return call

    return interleave({name: once(p) for name, p in programs.items()}, rounds=rounds)
