import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import losses
from tests.losses import references

KEY = jax.random.key(0)
SCORES = jnp.array([-jnp.inf, -1e4, -3.0, 0.0, 0.7, 1e4, jnp.inf])


def test_generators_losses(x64):
    scores = jnp.asarray(SCORES, jnp.float64)
    with np.errstate(all="ignore"):
        want = references.sigmoid(np.asarray(scores), 1.0)
    np.testing.assert_allclose(losses.non_saturating_generator_loss(scores), want, rtol=1e-12)
    np.testing.assert_array_equal(losses.wasserstein_generator_loss(scores), -scores)


@pytest.mark.parametrize(
    "loss", [losses.non_saturating_generator_loss, losses.wasserstein_generator_loss]
)
def test_generators_losses_check_their_scores(loss):
    assert loss(SCORES.astype(jnp.bfloat16)).dtype == jnp.float32
    with pytest.raises(TypeError, match="must be of a real floating dtype, got int32"):
        loss(jnp.arange(3))
    with pytest.raises(ValueError, match="fake_scores is empty"):
        loss(jnp.ones((0, 2)))


def test_non_saturating_is_where_the_discriminator_is_sure():
    """Goodfellow's remark: `log(1 - σ)`, the other generator's loss, is flat there."""
    slope = jax.grad(losses.non_saturating_generator_loss)(-20.0)
    np.testing.assert_allclose(slope, -1, rtol=1e-6)


def test_discriminators_fake_scores_are_checked_too():
    with pytest.raises(TypeError, match="fake_scores must be of a real floating dtype, got int32"):
        losses.hinge_discriminator_loss(jnp.ones(3), jnp.arange(3))


def quadratic(w):
    """A critic whose slope is `w x`."""
    return lambda x: 0.5 * w * jnp.sum(x**2)


def test_the_penalty_and_its_gradient_by_hand(x64):
    x, y = jax.random.normal(KEY, (2, 3, 2))
    u = jax.random.uniform(KEY, (), jnp.float64)
    norm = np.linalg.norm(u * x + (1 - u) * y)

    def penalty(w):
        return losses.gradient_penalty(quadratic(w), x, y, KEY)

    np.testing.assert_allclose(penalty(1.7), (1.7 * norm - 1) ** 2, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(penalty)(1.7), 2 * (1.7 * norm - 1) * norm, rtol=1e-12)


def test_penalized_points_are_spread_between_real_and_fake():
    keys = jax.random.split(KEY, 4000)
    real, fake = jnp.zeros(1), jnp.ones(1)
    # slope x + 1, so the penalty is x²
    critic = lambda x: jnp.sum(0.5 * x**2 + x)  # noqa: E731
    penalties = jax.vmap(lambda k: losses.gradient_penalty(critic, real, fake, k))(keys)
    places = np.sqrt(penalties)
    assert abs(places.mean() - 1 / 2) < 5 / np.sqrt(12 * 4000)
    assert places.min() < 0.01
    assert places.max() > 0.99


def test_a_critic_that_is_flat_has_a_finite_gradient():
    penalty = lambda w: losses.gradient_penalty(quadratic(w), jnp.ones(3), -jnp.ones(3), KEY)  # noqa: E731
    value, slope = jax.value_and_grad(penalty)(0.0)
    assert value == 1
    assert slope == 0


def test_a_critic_must_return_a_scalar_and_images_be_alike():
    with pytest.raises(ValueError, match=r"critic must return a scalar, got \[3\]"):
        losses.gradient_penalty(jnp.sin, jnp.ones(3), jnp.ones(3), KEY)
    with pytest.raises(ValueError, match="shapes must match exactly"):
        losses.gradient_penalty(jnp.sum, jnp.ones(3), jnp.ones((3, 1)), KEY)
