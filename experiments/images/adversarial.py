"""A generative adversarial net."""

from typing import Any, NamedTuple

import jax

from experiments.images.task import Outcome, Samples, Task, fit, from_signed, many, to_signed
from jaxnets import models, optim, train, tree
from jaxnets.types import Array, Key, Params

LEARNING_RATE = 4e-4
"""Of both nets."""
LATENT = 32
AVERAGE = 2e-3
"""Rate of the moving average of the generator's parameters, which makes the samples."""


class Played(NamedTuple):
    """A game's state, and the moving average of its generator."""

    game: train.GANState
    average: Params

    @property
    def key(self) -> Key:
        """As `train.epoch` asks for it."""
        return self.game.key

    @property
    def step(self) -> Array:
        """As `train.epoch` asks for it."""
        return self.game.step


def gan(task: Task) -> Outcome:
    """Alternating steps of Adam."""
    config = models.GANConfig(task.image, LATENT, channels=(2 * task.width, 4 * task.width))
    keys = task.keys
    generator_key, discriminator_key = jax.random.split(keys.init)
    optimizer = optim.adam(task.learning_rate_factor * LEARNING_RATE, b1=0.5, b2=0.99)
    state = train.init_gan_state(
        models.init_generator(generator_key, config),
        models.init_discriminator(discriminator_key, config),
        optimizer,
        optimizer,
        keys.run,
    )
    turn = train.gan_step(*models.gan_losses(config, task.game), optimizer, optimizer)

    def step(played: Played, batch: dict[str, Array]) -> tuple[Played, dict[str, Any]]:
        game, metrics = turn(played.game, to_signed(batch["x"]))
        average = optim.incremental_update(game.generator, played.average, AVERAGE)
        return Played(game, average), metrics

    fitted = fit("GAN", task, step, Played(state, state.generator))

    def draw(key: Key) -> Array:
        z = jax.random.normal(key, (LATENT,))
        return from_signed(models.generator(fitted.state.average, config, z))

    drawn = many(draw, jax.random.split(keys.sample, len(task.test)))
    return Outcome(
        losses=fitted.losses,
        samples={"samples": Samples(drawn)},
        grids={},
        facts={},
        seconds=fitted.seconds,
        parameters=tree.size(state.generator) + tree.size(state.discriminator),
    )
