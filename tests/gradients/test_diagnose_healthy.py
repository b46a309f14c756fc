"""What is no trouble: nets that start with zeros, ways beside each other, runs that learned."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, optim
from tests.numerics import normal

X = normal(0, (32, 6))
LABELS = jnp.arange(32) % 4


def flow_of(loss, *args):
    """In one compilation: operation by operation, there would be one for each shape."""
    return jax.jit(gradients.flow(loss))(*args)


def troubles(flow, **more):
    return [f.trouble for f in gradients.diagnose(flow, **more)]


def weights(seed, *shapes, scale=1.0):
    return [scale * normal(seed + i, s) / s[0] ** 0.5 for i, s in enumerate(shapes)]


def cross_entropy(logits, label):
    return -jax.nn.log_softmax(logits)[label]


@cache
def step_of(loss):
    """Compiled once for all runs of a loss."""
    whole = gradients.value_and_grad_flow(loss, rank_rows=0)

    @jax.jit
    def step(rate, params, state, *batch):
        _, gradient, flow = whole(params, *batch)
        updates, state = optim.adam(rate).update(gradient, state, params)
        flow = gradients.with_updates(flow, params, updates)
        return optim.apply_updates(params, updates), state, flow

    return step


def trained(loss, params, steps, rate=1e-3, batches=None):
    # on the host, where stacking compiles nothing
    params = jax.device_get(params)
    state, seen = jax.jit(optim.adam(rate).init)(params), []
    for i in range(steps):
        batch = (X, LABELS) if batches is None else [x[i] for x in batches]
        params, state, flow = step_of(loss)(rate, params, state, *batch)
        seen.append(flow)
    return jax.tree.map(lambda *x: np.stack(x), *seen)


def residual(params, x, label):
    x = x @ params["in"]
    for block in params["blocks"]:
        h = jax.nn.gelu(x @ block["up"])
        mean = jnp.mean(h)
        h = (h - mean) / jnp.sqrt(jnp.mean(jnp.square(h - mean)) + 1e-6)
        x = x + block["gate"] * ((h * block["scale"]) @ block["down"])
    return cross_entropy(x @ params["head"] + params["bias"], label)


def residual_net(**zeros):
    shapes = (6, 8), (8, 16), (16, 8), (8, 16), (16, 8), (8, 4)
    first, up, down, up2, down2, head = weights(1, *shapes)
    blocks = [
        {"up": u, "down": d, "gate": jnp.ones(()), "scale": jnp.ones(16)}
        for u, d in ((up, down), (up2, down2))
    ]
    params = {"in": first, "blocks": blocks, "head": head, "bias": jnp.zeros(4)}
    return jax.tree.map_with_path(lambda path, p: p * (path[-1].key not in zeros), params)


@pytest.mark.parametrize(
    "zeros", [("gate",), ("scale",), ("down",), ("head",), ("down", "head"), ("gate", "head")]
)
def test_what_starts_at_zero_to_open_later_is_no_trouble(zeros):
    history = trained(residual, residual_net(**dict.fromkeys(zeros)), 6)
    assert troubles(jax.tree.map(lambda x: x[0], history)) == []
    assert troubles(history) == []


def test_a_net_of_zeros_alone_is_symmetric():
    params = jax.tree.map(jnp.zeros_like, residual_net())
    assert troubles(flow_of(residual, params, X, LABELS))[0] == "symmetric"


@pytest.mark.parametrize("steps", [6, 12])
def test_a_short_run_may_replace_a_head_that_starts_small(steps):
    params = residual_net()
    params["head"] = 0.01 * params["head"]
    assert troubles(trained(residual, params, steps)) == []
    assert troubles(trained(residual, residual_net(), steps, rate=1.0)) == [
        "learning rate too high"
    ]


def chain(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.sum(x)


def test_a_trouble_that_is_over_is_told_of_a_run_that_has_not_learned():
    look = jax.jit(gradients.flow(chain, rank_rows=0))
    small, usual = (look(weights(1, *[(6, 6)] * 8, scale=s), X) for s in (0.1, 1.0))
    over = jax.tree.map(lambda *x: jnp.stack(x), small, usual)
    assert troubles(over, losses=np.geomspace(1, 0.05, 20)) == []
    # one step that broke and was got over does not make it a run that has not
    skipped = np.where(np.arange(20) == 4, np.inf, np.geomspace(1, 0.05, 20))
    assert troubles(over, losses=skipped) == []
    (standing,) = gradients.diagnose(over, losses=np.full(20, 0.7))
    assert standing.trouble == "vanishing"
    assert standing.evidence.startswith("at the first step ")
    assert "at the last" not in standing.evidence
    lasting = jax.tree.map(lambda *x: jnp.stack(x), small, usual, small)
    (found,) = gradients.diagnose(lasting, losses=np.geomspace(1, 0.05, 20))
    assert found.evidence.endswith(", and so it is at the last")


def test_what_stands_beside_is_no_depth():
    def towers(p, x):
        aside = jnp.sum(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]))
        return 1e-4 * aside + jnp.sum((jnp.tanh(x @ p["c"]) @ p["d"]) ** 2)

    p = dict(zip("abcd", weights(3, *[(6, 6)] * 4), strict=True))
    assert troubles(flow_of(towers, p, X)) == []

    def heads(p, x):
        h = jnp.tanh(x @ p["a"])
        large = jnp.sum((jnp.tanh(h @ p["b"]) @ p["c"]) ** 2)
        return large + 1e-4 * jnp.sum((jnp.tanh(h @ p["d"]) @ p["a"]) ** 2)

    assert troubles(flow_of(heads, p, X)) == []

    def one_way(p, x):
        return 1e4 * jnp.sum(jnp.tanh(1e-4 * (jnp.tanh(x @ p["a"]) @ p["b"])) @ p["c"])

    both = flow_of(lambda p, x: towers(p, x) + one_way(p, 1e-3 * x), p, X)
    (found,) = gradients.diagnose(both)
    assert found.trouble == "vanishing"


def test_a_loss_added_up_in_a_loop_is_no_recurrence():
    def in_chunks(p, x, weights):
        h = x @ p["a"]
        turn = lambda c, b: (c + b[1] * jnp.sum(jnp.tanh(b[0] @ p["b"]) ** 2), None)  # noqa: E731
        return jax.lax.scan(turn, 0.0, (h, weights))[0]

    p = dict(zip("ab", weights(5, (6, 6), (6, 6)), strict=True))
    x = normal(7, (32, 5, 6))
    few = jnp.broadcast_to(jnp.array([1e-5, 1, 1, 1, 1]), (32, 5))
    assert troubles(flow_of(in_chunks, p, x, few)) == []


def test_what_explodes_through_time_alone_is_named_once():
    def recurrent(p, x):
        turn = lambda h, a: (a @ p["in"] + h @ p["hidden"], None)  # noqa: E731
        return jnp.sum(jax.lax.scan(turn, jnp.zeros(6), x)[0] @ p["head"])

    p = {"in": jnp.eye(6), "hidden": 2.0 * jnp.eye(6), "head": jnp.eye(6)}
    (found,) = gradients.diagnose(flow_of(recurrent, p, normal(8, (16, 20, 6))))
    assert (found.trouble, "through the loop" in found.evidence) == ("exploding", True)


def test_what_is_not_finite_is_placed_where_and_when_it_comes():
    def apart(p, x, y):
        h = lambda x: jnp.tanh(x @ p["a"]) @ p["b"]  # noqa: E731
        return jnp.sqrt(jnp.sum((h(x) - h(jnp.flip(x))) ** 2)) + jnp.sum((h(x) - y) ** 2)

    p = dict(zip("ab", weights(9, (6, 8), (8, 1)), strict=True))
    x, y = normal(11, (12, 16, 6)), normal(12, (12, 16, 1))

    def named(x):
        history = trained(apart, p, 12, batches=(x, y))
        (found,) = gradients.diagnose(history)
        assert found.trouble == "non-finite"
        assert found.evidence.startswith("at step 8 of the 12 that were looked at, ")
        return found.where, found.evidence

    where, evidence = named(x.at[7, 3, 2].set(jnp.nan))
    assert where == "what enters a"
    # equal to its mirror image: the square root of 0 has no derivative, and the loss is finite
    where, evidence = named(x.at[7, 3].set(1.0))
    assert "error signal is not finite" in evidence


def test_a_step_that_is_not_finite_and_was_got_over_is_told_last():
    look = jax.jit(gradients.flow(chain, rank_rows=0))
    params = weights(1, *[(6, 6)] * 4)
    good, bad = look(params, X), look(params, X.at[0, 0].set(jnp.inf))
    falling = np.geomspace(1, 0.05, 10)

    def found(*order):
        return gradients.diagnose(jax.tree.map(lambda *x: jnp.stack(x), *order), losses=falling)

    for first in (0, 3):
        (passing,) = found(*[good] * first, bad, *[good] * (9 - first))
        assert passing.trouble == "non-finite"
        assert f"at step {first + 1} of the 10 that were looked at, and not at the last" in str(
            passing
        )
    (lasting,) = found(bad, good, good, bad, bad)
    assert "at step 4 of the 5" in lasting.evidence
    (always,) = found(bad, bad)
    assert "at step 1 of the 2" in always.evidence


def test_members_of_an_ensemble_in_a_loop_are_no_depth():
    def members(p, x, scale):
        def turn(c, member):
            w, s = member
            return c, s * jnp.sum((jnp.tanh(x @ w["a"]) @ w["b"]) ** 2)

        return jnp.sum(jax.lax.scan(turn, 0.0, (p, scale))[1])

    p = {name: normal(i, (3, 6, 6)) / 6**0.5 for i, name in enumerate("ab")}
    scale = jnp.broadcast_to(jnp.array([1e-5, 1.0, 1.0]), (32, 3))
    assert troubles(flow_of(members, p, X, scale)) == []


def test_what_has_been_learned_by_losses_of_all_signs():
    look = jax.jit(gradients.flow(chain, rank_rows=0))
    small, usual = (look(weights(1, *[(6, 6)] * 8, scale=s), X) for s in (0.1, 1.0))
    over = jax.tree.map(lambda *x: jnp.stack(x), small, usual)
    to_zero = np.r_[1, 0.5, 0.2, np.zeros(40)]
    below = np.r_[np.linspace(3, -5, 20), np.full(60, -5)]
    assert troubles(over, losses=to_zero) == troubles(over, losses=below) == []


def test_a_run_of_which_few_steps_were_looked_at_may_stand():
    look = jax.jit(gradients.flow(chain, rank_rows=0))
    params = weights(1, *[(6, 6)] * 4)
    seen = gradients.with_updates(look(params, X), params, [1e-3 * w for w in params])
    nothing = jax.tree.map(jnp.zeros_like, seen)
    rare = jax.tree.map(lambda *x: jnp.stack(x), *[seen, *[nothing] * 19] * 10)
    assert troubles(rare) == ["plateau"]
    assert troubles(jax.tree.map(lambda x: x[::20], rare)) == []
    assert troubles(jax.tree.map(lambda x: x[::20], rare), losses=rare.loss * 0 + 1) == ["plateau"]


def test_only_a_cross_entropy_stands_at_a_guess():
    falling = np.log(4) + np.exp(-np.arange(40) / 4)
    params = weights(13, (6, 4))[0]
    classes = flow_of(lambda w, x, y: cross_entropy(x @ w, y), params, X, LABELS)
    squares = flow_of(lambda w, x, y: jnp.sum((x @ w - 1) ** 2), params, X, LABELS)
    assert troubles(classes, losses=falling) == ["plateau"]
    assert troubles(squares, losses=falling) == []


def test_parameters_that_are_not_used_are_listed_and_no_trouble():
    params = dict(zip("abc", weights(1, (6, 6), (6, 6), (6, 6)), strict=True))
    flow = flow_of(lambda p, x: jnp.sum(jnp.tanh(x @ p["b"])), params, X)
    assert flow.sites.unmet == ("a", "c")
    assert troubles(flow) == []


def test_a_history_of_several_runs_is_refused():
    flow = flow_of(chain, weights(1, (6, 6)), X)
    runs = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 3, *x.shape)), flow)
    with pytest.raises(ValueError, match=r"losses of shape \(2, 3\); diagnose each run by itself"):
        gradients.diagnose(runs)
