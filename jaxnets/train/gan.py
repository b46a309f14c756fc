"""Two nets that train against each other: their alternating updates as one pure step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim import GradientTransformation, apply_updates
from jaxnets.train.step import Metrics, leading_size
from jaxnets.types import Array, Key, Params, PyTree


class GANState(NamedTuple):
    """All that training knows of both nets, so that continuing from a copy of it is continuing."""

    generator: Params
    discriminator: Params
    generator_opt_state: PyTree
    discriminator_opt_state: PyTree
    key: Key
    """The run's randomness: never changes; each step derives its own from it."""
    step: Array
    """Steps taken so far (int32)."""


def init_gan_state(
    generator: Params,
    discriminator: Params,
    generator_optimizer: GradientTransformation,
    discriminator_optimizer: GradientTransformation,
    key: Key,
) -> GANState:
    """The state before the first step.

    Args:
      generator, discriminator: initial parameters.
      generator_optimizer, discriminator_optimizer: ours or Optax's.
      key: a typed key (`jax.random.key(seed)`).

    Raises:
      TypeError: if `key` is not a typed PRNG key.
    """
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        raise TypeError(
            f"init_gan_state: key must be a typed key, as jax.random.key(0), got {jax.typeof(key)}"
        )
    return GANState(
        generator,
        discriminator,
        generator_optimizer.init(generator),
        discriminator_optimizer.init(discriminator),
        key,
        jnp.zeros((), jnp.int32),
    )


def gan_step(
    generator_loss: Callable[..., Any],
    discriminator_loss: Callable[..., Any],
    generator_optimizer: GradientTransformation,
    discriminator_optimizer: GradientTransformation,
    *,
    discriminator_steps: int = 1,
) -> Callable[[GANState, PyTree], tuple[GANState, Metrics]]:
    """`(state, batch) -> (state, metrics)`: some steps of the discriminator, one of the generator.

    The batch is cut into `discriminator_steps` equal parts, in order: each step of the
    discriminator sees the next one, and the generator, which plays against the discriminator after
    its steps, the last. Each step, and each example, has randomness of its own.

    Args:
      generator_loss: of one example: `(params, discriminator, example, key) -> scalar`.
      discriminator_loss: likewise `(params, generator, example, key) -> scalar`.
      generator_optimizer, discriminator_optimizer: ours or Optax's.
      discriminator_steps: for each of the generator's.

    Returns:
      The step, to be jitted or scanned by the caller. Its metrics are the losses' means,
      `{"generator_loss", "discriminator_loss"}`, the latter over all its steps.

    Raises:
      ValueError: if `discriminator_steps` is not positive, or (when traced) the batch's size is not
        a multiple of it, or a loss is not a scalar.
    """
    n = discriminator_steps
    if n < 1:
        raise ValueError(f"gan_step: discriminator_steps must be positive, got {n}")

    def update(
        loss: Callable[..., Any],
        optimizer: GradientTransformation,
        params: Params,
        opt_state: PyTree,
        others: Params,
        batch: PyTree,
        key: Key,
    ) -> tuple[Params, PyTree, Array]:
        keys = jax.random.split(key, leading_size("gan_step", batch))

        def mean_loss(params: Params) -> Array:
            values = jax.vmap(loss, (None, None, 0, 0))(params, others, batch, keys)
            if jnp.ndim(values) != 1:
                raise ValueError(
                    "gan_step: a loss must return a scalar for one example, got shape "
                    f"{jnp.shape(values)[1:]}"
                )
            return jnp.mean(values)

        value, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return apply_updates(params, updates), opt_state, value

    def train_step(state: GANState, batch: PyTree) -> tuple[GANState, Metrics]:
        size = leading_size("gan_step", batch)
        if size % n:
            raise ValueError(
                f"gan_step: the batch's size must be a multiple of discriminator_steps {n}, "
                f"got {size}"
            )
        parts = jax.tree.map(lambda x: x.reshape(n, size // n, *x.shape[1:]), batch)
        generator_key, *keys = jax.random.split(jax.random.fold_in(state.key, state.step), n + 1)

        def of_discriminator(
            carry: tuple[Params, PyTree], given: tuple[PyTree, Key]
        ) -> tuple[tuple[Params, PyTree], Array]:
            params, opt_state, value = update(
                discriminator_loss, discriminator_optimizer, *carry, state.generator, *given
            )
            return (params, opt_state), value

        (discriminator, discriminator_opt_state), values = jax.lax.scan(
            of_discriminator,
            (state.discriminator, state.discriminator_opt_state),
            (parts, jnp.stack(keys)),
        )
        generator, generator_opt_state, value = update(
            generator_loss,
            generator_optimizer,
            state.generator,
            state.generator_opt_state,
            discriminator,
            jax.tree.map(lambda x: x[-1], parts),
            generator_key,
        )
        after = GANState(
            generator,
            discriminator,
            generator_opt_state,
            discriminator_opt_state,
            state.key,
            state.step + 1,
        )
        return after, {"generator_loss": value, "discriminator_loss": jnp.mean(values)}

    return train_step
