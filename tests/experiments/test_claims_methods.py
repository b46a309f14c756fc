"""What the claims measure with: each helper against a case whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims import bptt, momentum, rates


def test_a_seeds_rate_is_the_best_of_the_other_seeds():
    scores = np.array([[9, 1, 8, 8, 9], [9, 8, 2, 4, 9], [9, 8, 4, 2, 9]], float)
    # of seeds 1 and 2 the third and fourth tie; of 0 and 2 it is the second: 1 · 8 < 8 · 2
    assert rates.best_of_others(np.arange(5), scores).tolist() == [2, 1, 1]
    assert rates.at_best(np.arange(5), scores).tolist() == [8, 8, 8]


def test_a_best_rate_at_the_end_of_its_grid_is_an_error():
    falling = np.array([[8.0, 4.0, 2.0, 1.0]] * 2)
    with pytest.raises(ValueError, match=r"highest rate of the grid, 0\.3, is its best"):
        rates.best_of_others([0.0, 0.1, 0.2, 0.3], falling)
    with pytest.raises(ValueError, match="the least rate"):
        rates.best_of_others([0.0, 0.1, 0.2, 0.3], falling[:, ::-1])
    with pytest.raises(ValueError, match="needs neighbours on both sides, got 2"):
        rates.require_inside([1, 2], [1, 2])
    # where no rate gets there, none is at fault
    assert rates.best_of_others(np.arange(4), np.full((2, 4), 7.0)).tolist() == [1, 1]


def test_a_loss_that_rises_again_has_not_settled():
    values = jnp.array([3.0, 1.0, jnp.nan, 1.0, 0.5])
    assert momentum.settled(values, 1.0) == 4
    assert momentum.settled(values, 3.0) == 4
    assert momentum.settled(values, 0.1) == 6
    assert momentum.settled(values[:2], 9.0) == 1


def test_steps_down_a_bowl_are_those_of_its_recursion():
    key = jax.random.key(3)
    top_key, start_key = jax.random.split(key)
    top = float(jax.random.uniform(top_key, minval=0.5, maxval=1.0))
    curvatures = top * np.logspace(0, -1, 20)
    x = np.asarray(jax.random.normal(start_key, (20,))) / np.sqrt(curvatures)
    losses, velocity = [np.sum(curvatures * x**2) / 2], np.zeros(20)
    for _ in range(200):
        velocity = 0.5 * velocity + curvatures * x
        x = x - 0.5 * velocity
        losses.append(np.sum(curvatures * x**2) / 2)
    wanted = 1 + np.flatnonzero(np.array(losses) > 1e-4 * losses[0])[-1]
    config = momentum.Config(bowl_steps=200)
    assert wanted < 200
    assert momentum._ravine(config, 10.0, jnp.array(0.5), key, jnp.array(0.5)) == wanted


def test_the_error_goes_back_as_far_as_the_horizon():
    params = bptt.init_net(jax.random.key(0), 4)
    x_key, noise_key = jax.random.split(jax.random.key(1))
    x, noise = jax.random.normal(x_key, (2, 64)), jax.random.normal(noise_key, (7, 2, 64))

    def slope(lag, horizon):
        def total(x, noise):
            return jnp.sum(bptt.logits_after(params, x, noise, lag, horizon))

        of_digit, of_noise = jax.grad(total, (0, 1))(x, noise)
        return np.any(of_digit != 0), np.flatnonzero(np.any(of_noise != 0, (1, 2))).tolist()

    assert slope(2, 2) == (False, [5, 6])
    assert slope(2, 3) == (True, [5, 6])
    # before the digit too, so that a longer horizon is another computation
    assert slope(2, 5) == (True, [2, 3, 5, 6])
    assert slope(2, 7) == (True, [0, 1, 2, 3, 5, 6])
