import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import gradients, losses, models, optim, train
from tests.catalogue import GAN
from tests.numerics import assert_trees_close, assert_trees_equal, normal

KEY = jax.random.key(0)
IMAGES = normal(0, (6, *GAN.image))


def start(optimizers, config=GAN):
    params = (
        jax.jit(models.init_generator)(KEY, config),
        jax.jit(models.init_discriminator)(KEY, config),
    )
    return train.init_gan_state(*params, *optimizers, KEY)


@pytest.mark.parametrize(
    "game",
    [
        "hinge",
        *(pytest.param(g, marks=pytest.mark.thorough) for g in ("non_saturating", "wasserstein")),
    ],
)
def test_losses_of_a_game_are_those_of_its_scores(game):
    state = start((optim.sgd(0.1),) * 2)
    of_generator, of_discriminator = models.gan_losses(GAN, game, penalty=3.0)
    image = IMAGES[0]
    z_key, between_key = jax.random.split(KEY)

    def score(x):
        return models.discriminator(state.discriminator, GAN, x)

    def fake(key):
        return models.generator(state.generator, GAN, jax.random.normal(key, (3,)))

    got = of_generator(state.generator, state.discriminator, image, KEY)
    name = "wasserstein" if game == "hinge" else game
    want = getattr(losses, f"{name}_generator_loss")(score(fake(KEY)))
    np.testing.assert_allclose(got, want, rtol=1e-6)

    got = of_discriminator(state.discriminator, state.generator, image, KEY)
    want = getattr(losses, f"{game}_discriminator_loss")(score(image), score(fake(z_key)))
    if game == "wasserstein":
        want += 3 * losses.gradient_penalty(score, image, fake(z_key), between_key)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.thorough
def test_both_players_have_per_example_gradients():
    """Of the penalty too, which is a gradient's."""
    state = start((optim.sgd(0.1),) * 2)
    keys = jax.random.split(KEY, len(IMAGES))
    of_generator, of_discriminator = models.gan_losses(GAN, "wasserstein")
    for loss, own, others in (
        (of_generator, state.generator, state.discriminator),
        (of_discriminator, state.discriminator, state.generator),
    ):
        one = lambda p, x, k, loss=loss, others=others: loss(p, others, x, k)  # noqa: E731
        norms = jax.jit(gradients.per_example_norms(one))(own, IMAGES, keys)
        each = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(own, IMAGES, keys)
        squares = [jnp.sum(g.reshape(len(g), -1) ** 2, 1) for g in jax.tree.leaves(each)]
        np.testing.assert_allclose(norms, jnp.sqrt(sum(squares)), rtol=1e-4)


def scalar_game():
    """A generator that is one number, a discriminator that is a slope, and no randomness."""

    def of_generator(g, d, x, key):
        return -d * g

    def of_discriminator(d, g, x, key):
        return d * (g - x) + 0.5 * d**2

    return of_generator, of_discriminator


def test_steps_of_a_game_by_hand():
    optimizers = optim.sgd(0.1), optim.sgd(0.5)
    state = train.init_gan_state(jnp.float32(0.2), jnp.float32(0.0), *optimizers, KEY)
    step = jax.jit(train.gan_step(*scalar_game(), *optimizers, discriminator_steps=2))
    after, metrics = step(state, jnp.array([1.0, 2.0, 3.0, 4.0]))
    # d ← d - 0.5 (g - mean(x) + d), with the mean of the first two, then that of the last two
    first = 0.5 * (1.5 - 0.2)
    second = first - 0.5 * (0.2 - 3.5 + first)
    np.testing.assert_allclose(after.discriminator, second, rtol=1e-6)
    # the generator plays against the discriminator as it is then
    np.testing.assert_allclose(after.generator, 0.2 + 0.1 * second, rtol=1e-6)
    np.testing.assert_allclose(metrics["generator_loss"], -second * 0.2, rtol=1e-6)
    values = 0.0, first * (0.2 - 3.5) + first**2 / 2
    np.testing.assert_allclose(metrics["discriminator_loss"], np.mean(values), rtol=1e-6)
    assert after.step == 1


def test_a_step_is_gradients_and_updates_one_after_the_other():
    optimizers = optim.adam(1e-2), optax.adam(1e-3)
    of_generator, of_discriminator = models.gan_losses(GAN)
    step = jax.jit(train.gan_step(of_generator, of_discriminator, *optimizers))
    state, _ = step(start(optimizers), IMAGES)
    got, metrics = step(state, IMAGES)

    keys = jax.random.split(jax.random.fold_in(KEY, 1), 2)

    @jax.jit
    def want():
        def one(loss, optimizer, params, opt_state, others, key):
            each = jax.random.split(key, len(IMAGES))
            mean = lambda p: jnp.mean(jax.vmap(loss, (None, None, 0, 0))(p, others, IMAGES, each))  # noqa: E731
            value, grads = jax.value_and_grad(mean)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, value

        d, d_state, d_loss = one(
            of_discriminator, optimizers[1], state.discriminator, state.discriminator_opt_state,
            state.generator, keys[1],
        )  # fmt: skip
        g, g_state, g_loss = one(
            of_generator, optimizers[0], state.generator, state.generator_opt_state, d, keys[0]
        )
        return train.GANState(g, d, g_state, d_state, KEY, jnp.int32(2)), {
            "generator_loss": g_loss,
            "discriminator_loss": d_loss,
        }

    assert_trees_close((got, metrics), want(), 2e-5)


def test_steps_scan_and_continue_from_a_copy():
    optimizers = optim.adam(1e-2), optim.adam(1e-2)
    step = train.gan_step(*scalar_game(), *optimizers)
    state = train.init_gan_state(jnp.float32(0.2), jnp.float32(0.0), *optimizers, KEY)
    batches = normal(0, (4, 3))
    whole, _ = jax.jit(lambda s, b: jax.lax.scan(step, s, b))(state, batches)
    scan = jax.jit(lambda s, b: jax.lax.scan(step, s, b))
    half, _ = scan(state, batches[:2])
    resumed, _ = scan(jax.tree.map(jnp.copy, half), batches[2:])
    assert_trees_equal(resumed._replace(key=()), whole._replace(key=()))


def test_a_wasserstein_game_finds_a_distribution():
    """A generator that shifts and scales noise, a critic with one hidden layer, data N(2, 0.5²)."""
    config = models.MLPConfig(1, 1, (32,))

    def score(d, x):
        return models.mlp(d, config, x[None])[0]

    def fake(g, key):
        return g["mean"] + g["scale"] * jax.random.normal(key)

    def of_generator(g, d, x, key):
        return losses.wasserstein_generator_loss(score(d, fake(g, key)))

    def of_discriminator(d, g, x, key):
        made, between = fake(g, key), jax.random.fold_in(key, 1)
        penalty = losses.gradient_penalty(lambda x: score(d, x), x, made, between)
        return losses.wasserstein_discriminator_loss(score(d, x), score(d, made)) + 0.1 * penalty

    optimizers = optim.adam(5e-3, b1=0.0, b2=0.99), optim.adam(1e-2, b1=0.0, b2=0.99)
    step = train.gan_step(of_generator, of_discriminator, *optimizers, discriminator_steps=2)
    generator = {"mean": jnp.zeros(()), "scale": jnp.ones(())}
    state = train.init_gan_state(generator, jax.jit(models.init_mlp)(KEY, config), *optimizers, KEY)

    @jax.jit
    def run(state):
        def turn(state, i):
            data = 2 + 0.5 * jax.random.normal(jax.random.key(i), (128,))
            state, _ = step(state, data)
            return state, state.generator

        return jax.lax.scan(turn, state, jnp.arange(1000))[1]

    last = jax.tree.map(lambda x: float(x[-200:].mean()), run(state))
    assert abs(last["mean"] - 2) < 0.1
    assert abs(abs(last["scale"]) - 0.5) < 0.15


def test_what_does_not_fit_is_named():
    optimizers = optim.sgd(0.1), optim.sgd(0.1)
    with pytest.raises(ValueError, match="discriminator_steps must be positive, got 0"):
        train.gan_step(*scalar_game(), *optimizers, discriminator_steps=0)
    state = train.init_gan_state(jnp.float32(0.2), jnp.float32(0.0), *optimizers, KEY)
    step = train.gan_step(*scalar_game(), *optimizers, discriminator_steps=2)
    with pytest.raises(ValueError, match="must be a multiple of discriminator_steps 2, got 3"):
        step(state, jnp.ones(3))
    step = train.gan_step(lambda g, d, x, key: x, scalar_game()[1], *optimizers)
    with pytest.raises(ValueError, match=r"must return a scalar for one example, got shape \(2,\)"):
        step(state._replace(generator=jnp.ones(2)), jnp.ones((3, 2)))
    with pytest.raises(TypeError, match="init_gan_state: key must be a typed key"):
        train.init_gan_state(0.0, 0.0, *optimizers, jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="gan_losses: game must be one of"):
        models.gan_losses(GAN, "least_squares")


def test_bad_configs_and_shapes_are_named():
    with pytest.raises(ValueError, match="2 halvings need a height and width divisible by 4"):
        models.GANConfig((6, 8, 1))
    with pytest.raises(ValueError, match=r"groups must divide all channels \(4, 6\), got 4"):
        models.GANConfig((8, 8, 1), channels=(4, 6), groups=4)
    with pytest.raises(ValueError, match="every size must be positive"):
        models.GANConfig((8, 8, 1), channels=())
    with pytest.raises(ValueError, match=r"generator: z must be \[..., 3\], got \[2\]"):
        models.generator(jax.jit(models.init_generator)(KEY, GAN), GAN, jnp.ones(2))
    with pytest.raises(ValueError, match=r"discriminator: x must be .* got \[4, 4, 1\]"):
        models.discriminator(jax.jit(models.init_discriminator)(KEY, GAN), GAN, jnp.ones((4, 4, 1)))
