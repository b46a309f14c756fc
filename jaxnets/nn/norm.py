"""Normalization: `y = (x - μ) / √(σ² + ε) · scale + bias`; which axes μ and σ² run over names it.

Moments, the normalized value and the affine map are computed in float32 (float64 for float64)
and returned in x's dtype. Variances are two-pass, `mean((x - μ)²)`: `mean(x²) - μ²` cancels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import require_real
from jaxnets.equations import mixes_examples
from jaxnets.types import Array, DTypeLike, Params


def _mean(x: Array, axes: tuple[int, ...], axis_name: str | None) -> Array:
    mean = x.mean(axes, keepdims=True)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _standardize(
    x: Array, axes: tuple[int, ...], eps: float, center: bool, axis_name: str | None
) -> tuple[Array, Array, Array]:
    """`y = (x - μ) / √(σ² + ε)` with `μ`, `σ²` over `axes`; `center=False` takes μ as 0."""
    mean = _mean(x, axes, axis_name) if center else jnp.zeros((1,) * x.ndim, x.dtype)
    variance = _mean(jnp.square(x - mean), axes, axis_name)
    return (x - mean) * lax.rsqrt(variance + eps), mean, variance


@_standardize.defjvp
def _standardize_jvp(
    axes: tuple[int, ...],
    eps: float,
    center: bool,
    axis_name: str | None,
    primals: tuple[Array],
    tangents: tuple[Array],
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """`dy = (dx - mean(dx) - y · mean(y dx)) / √(σ² + ε)`: its own transpose.

    Automatic differentiation keeps more intermediates and gives XLA's CPU backend fusions of
    hundreds of instructions in deep nets.
    """
    (x,), (dx,) = primals, tangents
    y, mean, variance = _standardize(x, axes, eps, center, axis_name)
    inverse = lax.rsqrt(variance + eps)
    dmean = _mean(dx, axes, axis_name) if center else jnp.zeros_like(mean)
    along_y = _mean(y * dx, axes, axis_name)
    dy = (dx - dmean - y * along_y) * inverse
    return (y, mean, variance), (dy, dmean, 2 * along_y / inverse)


def _normalize(
    function: str,
    params: Params,
    x: Array,
    axes: tuple[int, ...],
    eps: float,
    center: bool = True,
    axis_name: str | None = None,
) -> tuple[Array, Array, Array]:
    require_real(function, x=x)
    if x.ndim < 1:
        raise ValueError(f"{function}: x must be [..., features], got a scalar")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y, mean, variance = _standardize(wide, axes, eps, center, axis_name)
    return _affine(function, params, y).astype(x.dtype), mean, variance


def _affine(function: str, params: Params, y: Array) -> Array:
    """`y · scale + bias` along the last axis, each where `params` has it."""
    for name in ("scale", "bias"):
        if name in params and params[name].shape != y.shape[-1:]:
            raise ValueError(
                f"{function}: x must be [..., {params[name].size}] to meet a {name} "
                f"{list(params[name].shape)}, got {list(y.shape)}"
            )
    if "scale" in params:
        y = y * jnp.broadcast_to(params["scale"].astype(y.dtype), y.shape)
    if "bias" in params:
        y = y + jnp.broadcast_to(params["bias"].astype(y.dtype), y.shape)
    return y


def init_norm(
    features: int, *, scale: bool = True, bias: bool = True, dtype: DTypeLike = jnp.float32
) -> Params:
    """`{"scale": ones [features], "bias": zeros [features]}`: the identity, for any norm here."""
    params = {}
    if scale:
        params["scale"] = jnp.ones(features, dtype)
    if bias:
        params["bias"] = jnp.zeros(features, dtype)
    return params


def layer_norm(params: Params, x: Array, *, eps: float = 1e-6) -> Array:
    """Moments over the last axis of each position (Ba et al., "Layer normalization", 2016).

    Args:
      params: `scale [features]`, `bias [features]`, each optional (`init_norm`).
      x: `[..., features]`.
      eps: added to the variance, as in Flax (PyTorch's default is 1e-5).
    """
    return _normalize("layer_norm", params, x, (x.ndim - 1,), eps)[0]


def rms_norm(params: Params, x: Array, *, eps: float = 1e-6) -> Array:
    """`x / √(mean(x²) + ε) · scale` over the last axis (Zhang and Sennrich, 2019).

    Args:
      params: `scale [features]` (`init_norm(features, bias=False)`).
      x: `[..., features]`.
      eps: added to the mean square.
    """
    return _normalize("rms_norm", params, x, (x.ndim - 1,), eps, center=False)[0]


def group_norm(
    params: Params, x: Array, *, groups: int, eps: float = 1e-6, spatial: int = 2
) -> Array:
    """Moments over space and the channels of one group, for each example (Wu and He, 2018).

    Args:
      params: `scale [channels]`, `bias [channels]`, each optional (`init_norm`).
      x: `[..., *space, channels]`.
      groups: how many groups channels are split into, in order.
      eps: added to the variance.
      spatial: the number of spatial axes.

    Raises:
      ValueError: if `groups` does not divide the channels, or x has too few axes.
    """
    require_real("group_norm", x=x)
    if x.ndim < spatial + 1:
        raise ValueError(
            f"group_norm: x must be [..., {'space, ' * spatial}channels] for spatial={spatial}, "
            f"got {list(x.shape)}"
        )
    channels = x.shape[-1]
    if groups < 1 or channels % groups:
        raise ValueError(f"group_norm: groups must divide the {channels} channels, got {groups}")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    grouped = wide.reshape(*x.shape[:-1], groups, channels // groups)
    axes = (*range(x.ndim - 1 - spatial, x.ndim - 1), x.ndim)
    y, _, _ = _standardize(grouped, axes, eps, True, None)
    return _affine("group_norm", params, y.reshape(x.shape)).astype(x.dtype)


def instance_norm(params: Params, x: Array, *, eps: float = 1e-6, spatial: int = 2) -> Array:
    """Moments over space, for each channel of each example (Ulyanov et al., 2016)."""
    return group_norm(params, x, groups=x.shape[-1], eps=eps, spatial=spatial)


def init_batch_norm(features: int, *, dtype: DTypeLike = jnp.float32) -> tuple[Params, Params]:
    """`(params, state)`: `scale`, `bias`; and the running `mean` 0 and `var` 1, in float32."""
    wide = jnp.promote_types(dtype, jnp.float32)
    state = {"mean": jnp.zeros(features, wide), "var": jnp.ones(features, wide)}
    return init_norm(features, dtype=dtype), state


def batch_norm(
    params: Params,
    state: Params,
    x: Array,
    *,
    train: bool,
    momentum: float = 0.99,
    eps: float = 1e-5,
    axis_name: str | None = None,
) -> tuple[Array, Params]:
    """Moments over everything but the last axis (Ioffe and Szegedy, 2015).

    In training, the batch's own moments, which also move the running ones:
    `running ← momentum · running + (1 - momentum) · batch`, with the biased variance, as in Flax.
    In evaluation, the running ones; the state comes back as it was.

    The only layer here that mixes examples: in training no example has a gradient of its own, and
    under `vmap` over examples each would be normalized by itself. For per-example gradients use the
    running moments; `jaxnets.gradients` refuses the others.

    Args:
      params: `scale [features]`, `bias [features]` (`init_batch_norm`).
      state: running `mean [features]`, `var [features]`.
      x: `[..., features]`.
      train: whether to normalize by the batch.
      momentum: the share of the running moments that is kept.
      eps: added to the variance.
      axis_name: of a mapped axis (`vmap`, `shard_map`) over which the batch is also spread.

    Returns:
      `(y, state)`.

    Raises:
      ValueError: in training with a single value per feature, whose variance is 0; or if x's last
        axis is not the features.
    """
    require_real("batch_norm", x=x)
    features = state["mean"].shape[0]
    if x.ndim < 1 or x.shape[-1] != features:
        raise ValueError(f"batch_norm: x must be [..., {features}], got {list(x.shape)}")
    if not train:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = (
            jnp.broadcast_to(state[k], x.shape).astype(wide.dtype) for k in ("mean", "var")
        )
        y = (wide - mean) * lax.rsqrt(var + eps)
        return _affine("batch_norm", params, y).astype(x.dtype), state
    if x.size <= features and axis_name is None:
        raise ValueError(
            "batch_norm: training needs more than one value per feature, "
            f"got x {list(x.shape)}; pass a batch, or train=False"
        )
    axes = tuple(range(x.ndim - 1))

    def by_batch(params: Params, x: Array) -> tuple[Array, Array, Array]:
        return _normalize("batch_norm", params, x, axes, eps, axis_name=axis_name)

    y, mean, var = mixes_examples("batch_norm", by_batch, params, x)
    batch = {"mean": mean.reshape(features), "var": var.reshape(features)}

    def move(running: Array, moment: Array) -> Array:
        return (momentum * running + (1 - momentum) * moment).astype(running.dtype)

    return y, jax.tree.map(move, state, batch)
