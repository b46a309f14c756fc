"""Penalties reach what their rules name, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import losses

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0], [0.0, 3.0]]), "bias": jnp.array([10.0, 20.0])},
    "embed": {"embedding": jnp.array([4.0])},
    "step": jnp.array(7),
}
L1, HALF_L2 = 6.0, 7.0


def test_kernels_by_default():
    assert losses.l1(PARAMS, 0.1) == pytest.approx(0.1 * L1)
    assert losses.l2(PARAMS, 0.1) == pytest.approx(0.1 * HALF_L2)
    want = 0.1 * (0.3 * L1 + 0.7 * HALF_L2)
    assert losses.elastic_net(PARAMS, 0.1, l1_ratio=0.3) == pytest.approx(want)


def test_gradients_are_decay_and_sign():
    params = {key: PARAMS[key] for key in ("dense", "embed")}
    kernel = params["dense"]["kernel"]
    for penalty, want in (
        (losses.l1, 0.1 * jnp.sign(kernel)),
        (losses.l2, 0.1 * kernel),
        (losses.elastic_net, 0.05 * (jnp.sign(kernel) + kernel)),
    ):
        gradient = jax.jit(jax.grad(penalty))(params, 0.1)
        np.testing.assert_allclose(gradient["dense"]["kernel"], want, rtol=1e-6)
        assert not gradient["dense"]["bias"].any()
        assert not gradient["embed"]["embedding"].any()


def test_rules_choose_leaves_and_strengths():
    assert losses.l1(PARAMS, 1.0, "^dense/") == L1 + 30
    rules = {"embedding$": 0.5, "kernel$": 1.0, ".*": 0.0}
    assert losses.l1(PARAMS, 2.0, rules) == 2 * (0.5 * 4 + L1)
    # the first rule that fits decides
    assert losses.l1(PARAMS, 1.0, {"bias": 0.0, "dense": 2.0, ".*": 0.0}) == 2 * L1


def test_a_rule_that_misses_is_an_error():
    with pytest.raises(ValueError, match="'kernels' matches no leaf"):
        losses.l2(PARAMS, 0.1, "kernels")
    with pytest.raises(ValueError, match="no rule covers leaf 'dense/bias'"):
        losses.l2(PARAMS, 0.1, {"kernel$": 1.0})
    with pytest.raises(TypeError, match="l2: step must be of a real floating dtype, got int32"):
        losses.l2(PARAMS, 0.1, ".*")


def test_negative_weights_are_an_error():
    with pytest.raises(ValueError, match=r"weight must be at least 0, got -0\.1"):
        losses.l1(PARAMS, -0.1)
    with pytest.raises(ValueError, match=r"kernel.* must be at least 0, got -1"):
        losses.l1(PARAMS, 0.1, {"kernel": -1.0, ".*": 0.0})
    with pytest.raises(ValueError, match=r"l1_ratio must be in \[0, 1\], got 2"):
        losses.elastic_net(PARAMS, 0.1, l1_ratio=2.0)


def test_weights_can_be_swept():
    weights = jnp.array([0.0, 0.1, 1.0])
    got = jax.jit(jax.vmap(lambda weight: losses.l2(PARAMS, weight)))(weights)
    np.testing.assert_allclose(got, weights * HALF_L2, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_accumulates_in_float32(dtype):
    params = {"kernel": jnp.full(40_000, 0.5, dtype)}
    got = losses.l2(params, 1.0)
    assert got.dtype == jnp.float32
    assert got == 5000
    assert jax.grad(losses.l2)(params, 1.0)["kernel"].dtype == dtype


def test_float64_stays(x64):
    params = {"kernel": jnp.array([1.0, 1e-9], jnp.float64)}
    assert losses.l1(params, 1.0).dtype == jnp.float64
    assert losses.l1(params, 1.0) == 1 + 1e-9
