"""What every model of images is given and gives, and how it is trained."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from numpy.typing import NDArray

from experiments.data.dataset import Images
from experiments.errors import diverged
from experiments.progress import Handle, progress, report_progress
from experiments.randomness import Keys, keys_of
from jaxnets import optim, train
from jaxnets.models.gan import Game
from jaxnets.types import Array, PyTree

Step = Callable[[Any, PyTree], tuple[Any, dict[str, Array]]]

SHOWN = 10
"""Images of a row in the pictures."""


class Task(NamedTuple):
    """Data and sizes of one model's training."""

    train: dict[str, Array]
    """`x`, images in [0, 1], and `y`, their classes."""
    test: Array
    """Images in [0, 1], as many as samples are drawn."""
    classes: tuple[str, ...]
    width: int
    """Channels of the first level; the others follow from it."""
    epochs: int
    batch_size: int
    seed: int
    learning_rate_factor: float = 1.0
    """What every model's own learning rate is multiplied by."""
    game: Game = "non_saturating"
    """What the generator and the discriminator play for."""

    @property
    def image(self) -> tuple[int, ...]:
        """`(height, width, channels)`."""
        return self.test.shape[1:]

    @property
    def keys(self) -> Keys:
        """Of all that is random."""
        return keys_of(self.seed)


class Samples(NamedTuple):
    """What a model has made."""

    images: Images
    """In [0, 1]."""
    asked: NDArray[np.int_] | None = None
    """The classes that were asked for, if any were."""


class Grid(NamedTuple):
    """A picture of images: `[rows, columns, height, width, channels]`, in [0, 1]."""

    images: Images
    rows: Sequence[str]
    """What stands beside each row."""
    caption: str
    columns: Sequence[str] = ()
    """What stands above each column, if anything."""


class Outcome(NamedTuple):
    """What has come of one model."""

    losses: Mapping[str, NDArray[np.floating[Any]]]
    """`[steps]` each."""
    samples: Mapping[str, Samples]
    """By how they were drawn."""
    grids: Mapping[str, Grid]
    """By the picture's name."""
    facts: Mapping[str, float]
    """Measured on the test images, by what it is."""
    seconds: float
    """Of training, compilation included."""
    parameters: int


class Fitted(NamedTuple):
    """A trained state, the losses `[steps]` on the way, and the seconds that it took."""

    state: Any
    losses: dict[str, NDArray[np.floating[Any]]]
    seconds: float


def fit(name: str, task: Task, step: Step, state: Any) -> Fitted:
    """All epochs in one compiled scan.

    Raises:
      UsageError: if training diverges.
    """
    data = task.train
    steps = train.steps_per_epoch(len(data["x"]), task.batch_size)
    every = max(1, steps * task.epochs // 100)

    def run(state: Any, data: PyTree, bar: Handle) -> tuple[Any, dict[str, Array]]:
        def show(state: Any, metrics: dict[str, Array]) -> None:
            report_progress(bar, state.step - 1, every, **metrics)

        epoch: Any = train.epoch(step, task.batch_size, on_step=show)
        return lax.scan(lambda state, _: epoch(state, data), state, length=task.epochs)

    started = time.perf_counter()
    with progress(steps * task.epochs, batch_size=task.batch_size, description=name) as bar:
        state, metrics = jax.block_until_ready(jax.jit(run)(state, data, bar))
    losses = {key: np.asarray(value).ravel() for key, value in metrics.items()}
    for key, values in losses.items():
        if not np.isfinite(values).all():
            raise diverged(
                f"the {name}'s {key} is {values[~np.isfinite(values)][0]} at step "
                f"{int(np.argmin(np.isfinite(values))) + 1}",
                "--learning-rate-factor",
            )
    return Fitted(state, losses, time.perf_counter() - started)


def fit_mean(
    name: str,
    task: Task,
    loss: Callable[..., Any],
    params: PyTree,
    learning_rate: float,
    *,
    average: float | None = None,
) -> Fitted:
    """The mean over a batch of `loss(params, example, key)` (and metrics), by Adam and a cosine.

    Args:
      name: of the model, for the progress bar.
      task: the data and sizes.
      loss: of one example, with its randomness.
      params: the initial ones.
      learning_rate: of the first step, times the task's factor; the last one's is 0.
      average: the rate of a moving average of the parameters, the state's `model_state`; none by
        default.
    """
    steps = task.epochs * train.steps_per_epoch(len(task.train["x"]), task.batch_size)
    optimizer = optim.adam(
        optim.cosine_decay_schedule(task.learning_rate_factor * learning_rate, steps)
    )
    has_aux = isinstance(jax.eval_shape(loss, params, _first(task), task.keys.run), tuple)
    step = train.step(train.batched(loss, has_key=True), optimizer, has_aux=has_aux, has_key=True)

    def averaged(state: train.TrainState, batch: PyTree) -> tuple[train.TrainState, Any]:
        after, metrics = step(state, batch)
        mean = optim.incremental_update(after.params, state.model_state, average or 0.0)
        return after._replace(model_state=mean), metrics

    state = train.init_state(
        params, optimizer, task.keys.run, model_state=() if average is None else params
    )
    return fit(name, task, step if average is None else averaged, state)


def _first(task: Task) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0], task.train)


def many(draw: Callable[[Any], Array], each: PyTree, *, batch_size: int = 128) -> Images:
    """`draw` of each element of the leaves, some at a time, compiled; clipped to [0, 1]."""
    found = jax.jit(lambda each: lax.map(draw, each, batch_size=batch_size))(each)
    return clipped(np.asarray(found))


def clipped(x: NDArray[Any]) -> Images:
    """As images, in float32 and [0, 1]."""
    images: Images = np.clip(x, 0, 1).astype(np.float32)
    return images


def to_signed(x: Array) -> Array:
    """From [0, 1] to [-1, 1]."""
    return 2 * x - 1


def from_signed(x: Array) -> Array:
    """From [-1, 1] to [0, 1]."""
    return (x + 1) / 2
