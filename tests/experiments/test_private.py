"""Private training and its audit: the bound, the run, and the experiment end to end."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.errors import UsageError
from experiments.private.bound import lower_bound, p_value
from experiments.private.canaries import guess, planted
from experiments.private.experiment import Config, settle
from experiments.private.training import UNBOUNDED, Schedule, descend
from jaxnets import optim


def by_counting(m, r, v, epsilon, delta):
    """The theorem's formula, with binomial coefficients."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    alpha = max((sum(mass[v - i : v]) / i for i in range(1, v + 1)), default=0)
    return min(1, sum(mass[v:]) + 2 * m * delta * alpha)


@pytest.mark.parametrize("delta", [0, 1e-3, 0.1])
@pytest.mark.parametrize("epsilon", [0, 0.7, 3])
def test_p_values_are_the_theorems(epsilon, delta):
    for v in range(13):
        got = p_value(20, 12, v, epsilon, delta)
        assert got == pytest.approx(by_counting(20, 12, v, epsilon, delta), rel=1e-9, abs=1e-15)


def test_a_lower_bound_is_where_the_p_value_crosses():
    bound = lower_bound(100, 40, 37, 1e-4)
    assert p_value(100, 40, 37, bound, 1e-4) <= 0.05 <= p_value(100, 40, 37, bound + 2e-6, 1e-4)
    assert lower_bound(100, 40, 20, 1e-4) == 0
    assert lower_bound(100, 40, 40, 1e-4) > bound


def test_randomized_response_is_refuted_as_seldom_as_said_and_nearly_as_often():
    """Of the mechanism that is exactly ε-private, each coin told truly with e^ε / (1 + e^ε)."""
    rng = np.random.default_rng(0)
    right = rng.binomial(400, math.e / (1 + math.e), 2000)
    bounds = np.array([lower_bound(400, 400, int(v), 0.0) for v in np.unique(right)])
    found = bounds[np.searchsorted(np.unique(right), right)]
    assert 0.02 < np.mean(found > 1) <= 0.06
    assert np.median(found) > 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 6, 3, 1, 0), "0 <= right <= guesses <= canaries, got 3, 6 and 5"),
        ((9, 6, 3, -1, 0), "epsilon must be at least 0"),
        ((9, 6, 3, 1, 2), r"delta must be in \[0, 1\]"),
    ],
)
def test_bad_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        p_value(*arguments)


def test_guesses_are_the_ends_of_the_order():
    coins = np.array([True, False, True, False, True, False])
    scores = np.array([3.0, 2.0, 1.0, 0.0, -1.0, -2.0])
    assert guess(coins, scores, 2, 0.0)[:2] == (2, 2)
    assert guess(coins, scores, 4, 0.0)[:2] == (4, 2)


def loss(w, example):
    return (jnp.dot(w, example["x"]) - example["y"]) ** 2


DATA = {
    "x": jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [2.0, -1.0]]),
    "y": jnp.array([1.0, 0.0, -1.0, 2.0]),
}


def test_a_run_without_noise_on_everyone_is_clipped_gradient_descent():
    schedule = Schedule(n=4, rate=1.0, steps=6, points=3)
    train = descend(loss, optim.sgd(0.1), schedule, watch=lambda w: w, release=lambda g: g)
    w, trace = jax.jit(train)(jnp.ones(2), DATA, jax.random.key(0), 0.5, 0.0)
    want, total, seen = np.ones(2), np.zeros(2), []
    for _ in range(6):
        rows = np.array([jax.grad(loss)(jnp.asarray(want), jax.tree.map(lambda x, i=i: x[i], DATA))
                         for i in range(4)])  # fmt: skip
        norms = np.linalg.norm(rows, axis=1)
        g = np.mean(rows * (0.5 / np.maximum(norms, 0.5))[:, None], 0)
        want, total = want - 0.1 * g, total + g
        seen.append(np.mean(norms > 0.5))
    np.testing.assert_allclose(w, want, rtol=1e-5)
    np.testing.assert_allclose(trace.released, total, rtol=1e-5)
    np.testing.assert_allclose(trace.clipped, seen)
    np.testing.assert_allclose(trace.watched[-1], w)


def test_whoever_is_not_there_was_never_there():
    schedule = Schedule(n=4, rate=0.5, steps=8, points=1)
    train = jax.jit(descend(loss, optim.sgd(0.1), schedule, watch=lambda w: ()))
    present = jnp.array([True, False, True, True])
    other = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), DATA)
    runs = [
        train(jnp.ones(2), data, jax.random.key(1), UNBOUNDED, 0.0, present)[0]
        for data in (DATA, other)
    ]
    np.testing.assert_array_equal(*runs)
    everyone = train(jnp.ones(2), DATA, jax.random.key(1), UNBOUNDED, 0.0, jnp.ones(4, bool))[0]
    assert not np.array_equal(everyone, runs[0])


def test_canaries_stand_behind_the_images():
    data = planted(DATA, 3)
    assert data["x"].shape == (7, 2)
    np.testing.assert_array_equal(data["canary"], [-1, -1, -1, -1, 0, 1, 2])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"delta": 0.0}, r"--delta must be in \(0, 1\)"),
        ({"guesses": 7}, "--guesses must be even and at most the 1000 canaries"),
        ({"guesses": 2000}, "--guesses must be even and at most the 1000 canaries"),
        ({"audited": 9.0}, "--audited must be below"),
        ({"epsilons": (1.0, -1.0)}, "--epsilons must be positive, got 1 -1"),
        ({"clip_norm": 0.0}, "--clip-norm must be positive"),
        ({"optimizer": "jaxnets:adem"}, "adem"),
    ],
)
def test_flags_out_of_range(flags, message):
    with pytest.raises(UsageError, match=message):
        settle(Config(**flags))


def records_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.thorough
def test_the_digits_keep_their_promise_and_break_it_with_a_tenth_of_the_noise(tmp_path, capsys):
    folder = tmp_path / "private"
    flags = ["private", "--quick", "--epsilons", "8", "--seeds", "2", "--folder", str(folder)]
    assert cli.main(flags) == 0
    records = records_of(folder)
    trained = [r for r in records if "epsilon" in r]
    assert all(r["test_accuracy"] > 0.9 for r in trained)
    assert len(trained) == 4
    for record in records:
        if "lower_bound" in record:
            broken = record["noise_share"] < 1
            assert (record["lower_bound"] > record["claimed"]) == broken, record
    assert {path.stem for path in folder.glob("*.png")} == {
        "cost", "training", "clipped", "canaries",
    }  # fmt: skip
    assert "not refuted" in (folder / "report.html").read_text()
    assert "lower bounds on ε, where 2 is claimed" in capsys.readouterr().out
