"""Diagnoses: of nets broken on purpose, by seed, and of healthy ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients
from tests.gradients import broken_nets

X = jax.random.normal(jax.random.key(0), (32, 6))
SEEDS = range(3000, 3020)


def chain(params, x):
    for layer in params:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return jnp.sum(x)


def layers(scale, depth=8):
    keys = jax.random.split(jax.random.key(1), depth)
    return [
        {"w": scale / 6**0.5 * jax.random.normal(key, (6, 6)), "b": jnp.zeros(6)} for key in keys
    ]


@pytest.fixture(scope="module")
def look():
    return jax.jit(gradients.flow(chain, rank_rows=0))


def test_vanishing_is_named_with_its_layer_and_numbers(look):
    (found,) = gradients.diagnose(look(layers(0.1), X))
    assert found.trouble == "vanishing"
    sizes = [float(look(layers(0.1), X).sites[f"{i}/w"].error_norm) for i in range(8)]
    gone = [i for i in range(7) if sizes[i] < 1e-3 * max(sizes[i + 1 :])]
    assert found.where == f"{gone[-1]}/w"
    assert f"{sizes[0]:.2g} at 0/w" in str(found)


def test_other_faults_of_a_step(look):
    assert gradients.diagnose(look(layers(1.0), X)) == []
    assert gradients.diagnose(look(layers(60.0), X))[0].trouble == "saturation"
    same = jax.tree.map(lambda p: jnp.full_like(p, 0.1), layers(1.0))
    assert gradients.diagnose(look(same, X))[0].trouble == "symmetric"
    params = layers(1.0)
    params[3]["b"] = params[3]["b"].at[0].set(jnp.nan)
    (found,) = gradients.diagnose(look(params, X))
    assert (found.trouble, found.where) == ("non-finite", "3/b")


def test_units_behind_dead_ones_are_not_symmetric():
    def loss(params, x):
        for layer in params:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return jnp.sum(x)

    params = layers(1.0, depth=4)
    params[1]["b"] = params[1]["b"] - 1e3
    found = gradients.diagnose(jax.jit(gradients.flow(loss, rank_rows=0))(params, X))
    assert (found[0].trouble, found[0].where) == ("dead units", "1/b > relu")


def test_faults_of_a_run(look):
    seen = look(layers(1.0), X)
    falling = np.linspace(1.0, 0.1, 20)
    rising = np.concatenate([np.linspace(1, 0.4, 6), np.linspace(0.4, 0.9, 14)])

    def named(losses, held_out=None):
        return [f.trouble for f in gradients.diagnose(seen, losses=losses, held_out=held_out)]

    assert named(falling) == named(falling, falling) == []
    assert named(falling, rising) == ["overfitting"]
    assert named(np.full(20, 0.7)) == ["plateau"]
    assert named(np.linspace(1, 9, 20)) == ["learning rate too high"]

    def with_step(size):
        params = layers(1.0)
        told = gradients.with_updates(seen, params, jax.tree.map(lambda p: size * p, params))
        history = jax.tree.map(lambda x: jnp.stack([x] * 20), told)
        return [f.trouble for f in gradients.diagnose(history)]

    assert with_step(0.3) == ["learning rate too high"]
    assert with_step(1e-7) == ["learning rate too low"]


@pytest.mark.exhaustive
def test_of_20_broken_nets_18_are_named_and_of_20_healthy_ones_18_are_let_pass():
    named, silent, wrong = 0, 0, []
    for seed in SEEDS:
        for broken in (True, False):
            net, found = broken_nets.run(seed, broken)
            if broken and found and found[0].trouble == net.fault:
                named += 1
            elif not broken and not found:
                silent += 1
            else:
                wrong.append((seed, net, [str(f) for f in found]))
        jax.clear_caches()
    assert named >= 18, wrong
    assert silent >= 18, wrong
