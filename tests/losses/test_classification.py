"""What the classification losses do with labels, masks, smoothing, weights and infinities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

from jaxnets import losses

inf, nan = np.inf, np.nan
cross_entropy = losses.softmax_cross_entropy_with_integer_labels
LOGITS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32) * 2
LABELS = np.array([2, 0, 1, 1])
WEIGHTS = np.array([0.5, 2.0, 1.0], np.float32)


def nll(logits=LOGITS):
    return -np.asarray(jax.nn.log_softmax(logits, axis=-1))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)


# labels


LABEL_CASES = {
    "softmax": (cross_entropy, LOGITS, LABELS, [3, -1, -100], r"\[0, 3\)"),
    "hinge": (losses.multiclass_hinge_loss, LOGITS, LABELS, [3, -1], r"\[0, 3\)"),
    "sigmoid": (losses.sigmoid_binary_cross_entropy, LOGITS[:, 0], [0.0, 1, 1, 0.3], [2, -1, nan],
                r"\[0, 1\]"),
    "focal": (losses.sigmoid_focal_loss, LOGITS[:, 0], [0.0, 1, 1, 0.3], [255, -1], r"\[0, 1\]"),
    "binary hinge": (losses.hinge_loss, LOGITS[:, 0], [-1, 1, 1, -1], [0, 2], "-1 or 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", LABEL_CASES.values(), ids=list(LABEL_CASES))
def test_labels_out_of_range(case):
    loss, logits, labels, wrong, wants = case
    value_and_grad = jax.value_and_grad(lambda x, *rest: loss(x, *rest).sum())
    want = jax.jit(loss)(logits, jnp.asarray(labels))
    for label in wrong:
        bad = np.array(labels)
        bad[2] = label
        bad = jnp.asarray(bad)
        with pytest.raises(ValueError, match=rf"must be .*{wants}, got {label}.* at index \(2,\)"):
            loss(logits, bad)
        with pytest.raises(ValueError, match=wants):
            value_and_grad(logits, bad)
        got = np.array(jax.jit(loss)(logits, bad))
        assert np.isnan(got[2])
        np.testing.assert_array_equal(np.delete(got, 2), np.delete(np.asarray(want), 2))
        gradient = jax.jit(jax.grad(lambda x: loss(x, bad).sum()))(logits)  # noqa: B023
        assert np.isnan(gradient[2]).any()
        assert np.isfinite(np.delete(np.asarray(gradient), 2, axis=0)).all()

        checked = checkify.checkify(jax.jit(loss), errors=checkify.nan_checks)
        assert "nan" in checked(logits, bad)[0].get()
        assert checked(logits, jnp.asarray(labels))[0].get() is None

        masked = np.arange(4) != 2
        for included in (masked, jnp.asarray(masked)):
            got = loss(logits, bad, where=included)
            np.testing.assert_allclose(got, np.where(masked, want, 0), rtol=1e-6)


def test_a_label_out_of_range_without_a_batch():
    with pytest.raises(ValueError, match=r"must be in \[0, 3\), got 3 \(1 of 1"):
        cross_entropy(LOGITS[0], np.int32(3))


def test_labels_of_narrow_dtypes():
    logits = np.zeros((2, 300), np.float32)
    for dtype in (np.int8, np.uint8, np.int16, np.uint32):
        close(cross_entropy(logits, np.array([0, 127], dtype)), np.log([300.0, 300.0]))


def test_labels_must_be_integers_of_the_right_shape():
    for labels in (LABELS.astype(np.float32), LABELS == 1):
        with pytest.raises(TypeError, match="labels must be of an integer dtype, got"):
            cross_entropy(LOGITS, labels)
    with pytest.raises(ValueError, match=r"shape of logits .* \(4,\), got \(4, 1\)"):
        cross_entropy(LOGITS, LABELS[:, None])
    with pytest.raises(ValueError, match=r"got logits \(4, 3\), labels \(4,\)"):
        losses.softmax_cross_entropy(LOGITS, LABELS)


def test_binary_labels_may_be_off_by_rounding():
    losses.sigmoid_binary_cross_entropy(jnp.zeros(2), jnp.array([1.0078, -1e-3]))


# axes


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (2, 0), (1, 2)])
def test_axes_as_in_optax(axis):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((3, 4, 5)).astype(np.float32)
    axes = {a % 3 for a in np.atleast_1d(axis)}
    n = np.prod([logits.shape[a] for a in axes])
    labels = rng.integers(0, n, [logits.shape[a] for a in range(3) if a not in axes])
    dense = rng.random(logits.shape).astype(np.float32)
    where = rng.random(logits.shape) < 0.7

    @partial(jax.jit, static_argnums=(0, 1))
    def three(integer, dense_labels, logits):
        return (
            integer(logits, labels, axis),
            dense_labels(logits, dense, axis),
            dense_labels(logits, dense, axis, where),
        )

    ours = three(cross_entropy, losses.softmax_cross_entropy, logits)
    theirs = three(
        optax.softmax_cross_entropy_with_integer_labels, optax.softmax_cross_entropy, logits
    )
    for got, want in zip(ours, theirs, strict=True):
        close(got, want)


def test_all_axes_and_axes_that_do_not_exist():
    close(
        losses.softmax_cross_entropy(LOGITS, np.eye(4, 3), None),
        nll(LOGITS.ravel())[[0, 4, 8]].sum(),
    )
    for axis in (2, (0, 0), (0, -2)):
        with pytest.raises(ValueError, match="axis"):
            cross_entropy(LOGITS, LABELS, axis)


# masks


def test_masked_examples_count_for_nothing_whatever_they_hold():
    where = np.array([True, False, True, False])
    logits, labels = LOGITS.copy(), LABELS.copy()
    logits[1], logits[3], labels[1] = nan, inf, -1
    want = np.where(where, nll()[np.arange(4), LABELS], 0)
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    one_hot[1] = nan
    for loss, targets in ((cross_entropy, labels), (losses.softmax_cross_entropy, one_hot)):
        for smoothing in (0.0, 0.1):

            def total(logits, loss=loss, targets=targets, smoothing=smoothing):
                return loss(logits, targets, where=where, label_smoothing=smoothing).sum()

            gradient = np.asarray(jax.grad(total)(logits))
            assert (gradient[~where] == 0).all()
            assert (gradient[where] != 0).all()
        close(loss(logits, targets, where=where), want)


def test_masked_elements_count_for_nothing_whatever_they_hold():
    where = np.array([True, False])
    logits = jnp.array([1.0, nan])
    for loss, labels in (
        (losses.sigmoid_binary_cross_entropy, [1.0, nan]),
        (losses.sigmoid_focal_loss, [1.0, -1.0]),
        (losses.hinge_loss, [1.0, nan]),
        (losses.squared_error, [0.0, nan]),
        (losses.l2_loss, [0.0, nan]),
        (losses.absolute_error, [0.0, nan]),
        (losses.huber_loss, [0.0, nan]),
        (losses.log_cosh, [0.0, nan]),
    ):
        labels = jnp.array(labels)
        value, gradient = jax.value_and_grad(
            lambda x, loss=loss, labels=labels: loss(x, labels, where=where).sum()
        )(logits)
        close(value, loss(logits[:1], labels[:1])[0])
        assert np.isfinite(gradient).all()
        assert gradient[1] == 0


def test_masked_classes_have_no_probability():
    where = np.array([[True, True, False]] * 3 + [[False] * 3])
    labels = np.array([0, 1, 1, 2])
    want = np.append(nll(LOGITS[:3, :2])[np.arange(3), labels[:3]], 0)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    close(cross_entropy(LOGITS, labels, where=where), want)
    close(losses.softmax_cross_entropy(LOGITS, one_hot, where=where), want)
    smoothed = losses.smooth_labels(one_hot, 0.1, where=where)
    close(
        losses.softmax_cross_entropy(LOGITS, smoothed, where=where),
        losses.softmax_cross_entropy(LOGITS, one_hot, where=where, label_smoothing=0.1),
    )
    got, gradient = jax.value_and_grad(
        lambda x: cross_entropy(x, labels, where=where, label_smoothing=0.1).sum()
    )(LOGITS)
    close(got, (0.9 * want[:3] + 0.05 * nll(LOGITS[:3, :2]).sum(-1)).sum())
    assert (np.asarray(gradient)[~where] == 0).all()
    for smoothing in (0.0, 0.1):
        among = cross_entropy(LOGITS[0], np.int32(2), where=where[0], label_smoothing=smoothing)
        assert among == inf


def test_masks_of_a_wrong_shape_or_dtype():
    with pytest.raises(ValueError, match=r"where .* of logits, \(4, 3\) or of losses, \(4,\); got"):
        cross_entropy(LOGITS, LABELS, where=np.ones((4, 1), bool))
    with pytest.raises(TypeError, match="where must be boolean, got float32"):
        cross_entropy(LOGITS, LABELS, where=np.ones(4, np.float32))
    with pytest.raises(ValueError, match="where must have the shape"):
        losses.squared_error(LOGITS, where=np.ones(3, bool))


# smoothing and weights


def test_smoothing_and_weights():
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    rows = np.arange(4)
    close(
        cross_entropy(LOGITS, LABELS, class_weights=WEIGHTS), WEIGHTS[LABELS] * nll()[rows, LABELS]
    )
    want = 0.8 * WEIGHTS[LABELS] * nll()[rows, LABELS] + 0.2 / 3 * (WEIGHTS * nll()).sum(-1)
    both = {"label_smoothing": 0.2, "class_weights": WEIGHTS}
    close(cross_entropy(LOGITS, LABELS, **both), want)
    close(losses.softmax_cross_entropy(LOGITS, one_hot, **both), want)
    close(
        losses.softmax_cross_entropy(LOGITS, one_hot, label_smoothing=0.2),
        optax.softmax_cross_entropy(jnp.asarray(LOGITS), optax.smooth_labels(one_hot, 0.2)),
    )
    # a swept smoothing is traced
    swept = jax.jit(jax.vmap(lambda a: cross_entropy(LOGITS, LABELS, label_smoothing=a)))
    close(swept(jnp.array([0.0, 0.2]))[0], nll()[rows, LABELS])


def test_smoothing_and_weights_out_of_range():
    for alpha in (-0.1, 1.5, nan):
        with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got"):
            cross_entropy(LOGITS, LABELS, label_smoothing=alpha)
    with pytest.raises(ValueError, match=r"one weight per class, shape \(3,\), got \(4,\)"):
        cross_entropy(LOGITS, LABELS, class_weights=np.ones(4))
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        losses.sigmoid_focal_loss(LOGITS, np.ones((4, 3)), gamma=-1.0)
    with pytest.raises(ValueError, match="alpha must be a scalar, got shape"):
        losses.smooth_labels(LOGITS, np.ones(3))


def test_smooth_labels_as_in_optax():
    where = LOGITS > -1
    labels = jax.nn.softmax(LOGITS)
    close(losses.smooth_labels(labels, 0.3), optax.smooth_labels(labels, 0.3))
    got, want = (f.smooth_labels(labels, 0.3, axis=0, where=where) for f in (losses, optax))
    close(got, want)


# infinities


integer_value_and_grad, dense_value_and_grad = (
    jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))
    for loss in (cross_entropy, losses.softmax_cross_entropy)
)


@pytest.mark.parametrize(
    ("logits", "p"),
    [
        ([inf, 0.0, 1.0], [1, 0, 0]),
        ([inf, inf, 0.0], [0.5, 0.5, 0]),
        ([-inf, 0.0, 0.0], [0, 0.5, 0.5]),
        ([-inf, -inf, 7.0], [0, 0, 1]),
        ([-inf, inf, 7.0], [0, 1, 0]),
        ([-inf, -inf, -inf], [1 / 3, 1 / 3, 1 / 3]),
        ([1e4, -1e4, 0.0], [1, 0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_value_and_gradient_at_infinity_are_the_limits(logits, p, dtype):
    logits, p = jnp.array(logits, dtype), np.array(p, np.float32)
    for loss, targets in (
        (integer_value_and_grad, jnp.arange(3)),
        (dense_value_and_grad, jnp.eye(3)),
    ):
        values, gradients = loss(logits, targets)
        if jnp.isinf(logits).any():
            with np.errstate(divide="ignore"):
                close(values, -np.log(p))
        np.testing.assert_allclose(gradients.astype(jnp.float32), p - np.eye(3), atol=2e-3)
    assert jnp.isnan(integer_value_and_grad(logits.at[1].set(nan), jnp.arange(3))[0]).all()


def test_gradient_with_respect_to_targets():
    """Distillation: at targets of 0 too, where a naive `where` would lose half of it."""
    z = jnp.array([-3.0, 2.0, 1e4])
    gradient = jax.grad(lambda y: losses.sigmoid_binary_cross_entropy(z, y).sum())(
        jnp.array([0.0, 1.0, 0.0])
    )
    close(gradient, -z)
    gradient = jax.grad(lambda q: losses.softmax_cross_entropy(LOGITS, q).sum())(np.eye(4, 3))
    close(gradient, nll())


def test_kl_of_impossible_outcomes():
    log_p, t = jnp.log(jnp.array([0.5, 0.5, 0.0])), jnp.array([1.0, 0.0, 0.0])
    for loss, target in (
        (losses.kl_divergence, t),
        (losses.kl_divergence_with_log_targets, jnp.log(t)),
    ):
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(log_p, target)
        close(value, np.log(2.0))
        close(gradients[0], -t)
        assert np.isfinite(gradients[1]).all()
        assert loss(jnp.log(t), jnp.roll(target, 1)) == inf
    assert losses.kl_divergence(log_p, t, None) == losses.kl_divergence(
        log_p[None], t[None], (0, 1)
    )


def test_mask_of_kl_hides_what_it_leaves_out():
    where = jnp.array([True, True, False])
    log_p, t = jnp.log(jnp.array([0.5, 0.2, nan])), jnp.array([0.6, 0.4, nan])
    for loss, target in (
        (losses.kl_divergence, t),
        (losses.kl_divergence_with_log_targets, jnp.log(t)),
    ):
        value, gradient = jax.value_and_grad(lambda x, f=loss, t=target: f(x, t, where=where))(
            log_p
        )
        close(value, loss(log_p[:2], target[:2]))
        close(gradient, [-0.6, -0.4, 0.0])
