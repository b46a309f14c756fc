"""K-FAC against its equations in NumPy, and as an optimizer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import gradients, nn, optim, train
from jaxnets.gradients import likelihoods
from jaxnets.train.kfac import least
from tests.numerics import assert_trees_close, relative_error

LIKELIHOOD = likelihoods.bernoulli


def outputs(params, x):
    return nn.dense(params["last"], jnp.tanh(nn.dense(params["first"], x)) * params["scale"])


def draw(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "first": {"bias": (3,), "kernel": (4, 3)},
        "last": {"bias": (2,), "kernel": (3, 2)},
        "scale": (3,),
    }
    is_shape = lambda s: isinstance(s, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s)), shapes, is_leaf=is_shape)


def batch(n=6, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, 4))), jnp.asarray(rng.uniform(size=(n, 2)).round())


def mean_loss(params, x, y):
    return jnp.mean(jax.vmap(LIKELIHOOD.loss)(jax.vmap(outputs, (None, 0))(params, x), y))


def factors_of(params, x, y):
    def loss(params, x, y):
        return LIKELIHOOD.loss(outputs(params, x), y)

    return gradients.kfac_factors(gradients.per_example_grad(loss)(params, x, y)[1])


@jax.jit
def derivatives(params, x, y):
    return jax.grad(mean_loss)(params, x, y), factors_of(params, x, y)


def test_an_update_is_the_equation(x64):
    """Two steps by hand: averages that know their start, momentum, the bound on the step."""
    params = draw()
    optimizer = train.kfac(
        0.5, train.kfac_blocks(outputs, params, batch()[0]),
        damping=0.1, decay=0.8, momentum=0.7, kl_clip=0.02, inverse_every=1,
    )  # fmt: skip
    state, step = optimizer.init(params), None
    averages, weight = None, 0.0
    for seed in (1, 2):
        x, y = batch(seed=seed)
        gradient, blocks = derivatives(params, x, y)
        got, state = optimizer.update(gradient, state, params, curvature=blocks)
        weight = 0.8 * weight + 0.2
        old = jax.tree.map(jnp.zeros_like, blocks) if averages is None else averages
        averages = jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, old, blocks)
        inverse = gradients.inverses(jax.tree.map(lambda a, w=weight: a / w, averages), 0.1)
        natural = gradients.natural_gradient(inverse, gradient)
        inner = sum(
            float(jnp.sum(a * b))
            for a, b in zip(jax.tree.leaves(natural), jax.tree.leaves(gradient), strict=True)
        )
        rate = 0.5 * min(1, np.sqrt(0.02 / (0.25 * inner)))
        assert rate < 0.5
        last = jax.tree.map(jnp.zeros_like, params) if step is None else step
        step = jax.tree.map(lambda d, n, r=rate: 0.7 * d - r * n, last, natural)
        assert_trees_close(got, step, 1e-6)
        params = optim.apply_updates(params, got)
    assert int(state.count) == 2


def test_factors_and_inverses_are_computed_where_they_are_due(x64):
    params, (x, y) = draw(), batch()
    gradient, blocks = derivatives(params, x, y)
    optimizer = train.kfac(0.1, blocks, factor_every=2, inverse_every=3)

    @jax.jit
    def update(scale, state):
        def curvature():
            return jax.tree.map(lambda b: scale * b, blocks)

        return optimizer.update(gradient, state, params, curvature=curvature)[1]

    state, weights, changed = optimizer.init(params), [], []
    for scale in range(1, 7):
        new = update(1.0 * scale, state)
        weights.append(float(new.weight))
        changed.append(
            any(
                bool(jnp.any(a != b))
                for a, b in zip(
                    jax.tree.leaves(new.inverses), jax.tree.leaves(state.inverses), strict=True
                )
            )
        )
        state = new
    np.testing.assert_allclose(weights, 1 - 0.95 ** np.array([1, 1, 2, 2, 3, 3]), rtol=1e-6)
    assert changed == [True, False, False, True, False, False]


def test_the_adaptive_step_is_where_the_quadratic_model_is_least(x64):
    """Over the plane of the natural gradient and the last step, with the dense Fisher matrix."""
    params, (x, y) = draw(), batch(8)
    optimizer = train.adaptive_kfac(
        train.kfac_blocks(outputs, params, x), damping=0.3, inverse_every=1, damping_every=2
    )
    step = jax.jit(train.kfac_step(outputs, LIKELIHOOD, optimizer))
    state = train.init_state(params, optimizer, jax.random.key(0))
    first, _ = step(state, (x, y))
    second, metrics = step(first, (x, y))
    at = first.params
    assert relative_error(metrics["loss"], mean_loss(at, x, y)) < 1e-12
    flat, unravel = jax.flatten_util.ravel_pytree(at)
    gradient = jax.grad(lambda f: mean_loss(unravel(f), x, y))(flat)
    by_outputs = jax.jacrev(lambda f: jax.vmap(outputs, (None, 0))(unravel(f), x))(flat)
    p = jax.nn.sigmoid(jax.vmap(outputs, (None, 0))(at, x))
    fisher = np.einsum("bip,bi,biq->pq", by_outputs, p * (1 - p), by_outputs) / len(x)
    damped = fisher + 0.3 * np.eye(flat.size)
    moved = jax.flatten_util.ravel_pytree(second.opt_state.step)[0]
    last = jax.flatten_util.ravel_pytree(first.opt_state.step)[0]
    natural = gradients.natural_gradient(second.opt_state.inverses, unravel(gradient))
    toward = -jax.flatten_util.ravel_pytree(natural)[0]
    plane = np.stack([toward, last], 1)
    weights = -np.linalg.solve(plane.T @ damped @ plane, plane.T @ gradient)
    assert relative_error(moved, plane @ weights) < 1e-6
    # Levenberg and Marquardt: the damping was due at the second step
    assert float(first.opt_state.damping) == np.float32(0.3)
    expected = gradient @ moved + 0.5 * moved @ damped @ moved
    ratio = (mean_loss(second.params, x, y) - metrics["loss"]) / expected
    factor = {True: 0.95**2}.get(bool(ratio > 0.75), 1.0 if ratio >= 0.25 else 0.95**-2)
    assert relative_error(second.opt_state.damping, 0.3 * factor) < 1e-6


def attended(params, x, implementation):
    """Attention over four positions of three numbers."""
    q, k, v = (nn.dense(layer, x.reshape(4, 1, 1)) for layer in params)
    return nn.attention(q, k, v, implementation=implementation).mean((0, 1))[:2]


def test_the_adaptive_step_goes_where_jvp_does_not(x64):
    """Through attention in tiles, which has a reverse derivative alone: the same step."""
    keys = jax.random.split(jax.random.key(0), 3)
    layers = [nn.init_dense(key, 1, 3) for key in keys]
    layers = jax.tree.map(lambda p: p.astype(jnp.float64), layers)
    x, y = batch(8)
    ends = []
    for implementation in ("plain", "blocked"):
        model = partial(attended, implementation=implementation)
        optimizer = train.adaptive_kfac(train.kfac_blocks(model, layers, x))
        step = jax.jit(train.kfac_step(model, LIKELIHOOD, optimizer))
        state = train.init_state(layers, optimizer, jax.random.key(0))
        for _ in range(2):
            state, _ = step(state, (x, y))
        ends.append(state.params)
    assert_trees_close(ends[1], ends[0], 1e-8)


def test_the_model_is_least_along_the_first_if_both_are_one():
    bends, slopes = jnp.array([[2.0, 4.0], [4.0, 8.0]]), jnp.array([-1.0, -2.0])
    assert [float(x) for x in least(slopes, bends)] == [0.5, 0]
    assert [float(x) for x in least(slopes, jnp.diag(jnp.array([2.0, 0.0])))] == [0.5, 0]


def test_damping_stays_where_there_is_nothing_to_learn():
    """At a loss of exactly 0 the model expects no change, and there is none."""
    params, x = {"kernel": jnp.zeros((4, 2))}, jnp.ones((6, 4))
    optimizer = train.adaptive_kfac(
        train.kfac_blocks(nn.dense, params, x), damping=0.5, damping_every=1
    )
    step = jax.jit(train.kfac_step(nn.dense, likelihoods.normal, optimizer))
    state = train.init_state(params, optimizer, jax.random.key(0))
    for _ in range(3):
        state, metrics = step(state, (x, jnp.zeros((6, 2))))
    assert metrics["loss"] == 0
    assert state.opt_state.damping == 0.5


@pytest.mark.thorough
def test_damping_grows_where_the_model_is_wrong(x64):
    params, (x, y) = draw(), batch()
    gradient, blocks = derivatives(params, x, y)
    optimizer = train.adaptive_kfac(blocks, damping=0.01, damping_every=1)
    extra = {
        "curvature": blocks,
        "quadratic": lambda u, v: jnp.eye(2),
        "value": mean_loss(params, x, y),
    }
    for after, factor in ((jnp.inf, 1 / 0.95), (jnp.nan, 1 / 0.95), (-100.0, 0.95)):
        _, state = optimizer.update(
            gradient, optimizer.init(params), params, value_fn=lambda p, v=after: v, **extra
        )
        assert relative_error(state.damping, 0.01 * factor) < 1e-6


@pytest.fixture(scope="module")
def digits_like():
    """Data of three factors in eight numbers, to be compressed to three again."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(128, 3)) @ rng.normal(size=(3, 8))
    return jnp.asarray(1 / (1 + np.exp(-2 * z)), jnp.float32)


def autoencoder(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(nn.dense(layer, x))
    return nn.dense(params[-1], x)


@pytest.mark.thorough
def test_an_autoencoder_is_trained_in_fewer_steps_than_by_adam(digits_like):
    """Whole runs in `train.epoch`; the best of three rates for Adam."""
    sizes = (8, 6, 3, 6, 8)
    keys = jax.random.split(jax.random.key(0), 4)
    params = [nn.init_dense(k, *pair) for k, *pair in zip(keys, sizes[:-1], sizes[1:], strict=True)]
    data = digits_like, digits_like

    def loss(params, batch):
        z = jax.vmap(autoencoder, (None, 0))(params, batch[0])
        return jnp.mean(jax.vmap(LIKELIHOOD.loss)(z, batch[1]))

    def losses(step, optimizer, steps):
        state = train.init_state(params, optimizer, jax.random.key(1))
        run = train.epoch(step, len(digits_like))
        return jax.lax.scan(lambda s, _: run(s, data), state, length=steps)[1]["loss"].ravel()

    def adams(rate):
        optimizer = optim.adam(rate)
        return losses(train.step(loss, optimizer), optimizer, 120)

    @jax.jit
    def kfacs():
        optimizer = train.adaptive_kfac(train.kfac_blocks(autoencoder, params, digits_like))
        return losses(train.kfac_step(autoencoder, LIKELIHOOD, optimizer), optimizer, 60)

    adam = jax.jit(jax.vmap(adams))(jnp.array([0.003, 0.01, 0.03]))
    assert float(kfacs()[-1]) < float(jnp.min(adam[:, -1]))


@pytest.mark.thorough
def test_optax_chains_it_and_hands_on_what_it_needs(x64):
    params, (x, y) = draw(), batch()
    inner = train.kfac(0.1, train.kfac_blocks(outputs, params, x), kl_clip=None)
    ends = []
    for optimizer in (
        optim.chain(optim.clip_by_global_norm(0.5), inner, optim.scale(0.5)),
        optim.chain(optax.clip_by_global_norm(0.5), inner, optax.scale(0.5)),
        # Optax hands extra arguments to its own class only
        optax.chain(
            optax.clip_by_global_norm(0.5),
            optax.GradientTransformationExtraArgs(*inner),
            optax.scale(0.5),
        ),
    ):
        step = jax.jit(train.kfac_step(outputs, LIKELIHOOD, optimizer))
        state, _ = step(train.init_state(params, optimizer, jax.random.key(0)), (x, y))
        ends.append(state.params)
    for end in ends[1:]:
        assert_trees_close(end, ends[0], 1e-12)


def test_bad_input_is_refused():
    params, (x, _) = draw(), batch()
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    blocks = train.kfac_blocks(outputs, params, x)
    optimizer = train.kfac(0.1, blocks)
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="kfac: curvature is needed: update"):
        optimizer.update(params, state, params)
    with pytest.raises(ValueError, match="kfac: curvature must have the blocks"):
        optimizer.update(params, state, params, curvature=blocks[:1])
    adaptive = train.adaptive_kfac(blocks)
    with pytest.raises(ValueError, match="adaptive_kfac: quadratic is needed"):
        adaptive.update(params, adaptive.init(params), params, curvature=blocks)
    with pytest.raises(ValueError, match="kfac: damping must be > 0 and finite, got 0"):
        train.kfac(0.1, blocks, damping=0)
    with pytest.raises(ValueError, match="adaptive_kfac: damping_decay must be in"):
        train.adaptive_kfac(blocks, damping_decay=0.0)
    with pytest.raises(ValueError, match=r"kfac_step: the batch must be a pair"):
        train.kfac_step(outputs, LIKELIHOOD, optimizer)(
            train.init_state(params, optimizer, jax.random.key(0)), x
        )
