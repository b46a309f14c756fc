"""Penalties by hand, the Fisher against its definition, reservoirs against counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, nn, train
from tests.numerics import normal, relative_error

MATRIX = np.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.3], [0.4, 0.85, 0.7]])


def test_penalties_by_hand():
    anchor = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
    params = {"w": jnp.array([2.0, 0.0]), "b": jnp.array(0.0)}
    fisher = {"w": jnp.array([3.0, 1.0]), "b": jnp.array(4.0)}
    # 4/2 (1 + 4 + .25), and 2/2 (3·1 + 1·4 + 4·.25)
    assert train.l2_to_start(anchor, 4.0)(params) == 10.5
    assert train.ewc_penalty(fisher, anchor, 2.0)(params) == 8.0
    assert train.ewc_penalty(fisher, anchor, 2.0)(anchor) == 0
    grads = jax.grad(train.ewc_penalty(fisher, anchor, 2.0))(params)
    np.testing.assert_array_equal(grads["w"], [6.0, -4.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_penalties_of_half_precision_are_summed_in_single(dtype):
    w = jnp.ones(100_000, dtype)
    assert train.l2_to_start(jnp.zeros_like(w), 1.0)(w) == 50_000
    assert train.ewc_penalty(w, jnp.zeros_like(w), 1.0)(w) == 50_000
    assert train.l2_to_start(jnp.zeros(1003, dtype), 1.0)(w[:1003]) == 501.5
    grad = jax.grad(train.l2_to_start(jnp.zeros_like(w), 0.5))(w)
    assert grad.dtype == w.dtype
    np.testing.assert_array_equal(grad, jnp.full_like(w, 0.5))


def test_penalties_broadcast_nothing():
    params = {"w": jnp.ones((3, 1))}
    with pytest.raises(
        ValueError, match=r"l2_to_start: anchor must have.*\[3\] for \[3, 1\] at 'w'"
    ):
        train.l2_to_start({"w": jnp.ones(3)}, 1.0)(params)
    with pytest.raises(
        ValueError, match=r"ewc_penalty: fisher must have.*\[\] for \[3, 1\] at 'w'"
    ):
        train.ewc_penalty({"w": 1.0}, params, 1.0)(params)


def test_the_fisher_of_a_linear_classifier():
    """`∇_W log p(y|x) = x ⊗ (e_y - p)`; the true Fisher is its square's mean over y ~ p."""
    params = nn.init_dense(jax.random.key(0), 4, 3)
    x = normal(1, (12, 4))
    p = np.asarray(jax.nn.softmax(nn.dense(params, x)), np.float64)
    true = np.mean(np.asarray(x)[:, :, None] ** 2 * (p * (1 - p))[:, None, :], 0)
    fisher_of = gradients.fisher_diagonal(nn.dense, gradients.likelihoods.categorical)
    draw = jax.jit(lambda key: fisher_of(params, x, key=key))
    mean = jnp.mean(jax.vmap(draw)(jax.random.split(jax.random.key(2), 4000))["kernel"], 0)
    assert relative_error(mean, true) < 0.05


def test_each_example_is_as_likely_to_be_kept():
    examples = jnp.arange(20)

    def keep(key):
        first, second = jax.random.split(key)
        replay = train.init_replay(jnp.int32(0), 5)
        replay = train.add_to_replay(replay, examples[:8], first)
        return train.add_to_replay(replay, examples[8:], second)

    found = jax.jit(jax.vmap(keep))(jax.random.split(jax.random.key(0), 4000))
    kept = np.asarray(found.examples)
    assert np.all(np.asarray(found.seen) == 20)
    assert all(len(set(row)) == 5 for row in kept[:50].tolist())
    shares = np.bincount(kept.ravel(), minlength=20) / 4000
    # a quarter each, within four and a half deviations
    assert np.abs(shares - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 4000)


def test_a_memory_that_is_not_full_gives_what_it_has():
    replay = train.init_replay({"x": jnp.zeros(2), "y": jnp.int32(0)}, 4)
    shown = {"x": jnp.ones((2, 2)), "y": jnp.array([5, 6])}
    replay = train.add_to_replay(replay, shown, jax.random.key(0))
    np.testing.assert_array_equal(replay.examples["y"], [5, 6, 0, 0])
    drawn = train.sample_replay(replay, jax.random.key(1), 50)
    assert set(np.asarray(drawn["y"]).tolist()) == {5, 6}
    assert drawn["x"].shape == (50, 2)
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        train.init_replay(jnp.zeros(2), 0)


def test_figures_of_an_accuracy_matrix_by_hand():
    assert train.average_accuracy(MATRIX) == pytest.approx((0.4 + 0.85 + 0.7) / 3)
    # best before the end: .9 and .8; at the end .4 and .85
    assert train.forgetting(MATRIX) == pytest.approx((0.5 - 0.05) / 2, abs=1e-6)
    assert train.backward_transfer(MATRIX) == pytest.approx((-0.5 + 0.05) / 2, abs=1e-6)
    assert train.forgetting(np.stack([MATRIX, MATRIX])).shape == (2,)
    with pytest.raises(ValueError, match="at least 2"):
        train.forgetting(np.ones((1, 1)))
    with pytest.raises(ValueError, match="tasks, tasks"):
        train.average_accuracy(np.ones((2, 3)))


def test_the_matrix_is_of_each_task_after_each():
    tasks = jnp.array([1.0, 2.0, 3.0])
    last, matrix = train.accuracy_matrix(
        lambda state, task: state + task, lambda state, task: state * task, 0.0, tasks
    )
    assert last == 6
    np.testing.assert_array_equal(matrix, np.outer([1, 3, 6], [1, 2, 3]))
