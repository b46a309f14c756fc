"""Every loss of the catalogue × the properties that all of them have."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import losses
from tests.catalogue import LOSSES

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64]
PENALTIES = {"l1", "l2", "elastic_net", "gradient_penalty"}
OF_ONE_INPUT = {"non_saturating_generator_loss", "wasserstein_generator_loss"}
EXTREMES = [-np.inf, -1e4, -30.0, -1.0, 0.0, 2.0, 30.0, 1e4, np.inf]


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def cast(inputs, dtype):
    return tuple(jnp.asarray(x, dtype) if x.dtype == np.float64 else jnp.asarray(x) for x in inputs)


def reference(case, inputs):
    """In float64, of exactly the numbers the loss was given."""
    with np.errstate(all="ignore"):
        return case.reference(
            *(
                np.asarray(x, np.float64)
                if jnp.issubdtype(x.dtype, jnp.floating)
                else np.asarray(x)
                for x in inputs
            )
        )


def inputs(case, dtype=jnp.float32):
    return cast(case.inputs(np.random.default_rng(0)), dtype)


def extreme_inputs(case, dtype):
    rng = np.random.default_rng(1)
    draws = [case.inputs(rng) for _ in range(100)]
    first, *rest = (np.concatenate(parts) for parts in zip(*draws, strict=True))
    return cast((rng.choice(EXTREMES, first.shape), *rest), dtype)


def total_gradient(loss):
    return jax.grad(lambda *inputs: jnp.sum(loss(*inputs)))


def loss_and_gradient(loss):
    """Compiled as one program."""
    return jax.jit(lambda *inputs: (loss(*inputs), total_gradient(loss)(*inputs)))


def test_the_catalogue_has_every_loss():
    named = {case.name.split(",")[0] for case in LOSSES}
    others = PENALTIES | OF_ONE_INPUT | {"smooth_labels", "safe_softmax_cross_entropy"}
    assert named | others == set(losses.__all__)


@each(LOSSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_agrees_with_the_reference(case, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        given = inputs(case, dtype)
        got = jax.jit(case.loss)(*given)
        want = reference(case, given)
        assert got.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        assert got.shape == want.shape
        rtol = 1e-12 if dtype == jnp.float64 else 1e-6
        np.testing.assert_allclose(got, want, rtol, atol=rtol * np.abs(want).max())


@each([case for case in LOSSES if case.logits])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_extreme_logits(case, dtype):
    """Within 1e-6 of the reference relative to the loss itself, however small; finite gradients."""
    with jax.enable_x64(dtype == jnp.float64):
        given = extreme_inputs(case, dtype)
        want = reference(case, given)
        got, gradient = loss_and_gradient(case.loss)(*given)
        # below float32's normal range there are no 1e-6 left
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=np.finfo(np.float32).tiny)
        assert gradient.dtype == dtype
        assert np.isfinite(np.asarray(gradient, np.float64)).all()


@each([case for case in LOSSES if case.optax])
def test_agrees_with_optax(case):
    given = inputs(case)
    ours, theirs = (loss_and_gradient(loss)(*given) for loss in (case.loss, case.optax))
    for got, want in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", sorted({*losses.__all__} & {*dir(optax.losses)} - {"safe_softmax_cross_entropy"})
)
def test_calls_written_for_optax_work(name):
    theirs = inspect.signature(getattr(optax.losses, name)).parameters.values()
    ours = list(inspect.signature(getattr(losses, name)).parameters.values())
    for parameter, wanted in zip(ours, theirs, strict=False):
        assert (parameter.name, parameter.kind, parameter.default) == (
            wanted.name,
            wanted.kind,
            wanted.default,
        )
    assert all(added.kind == added.KEYWORD_ONLY for added in ours[len(theirs) :])
    assert all(added.default is not added.empty for added in ours[len(theirs) :])


@each(LOSSES)
def test_jit_is_eager(case):
    given = inputs(case)
    np.testing.assert_allclose(jax.jit(case.loss)(*given), case.loss(*given), rtol=1e-6, atol=1e-6)


@each(LOSSES)
def test_vmap_is_the_batch(case):
    given = inputs(case)
    if case.mixes_examples:
        batches = jax.jit(jax.vmap(case.loss))(*given)
        np.testing.assert_allclose(batches, case.loss(*given), rtol=1e-6, atol=1e-6)
        return
    one_by_one = jax.jit(jax.vmap(jax.vmap(case.loss)))(*given)
    np.testing.assert_allclose(one_by_one, jax.jit(case.loss)(*given), rtol=1e-6, atol=1e-6)
    example = jax.tree.map(lambda x: x[1, 2], given)
    np.testing.assert_allclose(jax.jit(case.loss)(*example), one_by_one[1, 2], rtol=1e-6, atol=1e-6)


@each(LOSSES)
def test_gradient_is_the_finite_difference(case, x64):
    """Along one direction, the first and second derivative."""
    x, *rest = inputs(case, jnp.float64)
    rng = np.random.default_rng(2)
    losses_of = jax.eval_shape(case.loss, x, *rest)
    direction, weights = (rng.standard_normal(of.shape) for of in (x, losses_of))

    def along(step):
        return jnp.sum(weights * case.loss(x + step * direction, *rest))

    @jax.jit
    def derivatives(step):
        return along(step), jax.grad(along)(step), jax.grad(jax.grad(along))(step)

    h = 1e-5
    after, before = derivatives(h), derivatives(-h)
    quotients = [(a - b) / (2 * h) for a, b in zip(after, before, strict=True)]
    _, slope, curvature = derivatives(0.0)
    np.testing.assert_allclose(slope, quotients[0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(curvature, quotients[1], rtol=1e-6, atol=1e-6)


@each(LOSSES)
def test_traces_once(case):
    chex.clear_trace_counter()
    loss = jax.jit(chex.assert_max_traces(lambda *inputs: case.loss(*inputs), n=1))
    for seed in range(3):
        loss(*cast(case.inputs(np.random.default_rng(seed)), jnp.float32))


@each(LOSSES)
def test_shapes_never_broadcast(case):
    x, y = inputs(case)
    for loss in (case.loss, jax.jit(case.loss)):
        with pytest.raises(ValueError, match=r"shape.*\(3, 4"):
            loss(x, y[..., None])
        with pytest.raises(ValueError, match=r"shape.*\(3, 4"):
            loss(x, y[:1])


@each(LOSSES)
def test_empty_batches_are_an_error(case):
    x, y = inputs(case)
    for loss in (case.loss, jax.jit(case.loss)):
        with pytest.raises(ValueError, match=r"is empty, its shape is \[0, 4"):
            loss(x[:0], y[:0])


@each(LOSSES)
def test_predictions_must_be_floating(case):
    x, y = inputs(case)
    with pytest.raises(TypeError, match="must be of a real floating dtype, got int32"):
        case.loss(x.astype(jnp.int32), y)


@each(LOSSES)
def test_no_nan_is_computed_on_the_way(case):
    given = extreme_inputs(case, jnp.float32) if case.logits else inputs(case)
    with jax.debug_nans(True):
        jax.block_until_ready(case.loss(*given))
        jax.block_until_ready(jax.jit(total_gradient(case.loss))(*given))
