"""Flow: error signals against those derived by hand in NumPy, and nets of every library."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnets import gradients, models, nn
from tests.numerics import normal

KEY = jax.random.key(0)
B = 12


def flow_of(loss, **options):
    return jax.jit(gradients.flow(loss, **options))


def mlp_loss(params, x, y):
    h = gradients.tag("hidden", jnp.tanh(x @ params["a"] + params["b"]))
    return 0.5 * jnp.sum(jnp.square(h @ params["c"] - y))


def mean_of(loss):
    return lambda params, *batch: jnp.mean(
        jax.vmap(loss, (None, *(0 for _ in batch)))(params, *batch)
    )


MLP = {"a": normal(0, (5, 7)), "b": normal(1, (7,)), "c": normal(2, (7, 3))}
X, Y = normal(3, (B, 5)), normal(4, (B, 3))


def spread_equals(spread, values, tolerance):
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(
            getattr(spread, name), getattr(values, name)(), rtol=tolerance, atol=tolerance
        )


def effective_rank(rows):
    singular = np.linalg.svd(rows, compute_uv=False)
    return (singular**2).sum() ** 2 / (singular**4).sum()


@pytest.mark.parametrize("batched", [False, True])
def test_an_mlps_signals_are_those_by_hand(batched):
    loss = mean_of(mlp_loss) if batched else mlp_loss
    value, gradient, flow = jax.jit(gradients.value_and_grad_flow(loss, batched=batched))(MLP, X, Y)
    x, y, a, b, c = (np.asarray(v, np.float64) for v in (X, Y, *MLP.values()))
    z = x @ a + b
    h = np.tanh(z)
    at_c = h @ c - y
    at_h = at_c @ c.T
    at_z = at_h * (1 - h**2)
    assert list(flow.sites) == ["a", "b", "b > tanh", "hidden", "c"]
    wanted = {
        "a": (x @ a, at_z), "b": (z, at_z), "b > tanh": (h, at_h), "hidden": (h, at_h),
        "c": (h @ c, at_c),
    }  # fmt: skip
    for name, (activation, error) in wanted.items():
        site = flow.sites[name]
        spread_equals(site.activation, activation, 1e-6)
        spread_equals(site.error, error, 1e-6)
        norms = np.linalg.norm(error, axis=1)
        np.testing.assert_allclose(site.error_norm, norms.mean(), rtol=1e-6)
        np.testing.assert_allclose(site.error_norm_std, norms.std(), rtol=1e-5)
        assert site.units == activation.shape[1]
        if name in ("a", "hidden", "c"):  # products, and what is tagged
            ranks = effective_rank(activation), effective_rank(error)
            found = site.activation_rank, site.error_rank
            np.testing.assert_allclose(found, ranks, rtol=1e-5)
    spread_equals(flow.sites["c"].entering, h, 1e-6)
    by_a = x.T @ at_z / B
    site = flow.sites["a"]
    np.testing.assert_allclose(site.gradient_norm, np.linalg.norm(by_a), rtol=1e-6)
    np.testing.assert_allclose(site.weight_norm, np.linalg.norm(a), rtol=1e-6)
    np.testing.assert_allclose(
        site.gradient_ratio, np.linalg.norm(by_a) / np.linalg.norm(a), rtol=1e-6
    )
    np.testing.assert_allclose(value, 0.5 * np.square(at_c).sum(1).mean(), rtol=1e-6)
    wanted_gradient = jax.grad(mean_of(mlp_loss))(MLP, X, Y)
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(g, w, atol=1e-6), gradient, wanted_gradient
    )
    told = gradients.with_updates(flow, MLP, jax.tree.map(lambda p: -0.01 * p, MLP))
    np.testing.assert_allclose(told.sites["a"].update_ratio, 0.01, rtol=1e-5)


def rnn_loss(params, xs, y):
    def turn(h, x):
        return jnp.tanh(h @ params["h"] + x @ params["x"] + params["b"]), None

    h, _ = jax.lax.scan(turn, jnp.zeros(6), xs)
    return jnp.sum(h * y)


@pytest.mark.parametrize("batched", [False, True])
def test_a_recurrent_nets_signals_through_time(batched):
    turns = 9
    params = {"h": 0.4 * normal(5, (6, 6)), "x": normal(6, (3, 6)), "b": normal(7, (6,))}
    xs, y = normal(8, (B, turns, 3)), normal(9, (B, 6))
    loss = mean_of(rnn_loss) if batched else rnn_loss
    flow = flow_of(loss, batched=batched)(params, xs, y)
    w, u, b = (np.asarray(params[name], np.float64) for name in ("h", "x", "b"))
    hs = [np.zeros((B, 6))]
    for t in range(turns):
        hs.append(np.tanh(hs[-1] @ w + np.asarray(xs[:, t], np.float64) @ u + b))
    at_h, signals = np.asarray(y, np.float64), [np.zeros(0)] * turns
    for t in reversed(range(turns)):
        signals[t] = at_h * (1 - hs[t + 1] ** 2)
        at_h = signals[t] @ w.T
    site, after = flow.sites["b"], flow.sites["b > tanh"]
    for t in range(turns):
        spread_equals(jax.tree.map(lambda v, t=t: v[t], site.error), signals[t], 1e-5)
        spread_equals(jax.tree.map(lambda v, t=t: v[t], after.activation), hs[t + 1], 1e-5)
    norms = [np.linalg.norm(s, axis=1).mean() for s in signals]
    np.testing.assert_allclose(site.error_norm, norms, rtol=1e-5)


def test_layers_in_a_scan_are_layers_one_after_the_other():
    stack = 0.6 * normal(10, (3, 5, 5))

    def unrolled(layers, x):
        for w in layers:
            x = jax.nn.relu(x @ w)
        return jnp.sum(jnp.square(x))

    def scanned(stack, x):
        block = jax.checkpoint(lambda x, w: (jax.nn.relu(x @ w), None))
        return jnp.sum(jnp.square(jax.lax.scan(block, x, stack["w"])[0]))

    one = flow_of(unrolled)(list(stack), X).sites
    other = flow_of(scanned)({"w": stack}, X).sites
    assert list(other) == ["w", "w > relu"]
    for i in range(3):
        for mine, theirs in ((f"{i}", "w"), (f"{i} > relu", "w > relu")):
            pairs = zip(jax.tree.leaves(one[mine]), jax.tree.leaves(other[theirs]), strict=True)
            for a, b in pairs:
                np.testing.assert_allclose(a, b[i], rtol=1e-5, atol=1e-5)


def test_dead_saturated_and_alike_units_are_counted():
    def loss(params, x):
        h = jax.nn.relu(x @ params["dead"] + params["bias"])
        h = jnp.tanh(jnp.sum(h) + 1 + params["flat"])
        return jnp.sum(h * params["same"])

    params = {
        "dead": normal(11, (5, 4)), "bias": jnp.array([-1e3, -1e3, -1e3, 1.0]),
        "flat": jnp.array([50.0, 50.0, -1.0, -1.0]) * 1.0, "same": jnp.ones(4),
    }  # fmt: skip
    sites = flow_of(loss)(params, 0.1 * X).sites
    assert sites["bias > relu"].dead == 0.75
    assert sites["bias"].dead == 0.75
    assert sites["flat > tanh"].saturated >= 0.5
    look = flow_of(mlp_loss)
    same = look(jax.tree.map(lambda p: jnp.full_like(p, 0.1), MLP), X, Y)
    assert same.sites["a"].differing < 1e-10
    assert look(MLP, X, Y).sites["a"].differing > 0.1


def test_every_bin_of_a_histogram_is_numpys():
    """Of magnitudes; what is beyond the edges is in the outer bins."""
    rng = np.random.default_rng(12)
    # few enough that all are counted, and some in every bin
    values, errors = (
        rng.choice([-1, 1], (B, 20)) * 10 ** rng.uniform(-13.0, 5.0, (B, 20)) for _ in range(2)
    )

    def loss(params, x, weights):
        return jnp.sum(params["scale"] * x * weights)

    site = flow_of(loss)({"scale": jnp.ones(20)}, values, errors).sites["scale"]
    edges = gradients.histogram_edges()
    np.testing.assert_allclose(edges, np.logspace(-12, 4, 33))
    for spread, drawn in ((site.activation, values), (site.error, errors)):
        counts, _ = np.histogram(np.clip(np.abs(drawn), edges[0], edges[-1]), edges)
        assert counts.min() > 0
        np.testing.assert_allclose(spread.histogram, counts / drawn.size, rtol=1e-6)


SLOW = np.arctanh(np.sqrt(1 - np.array([0.09, 0.11, 0.02, 0.17, 0.01, 0.5, 1.0])))
"""Where the slope of tanh is so much."""


@pytest.mark.parametrize(
    ("function", "stretch"), [(jnp.tanh, 1), (jax.nn.sigmoid, 2), (jax.nn.relu, 1)]
)
def test_the_share_of_saturated_units(function, stretch):
    """Those whose slope, in the mean over the examples, is below a tenth of the largest."""
    # two units pass at every example, two fall short; of those whose examples differ, the mean of
    # the slopes is 0.095, where most are steeper, and 0.255, where most are flat
    x = np.repeat(SLOW[None], B, 0)
    x[: B // 2, 3], x[B // 2 :, 3] = SLOW[2], SLOW[3]
    x[: 3 * B // 4, 4], x[3 * B // 4 :, 4] = SLOW[4], SLOW[6]
    x[1::2] *= -1
    slopes = np.mean(1 - np.tanh(x) ** 2, 0)
    np.testing.assert_allclose(slopes, [0.09, 0.11, 0.02, 0.095, 0.2575, 0.5, 1], rtol=1e-6)

    def loss(params, x):
        return jnp.sum(function(params["w"] * x))

    sites = flow_of(loss)({"w": jnp.full(7, float(stretch))}, x).sites
    (name,) = (name for name in sites if " > " in name)
    # of a sigmoid at 2x the slope is that of tanh at x, as a share of the largest
    wanted = np.nan if function is jax.nn.relu else 3 / 7
    np.testing.assert_allclose(sites[name].saturated, wanted, rtol=1e-6)


def test_batch_norm_in_training():
    params, state = nn.init_batch_norm(5)

    def batched(params, x):
        y, _ = nn.batch_norm(params, state, x, train=True)
        return jnp.mean(jnp.sum(y**3, -1))

    with pytest.raises(ValueError, match="batch_norm"):
        gradients.flow(lambda p, x: batched(p, x[None]))(params, X)
    flow = flow_of(batched, batched=True)(params, X)
    np.testing.assert_allclose(flow.sites["scale"].activation.std, 1, atol=1e-2)


def cross_entropy(logits, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


def test_models_of_other_libraries():
    y = jnp.arange(B) % 3

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(5, 8, rngs=rngs)
            self.outer = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.outer(nnx.relu(self.inner(x)))

    model = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(3)])
    params = jax.jit(model.init)(KEY, X)
    graph, state = nnx.split(Net(nnx.Rngs(0)))
    net = eqx.nn.MLP(5, 3, 8, 1, key=KEY)
    arrays, static = eqx.partition(net, eqx.is_array)
    libraries = [
        (lambda p, x, y: cross_entropy(model.apply(p, x), y), params),
        (lambda s, x, y: cross_entropy(nnx.merge(graph, s)(x), y), state),
        (lambda a, x, y: cross_entropy(jax.vmap(eqx.combine(a, static))(x), y), arrays),
    ]
    for loss, params in libraries:
        both = gradients.value_and_grad_flow(loss, batched=True), jax.value_and_grad(loss)
        (value, gradient, flow), (wanted, slope) = jax.jit(
            lambda *args, both=both: [of(*args) for of in both]
        )(params, X, y)
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=1e-6), gradient, slope)
        assert len([name for name in flow.sites if "relu" in name]) == 1
        assert len(flow.sites) == 5
        assert all(int(site.units) in (3, 8) for site in flow.sites.values())


def test_passes_through_cond_and_scan():
    step = gradients.flow(mlp_loss)
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(step, MLP, X, Y))

    def turn(params, number):
        seen = jax.lax.cond(number % 2 == 0, lambda: step(params, X, Y), lambda: nothing)
        return params, seen

    _, history = jax.jit(lambda p: jax.lax.scan(turn, p, jnp.arange(4)))(MLP)
    assert list(history.sites) == ["a", "b", "b > tanh", "hidden", "c"]
    assert history.sites["a"].error.std.shape == (4,)
    assert history.loss[1] == 0 < history.loss[0] == history.loss[2]


def test_bad_input():
    with pytest.raises(ValueError, match="batched=True loss must return a scalar"):
        gradients.flow(lambda p, x: x @ p["a"], batched=True)(MLP, X)
    with pytest.raises(TypeError, match="real and floating, got int32"):
        gradients.flow(lambda p, x: jnp.sum(x @ p["a"]).astype(int), batched=True)(MLP, X)
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        gradients.flow(mlp_loss, rows=0)
    seen = jax.eval_shape(gradients.flow(mlp_loss), MLP, X, Y)
    with pytest.raises(ValueError, match="its update is"):
        gradients.with_updates(seen, MLP, {"a": jnp.ones(3)})


@pytest.mark.thorough
def test_models_here():
    ids = jnp.arange(24).reshape(3, 8) % 11
    config = models.TransformerConfig(vocabulary=11, depth=2, features=8, heads=2, max_length=8)
    params = jax.jit(models.init_transformer)(KEY, config)

    def loss(params, ids):
        return jnp.mean(jnp.square(models.transformer(params, config, ids)))

    flow = flow_of(loss, batched=True)(params, ids)
    for site in flow.sites.values():
        assert np.isfinite(site.error.std).all()
        assert np.isfinite(site.error_norm).all()
    named = {name.split("#")[0].split(" > ")[0] for name in flow.sites}
    from jaxnets import tree

    assert named == set(tree.flatten_with_paths(params))
