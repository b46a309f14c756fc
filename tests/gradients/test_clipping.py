"""Clipping, in each of its forms, beside its definition by `vmap(grad)` in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients
from jaxnets.gradients import privacy
from tests.catalogue import thorough_beyond
from tests.numerics import normal

B = 7
KEY = jax.random.key(0)


def loss(params, x):
    hidden = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return jnp.sum((hidden @ params["b"]["kernel"]) ** 2)


def drawn(dtype=jnp.float32):
    params = {
        "a": {
            "kernel": normal(0, (4, 5), dtype),
            "bias": normal(1, (5,), dtype),
        },
        "b": {"kernel": normal(2, (5, 3), dtype)},
    }
    return params, 2 * normal(3, (B, 3, 4), dtype)


LEAVES = {"a/bias": "a/bias", "a/kernel": "a/kernel", "b/kernel": "b/kernel"}
LAYERS = {"a/bias": "a", "a/kernel": "a", "b/kernel": "b"}
ALL = dict.fromkeys(LEAVES, "")
KERNELS = {"a/bias": ".*", "a/kernel": "kernel$", "b/kernel": "kernel$"}
FORMS = {
    "flat": (ALL, {"": 2.0}, {"clip_norm": 2.0}),
    "by layer": (LAYERS, dict.fromkeys("ab", 2 / math.sqrt(2)), {"clip_norm": 2.0, "per": "layer"}),
    "by leaf": (
        LEAVES,
        dict.fromkeys(LEAVES, 2 / math.sqrt(3)),
        {"clip_norm": 2.0, "per": "leaf"},
    ),
    "by rule": (
        KERNELS,
        {"kernel$": 3.0, ".*": 0.5},
        {"clip_norm": {"kernel$": 3.0, ".*": 0.5}},
    ),
}


def definition(params, x, groups, bounds, normalize, mask):
    """`Σᵢ sᵢ gᵢ` by leaf, and the norms by group and over all."""
    each = jax.vmap(jax.grad(loss), (None, 0))(params, x)
    rows = {
        f"{layer}/{name}": np.asarray(g, np.float64).reshape(B, -1)
        for layer, leaves in each.items()
        for name, g in leaves.items()
    }
    squares = {
        name: sum(np.sum(rows[leaf] ** 2, 1) for leaf in rows if groups[leaf] == name)
        for name in bounds
    }
    norms = {name: np.sqrt(s) for name, s in squares.items()}

    def scale(c, n):
        return np.minimum(1, c / n) if normalize is None else c / (n + normalize)

    scales = {name: scale(bounds[name], n) for name, n in norms.items()}
    sums = {leaf: np.sum((mask * scales[groups[leaf]])[:, None] * g, 0) for leaf, g in rows.items()}
    return sums, norms, np.sqrt(sum(squares.values()))


@pytest.mark.parametrize(
    "form",
    thorough_beyond({"by rule"}, {name: (name,) for name in FORMS}, pytest.mark.exhaustive),
)
@pytest.mark.parametrize("normalize", [None, pytest.param(0.01, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    "microbatch_size", [3, *(pytest.param(n, marks=pytest.mark.thorough) for n in (None, 7))]
)
@pytest.mark.parametrize("masked", [False, True])
def test_as_defined(form, normalize, microbatch_size, masked, x64):
    groups, bounds, options = FORMS[form]
    params, x = drawn(jnp.float64)
    mask = np.arange(B) % 3 != 1 if masked else np.ones(B, bool)
    options = options | {"normalize": normalize, "microbatch_size": microbatch_size}
    want, norms, overall = definition(params, x, groups, bounds, normalize, mask)
    handed = {"mask": jnp.asarray(mask)} if masked else {}
    for function, count in ((gradients.clipped_sum, 1), (gradients.clipped_grad, mask.sum())):
        got, seen = jax.jit(function(loss, **options))(params, x, **handed)
        for layer, leaves in got.items():
            for name, g in leaves.items():
                np.testing.assert_allclose(
                    g.ravel(), want[f"{layer}/{name}"] / count, rtol=1e-10, atol=1e-12
                )
        np.testing.assert_allclose(seen.norms, mask * overall, rtol=1e-10)
        above = np.any([norms[name] > bounds[name] for name in bounds], axis=0)
        np.testing.assert_array_equal(seen.clipped, mask & above)
        assert np.sum(mask & above) > 0
        if len(bounds) == 1:
            assert seen.group_norms is None
        else:
            assert seen.group_norms.keys() == norms.keys()
            for name, n in norms.items():
                np.testing.assert_allclose(seen.group_norms[name], mask * n, rtol=1e-10)


@pytest.mark.parametrize("form", thorough_beyond({"by rule"}, {name: (name,) for name in FORMS}))
def test_no_example_adds_more_than_the_sensitivity(form):
    params, x = drawn()
    options = FORMS[form][2]
    longest = gradients.sensitivity(options["clip_norm"])
    clipped = jax.jit(gradients.clipped_sum(loss, **options))
    for i in range(B):
        total, _ = clipped(params, 10 * x[i : i + 1])
        norm = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(total)))
        assert norm <= float(longest) * (1 + 1e-5)
        assert norm >= 0.4 * float(longest)


def test_microbatches_take_keys_and_return_aux_in_order():
    def noisy(w, x, key):
        return jnp.sum(w * x + jax.random.normal(key, x.shape)) ** 2, x[0]

    x, keys = normal(0, (B, 3)), jax.random.split(KEY, B)
    results = [
        jax.jit(gradients.clipped_grad(noisy, 1.0, has_aux=True, microbatch_size=size))(
            jnp.ones(3), x, keys
        )
        for size in (None, 2)
    ]
    for got, want in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_array_equal(results[1][1].aux, x[:, 0])


def test_microbatches_take_less_memory():
    w, x = jnp.ones((64, 64)), jnp.ones((256, 16, 64))

    def deep(w, x):
        for _ in range(4):
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    def temporary(size):
        function = jax.jit(gradients.clipped_grad(deep, 1.0, microbatch_size=size))
        return function.lower(w, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) < temporary(None) / 8


def test_microbatches_in_half_precision_add_up_in_float32():
    x = jnp.full((4096, 1), 1 + 1 / 128, jnp.bfloat16)
    total, _ = gradients.clipped_sum(lambda w, x: jnp.sum(w * x), jnp.inf, microbatch_size=1)(
        jnp.ones(1, jnp.bfloat16), x
    )
    assert total.dtype == jnp.bfloat16
    np.testing.assert_allclose(total, 4096 * (1 + 1 / 128), rtol=4e-3)


def test_a_group_that_is_not_finite_drops_its_example_from_all_groups():
    params, x = drawn()

    def spoiled(params, x):
        return loss(params, x) + jnp.sum(params["a"]["bias"]) * x[0, 0]

    x = x.at[2, 0, 0].set(jnp.nan)
    clipped = jax.jit(gradients.clipped_sum(spoiled, 2.0, per="leaf"))
    got, seen = clipped(params, x)
    want, _ = clipped(params, jnp.delete(x, 2, 0))
    for g, h in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, h, rtol=1e-5, atol=1e-6)
    assert seen.clipped[2]


def test_a_gradient_of_zero_stays_zero_when_normalized():
    got, _ = gradients.clipped_grad(lambda w, x: jnp.sum(w * x), 1.0, normalize=0.0)(
        jnp.ones(2), jnp.array([[0.0, 0.0], [3.0, 4.0]])
    )
    np.testing.assert_allclose(got, [0.3, 0.4], rtol=1e-6)


def test_norms_by_rule():
    params, x = drawn()
    _, factors = gradients.per_example_grad(loss)(params, x)
    got = gradients.norms_by_rule(factors, {"kernel$": "kernels", "bias": None})
    by_leaf = gradients.sq_norms_by_leaf(factors)
    kernels = by_leaf["a"]["kernel"] + by_leaf["b"]["kernel"]
    assert set(got) == {"kernels", None}
    np.testing.assert_allclose(got["kernels"], jnp.sqrt(kernels), rtol=1e-6)
    np.testing.assert_allclose(got[None], jnp.sqrt(by_leaf["a"]["bias"]), rtol=1e-6)
    with pytest.raises(ValueError, match="no rule covers leaf 'a/bias'"):
        gradients.norms_by_rule(factors, {"kernel$": "kernels"})


def test_weights_of_each_parameter():
    params, x = drawn()
    _, factors = gradients.per_example_grad(loss)(params, x)
    weights = jax.tree.map(lambda p: jnp.arange(B) * float(p.size), params)
    got = gradients.weighted_sum(factors, weights)
    own = gradients.materialize(factors)
    want = jax.tree.map(lambda w, g: jnp.tensordot(w, g, 1), weights, own)
    for g, h in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, h, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match=r"weights must be \[7\], or a tree like the parameters"):
        gradients.weighted_sum(factors, {"a": jnp.ones(B)})


def test_adapted_clip_norm_finds_the_quantile():
    norms = np.random.default_rng(0).lognormal(0.5, 1, 4000)
    c = jnp.float32(50.0)
    for _ in range(200):
        c = gradients.adapted_clip_norm(c, np.mean(norms <= c), quantile=0.7)
    np.testing.assert_allclose(np.mean(norms <= c), 0.7, atol=0.02)


def test_noisy_share_is_unbiased_and_as_noisy_as_said():
    clipped = jnp.array([True, False, False, True, False, False])
    mask = jnp.array([True, True, True, True, True, False])
    seen = gradients.ClippedGradMetrics(jnp.zeros(6), jnp.zeros(6), clipped, None)
    share = jax.vmap(lambda key: privacy.noisy_share(seen, key, 2.0, 5, mask=mask))(
        jax.random.split(KEY, 20_000)
    )
    np.testing.assert_allclose(np.mean(share), 3 / 5, atol=4 * 0.4 / math.sqrt(20_000))
    np.testing.assert_allclose(np.std(share), 2 / 5, rtol=0.03)


def test_noise_beside_share_costs_as_much_as_the_noise_it_replaces():
    rest = privacy.noise_beside_share(1.1, 10.0)
    np.testing.assert_allclose(1 / rest**2 + 1 / 20.0**2, 1 / 1.1**2, rtol=1e-6)
    with pytest.raises(ValueError, match="count_noise must be positive"):
        privacy.noise_beside_share(2.0, -10.0)
    with pytest.raises(ValueError, match="count_noise must be above noise_multiplier / 2"):
        privacy.noise_beside_share(2.0, 1.0)


def test_noise_of_groups_is_that_of_their_sensitivity():
    def linear(params, x):
        return sum(jnp.sum(p) for p in params.values()) * x

    params = {name: jnp.zeros(3000) for name in "abcd"}
    x = jnp.ones(2)
    for bounds, per, longest in (
        (dict.fromkeys("abcd", 3.0), "all", 6.0),
        (3.0, "leaf", 3.0),
        (3.0, "all", 3.0),
    ):
        private = jax.jit(privacy.dp_grad(linear, bounds, 1e4, per=per, microbatch_size=1))
        got, _ = private(params, x, key=KEY)
        values = np.concatenate([np.ravel(g) for g in jax.tree.leaves(got)])
        np.testing.assert_allclose(np.std(values), 1e4 * longest / 2, rtol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": {"kernel$": 0.0}}, r"clip_norm\['kernel\$'\] must be positive, got 0"),
        ({"clip_norm": {".*": 1.0}, "per": "leaf"}, "per='leaf' needs one clip_norm, got rules"),
        ({"clip_norm": 1.0, "per": "kernel"}, "per must be 'all', 'layer' or 'leaf', got 'kernel'"),
        ({"clip_norm": 1.0, "normalize": -1.0}, "normalize must be at least 0 and finite, got -1"),
        ({"clip_norm": jnp.inf, "normalize": 0.1}, "clip_norm must be positive and finite"),
        ({"clip_norm": 1.0, "microbatch_size": 0}, "microbatch_size must be a positive integer"),
        ({"clip_norm": 1.0, "microbatch_size": "all"}, "integer or 'auto', got 'all'"),
        (
            {"clip_norm": 1.0, "microbatch_size": 2.0},
            "integer or 'auto', got 2.0",
        ),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        gradients.clipped_grad(loss, **options)


def test_bad_calls():
    params, x = drawn()
    with pytest.raises(ValueError, match="no rule covers leaf 'a/bias'"):
        gradients.clipped_grad(loss, {"kernel$": 1.0})(params, x)
    with pytest.raises(ValueError, match=r"clipped_grad: mask must be \[7\], got \(2,\)"):
        gradients.clipped_grad(loss, 1.0)(params, x, mask=jnp.ones(2, bool))
    with pytest.raises(TypeError, match="mask must be boolean"):
        gradients.clipped_grad(loss, 1.0)(params, x, mask=jnp.ones(B))
    with pytest.raises(ValueError, match="batch is empty"):
        gradients.clipped_grad(loss, 1.0)(params, x[:0], mask=jnp.ones(0, bool))
    with pytest.raises(ValueError, match="leading batch axis, got a scalar"):
        gradients.clipped_grad(loss, 1.0)(params, 3.0, mask=jnp.ones(2, bool))
    with pytest.raises(ValueError, match="batch is empty"):
        gradients.clipped_grad(loss, 1.0, microbatch_size=2)(params, x[:0])
