"""Training that sees, at every step and in the same pass, how noisy its gradient is."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.classification import REPORTS_PER_EPOCH, Batch, example_loss
from experiments.errors import diverged
from experiments.progress import Handle, progress, report_progress
from jaxnets import gradients, models, optim, train, tree
from jaxnets.types import Array, Params, PyTree

Step = Callable[[train.TrainState, Batch], tuple[train.TrainState, dict[str, Any]]]


class Training(NamedTuple):
    """How every run is trained."""

    learning_rate: float
    momentum: float
    batch_size: int
    epochs: int
    checkpoint_every: int
    """Epochs."""


class Epochs(NamedTuple):
    """What was seen while training: `[epochs]` each."""

    loss: NDArray[np.float64]
    noise_scale: NDArray[np.float64]
    """Infinite where the mean estimate of `‖G‖²` is not positive."""
    batch_size: NDArray[np.float64]
    """The mean of what the diversity of each batch allows."""
    signal_to_noise: dict[str, NDArray[np.float64]]
    """By parameter."""


class Trained(NamedTuple):
    """One run."""

    state: train.TrainState
    """At the end."""
    checkpoints: Sequence[Params]
    """Parameters; the last are those of the end."""
    epochs: Epochs
    accuracy: float
    """On the test images, at the end."""


def make_loss(model: models.CNNConfig) -> Callable[[Params, PyTree], Array]:
    """`loss(params, example)`, the cross-entropy of one example, for a net without batch norm."""

    def loss(params: Params, example: PyTree) -> Array:
        return example_loss(logits(params, model, example["x"]), example["y"])

    return loss


def logits(params: Params, model: models.CNNConfig, x: Array) -> Array:
    """Of a net without batch norm, which has no state."""
    return models.cnn(params, model, x, state={"moments": []})[0]


def make_step(loss: Callable[..., Array], optimizer: optim.GradientTransformation) -> Step:
    """As `train.step`, the gradient by factors, with the statistics among its metrics."""

    def step(state: train.TrainState, batch: Batch) -> tuple[train.TrainState, dict[str, Any]]:
        losses, factors = gradients.per_example_grad(loss)(state.params, batch)
        seen = gradients.moments(factors)
        updates, opt_state = optimizer.update(seen.mean, state.opt_state, state.params)
        params = optim.apply_updates(state.params, updates)
        after = state._replace(params=params, opt_state=opt_state, step=state.step + 1)
        return after, {
            "loss": jnp.mean(losses),
            "noise": gradients.noise_scale(seen),
            "signal": gradients.signal_to_noise(seen),
            "diversity": gradients.diversity(seen),
        }

    return step


class Program(NamedTuple):
    """The compiled functions that all runs share."""

    init: Callable[[Array], train.TrainState]
    """`init(seed)`."""
    epoch: Callable[[train.TrainState, Batch, Handle], tuple[train.TrainState, dict[str, Any]]]
    """`epoch(state, data, bar)`; the state is given up."""
    evaluate: Callable[[train.TrainState, Batch], dict[str, Array]]
    """`evaluate(state, data)`: the accuracy."""


def make_program(training: Training, model: models.CNNConfig, steps_per_epoch: int) -> Program:
    """Of a net without batch norm, trained by stochastic gradient descent."""
    optimizer = optim.sgd(training.learning_rate, momentum=training.momentum or None)
    step = make_step(make_loss(model), optimizer)
    every = max(1, steps_per_epoch // REPORTS_PER_EPOCH)

    def init(seed: Array) -> train.TrainState:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        params, moments = models.init_cnn(init_key, model)
        return train.init_state(params, optimizer, run_key, model_state=moments)

    def epoch(
        state: train.TrainState, data: Batch, bar: Handle
    ) -> tuple[train.TrainState, dict[str, Any]]:
        def show(state: train.TrainState, metrics: dict[str, Any]) -> None:
            report_progress(bar, state.step - 1, every, loss=metrics["loss"])

        return train.epoch(step, training.batch_size, on_step=show)(state, data)

    def measure(params: Params, _: PyTree, batch: Batch) -> dict[str, Array]:
        return {"accuracy": jnp.argmax(logits(params, model, batch["x"]), -1) == batch["y"]}

    return Program(
        jax.jit(init),
        jax.jit(epoch, donate_argnums=0),
        jax.jit(train.evaluate(measure, batch_size=256)),
    )


def run(training: Training, program: Program, data: Batch, test: Batch, seed: int) -> Trained:
    """Train from `seed`, keeping checkpoints.

    Raises:
      UsageError: if training diverges.
    """
    steps = train.steps_per_epoch(len(data["y"]), training.batch_size)
    state = program.init(jnp.asarray(seed))
    checkpoints, seen = [], []
    with progress(
        steps * training.epochs,
        batch_size=training.batch_size,
        steps_per_epoch=steps,
        description=f"seed {seed}",
    ) as bar:
        for epoch in range(1, training.epochs + 1):
            state, metrics = program.epoch(state, data, bar)
            seen.append(summarize(metrics))
            if not np.isfinite(seen[-1].loss):
                raise diverged(f"seed {seed} has loss {seen[-1].loss} in epoch {epoch}")
            if epoch % training.checkpoint_every == 0 or epoch == training.epochs:
                # a copy: the program gives up the state that it is handed
                checkpoints.append(jax.tree.map(jnp.copy, state.params))
    epochs: Epochs = jax.tree.map(lambda *values: np.stack(values), *seen)
    return Trained(state, checkpoints, epochs, float(program.evaluate(state, test)["accuracy"]))


def summarize(metrics: dict[str, Any]) -> Epochs:
    """An epoch's statistics from those of its steps: parts are averaged, then divided."""
    means = jax.tree.map(partial(jnp.mean, axis=0), metrics)
    ratios = tree.flatten_with_paths(means["signal"].ratio)
    return Epochs(
        loss=np.asarray(means["loss"]),
        noise_scale=np.asarray(means["noise"].scale),
        batch_size=np.asarray(means["diversity"].batch_size),
        signal_to_noise={path: np.asarray(ratio) for path, ratio in ratios.items()},
    )
