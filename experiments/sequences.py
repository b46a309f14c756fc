"""Training classifiers of padded sequences, all seeds at once, and what they make of examples."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.classification import example_loss
from experiments.errors import UsageError, diverged
from experiments.flags import require_not_negative, require_positive, require_seed
from experiments.progress import Handle, progress, report_progress
from experiments.run import Run, append_metrics
from jaxnets import gradients, optim, train
from jaxnets.types import Array, Key, Params, PyTree

Batch = dict[str, Array]
"""`x [n, T, ...]`, `lengths [n]` and `y [n]`."""

EVALUATED = 256
"""Examples at a time, without gradients."""


class Classifier(NamedTuple):
    """A net, as training sees it."""

    name: str
    init: Callable[[Key], Params]
    logits: Callable[..., Array]
    """`logits(params, x, lengths, key=None) -> [..., classes]`, for one example or many."""


class Training(NamedTuple):
    """How a classifier is trained: AdamW along half a cosine, gradients clipped to norm 1."""

    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int | None = None
    """Epochs without a better held-out loss, after which a seed stops with its best parameters."""


class Trained(NamedTuple):
    """All seeds of one classifier."""

    classifier: Classifier
    seeds: Sequence[int]
    params: Params
    """`[seeds, ...]`: of the end, or (with patience) the best."""
    history: dict[str, NDArray[np.float64]]
    """`[seeds, epochs]` each of `loss`, `held_out_loss`, `held_out_accuracy`; NaN after a stop."""
    accuracy: NDArray[np.float64]
    """`[seeds]`, on the test data."""
    cpu_seconds: float
    """Of training all seeds, compilation and the evaluation of each epoch included."""


def require_flags(config: Any, positive: Mapping[str, float]) -> None:
    """Check what the experiments' configs have in common.

    Raises:
      UsageError: naming the flag that is out of range.
    """
    require_positive(positive)
    if not 0 <= config.dropout <= 1:
        raise UsageError(f"--dropout must be from 0 to 1, got {config.dropout}")
    require_not_negative({"weight_decay": config.weight_decay})
    require_seed(config.seed, config.seeds)


class Program(NamedTuple):
    """The compiled functions that a training calls; states have the seeds as their first axis."""

    init: Callable[[Array], tuple[train.TrainState, train.Stopping]]
    """`init(seeds)`."""
    epoch: Callable[..., tuple[train.TrainState, train.Stopping, train.History]]
    """`epoch(states, stopping, data, held_out, number, bar)`; states and stopping are given up."""
    evaluate: Callable[[train.TrainState, Batch], dict[str, Array]]
    """`evaluate(states, data)`."""


def make_program(classifier: Classifier, training: Training, examples: int) -> Program:
    """Training on so many examples, all seeds in one program."""
    steps = training.epochs * train.steps_per_epoch(examples, training.batch_size)
    optimizer = optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.adamw(
            optim.cosine_decay_schedule(training.learning_rate, steps),
            weight_decay=training.weight_decay,
        ),
    )

    def loss(params: Params, batch: Batch, key: Key) -> Array:
        logits = classifier.logits(params, batch["x"], batch["lengths"], key)
        return jnp.mean(example_loss(logits, batch["y"]))

    def measure(params: Params, _: PyTree, batch: Batch) -> dict[str, Array]:
        logits = classifier.logits(params, batch["x"], batch["lengths"])
        correct = jnp.argmax(logits, -1) == batch["y"]
        return {"loss": example_loss(logits, batch["y"]), "accuracy": correct}

    def init(seed: Array) -> tuple[train.TrainState, train.Stopping]:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        state = train.init_state(classifier.init(init_key), optimizer, run_key)
        return state, train.init_stopping(state)

    epoch = train.epoch(train.step(loss, optimizer, has_key=True), training.batch_size)
    evaluate = train.evaluate(measure, EVALUATED)
    run = train.run(epoch, evaluate, 1, patience=training.patience)

    def one_epoch(
        states: train.TrainState,
        stopping: train.Stopping,
        data: Batch,
        held_out: Batch,
        number: Array,
        bar: Handle,
    ) -> tuple[train.TrainState, train.Stopping, train.History]:
        def one_seed(state: train.TrainState, stopping: train.Stopping) -> Any:
            return run(state, stopping, data, held_out)

        history: train.History
        states, stopping, history = over_seeds(one_seed)(states, stopping)
        report_progress(
            bar,
            number,
            1,
            loss=jnp.nanmean(history.train["loss"]),
            held_out_accuracy=jnp.nanmean(history.held_out["accuracy"]),
        )
        return states, stopping, history

    return Program(
        jax.jit(jax.vmap(init)),
        jax.jit(one_epoch, donate_argnums=(0, 1)),
        jax.jit(lambda states, data: over_seeds(lambda one: evaluate(one, data))(states)),
    )


def over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap`, but on the CPU one seed after the other in the same program.

    There a batch of kernels, one for each seed, takes twice as long as each by itself.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda one: function(*one), arguments)


def train_seeds(
    run: Run,
    classifier: Classifier,
    training: Training,
    data: Mapping[str, Batch],
    seeds: Sequence[int],
) -> Trained:
    """Train from each seed on `data["train"]`, watching `data["held_out"]`; test at the end.

    Raises:
      UsageError: if training diverges.
    """
    program = make_program(classifier, training, len(data["train"]["y"]))
    begun = time.process_time()
    states, stopping = program.init(jnp.asarray(seeds))
    epochs: list[dict[str, NDArray[np.float64]]] = []
    with progress(training.epochs, steps_per_epoch=1, description=classifier.name) as bar:
        while len(epochs) < training.epochs and not np.all(
            jax.vmap(lambda s: train.should_stop(s, training.patience))(stopping)
        ):
            states, stopping, history = program.epoch(
                states, stopping, data["train"], data["held_out"], len(epochs), bar
            )
            epochs.append(_summarize(history))
            append_metrics(run, _records(classifier.name, seeds, len(epochs), epochs[-1]))
            _require_finite(classifier.name, seeds, history, epochs[-1])
    seconds = time.process_time() - begun
    if training.patience is not None:
        states = jax.vmap(train.best)(states, stopping)
    return Trained(
        classifier,
        seeds,
        states.params,
        {name: np.stack([epoch[name] for epoch in epochs], -1) for name in epochs[0]},
        np.asarray(program.evaluate(states, data["test"])["accuracy"], np.float64),
        seconds,
    )


def _summarize(history: train.History) -> dict[str, NDArray[np.float64]]:
    """Of an epoch, `[seeds]` each."""
    held_out = {f"held_out_{name}": value[:, 0] for name, value in history.held_out.items()}
    values = {"loss": jnp.mean(history.train["loss"][:, 0], -1), **held_out}
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def _records(
    name: str, seeds: Sequence[int], epoch: int, values: Mapping[str, NDArray[np.float64]]
) -> list[dict[str, Any]]:
    return [
        {"step": epoch, "curve": f"{name}, seed {seed}", **{k: v[i] for k, v in values.items()}}
        for i, seed in enumerate(seeds)
    ]


def _require_finite(
    name: str,
    seeds: Sequence[int],
    history: train.History,
    values: Mapping[str, NDArray[np.float64]],
) -> None:
    for seed, ran, loss in zip(seeds, history.ran[:, 0], values["loss"], strict=True):
        if ran and not np.isfinite(loss):
            raise diverged(f"{name}, seed {seed}, has loss {loss}")


def of_seed(trained: Trained, index: int) -> Params:
    """The parameters of one seed."""
    return jax.tree.map(lambda leaf: leaf[index], trained.params)


def predict(classifier: Classifier, params: Params, data: Batch) -> NDArray[np.float32]:
    """The logits of all examples: `[n, classes]`."""

    @jax.jit
    def logits(params: Params, batch: Batch) -> Array:
        return classifier.logits(params, batch["x"], batch["lengths"])

    return np.concatenate(in_chunks(lambda batch: logits(params, batch), data, EVALUATED))[
        : len(data["y"])
    ]


def gradient_norms(
    classifier: Classifier, params: Params, data: Batch, *, chunk: int = 64
) -> NDArray[np.float32]:
    """`‖∇loss‖` of each example alone: `[n]`."""

    def loss(params: Params, example: Batch) -> Array:
        logits = classifier.logits(params, example["x"], example["lengths"])
        return example_loss(logits, example["y"])

    norms = jax.jit(gradients.per_example_norms(loss))
    return np.concatenate(in_chunks(lambda batch: norms(params, batch), data, chunk))[
        : len(data["y"])
    ]


def in_chunks(function: Callable[[Batch], Array], data: Batch, chunk: int) -> list[np.ndarray]:
    """`function` of so many examples at a time, the last chunk filled up with the last example."""
    n = len(data["y"])
    indices = [np.minimum(np.arange(s, s + chunk), n - 1) for s in range(0, n, chunk)]
    return [np.asarray(function({k: v[chosen] for k, v in data.items()})) for chosen in indices]
