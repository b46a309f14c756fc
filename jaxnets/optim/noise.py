"""Gaussian noise added to gradients, less and less of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim.hyper import NON_NEGATIVE, NUMBER, Hyper, checked, increment, transformation
from jaxnets.optim.leaves import map_with_params
from jaxnets.optim.scale import scale_by_learning_rate
from jaxnets.optim.transform import GradientTransformation, Updates, chain
from jaxnets.types import Array, Key, Params, ScalarOrSchedule


class AddNoiseState(NamedTuple):
    """The number of steps made and the key of the next ones."""

    count: Array  # type: ignore[assignment]
    rng_key: Key


def _as_key(key: Key | int) -> Key:
    if isinstance(key, int):
        return jax.random.key(key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key) if key.ndim else jax.random.key(key)


@transformation(eta=NON_NEGATIVE, gamma=NUMBER)
def add_noise(
    eta: Hyper, gamma: Hyper, key: Key | int | None = None, *, seed: int | None = None
) -> GradientTransformation:
    """`u = g + √(η / tᵞ) n`, with standard normal `n`, where the first step is `t = 1`.

    The same noise as Optax's; for gradients of half precision, that of float32.

    Args:
      eta: the variance `η ≥ 0` of the first step.
      gamma: the exponent `γ` by which it falls.
      key: a key or a seed; None is the seed 0.
      seed: Optax's former name of `key`.

    Raises:
      ValueError: for a number outside its range, or if both `key` and `seed` are given.

    References:
      Neelakantan et al., [Adding gradient noise improves learning for very deep
      networks](https://arxiv.org/abs/1511.06807), 2015.
    """
    if key is not None and seed is not None:
        raise ValueError("add_noise: key and seed are the same; only one can be given")
    given = seed if key is None else key

    def init(params: Params) -> AddNoiseState:
        return AddNoiseState(jnp.zeros((), jnp.int32), _as_key(0 if given is None else given))

    def update(
        updates: Updates, state: AddNoiseState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, AddNoiseState]:
        t = increment(state.count)
        deviation = jnp.sqrt(eta / t**gamma)
        next_key, key = jax.random.split(state.rng_key)
        # one for None too: what the others get does not depend on it
        leaves, structure = jax.tree.flatten(updates, is_leaf=lambda g: g is None)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

        def step(g: Array, _: Array, key: Key) -> Array:
            return g + deviation * jax.random.normal(key, g.shape, g.dtype)

        like = updates if params is None else params
        updates = map_with_params(step, updates, like, keys)
        return updates, AddNoiseState(t, next_key)

    return GradientTransformation(init, update)


@checked(learning_rate=NON_NEGATIVE, eta=NON_NEGATIVE, gamma=NUMBER)
def noisy_sgd(
    learning_rate: ScalarOrSchedule,
    eta: ScalarOrSchedule = 0.01,
    gamma: ScalarOrSchedule = 0.55,
    key: Key | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """Gradient descent with noise: `θ ← θ - η (g + √(σ² / tᵞ) n)`, with standard normal `n`.

    Args:
      learning_rate: `η ≥ 0`, a number, an array or a schedule.
      eta: the variance `σ² ≥ 0` of the first step, `t = 1`.
      gamma: the exponent `γ` by which it falls.
      key: a key or a seed; None is the seed 0.
      seed: Optax's former name of `key`.

    Raises:
      ValueError: for a number outside its range, or if both `key` and `seed` are given.

    Example:
      >>> optimizer = noisy_sgd(0.1, key=jax.random.key(0))

    References:
      Neelakantan et al., [Adding gradient noise improves learning for very deep
      networks](https://arxiv.org/abs/1511.06807), 2015.
    """
    return chain(add_noise(eta, gamma, key, seed=seed), scale_by_learning_rate(learning_rate))
