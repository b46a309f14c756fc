"""Diagnoses: of nets broken on purpose, by seed, and of healthy ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, optim
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


def relus(params, x):
    for layer in params:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return jnp.sum(x**2)


def scanned_relus(stack, x):
    turn = lambda x, layer: (jax.nn.relu(x @ layer["w"] + layer["b"]), None)  # noqa: E731
    return jnp.sum(jax.lax.scan(turn, x, stack)[0] ** 2)


def test_faults_of_layers_in_a_loop_are_found_as_outside_of_it():
    params = layers(2**0.5, depth=6)
    params[3]["b"] = params[3]["b"] - 1e3
    stack = jax.tree.map(lambda *p: jnp.stack(p), *params)
    outside = gradients.diagnose(gradients.flow(relus)(params, X))
    inside = gradients.diagnose(gradients.flow(scanned_relus)(stack, X))
    assert [f.trouble for f in inside] == [f.trouble for f in outside]
    assert (outside[0].trouble, outside[0].where) == ("dead units", "3/b > relu")
    assert (inside[0].trouble, inside[0].where) == ("dead units", "b > relu[3]")
    healthy = jax.tree.map(lambda *p: jnp.stack(p), *layers(2**0.5, depth=6))
    assert gradients.diagnose(gradients.flow(scanned_relus)(healthy, X)) == []


def test_steps_at_which_nobody_looked_are_left_out(look):
    seen = look(layers(1.0), X)
    nothing = jax.tree.map(jnp.zeros_like, seen)
    history = jax.tree.map(lambda *x: jnp.stack(x), seen, nothing, seen, nothing)
    assert gradients.diagnose(history) == []
    with pytest.raises(ValueError, match="at none of the 2 steps"):
        gradients.diagnose(jax.tree.map(lambda x: jnp.stack([x, x]), nothing))


def test_losses_below_zero(look):
    seen = look(layers(1.0), X)

    def named(losses, held_out=None):
        return [f.trouble for f in gradients.diagnose(seen, losses=losses, held_out=held_out)]

    assert named(np.full(20, -10.0)) == ["plateau"]
    assert named(np.linspace(-10, -30, 20), np.linspace(-10.2, -10.16, 20)) == []
    assert named(np.linspace(-10, -5, 20)) == ["learning rate too high"]
    assert named(np.linspace(-10, -30, 20), np.linspace(-12, -5, 20)) == ["overfitting"]


def test_a_layer_that_starts_at_zero_takes_no_step_that_is_too_large():
    params = [*layers(1.0, depth=2), {"w": jnp.zeros((6, 3)), "b": jnp.zeros(3)}]
    targets = jnp.array([1.0, 2.0, -1.0])

    def loss(params, x):
        *hidden, head = params
        for layer in hidden:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return jnp.sum((x @ head["w"] + head["b"] - targets) ** 2)

    whole = jax.jit(gradients.value_and_grad_flow(loss))
    optimizer = optim.adam(1e-3)
    state, seen = optimizer.init(params), []
    for _ in range(4):
        _, gradient, flow = whole(params, X)
        updates, state = optimizer.update(gradient, state, params)
        seen.append(gradients.with_updates(flow, params, updates))
        params = optim.apply_updates(params, updates)
    history = jax.tree.map(lambda *x: jnp.stack(x), *seen)
    assert np.nanmax(history.sites["2/w"].update_ratio) > 0.3
    assert gradients.diagnose(history) == []


def test_what_is_wrong_with_the_data_is_said_of_the_data(look):
    (found,) = gradients.diagnose(look(layers(1.0), X.at[2, 1].set(jnp.nan)))
    assert (found.trouble, found.where) == ("non-finite", "what enters 0/w")


def test_a_loss_that_is_zero_is_no_dead_unit():
    def hinge(w, x, y):
        return jax.nn.relu(1 - y * (x @ w))

    w = jnp.ones(6)
    y = 1e3 * jnp.sign(X @ w)
    found = gradients.diagnose(gradients.flow(hinge)(w, X, y))
    assert [f.trouble for f in found] == ["no gradient"]


def test_a_gradient_that_is_stopped_is_named():
    found = gradients.diagnose(
        gradients.flow(lambda w, x: jnp.sum(jax.lax.stop_gradient(jnp.tanh(x @ w))) + 0 * w[0, 0])(
            jnp.eye(6), X
        )
    )
    assert [f.trouble for f in found] == ["no gradient"]


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
