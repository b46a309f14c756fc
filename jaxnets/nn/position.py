"""Positions in attention, which by itself sees a set: rotations, waves added, or linear biases.

Positions are integers of the whole sequence, so that a token that is decoded alone is told apart by
the same numbers as in a full pass. Learned positions need nothing here: they are
`embedding(params, positions)`.
"""

import jax.numpy as jnp
import numpy as np

from jaxnets.checks import require_real
from jaxnets.types import Array, ArrayLike, DTypeLike


def _angles(
    function: str, positions: ArrayLike, features: int, theta: float, dtype: DTypeLike
) -> Array:
    """`p θ^(-2i / features)` for `i < features / 2`, in float32 at least."""
    if features < 2 or features % 2:
        raise ValueError(
            f"{function}: the number of features must be even and positive, got {features}"
        )
    # half precision does not tell positions beyond 256 apart
    wide = jnp.promote_types(dtype, jnp.float32)
    frequencies = jnp.asarray(theta ** (-np.arange(0, features, 2) / features), wide)
    positions = jnp.asarray(positions)
    shape = (*positions.shape, features // 2)
    by_position = jnp.broadcast_to(positions[..., None].astype(wide), shape)
    return by_position * jnp.broadcast_to(frequencies, shape)


def rotary_angles(
    positions: ArrayLike,
    head_dim: int,
    *,
    theta: float = 10_000.0,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """`p θ^(-2i / head_dim)`: by how much `rotary` turns pair i at position p.

    Args:
      positions: `[..., T]`.
      head_dim: even.
      theta: how slowly the last pair turns; larger for longer sequences.
      dtype: of the angles.

    Returns:
      `[..., T, head_dim / 2]`; one computation serves all layers.

    Raises:
      ValueError: if `head_dim` is not even and positive.
    """
    return _angles("rotary_angles", positions, head_dim, theta, dtype).astype(dtype)


def rotary(x: Array, angles: Array, *, interleaved: bool = False) -> Array:
    """Turn pairs of a head's features by the angles (Su et al., "RoFormer", 2021).

    `(a, b) -> (a cos φ - b sin φ, a sin φ + b cos φ)`. The product of a query and a key then
    depends on the difference of their positions alone.

    Args:
      x: queries or keys `[..., T, heads, head_dim]`.
      angles: `[..., T, head_dim / 2]` (`rotary_angles`), the leading axes as x's or fewer.
      interleaved: which features are a pair: `(2i, 2i + 1)` as in the paper, LLaMA's own code and
        GGUF files; or, without it, `(i, i + head_dim / 2)` as in GPT-NeoX and Hugging Face. Weights
        made for one layout give nonsense in the other.

    Returns:
      as x; computed in float32 (float64 for float64).

    Raises:
      ValueError: if the angles do not fit x.
    """
    x = jnp.asarray(x)
    require_real("rotary", x=x)
    if x.ndim < 3 or angles.ndim < 2 or 2 * angles.shape[-1] != x.shape[-1] or (
        angles.shape[-2] != x.shape[-3]
    ):  # fmt: skip
        raise ValueError(
            "rotary: x must be [..., T, heads, head_dim] and angles [..., T, head_dim / 2], got "
            f"{list(x.shape)} and {list(angles.shape)}"
        )
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    half = (*x.shape[:-1], x.shape[-1] // 2)
    turns = jnp.broadcast_to(jnp.expand_dims(angles, -2).astype(wide.dtype), half)
    cos, sin = jnp.cos(turns), jnp.sin(turns)
    if interleaved:
        pairs = wide.reshape(*half, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        y = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)
    else:
        a, b = jnp.split(wide, 2, -1)
        y = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
    return y.astype(x.dtype)


def sinusoidal(
    positions: ArrayLike,
    features: int,
    *,
    theta: float = 10_000.0,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """`[sin(p ω₀), …, cos(p ω₀), …]`, `ωᵢ = θ^(-2i / features)` (Vaswani et al., 2017).

    First all sines, then all cosines, as in the authors' code; the paper's text alternates them,
    which is a permutation of the features.

    Args:
      positions: `[..., T]`; need not be integers, as for the steps of a diffusion.
      features: even.
      theta: the ratio of the longest to the shortest wave.
      dtype: of the result.

    Returns:
      `[..., T, features]`.

    Raises:
      ValueError: if `features` is not even and positive.
    """
    angles = _angles("sinusoidal", positions, features, theta, dtype)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(dtype)


def alibi_slopes(heads: int) -> Array:
    """`2^(-8 h / heads)` for `h = 1 … heads`: how fast each head forgets (Press et al., 2021).

    For a number of heads that is no power of two, as in the authors' code: the slopes of the next
    smaller power of two, then every other slope of the next larger one.

    Returns:
      `[heads]`, for `attention(slopes=…)`.

    Raises:
      ValueError: if `heads` is not positive.
    """
    if heads < 1:
        raise ValueError(f"alibi_slopes: heads must be positive, got {heads}")
    power = 2 ** (heads.bit_length() - 1)
    first = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4 * np.arange(1, 2 * (heads - power), 2) / power)
    return jnp.asarray(np.concatenate([first, between]), jnp.float32)


def alibi(slopes: Array, query_positions: Array, key_positions: Array) -> Array:
    """`-slope_h |i - j|`: the bias that attention with linear biases adds to its logits.

    Args:
      slopes: `[heads]` (`alibi_slopes`).
      query_positions: `[T]`.
      key_positions: `[S]`.

    Returns:
      `[heads, T, S]`, in float32 at least.
    """
    wide = jnp.promote_types(slopes.dtype, jnp.float32)
    distance = jnp.abs(query_positions[:, None] - key_positions[None, :]).astype(wide)
    return -slopes.astype(wide)[:, None, None] * distance[None]
