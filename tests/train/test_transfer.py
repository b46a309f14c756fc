"""Frozen parameters cost nothing, adapters start at the base, and probes solve their problem."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, losses, models, nn, optim, train, tree
from tests.numerics import assert_trees_close, integers, normal, relative_error

MLP = models.MLPConfig(6, 3, hidden=(32, 32))
HEAD = {"layers/2/": True, ".*": False}


@pytest.fixture(scope="module")
def params():
    return jax.jit(models.init_mlp)(jax.random.key(0), MLP)


@pytest.fixture(scope="module")
def batch():
    x = normal(1, (16, 6))
    return {"x": x, "y": jnp.arange(16) % 3}


def loss(params, batch):
    logits = models.mlp(params, MLP, batch["x"])
    return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))


def n_bytes(state):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def flops(function, *args):
    cost = jax.jit(function).lower(*args).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def test_split_and_merge(params):
    trained, frozen = train.split_params(params, HEAD)
    assert set(tree.flatten_with_paths(trained)) == {"layers/2/kernel", "layers/2/bias"}
    assert len(jax.tree.leaves(frozen)) == 4
    assert_trees_close(train.merge_params(trained, frozen), params, 0)
    with pytest.raises(ValueError, match="no rule covers leaf 'layers/0/bias'"):
        train.split_params(params, {"layers/2/": True})
    with pytest.raises(ValueError, match="matches no leaf"):
        train.split_params(params, {"classifer": True, ".*": False})
    with pytest.raises(ValueError, match="leave nothing to be trained"):
        train.split_params(params, {".*": False})
    with pytest.raises(TypeError, match="must say True"):
        train.split_params(params, {".*": 1})
    with pytest.raises(ValueError, match="'layers/0/bias' is trained and frozen"):
        train.merge_params(params, params)


def test_what_is_frozen_has_no_optimizer_memory_and_no_backward_pass(params, batch):
    trained, frozen = train.split_params(params, HEAD)
    optimizer = optim.adam(1e-2)
    state = train.init_state(trained, optimizer, jax.random.key(0))
    # two moments of each trained number, and a count: not a byte for what is frozen
    assert n_bytes(state.opt_state) == 2 * n_bytes(trained) + 4

    def step(state, frozen, batch):
        return train.step(train.with_frozen(loss, frozen), optimizer)(state, batch)

    def whole(state, batch):
        return train.step(loss, optimizer)(state, batch)

    def base(params, x):
        below = {"layers": params["layers"][:2]}
        for layer in below["layers"]:
            x = jax.nn.relu(nn.dense(layer, x))
        return x

    def head_loss(head, batch):
        logits = nn.dense(head, batch["x"])
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    head = params["layers"][2]
    head_state = train.init_state(head, optimizer, jax.random.key(0))
    hidden = {"x": base(params, batch["x"]), "y": batch["y"]}
    forward = flops(base, params, batch["x"])
    alone = flops(train.step(head_loss, optimizer), head_state, hidden)
    frozen_step = flops(step, state, frozen, batch)
    assert frozen_step < 1.02 * (forward + alone)
    # the backward pass of the base would be twice its forward pass
    full = train.init_state(params, optimizer, jax.random.key(0))
    assert flops(whole, full, batch) > 1.5 * frozen_step
    # and it is the same step of the head
    after, metrics = jax.jit(step)(state, frozen, batch)
    expected, wanted = jax.jit(train.step(head_loss, optimizer))(head_state, hidden)
    assert relative_error(metrics["loss"], wanted["loss"]) < 1e-6
    assert_trees_close(after.params["layers"][2], expected.params, 1e-5)


def test_training_on_cached_features_takes_no_more_memory_than_the_head_alone(params, batch):
    """Although the whole net is at hand, and the optimizer is made for its head."""

    def hidden(params, x):
        for layer in params["layers"][:2]:
            x = jax.nn.relu(nn.dense(layer, x))
        return x

    cached = train.features(hidden, params, batch["x"], 5)
    np.testing.assert_allclose(cached, hidden(params, batch["x"]), rtol=1e-5, atol=1e-6)
    assert isinstance(cached, np.ndarray)
    optimizer = optim.adam(1e-2)

    def head_loss(params, batch):
        logits = nn.dense(params["layers"][2], batch["x"])
        return jnp.mean(losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]))

    def step(state, frozen, batch):
        return train.step(train.with_frozen(head_loss, frozen), optimizer)(state, batch)

    def by_hand(head, opt_state, batch):
        def of_head(head):
            logits = batch["x"] @ head["kernel"] + head["bias"][None]
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), batch["y"]])

        updates, opt_state = optimizer.update(jax.grad(of_head)(head), opt_state, head)
        return optim.apply_updates(head, updates), opt_state

    data = {"x": cached, "y": batch["y"]}
    trained, frozen = train.split_params(params, HEAD)
    state = train.init_state(trained, optimizer, jax.random.key(0))
    head = params["layers"][2]

    def peak(program):
        used = program.memory_analysis()
        return (
            used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
            - used.alias_size_in_bytes
        )  # fmt: skip

    ours = jax.jit(step, donate_argnums=0).lower(state, frozen, data).compile()
    alone = (
        jax.jit(by_hand, donate_argnums=(0, 1)).lower(head, optimizer.init(head), data).compile()
    )
    assert peak(ours) < 1.1 * peak(alone)


def test_features_are_those_of_each_example_and_of_trees():
    def apply(scale, batch):
        return {"a": scale * batch["x"], "b": batch["x"].sum(-1)}

    data = {"x": np.arange(14.0, dtype=np.float32).reshape(7, 2)}
    found = train.features(apply, 2.0, data, 3)
    np.testing.assert_array_equal(found["a"], 2 * data["x"])
    np.testing.assert_array_equal(found["b"], data["x"].sum(-1))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        train.features(apply, 2.0, data, 0)


def test_groups_are_unfrozen_in_turn():
    params = {"head": jnp.ones(3), "body": jnp.ones(3), "stem": jnp.ones(3)}
    optimizer = train.gradual_unfreezing(optim.adam(0.1), {"^head": 0, "^body": 2, "stem": 3})
    state, grads = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
    update = jax.jit(optimizer.update)
    seen, states = [], []
    for _ in range(4):
        updates, state = update(grads, state, params)
        seen.append({k: bool(jnp.any(u != 0)) for k, u in updates.items()})
        states.append({k: n_moved(state, k) for k in params})
    assert [s["head"] for s in seen] == [True] * 4
    assert [s["body"] for s in seen] == [False, False, True, True]
    assert [s["stem"] for s in seen] == [False, False, False, True]
    assert states == seen
    # Adam's first step of a group is its first, whenever it comes
    np.testing.assert_allclose(updates["stem"], -0.1, rtol=1e-4)
    with pytest.raises(ValueError, match="must start at a step from 0 on, got -1"):
        train.gradual_unfreezing(optim.adam(0.1), {".*": -1})


def n_moved(state, name):
    leaves = tree.flatten_with_paths(state)
    return any(bool(jnp.any(leaf != 0)) for path, leaf in leaves.items() if path.endswith(name))


def test_lower_layers_take_smaller_steps(params):
    depths = {"layers/2/": 0, "layers/1/": 1, ".*": 2}
    optimizer = optim.chain(optim.sgd(1.0), train.layerwise_rates(depths, 0.5))
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for layer, rate in enumerate((0.25, 0.5, 1.0)):
        np.testing.assert_array_equal(updates["layers"][layer]["kernel"], -rate)
    # and of parameters some of which are frozen
    trained, _ = train.split_params(params, HEAD)
    part = train.layerwise_rates({"kernel": 1, ".*": 0}, 0.5)
    updates, _ = part.update(trained, part.init(trained), trained)
    np.testing.assert_allclose(updates["layers"][2]["kernel"], 0.5 * params["layers"][2]["kernel"])
    with pytest.raises(ValueError, match="decay must be positive"):
        train.layerwise_rates(depths, 0.0)


ENCODER = models.TransformerConfig(20, depth=1, features=8, heads=2, max_length=6)
ENCODER_RULES = {"(query|value)/kernel$": 1, "(out|up)/kernel$": -1, ".*": 0}
CNN = models.CNNConfig(image=(8, 8, 1), n_out=3, channels=(4,), hidden=(8,), batch_norm=False)


def moved_a_little(x):
    return x + normal(3, x.shape, scale=0.1)


@pytest.fixture(scope="module")
def adapted_nets():
    """Losses of one example, parameters, adapters (with `B` away from 0) and a batch."""

    def of_ids(params, ids):
        return jnp.mean(jnp.sin(models.encoder(params, ENCODER, ids)))

    def of_image(params, x):
        return jnp.mean(jnp.sin(models.cnn(params, CNN, x, state=moments)[0]))

    encoder = jax.jit(lambda key: models.init_encoder(key, ENCODER))(jax.random.key(0))
    cnn, moments = jax.jit(lambda key: models.init_cnn(key, CNN))(jax.random.key(0))
    ids = integers(2, 20, (4, 6))
    images = normal(2, (4, 8, 8, 1))
    nets = {}
    for name, one, net, rules, data in (
        ("encoder", of_ids, encoder, ENCODER_RULES, ids),
        ("cnn", of_image, cnn, {"kernel$": -1, ".*": 0}, images),
    ):
        adapters = train.init_lora(jax.random.key(1), net, rules, rank=2, alpha=6)
        moved = jax.tree.map(moved_a_little, adapters)
        nets[name] = (one, net, adapters, moved, data)
    return nets


@pytest.mark.parametrize("name", ["encoder", "cnn"])
def test_adapters_start_at_the_base_and_are_what_merging_makes(adapted_nets, name):
    one, net, adapters, moved, data = adapted_nets[name]
    example = data[0]
    # B is 0: not nearly the base, but the base
    assert_trees_close(train.merge_lora(net, adapters), net, 0)
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(adapters))

    def merged(adapters, example):
        return one(train.merge_lora(net, adapters), example)

    value, grads = jax.jit(jax.value_and_grad(train.with_lora(one, net)))(moved, example)
    wanted, expected = jax.jit(jax.value_and_grad(merged))(moved, example)
    assert relative_error(value, wanted) < 1e-5
    assert_trees_close(grads, expected, 1e-4)
    assert abs(wanted - one(net, example)) > 1e-3
    assert jax.tree.structure(grads) == jax.tree.structure(adapters)


@pytest.mark.parametrize("name", ["encoder", "cnn"])
def test_the_engine_sees_adapters_as_outer_products(adapted_nets, name):
    one, net, _, moved, data = adapted_nets[name]
    rows = gradients.plan(train.with_lora(one, net), moved, data)
    assert len(rows) == len(jax.tree.leaves(moved))
    assert {row.way for row in rows} <= {"rank one", "gram", "direct"}
    # where they are added up first, it is not so: the test can fail
    by_sum = gradients.plan(lambda a, x: one(train.merge_lora(net, a), x), moved, data)
    assert "local" in {row.way for row in by_sum}


@pytest.mark.thorough
def test_norms_of_adapters_are_those_of_their_own_gradients(adapted_nets):
    one, net, _, moved, data = adapted_nets["encoder"]
    adapted = train.with_lora(one, net)

    @jax.jit
    def found_and_own(moved, data):
        _, factors = gradients.per_example_grad(adapted)(moved, data)
        own = jax.vmap(jax.grad(adapted), (None, 0))(moved, data)
        squares = sum(jnp.sum(g.reshape(4, -1) ** 2, -1) for g in jax.tree.leaves(own))
        return gradients.sq_norms(factors), squares

    assert relative_error(*found_and_own(moved, data)) < 1e-5


def test_no_gradient_of_a_kernel_is_computed_on_the_way_to_its_adapter():
    config = models.MLPConfig(64, 64, hidden=(64,))
    net = jax.jit(models.init_mlp)(jax.random.key(0), config)
    adapters = train.init_lora(jax.random.key(1), net, {"kernel$": -1, ".*": 0}, rank=1)
    x = jnp.ones((128, 64))

    def one(params, x):
        return jnp.sum(models.mlp(params, config, x) ** 2)

    adapted = flops(jax.grad(lambda a, p: train.with_lora(one, p)(a, x)), adapters, net)
    base = flops(jax.grad(one), net, x)
    assert adapted < 0.75 * base


def test_what_is_used_in_other_ways_is_added_up():
    """In loops, transposed, elementwise, with a rule for derivatives: right, if not thin."""
    w = jax.random.normal(jax.random.key(0), (4, 4))
    net = {"kernel": w}
    adapters = train.init_lora(jax.random.key(1), net, {".*": -1}, rank=2)
    adapters = jax.tree.map(lambda x: x + 0.3, adapters)

    def use(params, x):
        k = params["kernel"]
        turned = x @ k.T + jnp.einsum("ij,bi->bj", k, x) + jnp.sum(k * k)
        looped, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ k), None), x, length=2)
        return turned + looped + jax.jit(lambda k, x: x @ (2 * k))(k, x) + jax.nn.relu(k)

    x = jax.random.normal(jax.random.key(2), (4, 4))
    got = train.with_lora(use, net)(adapters, x)
    assert relative_error(got, use(train.merge_lora(net, adapters), x)) < 1e-5


def test_a_loss_with_adapters_takes_keywords():
    """Arrays and what is no array, as with frozen parameters."""
    net = {"kernel": jnp.ones((3, 3))}
    adapters = train.init_lora(jax.random.key(1), net, {".*": -1}, rank=1)
    adapters = jax.tree.map(lambda x: x + 0.3, adapters)

    def loss(params, x, shift=0.0, *, square=False):
        y = x @ params["kernel"] + shift
        return jnp.sum(y**2 if square else y)

    x, shift = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))
    adapted = train.with_lora(loss, net)
    got = jax.jit(lambda a, x, shift: adapted(a, x, shift=shift, square=True))(adapters, x, shift)
    want = loss(train.merge_lora(net, adapters), x, shift, square=True)
    assert relative_error(got, want) < 1e-6


def test_the_scale_of_adapters_is_known_when_traced(params):
    rules = {"kernel": -1, ".*": 0}
    adapters = train.init_lora(jax.random.key(0), params, rules, 2, jnp.float32(6))
    assert adapters["layers"][0]["kernel"].scale == 3.0
    with pytest.raises(ValueError, match=r"alpha must be a number that is known.*is traced"):
        jax.vmap(lambda a: train.init_lora(jax.random.key(0), params, rules, 2, a))(jnp.ones(2))
    with pytest.raises(ValueError, match=r"init_lora: alpha must be a scalar, got shape \(2,\)"):
        train.init_lora(jax.random.key(0), params, rules, 2, np.ones(2))


def test_adapters_that_do_not_fit_are_refused(params):
    init = partial(train.init_lora, jax.random.key(0), params)
    with pytest.raises(ValueError, match=r"only kernels have adapters.*'layers/0/bias'"):
        init({"bias": -1, ".*": 0}, 1)
    with pytest.raises(ValueError, match="rank 4 is above the smaller side of 'layers/2/kernel'"):
        init({"kernel": -1, ".*": 0}, 4)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        init({".*": 0}, 0)
    with pytest.raises(ValueError, match="choose no kernel"):
        init({".*": 0}, 1)
    with pytest.raises(ValueError, match="needs inputs and outputs"):
        init({"kernel": 2, ".*": 0}, 1)
    adapters = init({"layers/0/kernel": -1, ".*": 0}, 1)
    other = jax.jit(models.init_mlp)(jax.random.key(0), models.MLPConfig(5, 3, hidden=(32, 32)))
    with pytest.raises(ValueError, match=r"adapter of 'layers/0/kernel' is for a kernel \[6, 32\]"):
        train.merge_lora(other, adapters)


def test_the_probe_is_scikit_learns_logistic_regression():
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    solve = jax.jit(partial(train.linear_probe, n_classes=3, tol=1e-5))
    for c in (0.1, 10.0):
        probe = solve(x, y, inverse_l2=c)
        oracle = LogisticRegression(C=c, tol=1e-8, max_iter=1000).fit(x, y)
        np.testing.assert_allclose(probe.params["kernel"].T, oracle.coef_, atol=3e-3 * max(c, 1))
        ours = jax.nn.softmax(nn.dense(probe.params, x))
        np.testing.assert_allclose(ours, oracle.predict_proba(x), atol=1e-3)
        assert probe.gradient <= 1e-5
    with pytest.raises(ValueError, match="features must be"):
        train.linear_probe(x, y[:3], 3)
    with pytest.raises(ValueError, match="n_classes must be at least 2"):
        train.linear_probe(x, y, 1)


def test_the_probe_of_two_classes_is_scikit_learns_too():
    """Which has one column, and penalizes it, where ours are two."""
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression

    x, y = load_wine(return_X_y=True)
    x, y = x[y > 0], y[y > 0] - 1
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    solve = jax.jit(partial(train.linear_probe, n_classes=2, tol=1e-5))
    for c in (0.1, 1.0, 10.0):
        probe = solve(x, y, inverse_l2=c)
        oracle = LogisticRegression(C=c, tol=1e-8, max_iter=1000).fit(x, y)
        ours = jax.nn.softmax(nn.dense(probe.params, x))
        np.testing.assert_allclose(ours, oracle.predict_proba(x), atol=1e-3)
        w = np.diff(probe.params["kernel"], axis=1).T
        np.testing.assert_allclose(w, oracle.coef_, atol=3e-3 * max(c, 1))


def test_a_probe_without_an_optimum_is_refused_or_nan():
    x, y = jnp.array([[0.5], [-1.0], [2.0]]), jnp.array([0, 1, 1])
    for c in (0, -1.0, np.nan):
        with pytest.raises(ValueError, match="linear_probe: inverse_l2 must be positive, got"):
            train.linear_probe(x, y, 2, inverse_l2=c)
    with pytest.raises(ValueError, match="linear_probe: features must be finite"):
        train.linear_probe(x.at[0].set(jnp.nan), y, 2)
    with pytest.raises(TypeError, match="linear_probe: features must be of a real floating dtype"):
        train.linear_probe(jnp.ones((3, 1), jnp.int32), y, 2)
    solve = jax.jit(jax.vmap(lambda x, c: train.linear_probe(x, y, 2, inverse_l2=c)))
    # where only the run shows it, the result says so
    found = solve(jnp.stack([x, x, x, x * jnp.nan]), jnp.array([1.0, 0.0, -1.0, 1.0]))
    assert found.steps.tolist()[1:] == [0, 0, 0]
    for leaf in (found.gradient, *jax.tree.leaves(found.params)):
        assert np.isfinite(leaf[0]).all()
        assert np.isnan(leaf[1:]).all()
