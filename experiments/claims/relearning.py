"""A task, and after it another one: how an optimizer's steps have changed by then."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.claim import Seen
from experiments.claims.optimizers import OPTIMIZERS
from experiments.claims.pictures import draw_lines, panels
from experiments.claims.rates import best_of_others
from experiments.claims.training import digits, mlp_loss, rates_around, steps_to, sweep
from jaxnets import models, optim, tree
from jaxnets.types import Array, Key


class Course(NamedTuple):
    """Of training, by windows of steps."""

    steps: np.ndarray
    """`[seeds]`: to learn the last task."""
    losses: np.ndarray
    """`[seeds, windows]`"""
    scales: np.ndarray
    """`[seeds, windows]`: norm of the step by that of the gradient, relative to step 100."""


def windows(values: Array, size: int) -> Array:
    """Means of `[steps]`, as `[steps / size]`."""
    return jnp.mean(values[: len(values) // size * size].reshape(-1, size), 1)


def tasks(config: Any, name: str, count: int, redrawn: float, keys: Key) -> Course:
    """The first task, or that and the second, at the best rate for the first.

    Args:
      config: of `adaptive`.
      name: of the optimizer.
      count: how many tasks.
      redrawn: the share of labels drawn anew in each batch.
      keys: of the seeds.
    """
    make, ends = OPTIMIZERS[name]
    shape = models.MLPConfig(64, 10, hidden=(config.width, config.width))
    rates = rates_around(*ends, config.per_decade)

    def run(key: Key, rate: Array) -> Any:
        init_key, order_key, run_key = jax.random.split(key, 3)
        data = digits().train
        order = jax.random.permutation(order_key, data["x"].shape[1])
        both = jnp.stack([data["x"], data["x"][:, order]])
        optimizer, loss = make(rate), mlp_loss(shape)
        params = models.init_mlp(init_key, shape)

        def step(carry: Any, t: Array) -> Any:
            params, state = carry
            rows_key, which_key, label_key = jax.random.split(jax.random.fold_in(run_key, t), 3)
            rows = jax.random.randint(rows_key, (config.batch_size,), 0, len(data["y"]))
            anew = jax.random.bernoulli(which_key, redrawn, rows.shape)
            drawn = jax.random.randint(label_key, rows.shape, 0, 10)
            y = jnp.where(anew, drawn, data["y"][rows])
            batch = {"x": both[t // config.task_steps, rows], "y": y}
            value, gradient = jax.value_and_grad(loss)(params, batch, run_key)
            updates, state = optimizer.update(gradient, state, params)
            scale = tree.global_norm(updates) / tree.global_norm(gradient)
            return (optim.apply_updates(params, updates), state), (value, scale)

        steps = jnp.arange(count * config.task_steps)
        _, seen = jax.lax.scan(step, (params, optimizer.init(params)), steps)
        return tuple(windows(values, config.window) for values in seen)

    losses, scales = map(np.asarray, sweep(run, keys, rates))
    first = config.task_steps // config.window
    at_end = np.nan_to_num(losses[..., first - 5 : first].mean(-1), nan=1e3, posinf=1e3)
    # as who knows only the first task would choose
    best = best_of_others(rates, np.clip(at_end, 1e-7, 1e3))
    losses, scales = (values[np.arange(len(best)), best] for values in (losses, scales))
    reach = jax.vmap(partial(steps_to, target=config.task_target, every=config.window))
    return Course(
        np.asarray(reach(jnp.asarray(losses[:, -first:]))),
        losses,
        scales / scales[:, 100 // config.window][:, None],
    )


def picture(config: Any, courses: dict[str, Course], noisy: dict[str, Course]) -> Seen:
    """Of losses and scales through both tasks, and of scales where gradients stay."""
    titles = ["loss", "length of steps", f"length, {config.redrawn:.0%} drawn anew"]
    with panels(titles, share_y=False) as (figure, row):
        for axes, of, what in zip(
            row, (courses, courses, noisy), ("losses", "scales", "scales"), strict=True
        ):
            lines = {name: getattr(found, what) for name, found in of.items()}
            steps = config.window * (1 + np.arange(lines["Adagrad"].shape[1]))
            draw_lines(axes, steps, lines, x_label="step", log_y=True, marked=False)
        row[0].set_ylabel("training loss, nats")
        row[1].set_ylabel("step / gradient, at step 100: 1")
        for axes in row[:2]:
            axes.axvline(config.task_steps, color="#888888", linestyle=":", linewidth=1)
        row[0].legend()
    return Seen(
        figure,
        "A task, and from the dotted line on another one, each optimizer at the rate that was best "
        "for the first; right, the first task alone with labels drawn anew. Median of seeds; the "
        "band is from the least to the greatest.",
    )
