"""Everything that factors give, beside its definition by `vmap(grad)`, over the zoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, nn
from tests.catalogue import LAYERS, MODELS, initial, thorough_beyond
from tests.gradients.zoo import CASES, drawn
from tests.numerics import integers, normal

B = 5


def flat(tree, axes=1):
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([x.reshape(*x.shape[:axes], -1) for x in leaves], axes)


def everything(loss, params, batch):
    """What is asked of factors."""
    losses, factors = gradients.per_example_grad(loss)(params, batch)
    some = jax.tree.map(lambda x: x[:2], batch)
    _, others = gradients.per_example_grad(loss)(params, some)
    weights = jnp.arange(1.0, len(losses) + 1)
    tangent = jax.tree.map(jnp.cos, params)
    return {
        "losses": losses,
        "gradients": flat(gradients.materialize(factors)),
        "squares": gradients.sq_norms(factors),
        "squares by leaf": jnp.stack(jax.tree.leaves(gradients.sq_norms_by_leaf(factors)), 1),
        "norms": gradients.norms(factors),
        "weighted sum": flat(gradients.weighted_sum(factors, weights), 0),
        "dot": gradients.dot(factors, tangent),
        "gram": gradients.gram(factors),
        "gram with others": gradients.gram(factors, others),
        "second moment": flat(gradients.second_moment(factors), 0),
    }


def by_definition(loss, params, batch):
    losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, batch)
    g = flat(grads)
    by_leaf = [jnp.sum(x.reshape(len(x), -1) ** 2, 1) for x in jax.tree.leaves(grads)]
    return {
        "losses": losses,
        "gradients": g,
        "squares": jnp.sum(g**2, 1),
        "squares by leaf": jnp.stack(by_leaf, 1),
        "norms": jnp.sqrt(jnp.sum(g**2, 1)),
        "weighted sum": jnp.arange(1.0, len(g) + 1) @ g,
        "dot": g @ flat(jax.tree.map(jnp.cos, params), 0),
        "gram": g @ g.T,
        "gram with others": g @ g[:2].T,
        "second moment": jnp.mean(g**2, 0),
    }


def assert_as_defined(loss, params, batch, rtol):
    got, want = (
        jax.jit(f, static_argnums=0)(loss, params, batch) for f in (everything, by_definition)
    )
    for name in want:
        scale = np.max(np.abs(want[name]), initial=1e-30)
        np.testing.assert_allclose(
            got[name], want[name], rtol=rtol, atol=rtol * scale, err_msg=name
        )


FEW = {
    "wide",
    "tied to the embedding",
    "in loops within loops",
    "conv, grouped",
    "sliced",
}
zoo = pytest.mark.parametrize("case", thorough_beyond(FEW, {case.name: (case,) for case in CASES}))


@zoo
def test_float64(case, x64):
    params, batch = drawn(case, B, jnp.float64)
    assert_as_defined(case.loss, params, batch, 1e-10)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case",
    thorough_beyond(FEW, {case.name: (case,) for case in CASES}, pytest.mark.exhaustive),
)
def test_float32(case):
    params, batch = drawn(case, B)
    assert_as_defined(case.loss, params, batch, 1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.way], ids=lambda case: case.name)
def test_ways(case):
    params, batch = drawn(case, B)
    first = next(iter(case.params))
    ways = {row.path: row.way for row in gradients.plan(case.loss, params, batch)}
    assert ways[first] == case.way


def of_layer(case):
    def loss(params, x):
        return jnp.sum(jnp.tanh(case.apply(params, x)) ** 2)

    return loss


LAYERS_AND_MODELS = [case for case in (*LAYERS, *MODELS) if not case.mixes_examples]


def batch_of(case, dtype):
    shape = (B, *case.shape)
    return integers(1, case.ids, shape) if case.ids else normal(1, shape, dtype)


def each_layer_and_model(quick=()):
    def mark(case):
        if case.heavy:
            return [pytest.mark.exhaustive]
        return [] if case.name in quick else [pytest.mark.thorough]

    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.name, marks=mark(case)) for case in LAYERS_AND_MODELS]
    )


@each_layer_and_model()
def test_layers_and_models(case, x64):
    params = jax.tree.map(lambda x: x.astype(jnp.float64), initial(case))
    if not jax.tree.leaves(params):
        pytest.skip("has no parameters")
    assert_as_defined(of_layer(case), params, batch_of(case, jnp.float64), 1e-10)


@each_layer_and_model(quick={case.name for case in MODELS})
def test_no_layer_falls_back(case):
    params = jax.eval_shape(case.init, jax.random.key(0))
    if not jax.tree.leaves(params):
        pytest.skip("has no parameters")
    for row in gradients.plan(of_layer(case), params, batch_of(case, jnp.float32)):
        assert row.fallback in ("", "is cheaper than the products"), row


def test_factors_cross_jit_vmap_and_scan():
    params, batch = drawn(CASES[2], B)
    loss = CASES[2].loss
    want = gradients.sq_norms(gradients.per_example_grad(loss)(params, batch)[1])
    handed = jax.jit(lambda p, b: gradients.per_example_grad(loss)(p, b)[1])(params, batch)
    np.testing.assert_allclose(jax.jit(gradients.sq_norms)(handed), want, rtol=1e-5)

    stacked = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    several = jax.vmap(lambda p: gradients.per_example_grad(loss)(p, batch)[1])(stacked)
    got = jax.vmap(gradients.sq_norms)(several)
    np.testing.assert_allclose(got, jnp.stack([want, want]), rtol=1e-5)

    def step(factors, _):
        return gradients.per_example_grad(loss)(params, batch)[1], gradients.sq_norms(factors)

    _, got = jax.lax.scan(step, handed, length=2)
    np.testing.assert_allclose(got, jnp.stack([want, want]), rtol=1e-5)


def test_gram_of_losses_that_see_a_matrix_from_two_sides():
    w, x = jnp.arange(9.0).reshape(3, 3) / 9, jnp.arange(6.0).reshape(2, 3)
    both = [
        gradients.per_example_grad(loss)(w, x)[1]
        for loss in (lambda w, x: jnp.sum(jnp.tanh(x @ w)), lambda w, x: jnp.sum(jnp.tanh(w @ x)))
    ]
    rows, columns = (gradients.materialize(f).reshape(2, -1) for f in both)
    np.testing.assert_allclose(gradients.gram(*both), rows @ columns.T, rtol=1e-5)


def test_nothing_has_the_size_of_batch_times_parameters():
    """Of a wide layer: neither what crosses `jit`, nor any temporary of a clipped gradient."""
    params, batch = jnp.ones((300, 200)), jnp.ones((64, 300))

    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    _, factors = jax.eval_shape(gradients.per_example_grad(loss), params, batch)
    assert max(x.size for x in jax.tree.leaves(factors)) <= params.size
    clipped = jax.jit(gradients.clipped_grad(loss, 1.0)).lower(params, batch).compile()
    assert clipped.memory_analysis().temp_size_in_bytes < 64 * params.size


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name",
    thorough_beyond(
        {"vector", "wide"},
        {name: (name,) for name in ("vector", "wide", "long sequence", "conv", "bias and scale")},
    ),
)
def test_a_bad_example_leaves_the_others_exact(name, bad):
    (case,) = (case for case in CASES if case.name == name)
    params, batch = drawn(case, B)
    loss = lambda p, x: case.loss(p, x) + jnp.sum(x) * sum(map(jnp.sum, p.values()))  # noqa: E731
    spoiled = batch.at[2].set(bad)
    got, metrics = jax.jit(gradients.clipped_grad(loss, 0.1))(params, spoiled)
    kept = jnp.delete(batch, 2, axis=0, assume_unique_indices=True)
    want, _ = gradients.clipped_grad(loss, 0.1)(params, kept)
    for g, h in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g * B, h * (B - 1), rtol=1e-5, atol=1e-6)
    assert metrics.clipped[2]


def of_no_layers(params, x):
    """A stack of layers that has none, before the last."""
    x = jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, params["stack"])[0]
    return jnp.sum(jnp.sin(x @ params["last"]))


def of_no_positions(params, x):
    """A recurrent net over a sequence of no elements, before the last."""
    turn = lambda h, t: (jnp.tanh(h @ params["turn"] + t), None)  # noqa: E731
    return jnp.sum(jnp.sin(jax.lax.scan(turn, x, x[None][:0])[0] @ params["last"]))


@pytest.mark.parametrize("loss", [of_no_layers, of_no_positions])
def test_scans_of_no_turns(loss):
    params = {"stack": jnp.ones((0, 3, 3)), "turn": jnp.ones((3, 3)), "last": jnp.eye(3)}
    x = normal(0, (B, 3))
    _, factors = gradients.per_example_grad(loss)(params, x)
    own = jax.vmap(jax.grad(loss), (None, 0))(params, x)
    want = jax.vmap(lambda g: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(g)))(own)
    np.testing.assert_allclose(gradients.sq_norms(factors), want, rtol=1e-6)
    np.testing.assert_allclose(gradients.per_example_norms(loss)(params, x) ** 2, want, rtol=1e-5)
    total = gradients.weighted_sum(factors, jnp.ones(B))
    assert jax.tree.map(jnp.shape, total) == jax.tree.map(jnp.shape, params)
    np.testing.assert_allclose(total["last"], own["last"].sum(0), rtol=1e-5)
    clipped, _ = gradients.clipped_grad(loss, 0.1)(params, x)
    assert np.isfinite(clipped["last"]).all()
    blocks = gradients.kfac_factors(factors)
    step = gradients.natural_gradient(gradients.inverses(blocks, 0.1), total)
    assert all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(step))
    assert not np.any(step["turn"])


def test_bfloat16_is_accumulated_in_float32():
    w, x = jnp.ones((64, 64), jnp.bfloat16), jnp.ones((2, 64), jnp.bfloat16)
    _, factors = gradients.per_example_grad(lambda w, x: jnp.sum(x @ w))(w, x)
    norms = gradients.sq_norms(factors)
    assert norms.dtype == jnp.float32
    np.testing.assert_array_equal(norms, 4096.0)


def test_batch_norm_in_training_is_refused():
    params, state = nn.init_batch_norm(3)

    def loss(params, x, train=True):
        return jnp.sum(nn.batch_norm(params, state, x, train=train)[0] ** 2)

    x = jnp.ones((4, 2, 3))
    with pytest.raises(ValueError, match="batch_norm in training mixes the examples"):
        gradients.per_example_grad(loss)(params, x)
    in_scan = lambda p, x: jax.lax.scan(lambda c, x: (c + loss(p, x), None), 0.0, x)[0]  # noqa: E731
    with pytest.raises(ValueError, match="batch_norm in training mixes the examples"):
        gradients.per_example_grad(in_scan)(params, x[:, None])
    gradients.per_example_grad(lambda p, x: loss(p, x, train=False))(params, x)


def test_differentiating_through_factors():
    """Second derivatives: the gradient of a squared norm, by the parameters."""
    (case,) = (case for case in CASES if case.name == "vector")
    params, batch = drawn(case, B)

    def penalty(params):
        return jnp.sum(gradients.sq_norms(gradients.per_example_grad(case.loss)(params, batch)[1]))

    def by_definition(params):
        grads = jax.vmap(jax.grad(case.loss), (None, 0))(params, batch)
        return jnp.sum(grads["w"] ** 2)

    got, want = jax.grad(penalty)(params)["w"], jax.grad(by_definition)(params)["w"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_explain():
    def loss(params, x):
        y = jnp.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"])
        return jnp.sum(y * jnp.cumsum(params["odd"]) ** 2)

    params = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, "odd": jnp.ones(3)}
    table = gradients.explain(loss, params, jnp.ones((5, 4)))
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert "rank one" in lines["dense/kernel"]
    assert "dot_general" in lines["dense/kernel"]
    assert " sum " in lines["dense/bias"]
    assert set(lines) == {"parameter", "dense/kernel", "dense/bias", "odd"}


@pytest.mark.parametrize("offset", [0, 10, 1000])
def test_norms_by_products_are_not_too_small_where_these_cancel(offset, optimized):
    """Inputs far from 0 and error signals that sum to nearly 0."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((4, 64, 100)) + offset).astype(np.float32)
    signal = rng.standard_normal((4, 64, 120)).astype(np.float32)
    signal -= signal.mean(1, keepdims=True)

    def loss(w, x, signal):
        return jnp.sum((x @ w) * signal)

    w = jnp.zeros((100, 120))
    (row,) = gradients.plan(loss, w, x, signal)
    assert row.way == "gram"
    got = gradients.sq_norms(gradients.per_example_grad(loss)(w, x, signal)[1])
    exact = np.einsum("btd,btk->bdk", x.astype(np.float64), signal.astype(np.float64))
    want = np.sum(exact**2, (1, 2))
    assert np.all(got >= (1 - 2e-5) * want)
    if offset <= 10:
        np.testing.assert_allclose(got, want, rtol={0: 1e-5, 10: 1e-2}[offset])


LINEAR = [
    "wide",
    "sliced",
    "stacked layers, one by one",
    "conv, one axis",
    "embedding",
    "in stacked layers over a sequence",
]


@pytest.mark.parametrize("name", thorough_beyond({"wide"}, {name: (name,) for name in LINEAR}))
def test_sums_over_a_batch_in_bfloat16_are_not_rounded_on_the_way(name, optimized):
    (case,) = (case for case in CASES if case.name == name)
    params, batch = drawn(case, B)
    many = jnp.concatenate([batch] * 200)

    def half(params, x):
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        return case.loss(params, x if case.ids else x.astype(jnp.bfloat16)).astype(jnp.float32)

    _, factors = gradients.per_example_grad(half)(params, many)
    weights = jnp.linspace(0.5, 1.0, len(many))
    got = gradients.weighted_sum(factors, weights)
    own = gradients.materialize(factors)
    for g, h in zip(jax.tree.leaves(got), jax.tree.leaves(own), strict=True):
        want = jnp.tensordot(weights, h, 1)
        np.testing.assert_allclose(g, want, rtol=4e-3, atol=2e-3 * jnp.max(jnp.abs(want)))


@pytest.mark.parametrize(
    ("dtype", "height"),
    thorough_beyond(
        {"uint8, 256", "int8, 300"},
        {
            f"{dtype}, {height}": (dtype, height)
            for dtype in ("uint8", "int8", "uint16", "int32")
            for height in (100, 256, 300)
        },
    ),
)
def test_rows_numbered_in_bytes(dtype, height):
    """The number of rows may not fit in their dtype."""
    table = jnp.linspace(-1, 1, height * 4).reshape(height, 4)
    ids = jnp.array([[0, 7, 7], [99, 3, 50]], dtype)

    def loss(w, i):
        return jnp.sum(jnp.sin(jnp.arange(12.0).reshape(3, 4) + jnp.take(w, i, 0)))

    each = jax.vmap(jax.grad(loss), (None, 0))(table, ids)
    want = jnp.linalg.norm(each.reshape(2, -1), axis=1)
    np.testing.assert_allclose(gradients.per_example_norms(loss)(table, ids), want, rtol=1e-5)
    half, _ = gradients.clipped_sum(loss, jnp.inf)(table.astype(jnp.bfloat16), ids)
    np.testing.assert_allclose(half.astype(jnp.float32), jnp.sum(each, 0), rtol=0.02, atol=0.02)


def assert_norms_as_defined(loss, w, x):
    each = jax.vmap(jax.grad(loss), (None, 0))(w, x)
    want = jnp.linalg.norm(each.reshape(len(x), -1), axis=1)
    got = gradients.per_example_norms(loss)(w, x)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


LENGTHS = thorough_beyond({"2"}, {str(n): (n,) for n in (1, 2, 40)})


@pytest.mark.parametrize("length", LENGTHS)
def test_operands_of_integers(length):
    x = jnp.arange(5 * length * 30).reshape(5, length, 30).astype(jnp.int8)
    matrix = (((1,), (0,)), ((), ()))

    def loss(w, x):
        y = jax.lax.dot_general(x, w, matrix, preferred_element_type=jnp.float32)
        return jnp.sum(jnp.sin(y / 1000))

    assert_norms_as_defined(loss, jnp.linspace(-1, 1, 30 * 40).reshape(30, 40), x)


@pytest.mark.parametrize("length", LENGTHS)
def test_real_parameters_among_complex_numbers(length):
    x = normal(0, (3, length, 20, 2)) @ jnp.array([1, 1j])
    w = normal(1, (20, 30))

    def loss(w, x):
        return jnp.sum(jnp.abs(x @ w.astype(jnp.complex64)) ** 2)

    assert_norms_as_defined(loss, w, x)


def reversing(k):
    @jax.custom_vjp
    def product(w, x):
        return x @ w

    def backward(kept, g):
        w, x = kept
        return -k * jnp.outer(x, g), g @ w.T

    product.defvjp(lambda w, x: (x @ w, (w, x)), backward)
    return lambda w, x: jnp.sum(jnp.tanh(product(w, x)))


def masked(k):
    mask = k * np.ones((1, 2), np.float32)
    return lambda w, x: jnp.sum(jax.jit(lambda w, x: (x @ (w * mask)) ** 2)(w, x))


@pytest.mark.parametrize("make", [reversing, masked])
def test_compiled_functions_of_factors_tell_losses_of_one_text_apart(make):
    """Rules for derivatives, and constants of inner programs, are not in it."""
    norms = jax.jit(gradients.norms)
    w, x = jnp.ones((3, 2)), jnp.arange(1.0, 7).reshape(2, 3) / 6
    for k in (1.0, 5.0):
        each = jax.vmap(jax.grad(make(k)), (None, 0))(w, x)
        _, factors = gradients.per_example_grad(make(k))(w, x)
        want = jnp.linalg.norm(each.reshape(2, -1), axis=1)
        np.testing.assert_allclose(norms(factors), want, rtol=1e-5)


def test_a_rule_of_its_own_around_nothing_is_no_product():
    @jax.custom_vjp
    def scaled(x, scale):
        return x

    scaled.defvjp(lambda x, scale: (x, (x, scale)), lambda kept, e: (e * kept[1], jnp.sum(e)))

    def loss(w, x):
        return jnp.sum(scaled(x, w["scale"]) * w["a"])

    w, x = {"a": normal(0, (3,)), "scale": jnp.asarray(2.0)}, normal(1, (B, 3))
    want = jax.vmap(jax.grad(loss), (None, 0))(w, x)
    norms = gradients.per_example_norms(loss)(w, x)
    np.testing.assert_allclose(norms, jnp.linalg.norm(flat(want), axis=1), rtol=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_by_platform_is_that_of_its_own_operands(swapped):
    @jax.custom_jvp
    def product(x, kernel):
        a, b = (kernel, x) if swapped else (x, kernel)
        return jax.lax.platform_dependent(a, b, cpu=jnp.matmul, default=jnp.matmul)

    product.defjvp(
        lambda primals, tangents: (
            product(*primals),
            product(tangents[0], primals[1]) + product(primals[0], tangents[1]),
        )
    )

    def loss(w, x):
        return jnp.sum(jnp.tanh(product(x, w)))

    w, x = normal(0, (3, 3)), normal(1, (B, 3, 3))
    want = jax.vmap(jax.grad(loss), (None, 0))(w, x)
    found = gradients.materialize(gradients.per_example_grad(loss)(w, x)[1])
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
