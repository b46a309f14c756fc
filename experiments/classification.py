"""Training a convolutional classifier: a model and an optimizer made into compiled functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.nets import Augment, NetConfig, augmented, init_net, net
from experiments.progress import Handle, report_progress
from jaxnets import gradients, losses, optim, train
from jaxnets.types import Array, Key, PyTree

Batch = dict[str, Array]

REPORTS_PER_EPOCH = 20


class Program(NamedTuple):
    """The compiled functions of one training run; all data enters as arguments."""

    init: Callable[[Array], tuple[train.TrainState, train.Stopping]]
    """`init(seed)`."""
    run: Callable[..., tuple[train.TrainState, train.Stopping, train.History]]
    """`run(epochs, state, stopping, data, held_out, bar)`; state and stopping are given up, and
    each number of epochs is compiled once."""
    evaluate: Callable[[train.TrainState, Batch], dict[str, Array]]
    """`evaluate(state, data)`: mean loss and accuracy."""


def batch_of(x: np.ndarray, y: np.ndarray, dtype: Any) -> Batch:
    """Images and labels on the device."""
    return {"x": jnp.asarray(x, dtype), "y": jnp.asarray(y)}


def example_loss(logits: Array, labels: Array) -> Array:
    """The cross-entropy of each example, in float32 or wider."""
    return losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def make_program(
    model: NetConfig,
    optimizer: optim.GradientTransformation,
    *,
    batch_size: int,
    steps_per_epoch: int,
    patience: int | None,
    augment: Augment = "none",
    smoothing: float = 0.0,
) -> Program:
    """Training, each epoch followed by an evaluation; compiled on first use."""

    def loss(params: PyTree, moments: PyTree, batch: Batch, key: Key) -> Any:
        x = augmented(batch["x"], jax.random.fold_in(key, 0), augment)
        logits, moments = net(params, model, x, state=moments, train=True, key=key)
        correct = jnp.argmax(logits, -1) == batch["y"]
        value = losses.softmax_cross_entropy_with_integer_labels(
            logits, batch["y"], label_smoothing=smoothing
        )
        return jnp.mean(value), (moments, {"accuracy": jnp.mean(correct)})

    def measure(params: PyTree, moments: PyTree, batch: Batch) -> dict[str, Array]:
        logits, _ = net(params, model, batch["x"], state=moments)
        correct = jnp.argmax(logits, -1) == batch["y"]
        return {"loss": example_loss(logits, batch["y"]), "accuracy": correct}

    step = train.step(loss, optimizer, has_aux=True, has_state=True, has_key=True)
    evaluate = train.evaluate(measure, batch_size=256)
    every = max(1, steps_per_epoch // REPORTS_PER_EPOCH)

    def init(seed: Array) -> tuple[train.TrainState, train.Stopping]:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        params, moments = init_net(init_key, model)
        state = train.init_state(params, optimizer, run_key, model_state=moments)
        return state, train.init_stopping(state)

    def run(
        epochs: int,
        state: train.TrainState,
        stopping: train.Stopping,
        data: Batch,
        held_out: Batch,
        bar: Handle,
    ) -> tuple[train.TrainState, train.Stopping, train.History]:
        def show(state: train.TrainState, metrics: dict[str, Array]) -> None:
            report_progress(bar, state.step - 1, every, **metrics)

        epoch = train.epoch(step, batch_size, on_step=show)
        return train.run(epoch, evaluate, epochs, patience=patience)(
            state, stopping, data, held_out
        )

    compiled = jax.jit(run, static_argnums=0, donate_argnums=(1, 2))
    return Program(jax.jit(init), compiled, jax.jit(evaluate))


class Examples(NamedTuple):
    """What a trained net makes of each example."""

    predictions: np.ndarray
    norms: np.ndarray
    """`‖∇loss‖` of each example alone, batch norm by its running moments."""


def examine(state: train.TrainState, model: NetConfig, data: Batch, *, chunk: int = 64) -> Examples:
    """Predictions and per-example gradient norms, a chunk of examples at a time."""

    @jax.jit
    def of_chunk(params: PyTree, moments: PyTree, batch: Batch) -> tuple[Array, Array]:
        def one(params: PyTree, x: Array, y: Array) -> tuple[Array, Array]:
            logits, _ = net(params, model, x, state=moments)
            return example_loss(logits, y), jnp.argmax(logits)

        per_example = gradients.per_example_grad(one, has_aux=True)
        (_, predictions), factors = per_example(params, batch["x"], batch["y"])
        return predictions, gradients.norms(factors)

    n = len(data["y"])
    parts = []
    for start in range(0, n, chunk):
        # the last chunk is filled up with the last example: one shape, compiled once
        indices = np.minimum(np.arange(start, start + chunk), n - 1)
        batch = {name: leaf[indices] for name, leaf in data.items()}
        parts.append(of_chunk(state.params, state.model_state, batch))
    predictions, norms = (np.concatenate(columns)[:n] for columns in zip(*parts, strict=True))
    return Examples(predictions, norms)
