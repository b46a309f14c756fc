"""Softmax cross-entropy: `-Σ_c q_c log p_c` with `p = softmax(logits)`.

Logits of any size are safe. Written with `x - max x` and `log1p`, the loss is accurate relative to
its own size, however small: a prediction that is right to 1e-20 costs 1e-20, not 0. A logit of -∞
is a class of probability 0, which costs nothing unless the target gives it weight (then the loss is
+∞). Logits of +∞ take all the probability and equal infinities share it, the limit as they grow
together; the gradient `p - q` is finite in every case.

Computed and returned in float32, or float64 for float64 inputs.
"""

import jax.numpy as jnp

from jaxnets.losses._inputs import (
    fill,
    integer_labels,
    is_label,
    mask,
    matched,
    product,
    require_scalar_in,
)
from jaxnets.losses._log_softmax import label_cost, log_softmax
from jaxnets.types import Array, ArrayLike

Axis = int | tuple[int, ...] | None


def _classes(function: str, x: Array, axis: Axis) -> tuple[int, ...]:
    """The axes of the classes in the order given, counted from the left."""
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    if not all(-x.ndim <= a < x.ndim for a in axes) or len({a % x.ndim for a in axes}) < len(axes):
        raise ValueError(f"{function}: axis {axis} does not fit the shape {list(x.shape)}")
    return tuple(a % x.ndim for a in axes)


def _classes_last(x: Array, axes: tuple[int, ...]) -> Array:
    """`x` with the class axes moved to the end and flattened: `[*batch, classes]`."""
    batch = tuple(a for a in range(x.ndim) if a not in axes)
    return x.transpose(batch + axes).reshape([x.shape[a] for a in batch] + [-1])


def _masks(
    function: str, where: ArrayLike | None, logits: Array, axes: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """`where` as a mask of classes, `[*batch, classes]`, or else as one of examples, `[*batch]`."""
    batch = tuple(n for a, n in enumerate(logits.shape) if a not in axes)
    included = mask(function, where, logits=logits.shape, losses=batch)
    if included is None or included.shape == batch:
        return None, included
    return _classes_last(included, axes), None


def _smooth(labels: Array, alpha: ArrayLike, axes: tuple[int, ...], where: Array | None) -> Array:
    """`(1 - α) labels + α / C`."""
    if where is None:
        n_classes: ArrayLike = jnp.size(labels, axes)
    else:
        n_classes = jnp.maximum(jnp.sum(where, axes, keepdims=True, dtype=labels.dtype), 1)
    alpha = jnp.asarray(alpha, labels.dtype)
    return (1 - alpha) * labels + alpha / n_classes


def _is_zero(alpha: ArrayLike) -> bool:
    return isinstance(alpha, int | float) and alpha == 0


def _one_per_class(function: str, class_weights: ArrayLike, logits: Array) -> Array:
    weights = jnp.asarray(class_weights)
    if weights.shape != logits.shape[-1:]:
        raise ValueError(
            f"{function}: class_weights must have one weight per class, shape "
            f"{logits.shape[-1:]}, got {weights.shape}"
        )
    return weights.astype(logits.dtype)


def _integer_cross_entropy(
    function: str,
    logits: Array,
    labels: Array,
    factor: Array,
    classes: Array | None,
    examples: Array | None,
    class_weights: ArrayLike | None,
) -> Array:
    """`-w_y log p_y` over the last axis."""
    (logits,) = fill(classes, -jnp.inf, logits)
    if examples is not None:
        (logits,) = fill(examples[..., None], 0.0, logits)
    loss = factor * label_cost(logits, labels)
    if class_weights is not None:
        weights = _one_per_class(function, class_weights, logits)
        loss = product(jnp.take(weights, labels, mode="clip"), loss)
    (loss,) = fill(examples, 0.0, loss)
    return loss if classes is None else jnp.where(jnp.any(classes, axis=-1), loss, 0.0)


def _cross_entropy(
    function: str,
    logits: Array,
    targets: Array,
    classes: Array | None,
    examples: Array | None,
    label_smoothing: ArrayLike,
    class_weights: ArrayLike | None,
) -> Array:
    """`-Σ_c w_c q_c log p_c` over the last axis, `q` being the smoothed targets."""
    require_scalar_in(function, 0.0, 1.0, label_smoothing=label_smoothing)
    # without smoothing, a class of probability 0 must keep a target of exactly 0
    if not _is_zero(label_smoothing):
        smoothed = _smooth(targets, label_smoothing, (-1,), classes)
        targets = smoothed if classes is None else jnp.where(classes, smoothed, targets)
    if class_weights is not None:
        weights = _one_per_class(function, class_weights, logits)
        targets = targets * jnp.broadcast_to(weights, logits.shape)
    (logits,) = fill(classes, -jnp.inf, logits)
    if examples is not None:
        logits, targets = fill(examples[..., None], 0.0, logits, targets)
    loss = jnp.sum(product(targets, -log_softmax(logits)), axis=-1)
    return loss if classes is None else jnp.where(jnp.any(classes, axis=-1), loss, 0.0)


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """Cross-entropy of the labels' distribution and the logits': `-Σ_c w_c q_c log p_c`.

    `p = softmax(logits)` and `q = (1 - α) labels + α / C`, with smoothing α over C classes.

    Args:
      logits: unnormalized log-probabilities, floating, `[..., C]`.
      labels: `[..., C]`, the same shape as `logits`: probabilities, or any weights of the classes
        (they need not sum to 1; a row of zeros costs 0).
      axis: the axis or axes of the classes; `None` for all.
      where: boolean. In the shape of `logits`: the classes to include, the others having
        probability 0 and labels that count for nothing (0 if none is included). In the shape of the
        result: the examples to include, the others having loss and gradient 0, whatever they hold.
      label_smoothing: the scalar α in [0, 1].
      class_weights: `w`, `[C]`. The weighted mean is `losses.sum() / class_weights[labels].sum()`.

    Returns:
      `[...]`, the shape of `logits` without `axis`.

    Raises:
      TypeError: if `logits` is not floating or `where` not boolean.
      ValueError: if shapes differ from these or are empty, inside `jit` too; if α is not in [0, 1].

    References: Goodfellow et al., Deep Learning, 2016, section 6.2.2; label smoothing: Szegedy et
    al., Rethinking the Inception Architecture, 2016, https://arxiv.org/abs/1512.00567.
    """
    function = "softmax_cross_entropy"
    logits, labels = matched(function, logits=logits, labels=labels)
    axes = _classes(function, logits, axis)
    classes, examples = _masks(function, where, logits, axes)
    logits, labels = _classes_last(logits, axes), _classes_last(labels, axes)
    (labels,) = fill(classes, 0.0, labels)
    return _cross_entropy(
        function, logits, labels, classes, examples, label_smoothing, class_weights
    )


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """Cross-entropy of integer labels: `-w_y log p_y` with `p = softmax(logits)`.

    With smoothing α over C classes, `-(1 - α) w_y log p_y - (α / C) Σ_c w_c log p_c`.

    Args:
      logits: unnormalized log-probabilities, floating, `[..., C]`.
      labels: integers in `[0, C)`, `[...]`, the shape of `logits` without `axis`. For more than one
        axis, a label is a flat index into them.
      axis: the axis or axes of the classes.
      where: boolean. In the shape of `logits`: the classes to include, the others having
        probability 0, so that a label among them costs +∞ (0 if none is included). In the shape of
        `labels`: the examples to include, the others having loss and gradient 0 whatever they hold,
        so `where=labels >= 0` leaves out labels of -1.
      label_smoothing: the scalar α in [0, 1].
      class_weights: `w`, `[C]`. The weighted mean is `losses.sum() / class_weights[labels].sum()`.

    Returns:
      `[...]`, the shape of `labels`.

    Raises:
      TypeError: if `logits` is not floating, `labels` not integer or `where` not boolean.
      ValueError: if shapes differ from these or are empty, inside `jit` too; if α is not in [0, 1];
        if a label is not in `[0, C)`, negative ones included. Labels traced by `jit` or `vmap` have
        no values to check: there the loss and the gradient of such an example are NaN, which
        `checkify.checkify(..., errors=checkify.nan_checks)` reports.

    References: as for `softmax_cross_entropy`.
    """
    function = "softmax_cross_entropy_with_integer_labels"
    (logits,) = matched(function, logits=logits)
    axes = _classes(function, logits, axis)
    classes, examples = _masks(function, where, logits, axes)
    logits = _classes_last(logits, axes)
    labels, factor = integer_labels(function, labels, examples, logits=logits)
    if _is_zero(label_smoothing):
        return _integer_cross_entropy(
            function, logits, labels, factor, classes, examples, class_weights
        )
    # 0 or, for a label out of range, NaN: as a factor of the loss it would be lost in the gradient,
    # where XLA turns products with a one-hot array into selections
    others = 0.0 * factor[..., None]
    targets = jnp.where(is_label(labels, logits), 1.0, others)
    return _cross_entropy(
        function, logits, targets, classes, examples, label_smoothing, class_weights
    )


def smooth_labels(
    labels: ArrayLike,
    alpha: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    """Smoothed labels, `(1 - α) labels + α / C` over C classes.

    The cross-entropies do this themselves, by `label_smoothing`.

    Args:
      labels: distributions, floating, `[..., C]`.
      alpha: the scalar α in [0, 1].
      axis: the axis or axes of the classes; `None` for all.
      where: boolean, the shape of `labels`: the classes that C counts.

    Returns:
      The shape of `labels`, in float32 or wider.

    Reference: Müller et al., When Does Label Smoothing Help?, 2019, https://arxiv.org/abs/1906.02629.
    """
    function = "smooth_labels"
    require_scalar_in(function, 0.0, 1.0, alpha=alpha)
    (labels,) = matched(function, labels=labels)
    axes = _classes(function, labels, axis)
    return _smooth(labels, alpha, axes, mask(function, where, labels=labels.shape))
