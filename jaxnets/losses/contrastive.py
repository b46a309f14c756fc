"""Contrastive losses: what belongs together is brought closer than what does not.

Computed and returned in float32, or float64 for float64 inputs, the similarities included. Losses
are accurate relative to their own size at logits of any size.

All but the triplet loss make each example's loss depend on the others of its batch, which are its
negatives: no example has a gradient of its own, and `jaxnets.gradients` refuses them.

All raise `TypeError` for embeddings that are not floating and `ValueError` for shapes that differ
(nothing broadcasts) or are empty, both inside `jit` too.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.checks import concrete, require_positive, require_real, scalar
from jaxnets.losses._inputs import absolute, matched, require_scalar_in
from jaxnets.losses._log_softmax import label_cost
from jaxnets.losses.cosine import unit
from jaxnets.types import Array, ArrayLike


def _matrices(function: str, /, **embeddings: ArrayLike) -> list[Array]:
    """The arguments, all floating and `[..., B, n]` of one shape."""
    named = {name: jnp.asarray(x) for name, x in embeddings.items()}
    require_real(function, **named)
    for name, x in named.items():
        if x.ndim < 2:
            raise ValueError(f"{function}: {name} must be [..., B, n], got {list(x.shape)}")
    return matched(function, **named)


def clip_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    log_scale: ArrayLike,
    *,
    max_scale: float = 100.0,
) -> Array:
    """The symmetric InfoNCE loss: each of a pair has to find the other one in the batch.

    With logits `z_ij = s a_i·b_j`, `s = min(exp(log_scale), max_scale)`, the loss of pair i is the
    mean of two cross-entropies, over the row and over the column:
    `-½ log softmax_j(z_ij)_i - ½ log softmax_j(z_ji)_i`.

    Args:
      anchors: `a`, floating, `[..., B, n]`; unit vectors in the original.
      positives: `b`, floating, the same shape: `b_i` belongs to `a_i`, all others do not.
      log_scale: a scalar, the logarithm of the inverse temperature: learned, from `log(1 / 0.07)`.
      max_scale: what the scale is limited to. The gradient by a `log_scale` beyond is 0, so where
        it is learned it should be held at `log(max_scale)` after each step.

    Returns:
      `[..., B]`, at least 0.

    References: van den Oord et al., Representation Learning with Contrastive Predictive Coding,
    2018; Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
    2021, figure 3.
    """
    function = "clip_loss"
    require_positive(function, "max_scale", max_scale)
    scalar(function, "log_scale", log_scale)
    a, b = _matrices(function, anchors=anchors, positives=positives)
    t, limit = jnp.asarray(log_scale, a.dtype), np.asarray(math.log(max_scale), a.dtype)
    s = jnp.exp(jnp.where(t > limit, limit, t))
    z = s * jnp.matmul(a, jnp.matrix_transpose(b), precision="highest")
    own = jnp.broadcast_to(jnp.arange(a.shape[-2]), a.shape[:-1])
    return (label_cost(z, own) + label_cost(jnp.matrix_transpose(z), own)) / 2


def siglip_loss(
    anchors: ArrayLike, positives: ArrayLike, log_scale: ArrayLike, bias: ArrayLike
) -> Array:
    """The pairwise sigmoid loss: every two of a batch are told to be a pair, or not to be one.

    `Σ_j -log σ(±(exp(log_scale) a_i·b_j + bias))`, with + for j = i and - for the others.

    Args:
      anchors: `a`, floating, `[..., B, n]`; unit vectors in the original.
      positives: `b`, floating, the same shape: `b_i` belongs to `a_i`, all others do not.
      log_scale: a scalar, the logarithm of the inverse temperature: learned, from `log 10`.
      bias: a scalar, learned, from -10: at first all are taken for no pair, which most are not.

    Returns:
      `[..., B]`, at least 0, whose mean is the original.

    Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, algorithm 1.
    """
    function = "siglip_loss"
    scalar(function, "log_scale", log_scale)
    scalar(function, "bias", bias)
    a, b = _matrices(function, anchors=anchors, positives=positives)
    s = jnp.exp(jnp.asarray(log_scale, a.dtype))
    z = s * jnp.matmul(a, jnp.matrix_transpose(b), precision="highest")
    z = z + jnp.asarray(bias, a.dtype)
    own = jnp.broadcast_to(jnp.eye(a.shape[-2], dtype=bool), z.shape)
    return jnp.sum(jax.nn.softplus(jnp.where(own, -z, z)), axis=-1)


def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike = 0.07) -> Array:
    """The normalized, temperature-scaled cross-entropy of pairs among a batch, NT-Xent.

    With `z_ij` the cosine of embeddings i and j over the temperature, the mean over all ordered
    pairs of one label of `-log (exp z_ij / (exp z_ij + Σ_k exp z_ik))`, k over other labels.

    Args:
      embeddings: floating, `[..., B, n]`, of any length.
      labels: integers `[..., B]`: those that share one are positives of each other.
      temperature: a positive scalar.

    Returns:
      `[...]`: one number for a batch, at least 0.

    Raises:
      TypeError: if the labels are not integers.
      ValueError: if the temperature is not positive, or a batch has no two of one label; where
        labels have no values yet, inside `jit`, the loss of such a batch is NaN.

    Reference: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
    2020, equation 1.
    """
    function = "ntxent"
    require_positive(function, "temperature", temperature)
    (x,) = _matrices(function, embeddings=embeddings)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{function}: labels must be of an integer dtype, got {labels.dtype}")
    if labels.shape != x.shape[:-1]:
        raise ValueError(
            f"{function}: labels must have the shape of embeddings without the last axis, "
            f"{x.shape[:-1]}, got {labels.shape}"
        )
    together = labels[..., :, None] == labels[..., None, :]
    pair = together & ~jnp.broadcast_to(jnp.eye(x.shape[-2], dtype=bool), together.shape)
    known = concrete(pair)
    if known is not None and not known.any((-2, -1)).all():
        raise ValueError(f"{function}: labels must have two of one kind in each batch")
    u = unit(x, jnp.sqrt(np.finfo(x.dtype).eps), -1)
    z = jnp.matmul(u, jnp.matrix_transpose(u), precision="highest")
    z = z / jnp.asarray(temperature, z.dtype)
    # finite, so that without negatives no derivative is NaN
    least = np.finfo(z.dtype).min
    negatives = jax.nn.logsumexp(jnp.where(together, least, z), axis=-1, keepdims=True)
    losses = jnp.where(pair, jax.nn.softplus(negatives - z), 0.0)
    return jnp.sum(losses, (-2, -1)) / jnp.sum(pair, (-2, -1), dtype=z.dtype)


def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: int = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
) -> Array:
    """The triplet loss `max(0, d(a, p) - d(a, n) + margin)`, `d(x, y) = (Σ |x - y|^q + eps)^(1/q)`.

    Args:
      anchors: `a`, floating, `[..., n]`.
      positives: `p`, floating, the same shape.
      negatives: `n`, floating, the same shape.
      axis: the axis of the vectors.
      norm_degree: `q`, a scalar, at least 1.
      margin: a scalar.
      eps: a scalar, at least 0. With 0, the derivative where two are equal is NaN.

    Returns:
      `[...]`, at least 0.

    Raises:
      ValueError: if a scalar is out of range, besides the errors above.

    Reference: Balntas et al., Learning Shallow Convolutional Feature Descriptors with Triplet
    Losses, 2016.
    """
    function = "triplet_margin_loss"
    require_scalar_in(function, 1.0, float("inf"), norm_degree=norm_degree)
    require_scalar_in(function, 0.0, float("inf"), eps=eps)
    require_scalar_in(function, -float("inf"), float("inf"), margin=margin)
    named = {"anchors": anchors, "positives": positives, "negatives": negatives}
    require_real(function, **{name: jnp.asarray(x) for name, x in named.items()})
    a, p, n = matched(function, **named)
    q, margin, eps = (jnp.asarray(x, a.dtype) for x in (norm_degree, margin, eps))

    def distance(x: Array, y: Array) -> Array:
        return (jnp.sum(absolute(x - y) ** q, axis=axis) + eps) ** (1 / q)

    return jnp.maximum(0.0, distance(a, p) - distance(a, n) + margin)
