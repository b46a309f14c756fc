"""Diffusion and flow matching: a U-Net that undoes noise, told the class or not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.images.task import (
    SHOWN,
    Fitted,
    Grid,
    Outcome,
    Samples,
    Task,
    clipped,
    fit_mean,
    from_signed,
    many,
    to_signed,
)
from jaxnets import models, tree
from jaxnets.types import Array, ArrayLike, Key, Params

LEARNING_RATE = 2e-3
AVERAGE = 2e-3
"""Rate of the moving average of the parameters, which makes the samples."""
DROPPED = 0.1
"""How often training hides the class."""
STEPS = 200
"""T, and the steps of ancestral sampling."""
FEW = 20
"""Steps of DDIM; Heun's method takes half as many, of two evaluations each."""
GUIDANCE = 0.0, 1.0, 2.0, 4.0
LONGEST = 1000.0
"""What the last time is to the net."""
ROWS = 4
"""Samples that are shown on their way."""

Predict = Callable[[Array, Array, ArrayLike], Array]


def net(task: Task) -> models.UNetConfig:
    """Two levels for small images, three from 16 pixels on; attention in the middle."""
    width = task.width
    levels = (width, 2 * width) if min(task.image[:2]) < 16 else (width, 2 * width, 2 * width)
    n_out = task.image[-1]
    return models.UNetConfig(task.image, n_out, levels, features=32, classes=len(task.classes))


def diffusion(task: Task) -> Outcome:
    """Denoising diffusion with a cosine schedule; the net predicts v."""
    noise = models.cosine_noise(STEPS)
    loss = partial(_diffusion_loss, noise)
    fitted, predict = _fitted(task, "diffusion", loss, LONGEST / STEPS)
    few = models.spaced_steps(STEPS, FEW)
    options: Any = {"prediction": "v", "clip": 1.0}

    def ancestral(key: Key, label: Array, path: bool = False) -> Array:
        def told(x: Array, t: Array) -> Array:
            return predict(x, t, label)

        x = models.ancestral_sample(told, noise, key, task.image, path=path, **options)
        return from_signed(x)

    def ddim(key: Key, label: Array, weight: Array) -> Array:
        followed = models.guided(predict, label, len(task.classes), weight)
        x = models.ddim_sample(followed, noise, key, task.image, times=few, **options)
        return from_signed(x)

    keys, labels = _asked(task)
    made = many(lambda each: ancestral(*each), (keys, labels))
    samples = {f"ancestral, {STEPS} steps": Samples(made, np.asarray(labels))}
    samples |= _guided(task, f"DDIM, {FEW} steps", ddim)
    paths = jax.jit(jax.vmap(partial(ancestral, path=True)))(keys[:ROWS], labels[:ROWS])
    return _outcome(task, fitted, samples, {"denoising": _denoising(np.asarray(paths))})


def _diffusion_loss(noise: Array, predict: Any, x: Array, key: Key) -> Array:
    return models.diffusion_loss(predict, noise, x, key, prediction="v")


def flow(task: Task) -> Outcome:
    """Flow matching with the same net; samples by Heun's method."""
    fitted, velocity = _fitted(task, "flow matching", models.flow_loss, LONGEST)

    def draw(key: Key, label: Array, weight: Array) -> Array:
        followed = models.guided(velocity, label, len(task.classes), weight)
        x_0 = jax.random.normal(key, task.image)
        return from_signed(models.flow_sample(followed, x_0, FEW // 2))

    return _outcome(task, fitted, _guided(task, f"Heun, {FEW // 2} steps", draw), {})


def _fitted(
    task: Task, name: str, loss: Callable[..., Array], scale: float
) -> tuple[Fitted, Predict]:
    """A U-Net trained on `loss(predict, x, key)`, and `predict(x, t, label)` of its average."""
    config = net(task)

    def predict(params: Params, x: Array, t: Array, label: ArrayLike) -> Array:
        return models.unet(params, config, x, scale * t, label)

    def of_example(params: Params, example: dict[str, Array], key: Key) -> Array:
        drop_key, loss_key = jax.random.split(key)
        label = models.drop_label(drop_key, example["y"], len(task.classes), DROPPED)
        x = to_signed(example["x"])
        return loss(lambda x, t: predict(params, x, t, label), x, loss_key)

    initial = models.init_unet(task.keys.init, config)
    fitted = fit_mean(name, task, of_example, initial, LEARNING_RATE, average=AVERAGE)
    return fitted, partial(predict, fitted.state.model_state)


def _asked(task: Task) -> tuple[Array, Array]:
    """A key for each sample, and all classes in turn."""
    n = len(task.test)
    return jax.random.split(task.keys.sample, n), jnp.arange(n) % len(task.classes)


def _guided(
    task: Task, name: str, draw: Callable[[Key, Array, Array], Array]
) -> dict[str, Samples]:
    """Samples by each weight of guidance, from the same keys."""
    keys, labels = _asked(task)
    samples = {}
    for weight in GUIDANCE:
        # an argument, so that one program serves all
        made = many(lambda each: draw(*each), (keys, labels, jnp.full(len(keys), weight)))
        # without guidance no class is asked for
        asked = np.asarray(labels) if weight else None
        samples[f"{name}, guidance {weight:g}"] = Samples(made, asked)
    return samples


def _outcome(
    task: Task, fitted: Fitted, samples: dict[str, Samples], grids: dict[str, Grid]
) -> Outcome:
    shown = np.stack([made.images[:SHOWN] for made in samples.values()])
    guidance = Grid(
        shown,
        tuple(samples),
        "One class a column, and in the rows of different guidance one first noise a column. "
        "Guidance 0 ignores the class, 1 is the net as it was trained, more exaggerates.",
        [task.classes[i % len(task.classes)] for i in range(shown.shape[1])],
    )
    return Outcome(
        losses=fitted.losses,
        samples=samples,
        grids={"guidance": guidance, **grids},
        facts={},
        seconds=fitted.seconds,
        parameters=tree.size(fitted.state.params),
    )


def _denoising(paths: np.ndarray) -> Grid:
    """`[rows, times, height, width, channels]`, of which some times are shown."""
    last = paths.shape[1] - 1
    # more of the end, where the image appears
    shown = np.unique(np.round(last * np.linspace(0, 1, SHOWN) ** 0.6).astype(int))
    return Grid(
        clipped(paths[:, shown]),
        [""] * len(paths),
        f"Ancestral sampling on its way, from noise (t = {last}) to an image (t = 0).",
        [f"t = {last - i}" for i in shown],
    )
