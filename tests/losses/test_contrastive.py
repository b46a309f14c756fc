"""Contrastive losses: by hand, at the extremes, and what is not asked of all losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnets import losses
from tests.losses import references

A, B = np.random.default_rng(0).standard_normal((2, 4, 5))


def test_two_pairs_by_hand(x64):
    """Logits 2, 0, 0, 2: every row and column costs `log(1 + e^-2)`."""
    eye = jnp.eye(2)
    want = math.log1p(math.exp(-2))
    np.testing.assert_allclose(losses.clip_loss(eye, eye, math.log(2)), [want] * 2, rtol=1e-12)
    # and with the bias -1, 1, -1, -1, 1
    want = math.log1p(math.exp(-1)) + math.log1p(math.exp(-1))
    got = losses.siglip_loss(eye, eye, math.log(2), -1.0)
    np.testing.assert_allclose(got, [want] * 2, rtol=1e-12)


def test_pairs_by_chance_cost_the_logarithm_of_the_batch():
    same = jnp.ones((8, 3))
    np.testing.assert_allclose(losses.clip_loss(same, same, 0.0), math.log(8), rtol=1e-6)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e3])
def test_exact_at_logits_of_any_size(size):
    """Relative to each loss's own size, which goes from e^-10⁴ to 10⁵."""
    a, b = (np.float32(size * x) for x in (A, A + 0.1 * B))
    for mirror in (1, -1):
        got = losses.clip_loss(a, mirror * b, 1.0)
        want = references.clip(np.float64(a), mirror * np.float64(b), math.e)
        # the logits themselves are rounded to float32
        slack = 4e-7 * math.e * 2 * (np.abs(a) @ np.abs(b).T).max()
        np.testing.assert_allclose(got, want, rtol=1e-6 + min(slack, 1), atol=slack)
        got = losses.siglip_loss(a, mirror * b, 1.0, -3.0)
        want = references.siglip(np.float64(a), mirror * np.float64(b), math.e, -3.0)
        np.testing.assert_allclose(got, want, rtol=1e-6 + min(slack, 1), atol=slack)
        for loss in (losses.clip_loss, lambda a, b, t: losses.siglip_loss(a, b, t, -3.0)):
            gradient = jax.grad(lambda a, b, t, loss=loss: jnp.sum(loss(a, b, t)), (0, 1, 2))
            assert all(np.isfinite(g).all() for g in gradient(a, mirror * b, 1.0))


def test_a_small_loss_keeps_its_digits():
    """Logits of 40 apart: 1 - p is far below float32's 1e-7."""
    eye = math.sqrt(40) * jnp.eye(3, dtype=jnp.float32)
    want = math.log1p(2 * math.exp(-40))
    np.testing.assert_allclose(losses.clip_loss(eye, eye, 0.0), [want] * 3, rtol=1e-5)


def test_the_scale_is_limited_and_learned_up_to_there():
    def loss(t):
        return jnp.mean(losses.clip_loss(A, B, t))

    limit = np.log(np.float32(100))
    np.testing.assert_allclose(loss(7.0), loss(limit), rtol=1e-6)
    assert jax.grad(loss)(7.0) == 0
    below, at = (jax.grad(loss)(t) for t in (limit - 1e-3, limit))
    assert at != 0
    np.testing.assert_allclose(at, below, rtol=0.01)
    free = losses.clip_loss(A, B, 7.0, max_scale=math.inf)
    np.testing.assert_allclose(free, references.clip(A, B, math.exp(7)), 1e-5, atol=1e-30)


def test_negatives_and_positives_pull_apart_by_the_gradient(x64):
    """`dL/dz = (p - 1) / B`, averaged over both directions; through a scale of 1."""
    z = A @ B.T
    rows = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    columns = np.exp(z) / np.exp(z).sum(0, keepdims=True)
    by_hand = ((rows + columns) / 2 - np.eye(4)) @ B / 4
    got = jax.grad(lambda a: jnp.mean(losses.clip_loss(a, B, 0.0)))(A)
    np.testing.assert_allclose(got, by_hand, rtol=1e-10)
    signs = 1 - 2 * np.eye(4)
    by_hand = (signs / (1 + np.exp(-signs * (z - 1)))) @ B / 4
    got = jax.grad(lambda a: jnp.mean(losses.siglip_loss(a, B, 0.0, -1.0)))(A)
    np.testing.assert_allclose(got, by_hand, rtol=1e-10)


def test_ntxent_of_two_views_is_the_one_way_loss_of_both(x64):
    """With each label twice, as in the paper: every view has one positive and all others."""
    x = np.concatenate([A, B])
    labels = jnp.tile(jnp.arange(4), 2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    z = unit @ unit.T / 0.5
    np.fill_diagonal(z, -np.inf)
    partner = np.roll(np.arange(8), 4)
    want = np.mean(references.negative_log_softmax(z)[np.arange(8), partner])
    np.testing.assert_allclose(losses.ntxent(x, labels, 0.5), want, rtol=1e-12)


def test_ntxent_needs_a_pair():
    with pytest.raises(ValueError, match="labels must have two of one kind"):
        losses.ntxent(A, jnp.arange(4))
    assert np.isnan(jax.jit(losses.ntxent)(A, jnp.arange(4)))
    # all are pairs, and nothing pushes them apart
    assert losses.ntxent(A, jnp.zeros(4, int)) == 0
    with pytest.raises(TypeError, match="labels must be of an integer dtype"):
        losses.ntxent(A, jnp.ones(4))
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.ntxent(A, jnp.zeros(4, int), 0.0)


def test_a_triplet_of_odd_degree_has_a_distance():
    """Optax raises differences to the power as they are, signs and all."""
    a, p, n = jnp.zeros((3, 1, 2)).at[1].set(jnp.array([-3.0, 1.0])).at[2].set(1.0)
    got = losses.triplet_margin_loss(a, p, n, norm_degree=1, eps=0.0)
    np.testing.assert_allclose(got, [4 - 2 + 1], rtol=1e-6)
    theirs = optax.losses.triplet_margin_loss(a, p, n, norm_degree=1, eps=0.0)
    assert not np.allclose(theirs, got)


def test_a_triplet_of_equals_has_a_finite_gradient():
    x = jnp.ones((2, 3))
    gradient = jax.grad(lambda a: jnp.sum(losses.triplet_margin_loss(a, x, x)))(x)
    np.testing.assert_array_equal(gradient, 0)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"clip_loss: anchors must be \[..., B, n\], got \[5\]"):
        losses.clip_loss(A[0], B[0], 0.0)
    with pytest.raises(TypeError, match="positives must be of a real floating dtype, got int32"):
        losses.clip_loss(jnp.ones((2, 3)), jnp.ones((2, 3), jnp.int32), 0.0)
    with pytest.raises(ValueError, match=r"siglip_loss: bias must be a scalar, got shape \(2,\)"):
        losses.siglip_loss(A, B, 0.0, jnp.ones(2))
    with pytest.raises(ValueError, match="max_scale must be positive, got 0"):
        losses.clip_loss(A, B, 0.0, max_scale=0)
    with pytest.raises(ValueError, match=r"norm_degree must be at least 1, got 0.5"):
        losses.triplet_margin_loss(A, B, B, norm_degree=0.5)
    with pytest.raises(ValueError, match=r"margin must be a scalar"):
        losses.triplet_margin_loss(A, B, B, margin=jnp.ones(3))
