"""Flow matching: a velocity field that carries noise to data along straight lines, on average.

`x_t = (1 - t) x_0 + t x_1` from noise `x_0 ~ N(0, 1)` to data `x_1`, and a net `velocity(x_t, t)`
that learns the mean of `x_1 - x_0` there; samples are the solutions of `dx/dt = velocity(x, t)`.
(Lipman et al., "Flow matching for generative modeling", 2023; Liu et al., "Flow straight and fast",
2023.)
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import require_real
from jaxnets.losses import squared_error
from jaxnets.types import Array, Key

Velocity = Callable[[Array, Array], Array]


def flow_loss(velocity: Velocity, x_1: Array, key: Key) -> Array:
    """`mean (velocity(x_t, t) - (x_1 - x_0))²` for one example, t uniform in [0, 1].

    Args:
      velocity: `(x, t) -> velocity`, the net with its parameters closed over: one x, a scalar t.
      x_1: one example, of any shape.
      key: of the draws of t and `x_0`.

    Returns:
      A scalar in float32 or wider.

    Raises:
      ValueError: if the velocity's shape is not x's.
      TypeError: if `x_1` is not real and floating.
    """
    require_real("flow_loss", x_1=x_1)
    wide = jnp.promote_types(x_1.dtype, jnp.float32)
    t_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(t_key, (), wide)
    x_0 = jax.random.normal(noise_key, x_1.shape, wide)
    output = velocity(((1 - t) * x_0 + t * x_1).astype(x_1.dtype), t)
    return jnp.mean(squared_error(output, x_1 - x_0))


def flow_sample(
    velocity: Velocity,
    x_0: Array,
    steps: int,
    *,
    method: Literal["euler", "heun"] = "heun",
) -> Array:
    """The solution at t = 1 of `dx/dt = velocity(x, t)` from `x_0` at t = 0, in one scan.

    Args:
      velocity: `(x, t) -> velocity`.
      x_0: noise, as from `jax.random.normal(key, shape)`.
      steps: number of steps, of one size h.
      method: `"euler"`, `x ← x + h v`, with an error of order h; or `"heun"`, the mean of the
        velocities at both ends of an Euler step, of order h², at two evaluations a step.

    Returns:
      `x_1`, in `x_0`'s shape and dtype.

    Raises:
      ValueError: if `steps` is not positive, or for another method or shape of velocity.
    """
    if steps < 1:
        raise ValueError(f"flow_sample: steps must be positive, got {steps}")
    if method not in ("euler", "heun"):
        raise ValueError(f"flow_sample: method must be 'euler' or 'heun', got {method!r}")

    def at(x: Array, t: Array) -> Array:
        v = velocity(x, t)
        if v.shape != x.shape:
            raise ValueError(
                f"flow_sample: velocity must have x's shape {list(x.shape)}, got {list(v.shape)}"
            )
        return v.astype(x.dtype)

    def step(x: Array, i: Array) -> tuple[Array, None]:
        t, h = i / steps, 1 / steps
        v = at(x, t)
        if method == "heun":
            v = (v + at(x + h * v, (i + 1) / steps)) / 2
        return x + h * v, None

    x, _ = lax.scan(step, x_0, jnp.arange(steps))
    return x
