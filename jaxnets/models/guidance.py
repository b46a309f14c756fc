"""Classifier-free guidance: one net, trained with and without labels, followed beyond its own.

Ho and Salimans, "Classifier-free diffusion guidance", 2022.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnets.types import Array, ArrayLike, Key


def drop_label(key: Key, label: ArrayLike, none: int, rate: ArrayLike) -> Array:
    """The label, or with this probability the number that stands for none; in training.

    Args:
      key: the randomness.
      label: integers, of any shape; each is dropped or kept by itself.
      none: the number that stands for no label.
      rate: in [0, 1].
    """
    label = jnp.asarray(label)
    return jnp.where(jax.random.bernoulli(key, rate, label.shape), none, label)


def guided(
    predict: Callable[[Array, Array, ArrayLike], Array],
    label: ArrayLike,
    none: ArrayLike,
    weight: ArrayLike,
) -> Callable[[Array, Array], Array]:
    """`(x, t) -> u + w (c - u)`, of predictions c with the label and u with none.

    For noise, v and velocities alike. 0 ignores the label, 1 is the net as it was trained, more
    gives samples that are more alike.

    Args:
      predict: `(x, t, label) -> prediction`.
      label: what to sample.
      none: what stands for no label, in the same form.
      weight: w.
    """

    def prediction(x: Array, t: Array) -> Array:
        without = predict(x, t, none)
        return without + weight * (predict(x, t, label) - without)

    return prediction
