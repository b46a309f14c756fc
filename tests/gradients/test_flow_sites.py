"""Which sites a flow has, what their units are, and that samples see all of a batch."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import gradients, nn, tree
from jaxnets.gradients.unit_rows import spread_out
from tests.numerics import normal

KEY = jax.random.key(0)
X = normal(0, (6, 5))
W = normal(1, (5, 4))


def flow_of(loss, **options):
    return jax.jit(gradients.flow(loss, **options))


def names(function):
    seen = jax.eval_shape(gradients.flow(lambda w, x: jnp.sum(function(x @ w))), W, X)
    return list(seen.sites)


@jax.jit
def gated(h):
    return jnp.tanh(h) * h**2


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (lambda h: jnp.maximum(h, 0), ["relu"]),
        (lambda h: jnp.maximum(0.0, h), ["relu"]),
        (lambda h: lax.max(h, 0.0), ["relu"]),
        (jax.nn.relu, ["relu"]),
        (jax.nn.sigmoid, ["sigmoid"]),
        (gated, ["tanh"]),
        (jax.nn.gelu, []),
        (jax.jit(jax.nn.gelu), []),
        (jax.nn.silu, []),
        (lambda h: h * jax.nn.sigmoid(h), []),
        (lambda h: h * jax.nn.sigmoid(1.702 * h), []),
        (lambda h: h * jax.nn.sigmoid(h + 1.0), ["sigmoid"]),
        (lambda h: jnp.flip(h) * jax.nn.sigmoid(1.702 * h), ["sigmoid"]),
        (jax.nn.mish, []),
        (jax.nn.log_sigmoid, []),
    ],
)
def test_nonlinearities_in_all_spellings(function, kinds):
    assert names(function) == ["", *(f" > {kind}" for kind in kinds)]


@pytest.mark.parametrize("norm", [eqx.nn.LayerNorm(4), eqx.nn.GroupNorm(2, 4)])
def test_norms_of_equinox_have_no_relu(norm):
    params, static = eqx.partition(norm, eqx.is_inexact_array)
    loss = lambda params, x: jnp.sum(eqx.combine(params, static)(x) ** 3)  # noqa: E731
    assert list(flow_of(loss)(params, X[:, :4]).sites) == ["weight", "bias"]


@pytest.mark.parametrize("norm", [linen.LayerNorm(), linen.GroupNorm(2), linen.BatchNorm(False)])
def test_norms_of_flax_have_no_relu(norm):
    variables = jax.jit(norm.init)(KEY, X[:, :4])
    others = {k: v for k, v in variables.items() if k != "params"}

    def loss(params, x):
        y, _ = norm.apply({"params": params, **others}, x, mutable=["batch_stats"])
        return jnp.mean(jnp.sum(jax.nn.relu(y) ** 3, -1))

    flow = flow_of(loss, batched=True)(variables["params"], X[:, :4])
    assert sorted(flow.sites) == ["bias", "bias > relu", "scale"]


def convolved(params, x):
    return lax.conv_general_dilated(
        x, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("batch", [64, 256])
def test_a_sample_sees_all_positions(batch):
    params = {"k": normal(0, (3, 3, 1, 8))}
    x = normal(2, (batch, 28, 28, 1))
    x = x * jnp.ones((28, 28)).at[:6].set(0).at[:, :6].set(0)[None, :, :, None]
    result = np.asarray(convolved(params, x))

    def loss(params, x):
        return jnp.mean(convolved(params, x) ** 2)

    site = flow_of(loss, batched=True)(params, x).sites["k"]
    assert site.activation.max == result.max()
    assert site.activation.min == result.min()
    np.testing.assert_allclose(site.activation.std, result.std(), rtol=0.15)
    assert site.differing > 0.3
    assert site.activation_rank > 2
    shares = np.asarray(site.activation.histogram)
    assert abs(shares[0] - np.mean(np.abs(result) < 10**-11.5)) < 0.1


def test_every_row_is_as_likely_to_be_seen():
    for n, count in ((784 * 64, 256), (512, 256), (300, 256), (7, 3)):
        at = spread_out(n, count)
        assert len(set(at)) == count
        assert at.min() >= 0
        assert at.max() < n
        assert np.abs(at - (np.arange(count) + 0.5) * n / count).max() <= n / count + 1
    assert len(set(spread_out(784 * 64, 256) % 784)) > 180


def test_histograms_are_of_all_units():
    x = jnp.ones((64, 512)).at[:, :8].set(0.0)
    flow = flow_of(lambda w, x: jnp.mean(x * w[None]), batched=True)(jnp.ones(512), x)
    assert flow.sites[""].activation.histogram[0] < 0.1
    assert flow.sites[""].dead == 0
    assert flow.sites[""].activation.histogram.sum() == 1


def test_units_of_a_convolution_without_a_batch_are_its_channels():
    model = eqx.nn.Conv2d(1, 4, 3, key=KEY)
    bias = jnp.array([-1e3, -1e3, -1e3, 1.0]).reshape(4, 1, 1)
    model = eqx.tree_at(lambda m: m.bias, model, bias)
    arrays, static = eqx.partition(model, eqx.is_array)

    def loss(arrays, x):
        return jnp.sum(jax.nn.relu(eqx.combine(arrays, static)(x)) ** 2)

    x = normal(0, (9, 1, 6, 6))
    for sites in (
        flow_of(loss)(arrays, x).sites,
        flow_of(
            lambda a, x: jnp.mean(jax.vmap(loss, (None, 0))(a, x)), batched=True
        )(arrays, x).sites,
    ):  # fmt: skip
        assert all(site.units == 4 for site in sites.values())
        assert all(site.dead == 0.75 for site in sites.values())


def test_a_recurrent_kernel_is_no_stack_though_as_long_as_the_sequence():
    params = {"h": 0.1 * normal(0, (6, 6))}

    def loss(params, xs):
        turn = lambda h, x: (jnp.tanh(h @ (params["h"] * 2.0) + x), None)  # noqa: E731
        return jnp.sum(lax.scan(turn, jnp.zeros(6), xs)[0])

    flow = flow_of(loss)(params, normal(1, (4, 6, 6)))
    (site,) = [s for s in flow.sites.values() if s.about.path == "h"]
    norm = jnp.linalg.norm(params["h"])
    np.testing.assert_allclose(site.weight_norm, np.full(6, norm), rtol=1e-6)
    told = gradients.with_updates(flow, params, jax.tree.map(lambda p: 0.1 * p, params))
    np.testing.assert_allclose(told.sites["h"].update_ratio, np.full(6, 0.1), rtol=1e-5)


def test_layers_outside_time_have_their_own_norms():
    stack = {"w": jnp.stack([jnp.eye(4), 10 * jnp.eye(4)])}

    def loss(stack, xs):
        def layer(xs, w):
            turn = lambda h, x: (jnp.tanh(h @ w + x),) * 2  # noqa: E731
            return lax.scan(turn, jnp.zeros(4), xs)[1], None

        return jnp.sum(lax.scan(layer, xs, stack["w"])[0])

    flow = flow_of(loss)(stack, normal(0, (5, 3, 4)))
    site = flow.sites["w"]
    np.testing.assert_allclose(site.weight_norm, [[2.0] * 3, [20.0] * 3])
    gradient = jax.grad(
        lambda s, x: jnp.mean(jax.vmap(loss, (None, 0))(s, x))
    )(stack, normal(0, (5, 3, 4)))  # fmt: skip
    want = np.linalg.norm(np.asarray(gradient["w"]).reshape(2, -1), axis=1)
    np.testing.assert_allclose(site.gradient_norm[:, 0], want, rtol=1e-5)


def test_a_tag_named_as_a_parameter_has_no_weights():
    def loss(params, x):
        return jnp.sum(gradients.tag("a", x @ params["a"]) ** 2)

    flow = flow_of(loss)({"a": W}, X)
    told = gradients.with_updates(flow, {"a": W}, {"a": 0.1 * W})
    assert np.isnan(told.sites["a#2"].update_ratio)
    np.testing.assert_allclose(told.sites["a"].update_ratio, 0.1, rtol=1e-6)


def test_large_and_small_values_neither_overflow_nor_vanish():
    for size in (5e37, 1e-25):
        x = jnp.broadcast_to(size * jnp.array([1.0, 2.0, 3.0]), (64, 3))
        flow = flow_of(lambda w, x: jnp.sum(w * x))(jnp.ones(3), x)
        site = flow.sites[""]
        np.testing.assert_allclose(site.activation.mean, 2 * size, rtol=1e-6)
        np.testing.assert_allclose(site.activation.std, size * (2 / 3) ** 0.5, rtol=1e-5)
    flow = flow_of(lambda w, x: 1e-25 * jnp.sum(w * x))(jnp.ones(5), X)
    np.testing.assert_allclose(flow.sites[""].error_norm, 1e-25 * 5**0.5, rtol=1e-5)


def test_a_loop_without_turns_shows_nothing():
    def loss(params, x):
        turn = lambda h, w: (jax.nn.relu(h @ w), None)  # noqa: E731
        return jnp.sum((lax.scan(turn, x, params["layers"])[0] @ params["out"]) ** 2)

    params = {"layers": jnp.zeros((0, 5, 5)), "out": W}
    look = jax.jit(gradients.value_and_grad_flow(loss, rank_rows=0))
    value, gradient, flow = look(params, X)
    np.testing.assert_allclose(value, jnp.mean(jnp.sum((X @ W) ** 2, 1)), rtol=1e-6)
    assert gradient["layers"].shape == (0, 5, 5)
    assert flow.sites["layers"].error_norm.shape == (0,)
    assert gradients.diagnose(flow) == []


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("bias_shape", [(4,), (1,), (5, 4)])
def test_extremes_behind_a_sum_are_those_of_its_own_results(batched, dtype, bias_shape):
    """Those of a bias and of a relu follow from the product's, unless the bias has rows."""
    kernel = normal(0, (3, 4), dtype)
    bias = normal(2, bias_shape, dtype)
    x = normal(3, (6, 5, 3), dtype)

    def result(params, x):
        y = x @ params["kernel"]
        return y + params["bias"].reshape((1,) * (y.ndim - bias.ndim) + bias.shape)

    def loss(params, x):
        y = jnp.square(jax.nn.relu(result(params, x))).astype(jnp.float32)
        return jnp.sum(y) / (len(x) if batched else 1)

    params = {"kernel": kernel, "bias": bias}
    # not compiled, since XLA leaves out roundings in bfloat16
    sites = gradients.flow(loss, batched=batched, rows=2)(params, x).sites
    expected = np.asarray(result(params, x), np.float64)
    for name, values in (("bias", expected), ("bias > relu", np.maximum(expected, 0))):
        spread = sites[name].activation
        assert (spread.min, spread.max) == (values.min(), values.max())
    dead = np.all(expected <= 0, (0, 1)).mean()
    assert sites["bias > relu"].dead == dead


def test_arrays_are_as_few_for_many_sites():
    def loss(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    few, many = ([W @ W.T] * depth for depth in (2, 9))
    flows = [flow_of(loss)(params, X) for params in (few, many)]
    assert len({len(jax.tree.leaves(flow)) for flow in flows}) == 1
    sites = flows[1].sites
    assert len(sites) == 18
    assert list(sites)[:2] == ["0", "0 > tanh"]
    assert "9" not in sites
    with pytest.raises(KeyError, match="nothing"):
        sites["nothing"]


def test_units_stay_channels_behind_pooling():
    net = eqx.nn.Sequential(
        [eqx.nn.Conv2d(1, 3, 4, key=KEY), eqx.nn.MaxPool2d(2, 2), eqx.nn.Lambda(jax.nn.relu)]
    )
    bias = jnp.array([-100.0, -100.0, 0.0]).reshape(3, 1, 1)
    params, static = eqx.partition(
        eqx.tree_at(lambda net: net[0].bias, net, bias), eqx.is_inexact_array
    )
    images = normal(0, (4, 1, 11, 11))
    loss = lambda params, x: jnp.sum(eqx.combine(params, static)(x) ** 2)  # noqa: E731
    relu = flow_of(loss)(params, images).sites["layers/0/bias > relu"]
    assert (relu.units, round(float(relu.dead), 6)) == (3, 0.666667)


def test_every_parameter_has_a_site_and_its_own_norms():
    cell = linen.OptimizedLSTMCell(4)
    carry = cell.initialize_carry(KEY, (5,))
    variables = jax.jit(cell.init)(KEY, carry, X[0])
    loss = lambda p, x: jnp.sum(cell.apply(p, carry, x)[1] ** 2)  # noqa: E731
    sites = flow_of(loss)(variables, X).sites
    leaves = tree.flatten_with_paths(variables)
    assert set(leaves) <= set(sites)
    gradient = jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, X)))(variables)
    for path, leaf in tree.flatten_with_paths(gradient).items():
        np.testing.assert_allclose(sites[path].gradient_norm, jnp.linalg.norm(leaf), rtol=2e-6)
        np.testing.assert_allclose(sites[path].weight_norm, jnp.linalg.norm(leaves[path]), 2e-6)


def test_a_relu_of_the_data_has_no_parameter_before_it():
    flow = flow_of(lambda w, x: jnp.sum(jax.nn.relu(x) @ w))(W, X)
    assert list(flow.sites) == ["relu", ""]


def test_a_nonlinearity_is_named_after_what_enters_it():
    def gated(p, x):
        gate, up = x @ p["gate"] + p["bias"], x @ p["up"]
        return jnp.sum((jax.nn.relu(gate) * jnp.tanh(up / 2)) @ p["down"])

    p = {"gate": jnp.eye(6), "bias": jnp.zeros(6), "up": jnp.eye(6), "down": jnp.eye(6)}
    sites = jax.eval_shape(gradients.flow(gated), p, normal(0, (8, 6))).sites
    assert {"bias > relu", "up > tanh"} < set(sites)


def test_a_batch_of_a_key_and_a_graph():
    key, edges = jax.random.key(3), jnp.array([[0, 1], [1, 2], [2, 0], [3, 1]])

    def loss(w, key, x, edges):
        h = jnp.tanh((x + 0.1 * jax.random.normal(key, x.shape)) @ w)
        return jnp.mean(jnp.square(h[edges[:, 0]] - h[edges[:, 1]]))

    with pytest.raises(ValueError, match="the first array of the batch is a scalar"):
        flow_of(loss, batched=True)(W, key, X, edges)
    sites = flow_of(loss, batched=True, examples=6)(W, key, X, edges).sites
    expected = jax.grad(loss)(W, key, X, edges)
    np.testing.assert_allclose(sites[""].gradient_norm, jnp.linalg.norm(expected), rtol=1e-6)


def test_errors_say_who_was_called_and_which_leaf():
    loss = lambda p, x: jnp.sum(x @ p["a"])  # noqa: E731
    with pytest.raises(TypeError, match=r"flow: params must be floating, got int32\[2\] at 'b/0'"):
        gradients.flow(loss)({"a": W, "b": [jnp.arange(2)]}, X)
    with pytest.raises(TypeError, match="flow: params must be arrays, got a PjitFunction at 'f'"):
        gradients.flow(loss)({"a": W, "f": jax.jit(jnp.tanh)}, X)
    with pytest.raises(ValueError, match="flow: loss must return a scalar for one example"):
        gradients.flow(lambda p, x: x @ p["a"])({"a": W}, X)
    with pytest.raises(ValueError, match="examples must be at least 1, and goes with batched"):
        gradients.flow(loss, examples=3)


def test_an_axis_of_the_loss_keeps_its_own_meaning():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w)) * lax.pmean(x[0], "examples")

    def of_each(function):
        return jax.jit(jax.vmap(lambda x: function(W, x[None]), axis_name="examples"))(X)

    value = of_each(lambda w, x: gradients.value_and_grad_flow(loss, rank_rows=0)(w, x)[0])
    np.testing.assert_allclose(value, of_each(lambda w, x: loss(w, x[0])), rtol=1e-6)


def test_convolutions_mapped_over_examples_are_layers():
    def one(params, x):
        y = jax.nn.relu(nn.conv(params, x))
        return jnp.sum(jnp.square(y - 1))

    params = nn.init_conv(KEY, (3, 3), 2, 4)
    params = {**params, "bias": jnp.arange(4.0) - 2}
    x = normal(3, (8, 5, 5, 2))
    each = flow_of(one, rows=None)(params, x)
    mean = lambda p, x: jnp.mean(jax.vmap(one, (None, 0))(p, x))  # noqa: E731
    together = flow_of(mean, batched=True, rows=None)(params, x)
    assert list(each.sites) == list(together.sites) == ["kernel", "bias", "bias > relu"]
    for name, site in together.sites.items():
        own = each.sites[name]
        assert site.about.kind == own.about.kind
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, replace(site, about=own.about), own)
    result = np.asarray(jax.vmap(lambda x: nn.conv(params, x))(x))
    spread = together.sites["bias"].activation
    assert (spread.min, spread.max) == (result.min(), result.max())
