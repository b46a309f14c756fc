"""What the claims measure with: each helper against a case whose answer is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims import (
    adaptive,
    bptt,
    modes,
    momentum,
    parts_of_adam,
    plateaus,
    rates,
    relearning,
    scheduled,
    searching,
    selection,
    sparse,
)
from experiments.claims.optimizers import OPTIMIZERS
from experiments.claims.training import digits, error_rate, rates_around
from jaxnets import nn, optim
from jaxnets.train.selection import halve, rungs


def test_a_seeds_rate_is_the_best_of_the_other_seeds():
    scores = np.array([[9, 1, 8, 8, 9], [9, 8, 2, 4, 9], [9, 8, 4, 2, 9]], float)
    # of seeds 1 and 2 the third and fourth tie; of 0 and 2 it is the second: 1 · 8 < 8 · 2
    assert rates.best_of_others(np.arange(5), scores).tolist() == [2, 1, 1]
    assert rates.at_best(np.arange(5), scores).tolist() == [8, 8, 8]


def test_a_best_rate_at_the_end_of_its_grid_is_an_error():
    falling = np.array([[8.0, 4.0, 2.0, 1.0]] * 2)
    with pytest.raises(ValueError, match=r"highest rate of the grid, 0\.3, is its best"):
        rates.best_of_others([0.0, 0.1, 0.2, 0.3], falling)
    with pytest.raises(ValueError, match="relu: the least rate"):
        rates.best_of_others([0.0, 0.1, 0.2, 0.3], falling[:, ::-1], "relu")
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

        of_digit, of_noise = jax.device_get(jax.jit(jax.grad(total, (0, 1)))(x, noise))
        return np.any(of_digit != 0), np.flatnonzero(np.any(of_noise != 0, (1, 2))).tolist()

    assert slope(2, 0) == (False, [])
    assert slope(2, 2) == (False, [5, 6])
    assert slope(2, 3) == (True, [5, 6])
    # before the digit too, so that a longer horizon is another computation
    assert slope(2, 5) == (True, [2, 3, 5, 6])
    assert slope(2, 7) == (True, [0, 1, 2, 3, 5, 6])


def test_a_rate_so_much_higher_has_to_be_in_the_grid():
    assert rates.shifted(np.array([2, 3]), -2, 5).tolist() == [0, 1]
    with pytest.raises(rates.GridEndError, match=r"rate \+2 from \[2, 3\] is outside of the 5"):
        rates.shifted(np.array([2, 3]), 2, 5)


def test_the_highest_rate_is_the_last_at_which_the_loss_is_low():
    losses = np.array([[0.5, 0.9, 2.0, 0.1, 3.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    grid = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert rates.highest(grid, losses[:1], below=1.0).tolist() == [4.0]
    # where none is low enough, or the last one is
    with pytest.raises(rates.GridEndError, match=r"net: found at an end .* from 1 to 5: 1; widen"):
        rates.highest(grid, losses, below=1.0, of="net")
    with pytest.raises(rates.GridEndError, match="from 1 to 5: 5, 5; widen"):
        rates.highest(grid, losses, below=9.0)


def test_a_net_stands_still_where_it_is_flattest_before_it_learns():
    losses = np.array([[2.3, 2.3, 2.2, 1.0, 2.1], [1.0, 1.0, 1.0, 1.0, 1.0]])
    slopes = np.array([[0.5, 0.1, 0.4, 2.0, 0.01], [0.5, 0.1, 0.1, 0.1, 0.1]])
    assert plateaus.still_at(losses, slopes, 2.0).tolist() == [1, 0]
    # of all looks until then, not of the flattest
    np.testing.assert_allclose(plateaus.median_slope(losses, slopes, 2.0), [0.4, 0.5])
    assert plateaus.halfway(np.array([[2.0, 1.1, 1.5], [2.0, 2.0, 2.0]])).tolist() == [1, 2]


def test_a_barrier_is_above_the_line_between_the_ends():
    losses = np.array([[0.0, 2.0, 2.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(modes._barrier(losses), [1.0, modes.LEAST])


def test_the_largest_difference_is_that_of_one_parameter():
    a = {"w": jnp.array([1.0, -3.0]), "b": jnp.array([0.0])}
    b = {"w": jnp.array([1.5, 1.0]), "b": jnp.array([2.0])}
    assert parts_of_adam.largest_difference(a, b) == 4.0


@pytest.mark.thorough
def test_the_sparse_problem_has_its_optimum_and_its_rotation():
    found = sparse.problem()
    assert found.x.shape == (1437, 64 * 17)
    np.testing.assert_array_equal(found.x.sum(1), 64)
    kernel = jnp.asarray(found.kernel, jnp.float32)
    np.testing.assert_allclose(sparse.distances(kernel), 0.0, atol=1e-6)
    np.testing.assert_allclose(sparse.distances(jnp.zeros_like(kernel)), 1.0)
    # a rotation keeps lengths and angles
    few = found.x[:20], found.rotated[:20]
    np.testing.assert_allclose(few[0] @ few[0].T, few[1] @ few[1].T, atol=1e-3)


def test_a_loss_above_its_least_is_0_for_who_knows_the_shares():
    labels = jnp.array([0, 3])
    shares = 0.7 * jax.nn.one_hot(labels, 10) + 0.03
    np.testing.assert_allclose(scheduled.above_least(jnp.log(shares), labels, 0.3), 0, atol=1e-6)
    logits = jnp.arange(20.0).reshape(2, 10)
    wanted = -jax.nn.log_softmax(logits)[jnp.arange(2), labels]
    np.testing.assert_allclose(scheduled.above_least(logits, labels, 0.0), wanted, rtol=1e-6)


def test_rates_are_at_equal_factors():
    np.testing.assert_allclose(rates_around(0.01, 10.0, 1), [0.01, 0.1, 1.0, 10.0], rtol=1e-5)


def test_the_steps_of_sgd_keep_their_scale(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "SGD", (optim.sgd, (1e-3, 0.1)))
    monkeypatch.setattr(rates, "require_inside", lambda *of_grid: None)
    config = adaptive.Config(task_steps=110, width=4, batch_size=8, per_decade=1)
    course = relearning.tasks(config, "SGD", 2, 0.0, jax.random.split(jax.random.key(0)))
    np.testing.assert_allclose(course.scales, np.ones((2, 22)), rtol=1e-4)
    # a new order of the pixels is a new task
    assert np.all(course.losses[:, 11] > course.losses[:, 10])
    assert np.all((course.steps >= 10) & (course.steps <= 120))


@pytest.mark.thorough
def test_estimates_by_folds_are_those_of_a_loop():
    config = selection.Config(examples=20, folds=5, repetitions=1, fit_steps=3)
    key = jax.random.key(0)
    single, crossed = selection._estimates(config, key)
    rows_key, fit_key = jax.random.split(jax.random.split(key, 1)[0])
    data = digits()
    rows = np.asarray(jax.random.permutation(rows_key, len(data.train["y"]))[:20])
    few = {name: leaf[rows] for name, leaf in data.train.items()}

    def error(inside, judged):
        params = selection._regression(config, fit_key, inside)
        return float(error_rate(nn.dense(params, judged["x"]), judged["y"]))

    errors = []
    for fold in range(5):
        held = np.arange(20) // 4 == fold
        parts = ({name: leaf[which] for name, leaf in few.items()} for which in (~held, held))
        errors.append(error(*parts))
    truth = error(few, data.test)
    np.testing.assert_allclose(single, [errors[0] - truth], atol=1e-6)
    np.testing.assert_allclose(crossed, [np.mean(errors) - truth], atol=1e-6)


def test_all_searches_are_of_the_same_rates_of_which_none_is_always_the_grids_middle(monkeypatch):
    config = selection.Config(searches=1, rates=(1e-4, 10.0))
    keys = jax.random.split(jax.random.key(0), 200)
    low, high = jax.vmap(lambda key: jnp.stack(searching.rates_of(config, key)))(keys).T
    np.testing.assert_allclose(high / low, 1e5, rtol=1e-4)
    # the grid's step is 2.5 decades
    moved = np.log10(low) + 4
    assert np.abs(moved).max() <= 1.25
    np.testing.assert_allclose(np.quantile(moved, [0.02, 0.5, 0.98]), [-1.2, 0, 1.2], atol=0.2)

    def tried(search, what):
        monkeypatch.setattr(searching, "_of_all", lambda config, keys, *tried: what(tried[0]))
        return search(config, keys[:20])

    least, most = (tried(searching.grid, end) for end in (jnp.min, jnp.max))
    np.testing.assert_allclose(most / least, 1e5, rtol=1e-4)
    assert np.ptp(np.log10(least)) > 1.5
    assert np.all(tried(searching.random, jnp.min) >= least)
    assert np.all(tried(searching.random, jnp.max) <= most)
    for search in (searching.grid, searching.random):
        assert tried(search, lambda rates: jnp.asarray(len(rates))).tolist() == [9] * 20


def test_halving_chooses_the_best_of_its_draws(monkeypatch):
    config = selection.Config(searches=2)

    def trained(config, data, key, params, rate, decay, units):
        return {"rate": rate}

    def miss(params, data):
        return jnp.abs(jnp.log(params["rate"] / 0.3))

    monkeypatch.setattr(searching, "_trained", trained)
    monkeypatch.setattr(searching, "_held_out", miss)
    monkeypatch.setattr(searching, "_test_error", lambda params: miss(params, None))
    keys = jax.random.split(jax.random.key(1), 3)
    wanted = []
    for key in keys:
        repetitions = zip(*searching._repetitions(config, key), strict=True)
        drawn = [searching._drawn(config, searching._Keys(*own), 27)[0] for own in repetitions]
        wanted.append(np.mean([miss({"rate": rates}, None).min() for rates in drawn]))
    np.testing.assert_allclose(searching.halving(config, keys), wanted, rtol=1e-5)


def test_halving_by_one_vmap_is_the_librarys_of_each_repetition():
    config = selection.Config(searches=2, search_examples=90, unit=2)
    keys = jax.random.split(jax.random.key(0), 2)
    plan = rungs(27, 1, 9)

    @jax.jit
    def begun(own):
        *_, start = searching._begun(config, own)
        nets = jax.tree.map(lambda x: jnp.stack([x] * 27), start)
        return nets, *searching._drawn(config, own, 27)

    @partial(jax.jit, static_argnames="units")
    def further(own, race, units):
        inside, outside, _ = searching._begun(config, own)
        run = jax.random.fold_in(own.run, units)
        train = partial(searching._trained, config, inside, run, units=units)
        nets = jax.vmap(train)(*race)
        return (nets, *race[1:]), jax.vmap(searching._held_out, (0, None))(nets, outside)

    def one(own):
        nets, *_ = halve(begun(own), plan, partial(further, own)).stacked
        return searching._test_error(jax.tree.map(lambda x: x[0], nets))

    wanted = [
        np.mean([one(searching._Keys(*own)) for own in zip(*each, strict=True)])
        for each in (searching._repetitions(config, key) for key in keys)
    ]
    np.testing.assert_allclose(searching.halving(config, keys), wanted, rtol=1e-6)
