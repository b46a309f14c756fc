"""Diagnoses: of nets broken on purpose, by seed, and of healthy ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, optim
from tests.gradients import broken_nets
from tests.numerics import normal

X = normal(0, (32, 6))
SEEDS = range(3000, 3020)


def flow_of(loss, **options):
    return jax.jit(gradients.flow(loss, **options))


def chain(params, x):
    for layer in params:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return jnp.sum(x)


def layers(scale, depth=8):
    keys = jax.random.split(jax.random.key(1), depth)
    return [
        {"w": scale / 6**0.5 * jax.random.normal(key, (6, 6)), "b": jnp.zeros(6)} for key in keys
    ]


def kernels(scale):
    return [{"w": layer["w"]} for layer in layers(scale)]


@pytest.fixture(scope="module")
def look():
    return flow_of(chain, rank_rows=0)


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
    found = gradients.diagnose(flow_of(loss, rank_rows=0)(params, X))
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
    in_a_loop = flow_of(scanned_relus)
    outside = gradients.diagnose(flow_of(relus)(params, X))
    inside = gradients.diagnose(in_a_loop(stack, X))
    assert [f.trouble for f in inside] == [f.trouble for f in outside]
    assert (outside[0].trouble, outside[0].where) == ("dead units", "3/b > relu")
    assert (inside[0].trouble, inside[0].where) == ("dead units", "b > relu[3]")
    healthy = jax.tree.map(lambda *p: jnp.stack(p), *layers(2**0.5, depth=6))
    assert gradients.diagnose(in_a_loop(healthy, X)) == []


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
    found = gradients.diagnose(flow_of(hinge)(w, X, y))
    assert [f.trouble for f in found] == ["no gradient"]


def test_a_gradient_that_is_stopped_is_named():
    found = gradients.diagnose(
        flow_of(lambda w, x: jnp.sum(jax.lax.stop_gradient(jnp.tanh(x @ w))) + 0 * w[0, 0])(
            jnp.eye(6), X
        )
    )
    assert [f.trouble for f in found] == ["no gradient"]


def recurrent(params, x, reverse=False):
    def turn(h, a):
        return jnp.tanh(a @ params["w"] + h @ params["u"]), None

    return jnp.sum(jax.lax.scan(turn, jnp.zeros(6), x, reverse=reverse)[0])


@pytest.mark.parametrize("reverse", [False, True])
def test_loops_are_followed_in_the_order_of_their_turns(reverse):
    x = normal(2, (8, 20, 6))
    params = {"w": jnp.eye(6), "u": 0.1 * jnp.eye(6)}
    flow = flow_of(lambda p, x: recurrent(p, x, reverse))(params, x)
    (found,) = gradients.diagnose(flow)
    first, last = (19, 0) if reverse else (0, 19)
    assert found.trouble == "vanishing"
    assert f"at turn {last} to " in found.evidence
    assert f"at turn {first} (" in found.evidence

    def deep(stack, x):
        turn = lambda x, layer: (jnp.tanh(x @ layer["w"]), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(turn, x, stack, reverse=reverse)[0])

    stack = jax.tree.map(lambda *p: jnp.stack(p), *kernels(0.15))
    (found,) = gradients.diagnose(flow_of(deep)(stack, X))
    assert found.trouble == "vanishing"
    assert f"at w[{7 if reverse else 0}] " in found.evidence


def test_turns_that_do_not_follow_from_each_other_say_nothing_of_depth():
    def loss(w, x):
        return jnp.sum(jax.lax.map(lambda a: jnp.sum(jnp.tanh(a @ w)) ** 2, x))

    # an error signal of almost nothing at the first position alone
    x = X[:, None] * jnp.array([1e-6, 1, 1, 1])[None, :, None]
    assert gradients.diagnose(flow_of(loss)(jnp.eye(6), x)) == []


def test_padding_does_not_make_units_alike():
    x = jnp.zeros((32, 64, 6)).at[:, 0].set(X)
    loss = lambda p, x: jnp.sum(jnp.square(jnp.tanh(x @ p["a"]) @ p["b"]))  # noqa: E731
    params = {"a": layers(1.0)[0]["w"], "b": layers(1.0)[1]["w"]}
    assert gradients.diagnose(flow_of(loss)(params, x)) == []
    same = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
    assert gradients.diagnose(flow_of(loss)(same, x))[0].trouble == "symmetric"


def test_the_last_nonlinearity_of_a_classifier_may_saturate():
    def loss(params, x):
        y = jax.nn.sigmoid(jnp.tanh(x @ params["a"]) @ params["b"])
        return jnp.square(y - 1)

    params = {"a": 0.3 * jnp.eye(6), "b": 1e3 * jnp.abs(jnp.ones(6))}
    flow = flow_of(loss)(params, X)
    assert flow.sites["b > sigmoid"].saturated == 1
    assert "saturation" not in [f.trouble for f in gradients.diagnose(flow)]


def test_heads_beside_each_other_are_no_depth_and_unused_ones_are_named():
    def heads(p, x):
        h = jnp.tanh(x @ p["a"])
        return jnp.sum(jnp.square(h @ p["policy"])) + 1e-4 * jnp.sum(jnp.square(h @ p["value"]))

    p = dict(zip(["a", "policy", "value"], (layer["w"] for layer in layers(1.0)), strict=False))
    assert gradients.diagnose(flow_of(heads)(p, X)) == []

    def unused(p, x):
        aux = x @ p["value"]
        return jnp.sum(jnp.square(jnp.tanh(x @ p["a"]) @ p["policy"])), aux

    (found,) = gradients.diagnose(flow_of(unused, has_aux=True)(p, X))
    assert (found.trouble, found.where) == ("no gradient", "value")

    def stopped(p, x):
        h = jax.lax.stop_gradient(jnp.tanh(x @ p["a"]))
        return jnp.sum(jnp.square(h @ p["policy"]))

    del p["value"]
    (found,) = gradients.diagnose(flow_of(stopped)(p, X))
    assert (found.trouble, found.where) == ("no gradient", "a")


def test_masks_of_minus_infinity_are_finite_enough():
    mask = jnp.tril(jnp.ones((6, 6))) > 0

    def loss(p, x):
        scores = jnp.where(mask, x[:, None] * x[None], -jnp.inf) + p
        return jnp.sum(jnp.square(jax.nn.softmax(scores) @ x))

    flow = flow_of(loss)(jnp.zeros((6, 6)), X)
    assert flow.sites[""].activation.min == -jnp.inf
    assert gradients.diagnose(flow) == []
    (found,) = gradients.diagnose(flow_of(loss)(jnp.full((6, 6), jnp.inf), X))
    assert found.trouble == "non-finite"


def test_rows_that_are_no_examples_vanish_too():
    def loss(params, x):
        x = x.reshape(-1, 6)[np.roll(np.arange(3 * len(x)), 1)]
        for layer in params:
            x = jnp.tanh(x @ layer["w"])
        return jnp.mean(x)

    flow = flow_of(loss, batched=True)(kernels(0.1), X[:, None] * jnp.ones((1, 3, 1)))
    assert np.isnan(flow.sites["0/w"].error_norm)
    assert [f.trouble for f in gradients.diagnose(flow)] == ["vanishing"]


def test_a_net_without_sites():
    flow = flow_of(lambda p, x: jnp.sum(x))(layers(1.0), X)
    history = jax.tree.map(lambda x: jnp.stack([x] * 3), flow)
    for seen in (flow, history):
        assert [f.trouble for f in gradients.diagnose(seen)] == ["no gradient"]


def test_what_the_losses_of_a_run_say(look):
    seen = look(layers(1.0), X)
    rng = np.random.default_rng(0)

    def named(losses, held_out=None):
        return [f.trouble for f in gradients.diagnose(seen, losses=losses, held_out=held_out)]

    # a fall within the scatter of batches is none; one beyond is, though small
    scattered = 1 + 0.2 * rng.standard_normal(40)
    assert named(scattered) == ["plateau"]
    assert named(scattered - np.linspace(0, 0.9, 40)) == []
    # to a guess among the 6 units of the last layer, and no further
    classify = lambda w, x: -jax.nn.log_softmax(x @ w)[0]  # noqa: E731
    seen = flow_of(classify)(layers(1.0)[0]["w"], X)
    to_a_guess = np.log(6) + np.exp(-np.arange(40) / 4) + 0.01 * rng.standard_normal(40)
    assert named(to_a_guess) == ["plateau"]
    assert "a guess among 6" in gradients.diagnose(seen, losses=to_a_guess)[0].evidence
    assert named(to_a_guess - 0.5) == []
    # one batch in the middle says nothing of whether it stands
    assert named(np.where(np.arange(40) == 20, to_a_guess + 0.4, to_a_guess)) == ["plateau"]
    # steps of the run, not of the flow
    assert named([1, 2, 4, 8, np.inf, np.nan]) == ["non-finite"]
    falling = np.linspace(1, 0.1, 20)
    # best at the end is not overfitting, however it jumps
    jumping = np.where(np.arange(20) % 2, 0.4, 1.0)
    jumping[-1] = 0.3
    assert named(falling, jumping) == []
    assert named(falling, [1, 0.5, 0.7, 1.2, 2, 3]) == ["overfitting"]
    with pytest.raises(ValueError, match="held_out of one step's flow needs"):
        gradients.diagnose(seen, held_out=falling)


@pytest.mark.parametrize(("scale", "found"), [(1e-3, []), (1.0, ["learning rate too high"])])
def test_only_a_layer_that_starts_near_zero_may_be_replaced_by_a_step(look, scale, found):
    params = layers(scale, depth=8)
    told, usual = (
        gradients.with_updates(
            look(layers(1.0), X)._replace(sites=look(params, X).sites),
            params,
            jax.tree.map(lambda p, by=by: by * p, params),
        )
        for by in (3, 1e-3)
    )
    history = jax.tree.map(lambda *x: jnp.stack(x), told, *[usual] * 19)
    named = [f.trouble for f in gradients.diagnose(history, losses=np.linspace(1, 0.1, 20))]
    assert [trouble for trouble in named if "rate" in trouble] == found


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


@pytest.mark.parametrize(
    ("activation", "trouble"),
    [
        (jax.nn.relu, "dead units"), (jax.nn.gelu, "no gradient"), (jax.nn.relu6, "no gradient"),
        (lambda x: jnp.where(x > 0, x, 0), "no gradient"), (jax.nn.celu, "no gradient"),
        (jax.nn.silu, "vanishing"), (jax.nn.leaky_relu, None),
    ],
)  # fmt: skip
def test_a_layer_that_is_off_is_named_whatever_its_nonlinearity(activation, trouble):
    """Though its head's bias starts at 0, and gets a gradient: it opens nothing."""
    first, second, head = (normal(i, shape) / 3 for i, shape in enumerate([(6, 9), (9, 9), (9, 2)]))
    params = {"first": first, "second": second, "off": jnp.full(9, -60.0), "head": head}

    def loss(params, x):
        x = activation(activation(x @ params["first"]) @ params["second"] + params["off"][None])
        return jnp.mean(jnp.square(x @ params["head"] + params["bias"][None] - 1))

    look = jax.jit(gradients.flow(loss, batched=True, rank_rows=0))
    assert gradients.diagnose(look({**params, "off": jnp.zeros(9), "bias": jnp.zeros(2)}, X)) == []
    found = gradients.diagnose(look({**params, "bias": jnp.zeros(2)}, X))
    assert [f.trouble for f in found] == ([trouble] if trouble else [])
