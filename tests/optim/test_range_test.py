"""The range test, where the largest stable rate is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import optim

CURVATURE = jnp.array([1.0, 5.0, 20.0])


def loss(params, batch):
    return 0.5 * jnp.sum(CURVATURE * params**2) + 0 * jnp.sum(batch)


def test_rates_grow_by_one_factor_and_losses_are_those_of_training():
    start, batches = jnp.ones(3), jnp.zeros((5, 2))
    rates, losses = optim.learning_rate_range(
        loss, optim.sgd, start, batches, low=1e-3, high=1e-1, smoothing=0.0
    )
    np.testing.assert_allclose(rates, 10.0 ** np.array([-3, -2.5, -2, -1.5, -1]), rtol=1e-5)
    x, want = np.ones(3), []
    for rate in np.asarray(rates):
        want.append(0.5 * np.sum(np.asarray(CURVATURE) * x**2))
        x = x - rate * np.asarray(CURVATURE) * x
    np.testing.assert_allclose(losses, want, rtol=1e-5)


def test_losses_are_smoothed_without_bias():
    def noisy(params, batch):
        return params + batch

    values = np.array([3.0, 1.0, 4.0, 1.0])
    _, losses = optim.learning_rate_range(
        noisy, optim.sgd, jnp.zeros(()), jnp.asarray(values), low=1e-9, high=1e-8, smoothing=0.5
    )
    average = [np.average(values[: n + 1], weights=0.5 ** np.arange(n, -1, -1)) for n in range(4)]
    np.testing.assert_allclose(losses, average, rtol=1e-5)


@pytest.mark.parametrize("method", ["steepest", "minimum"])
def test_suggestion_is_stable(method):
    """Gradient descent on a quadratic diverges from a rate of `2 / L` on."""
    run = jax.jit(
        lambda start: optim.learning_rate_range(
            loss, optim.sgd, start, jnp.zeros((200, 1)), low=1e-5, high=10.0, smoothing=0.5
        )
    )
    rates, losses = run(jnp.ones(3))
    limit = 2 / 20
    # it diverges, some steps after the limit is passed
    assert not losses[-1] < losses[0]
    assert losses[jnp.searchsorted(rates, limit)] < 0.1 * losses[0]
    got = float(optim.suggest_rate(rates, losses, method=method))
    assert limit / 100 < got < limit
    assert float(jax.jit(optim.suggest_rate)(rates, losses)) > 0


def test_the_noise_of_the_first_losses_suggests_nothing():
    """Found on the digits: the first smoothed losses are of a batch or two, and so are steep."""
    decades = jnp.linspace(-4, 1, 100)
    losses = 2.3 - 2 * jax.nn.sigmoid(4 * (decades + 1)) + 3 * jax.nn.relu(decades)
    noisy = losses + 0.3 * jnp.asarray(np.random.default_rng(0).choice([-1, 1], 100)) * (
        1.3 ** -jnp.arange(100.0)
    )
    for curve in (losses, noisy):
        assert 10**-1.5 < float(optim.suggest_rate(10**decades, curve)) < 10**-0.5


def test_losses_that_are_not_finite_end_the_curve():
    rates = jnp.logspace(-5, 0, 6)
    losses = jnp.array([5.0, 4.9, 3.0, 2.95, jnp.nan, -jnp.inf])
    assert optim.suggest_rate(rates, losses) == rates[1]
    np.testing.assert_allclose(optim.suggest_rate(rates, losses, method="minimum"), 1e-3, rtol=1e-5)


def test_vmap_over_starts():
    def suggested(start):
        return optim.suggest_rate(
            *optim.learning_rate_range(loss, optim.sgd, start, jnp.zeros((50, 1)))
        )

    starts = jnp.stack([jnp.ones(3), 2 * jnp.ones(3)])
    np.testing.assert_allclose(
        jax.vmap(suggested)(starts), [suggested(s) for s in starts], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(jnp.zeros((5, 1)), low=0.1, high=0.01), "high=0.01, low=0.1"),
        (lambda f: f(jnp.zeros((5, 1)), low=-1.0), "low must be > 0"),
        (lambda f: f(jnp.zeros((5, 1)), smoothing=1.0), "smoothing must be in"),
        (lambda f: f(jnp.zeros((1, 1))), r"got lengths \[\(1,\)\]"),
        (lambda f: f((jnp.zeros((4, 1)), jnp.zeros((3, 1)))), r"\(3,\), \(4,\)"),
        (lambda f: f({}), "2 steps or more"),
        (lambda f: optim.suggest_rate(jnp.ones(3), jnp.ones(4)), r"\(3,\) and \(4,\)"),
        (lambda f: optim.suggest_rate(jnp.ones(3), jnp.ones(3), method="best"), "got 'best'"),
    ],
)
def test_bad_values(call, message):
    def run(batches, **keywords):
        return optim.learning_rate_range(loss, optim.sgd, jnp.ones(3), batches, **keywords)

    with pytest.raises(ValueError, match=message):
        call(run)
