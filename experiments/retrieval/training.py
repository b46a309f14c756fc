"""Two towers trained on pairs, and asked after each epoch for those that are held out."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.classification import REPORTS_PER_EPOCH
from experiments.errors import diverged
from experiments.progress import Handle, progress, report_progress
from experiments.retrieval.images import augment
from experiments.retrieval.measure import Recall, recall
from experiments.retrieval.words import UNKNOWN, Texts
from jaxnets import models, optim, train, tree
from jaxnets.types import Array, Key, Params, PyTree

Batch = dict[str, Array]
"""`"image"`: bytes `[n, side, side, 3]`, or features `[n, views, d]`; `"ids"` and `"mask"`:
`[n, ways, T]`."""


class Training(NamedTuple):
    """How every run is trained."""

    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    word_dropout: float


class Trained(NamedTuple):
    """One run."""

    state: train.TrainState
    losses: NDArray[np.float64]
    """`[epochs]`, the means while training."""
    recalls: Sequence[Recall]
    """After each epoch, of the held-out pairs."""
    known: Recall
    """At the end, of pairs that were trained on."""
    images: NDArray[np.float32]
    """Of the held-out pairs, unit vectors `[n, d]`."""
    texts: NDArray[np.float32]


def batch_of(images: NDArray[Any], texts: Texts, indices: NDArray[np.intp]) -> Batch:
    """Some of the pairs, on the device."""
    return {
        "image": jnp.asarray(images[indices]),
        "ids": jnp.asarray(texts.ids[indices]),
        "mask": jnp.asarray(texts.mask[indices]),
    }


def _one_of(key: Key, x: Array) -> Array:
    """`[n, ...]`: of each example one of its second axis."""
    chosen = jax.random.randint(key, (len(x),), 0, x.shape[1])
    picked: Array = jax.vmap(lambda row, index: row[index])(x, chosen)
    return picked


def _pixels(x: Array) -> Array:
    return x.astype(jnp.float32) / 255


def make_loss(model: models.TwoTowerConfig, word_dropout: float) -> Callable[..., Any]:
    """`loss(params, moments, batch, key)`: the mean over a batch, each pair as it is drawn."""

    def loss(params: Params, moments: PyTree, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        view_key, way_key, drop_key, model_key = jax.random.split(key, 4)
        x = batch["image"]
        if isinstance(model.image, models.MLPConfig):
            x = _one_of(view_key, x)
        else:
            x = 2 * jax.vmap(augment)(jax.random.split(view_key, len(x)), _pixels(x)) - 1
        ids, mask = (_one_of(way_key, batch[name]) for name in ("ids", "mask"))
        dropped = jax.random.bernoulli(drop_key, word_dropout, ids.shape)
        ids = jnp.where(dropped, UNKNOWN, ids)
        u, v, moments = models.two_tower(
            params, model, x, ids, mask, state=moments, train=True, key=model_key
        )
        return jnp.mean(models.two_tower_losses(params, model, u, v)), moments

    return loss


def embed(
    model: models.TwoTowerConfig, params: Params, moments: PyTree, batch: Batch
) -> tuple[Array, Array]:
    """Unit vectors of pictures as they are, and of their first captions."""
    x = batch["image"]
    x = x[:, 0] if isinstance(model.image, models.MLPConfig) else 2 * _pixels(x) - 1
    u, v, _ = models.two_tower(
        params, model, x, batch["ids"][:, 0], batch["mask"][:, 0], state=moments
    )
    return u, v


def hold_scale(largest: float = 100.0) -> optim.GradientTransformation:
    """The last one of a chain: no step takes the scale beyond what the loss limits it to."""
    limit = math.log(largest)

    def update(
        updates: PyTree, state: PyTree, params: Params | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("hold_scale: update needs params")
        t = params["log_scale"]
        held = jnp.minimum(updates["log_scale"], jnp.asarray(limit, t.dtype) - t)
        return updates | {"log_scale": held}, state

    return optim.GradientTransformation(lambda params: optim.EmptyState(), update)


class Program(NamedTuple):
    """The compiled functions that all runs share."""

    init: Callable[[Array], train.TrainState]
    """`init(seed)`."""
    epoch: Callable[[train.TrainState, Batch, Handle], tuple[train.TrainState, dict[str, Any]]]
    """`epoch(state, data, bar)`; the state is given up."""
    embed: Callable[[Params, PyTree, Batch], tuple[Array, Array]]


def make_program(training: Training, model: models.TwoTowerConfig, pairs: int) -> Program:
    """By AdamW, the learning rate warmed up over a twentieth and let down by a cosine."""
    per_epoch = train.steps_per_epoch(pairs, training.batch_size)
    steps = per_epoch * training.epochs
    rate = optim.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, max(1, steps // 20), max(2, steps)
    )
    optimizer = optim.chain(
        optim.adamw(rate, weight_decay=training.weight_decay, mask="(kernel|embedding)$"),
        hold_scale(),
    )
    loss = make_loss(model, training.word_dropout)
    step = train.step(loss, optimizer, has_state=True, has_key=True)
    every = max(1, per_epoch // REPORTS_PER_EPOCH)

    def init(seed: Array) -> train.TrainState:
        init_key, run_key = jax.random.split(jax.random.key(seed))
        params, moments = models.init_two_tower(init_key, model)
        return train.init_state(params, optimizer, run_key, model_state=moments)

    def epoch(
        state: train.TrainState, data: Batch, bar: Handle
    ) -> tuple[train.TrainState, dict[str, Any]]:
        def show(state: train.TrainState, metrics: dict[str, Any]) -> None:
            report_progress(bar, state.step - 1, every, loss=metrics["loss"])

        return train.epoch(step, training.batch_size, on_step=show)(state, data)

    return Program(
        jax.jit(init),
        jax.jit(epoch, donate_argnums=0),
        jax.jit(partial(embed, model)),
    )


def run(
    training: Training, program: Program, data: Batch, held_out: Batch, known: Batch, seed: int
) -> Trained:
    """Train from `seed` on `data`, and at the end ask for `known`, some of it, too.

    Raises:
      UsageError: if training diverges.
    """
    steps = train.steps_per_epoch(len(data["ids"]), training.batch_size)
    state = program.init(jnp.asarray(seed))
    losses: list[float] = []
    recalls: list[Recall] = []

    def unit_vectors(batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        u, v = program.embed(state.params, state.model_state, batch)
        return np.asarray(u), np.asarray(v)

    with progress(
        steps * training.epochs,
        batch_size=training.batch_size,
        steps_per_epoch=steps,
        description=f"seed {seed}",
    ) as bar:
        for epoch in range(1, training.epochs + 1):
            state, metrics = program.epoch(state, data, bar)
            losses.append(float(jnp.mean(metrics["loss"])))
            if not np.isfinite(losses[-1]):
                raise diverged(f"seed {seed} has loss {losses[-1]} in epoch {epoch}")
            u, v = unit_vectors(held_out)
            recalls.append(recall(u, v))
    return Trained(state, np.array(losses), recalls, recall(*unit_vectors(known)), u, v)


def parameters(params: Params) -> dict[str, int]:
    """Their number, by tower."""
    return {name: tree.size(params[name]) for name in ("image", "text")}
