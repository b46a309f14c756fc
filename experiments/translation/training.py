"""Whole epochs of batches of like lengths in one scan."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.classification import REPORTS_PER_EPOCH
from experiments.errors import UsageError
from experiments.progress import Handle, progress, report_progress
from experiments.translation.nets import Net
from experiments.translation.vocabulary import PADDING, Rows
from jaxnets import losses, optim, train
from jaxnets.train.run import Step
from jaxnets.train.shuffle import permutation
from jaxnets.train.step import data_key
from jaxnets.types import Array, Key, Params, PyTree


class Training(NamedTuple):
    """How a net is trained."""

    learning_rate: float
    warmup: float
    """The share of all steps in which the rate grows."""
    weight_decay: float
    label_smoothing: float
    batch_size: int
    epochs: int


class Epoch(NamedTuple):
    """What was seen of an epoch."""

    step: int
    loss: float
    """In training: smoothed, with dropout."""
    held_out: float
    """Nats a token of the validation pairs."""


class Trained(NamedTuple):
    """A run."""

    params: Params
    """Of the epoch that is best on the validation pairs."""
    epochs: list[Epoch]
    best: int
    seconds: float
    cpu_seconds: float


def costs(net: Net, params: Params, batch: Rows, key: Key | None, smoothing: float) -> Any:
    """`[..., T]`, the cross-entropy of each token of the target; and which are no padding."""
    target = batch["target"]
    logits = net.forward(params, batch["source"], target[..., :-1], batch["length"], key)
    labels = target[..., 1:]
    there = labels != PADDING
    return losses.softmax_cross_entropy_with_integer_labels(
        logits, labels, where=there, label_smoothing=smoothing
    ), there


def steps_of(data: Sequence[Rows], batch_size: int) -> list[int]:
    """Of an epoch, by bucket."""
    return [train.steps_per_epoch(len(rows["length"]), batch_size) for rows in data]


def bucketed_epoch(
    step: Step, batch_size: int, on_step: Callable[[train.TrainState, Any], None]
) -> Callable[[train.TrainState, Sequence[Rows]], tuple[train.TrainState, Any]]:
    """`train.epoch` over parts of different shapes: batches are of one part, in any order."""

    def run_epoch(state: train.TrainState, data: Sequence[Rows]) -> tuple[train.TrainState, Any]:
        steps = steps_of(data, batch_size)
        total = sum(steps)
        bucket = np.repeat(np.arange(len(steps)), steps)
        place = np.concatenate([np.arange(n) for n in steps])
        key, number = data_key(state), state.step // total
        order = permutation(jax.random.fold_in(key, number), total)
        indices = [
            train.epoch_indices(jax.random.fold_in(key, i), number, len(rows["length"]), batch_size)
            for i, rows in enumerate(data)
        ]

        def of(rows: Rows, chosen: Array) -> Callable[..., Any]:
            def branch(state: train.TrainState, place: Array) -> Any:
                batch = {name: jnp.asarray(leaf)[chosen[place]] for name, leaf in rows.items()}
                return step(state, batch)

            return branch

        branches = [of(rows, chosen) for rows, chosen in zip(data, indices, strict=True)]

        def body(state: train.TrainState, now: tuple[Array, Array]) -> tuple[Any, Any]:
            state, metrics = lax.switch(now[0], branches, state, now[1])
            on_step(state, metrics)
            return state, metrics

        return lax.scan(body, state, (jnp.asarray(bucket)[order], jnp.asarray(place)[order]))

    return run_epoch


def fit(net: Net, training: Training, data: Sequence[Rows], validation: Rows, seed: int) -> Trained:
    """Train from `seed`, and keep what is best on the validation pairs.

    Raises:
      UsageError: if training diverges.
    """
    per_epoch = sum(steps_of(data, training.batch_size))
    total = per_epoch * training.epochs
    rate = optim.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, max(1, round(training.warmup * total)), total
    )
    optimizer = optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.adamw(rate, b2=0.98, eps=1e-9, weight_decay=training.weight_decay),
    )

    def loss(params: Params, batch: Rows, key: Key) -> Array:
        values, there = costs(net, params, batch, key, training.label_smoothing)
        return jnp.sum(values) / jnp.sum(there)

    def measure(params: Params, _: PyTree, batch: Rows) -> dict[str, Array]:
        values, there = costs(net, params, batch, None, 0.0)
        return {"cost": jnp.sum(values, -1), "tokens": jnp.sum(there, -1)}

    step = train.step(loss, optimizer, has_key=True)
    every = max(1, per_epoch // REPORTS_PER_EPOCH)

    @jax.jit
    def init(seed: Array) -> train.TrainState:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        return train.init_state(net.init(init_key), optimizer, run_key)

    def one_epoch(state: train.TrainState, data: Sequence[Rows], bar: Handle) -> Any:
        def show(state: train.TrainState, metrics: dict[str, Array]) -> None:
            report_progress(bar, state.step - 1, every, loss=metrics["loss"])

        return bucketed_epoch(step, training.batch_size, show)(state, data)

    run = jax.jit(one_epoch, donate_argnums=0)
    evaluate = jax.jit(train.evaluate(measure, batch_size=training.batch_size))
    state, seen = init(jnp.asarray(seed)), []
    best, best_params = 0, state.params
    started, cpu_started = time.perf_counter(), time.process_time()
    with progress(total, batch_size=training.batch_size, steps_per_epoch=per_epoch) as bar:
        for epoch in range(training.epochs):
            state, metrics = run(state, data, bar)
            found = evaluate(state, validation)
            held_out = float(found["cost"] / found["tokens"])
            seen.append(Epoch(int(state.step), float(metrics["loss"].mean()), held_out))
            if not np.isfinite([seen[-1].loss, held_out]).all():
                raise UsageError(
                    f"training diverged: loss {seen[-1].loss} in epoch {epoch + 1}, and "
                    f"{held_out} on validation pairs; try a lower --learning-rate"
                )
            if held_out <= seen[best].held_out:
                # a copy: the program gives up the state that it is handed
                best, best_params = epoch, jax.tree.map(jnp.copy, state.params)
    seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Trained(best_params, seen, best, *seconds)
