"""Recurrent cells: `cell(params, carry, x) -> carry`, a step of time.

Each is `u = x W + b` and `v = h U`, matrix products, and an elementwise rest, its gates. The gates
are written a second time as their derivative, `slopes` and `along`, for `unroll`.

The output of a cell is the `h` of its carry. Kernels of the gates stand side by side: Linen's, one
for each gate, are the blocks of `jnp.split(kernel, n, -1)`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets.checks import require_real
from jaxnets.nn.dense import dense
from jaxnets.nn.initializers import lecun_normal, orthogonal, zeros
from jaxnets.types import Array, DTypeLike, Initializer, Key, Params, PyTree

Carry: TypeAlias = PyTree
"""`h`, or `(c, h)`."""
Cell: TypeAlias = Callable[[Params, Carry, Array], Carry]


class Gates(NamedTuple):
    """The elementwise part of a cell, as a function of its sums and its carry, and its derivative.

    The sums are `u + v` where nothing but this is made of both, else both.
    """

    sums: Callable[[Array, Array], tuple[Array, ...]]
    """Of `u` and `v`; linear."""
    update: Callable[[tuple[Array, ...], Carry], Carry]
    slopes: Callable[[tuple[Array, ...], Carry], tuple[Carry, tuple[Array, ...]]]
    """What `update` gives, and what `along` needs."""
    along: Callable[[tuple[Array, ...], tuple[Array, ...], Carry], Carry]
    """Of slopes, the derivative of `update` along sums and carry."""


def output(carry: Carry) -> Array:
    """`h`, the output of a cell, which is all or the last of its carry."""
    h: Array = carry[-1] if isinstance(carry, tuple) else carry
    return h


def _init_cell(
    key: Key,
    n_in: int,
    features: int,
    gates: int,
    kernel_init: Initializer,
    recurrent_init: Initializer,
    bias_init: Initializer,
    dtype: DTypeLike,
) -> Params:
    """Each gate's kernels drawn by themselves: side by side they would have other fans."""
    if min(n_in, features) < 1:
        raise ValueError(f"a cell's n_in and features must be positive, got {n_in} and {features}")
    inputs, recurrent, bias = jax.random.split(key, 3)

    def side_by_side(key: Key, init: Initializer, rows: int) -> Array:
        keys = jax.random.split(key, gates)
        return jnp.concatenate([init(k, (rows, features), dtype) for k in keys], -1)

    return {
        "input": {
            "kernel": side_by_side(inputs, kernel_init, n_in),
            "bias": bias_init(bias, (gates * features,), dtype),
        },
        "hidden": {"kernel": side_by_side(recurrent, recurrent_init, features)},
    }


def hidden(params: Params, h: Array) -> Array:
    """`v = h U`, plus the bias of the last gate, where there is one."""
    v = dense({"kernel": params["kernel"]}, h)
    if "bias" not in params:
        return v
    others = v.shape[-1] - params["bias"].size
    bias = jnp.pad(params["bias"].astype(v.dtype), (others, 0))
    return v + jnp.broadcast_to(bias, v.shape)


def step(name: str, gates: Gates, params: Params, carry: Carry, x: Array) -> Carry:
    """A cell's step, after a look at its shapes."""
    x = jnp.asarray(x)
    require_real(name, x=x)
    features = params["hidden"]["kernel"].shape[0]
    want = (*x.shape[:-1], features)
    for part in jax.tree.leaves(carry):
        if jnp.shape(part) != want:
            raise ValueError(
                f"{name}: carry must be {list(want)} for x {list(x.shape)}, got "
                f"{list(jnp.shape(part))}"
            )
    u, v = dense(params["input"], x), hidden(params["hidden"], output(carry).astype(x.dtype))
    return gates.update(gates.sums(u, v), carry)


def _added(u: Array, v: Array) -> tuple[Array, ...]:
    return (u + v,)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def init_rnn_cell(
    key: Key,
    n_in: int,
    features: int,
    *,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """`{"input": {"kernel": [n_in, features], "bias"}, "hidden": {"kernel"}}`.

    Raises:
      ValueError: if a size is not positive.
    """
    return _init_cell(key, n_in, features, 1, kernel_init, recurrent_init, bias_init, dtype)


def _rnn_update(sums: tuple[Array, ...], h: Array) -> Array:
    return jnp.tanh(sums[0])


def _rnn_slopes(sums: tuple[Array, ...], h: Array) -> tuple[Array, tuple[Array, ...]]:
    h = jnp.tanh(sums[0])
    return h, (1 - jnp.square(h),)


def _rnn_along(slopes: tuple[Array, ...], dsums: tuple[Array, ...], dh: Array) -> Array:
    return slopes[0] * dsums[0]


RNN_GATES = Gates(_added, _rnn_update, _rnn_slopes, _rnn_along)


def rnn_cell(params: Params, carry: Array, x: Array) -> Array:
    """`h ← tanh(x W + b + h U)` (Elman, "Finding structure in time", 1990).

    Args:
      params: from `init_rnn_cell`.
      carry: `h [..., features]`.
      x: `[..., n_in]`.

    Returns:
      The new `h`, in x's dtype.

    Raises:
      ValueError: if shapes do not fit.
      TypeError: if x is not real and floating.
    """
    h: Array = step("rnn_cell", RNN_GATES, params, carry, x)
    return h


def init_lstm_cell(
    key: Key,
    n_in: int,
    features: int,
    *,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """`{"input": {"kernel": [n_in, 4 features], "bias"}, "hidden": {"kernel"}}`: i, f, g, o.

    Raises:
      ValueError: if a size is not positive.
    """
    return _init_cell(key, n_in, features, 4, kernel_init, recurrent_init, bias_init, dtype)


def _lstm_gates(sums: tuple[Array, ...]) -> tuple[Array, Array, Array, Array]:
    i, f, g, o = jnp.split(_wide(sums[0]), 4, -1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def _lstm_update(sums: tuple[Array, ...], carry: Carry) -> Carry:
    i, f, g, o = _lstm_gates(sums)
    c = f * _wide(carry[0]) + i * g
    return c, (o * jnp.tanh(c)).astype(sums[0].dtype)


def _lstm_slopes(sums: tuple[Array, ...], carry: Carry) -> tuple[Carry, tuple[Array, ...]]:
    i, f, g, o = _lstm_gates(sums)
    before = _wide(carry[0])
    c = f * before + i * g
    squashed = jnp.tanh(c)
    slopes = (
        g * i * (1 - i),
        before * f * (1 - f),
        i * (1 - jnp.square(g)),
        squashed * o * (1 - o),
        f,
        o * (1 - jnp.square(squashed)),
    )
    return (c, (o * squashed).astype(sums[0].dtype)), slopes


def _lstm_along(slopes: tuple[Array, ...], dsums: tuple[Array, ...], dcarry: Carry) -> Carry:
    by_i, by_f, by_g, by_o, by_carry, by_c = slopes
    di, df, dg, do = jnp.split(_wide(dsums[0]), 4, -1)
    dc = by_i * di + by_f * df + by_g * dg + by_carry * dcarry[0]
    return dc, (by_o * do + by_c * dc).astype(dsums[0].dtype)


LSTM_GATES = Gates(_added, _lstm_update, _lstm_slopes, _lstm_along)


def lstm_cell(params: Params, carry: tuple[Array, Array], x: Array) -> tuple[Array, Array]:
    """Long short-term memory: a sum `c` that gates let values into, keep, and let out.

        i, f, o = σ(x W + b + h U),  g = tanh(x W + b + h U), each with its own block
        c ← f c + i g
        h ← o tanh(c)

    Args:
      params: from `init_lstm_cell`.
      carry: `(c, h)`, each `[..., features]`.
      x: `[..., n_in]`.

    Returns:
      The new `(c, h)`: h in x's dtype, c, a sum over time, in float32 at least.

    Raises:
      ValueError: if shapes do not fit.
      TypeError: if x is not real and floating.

    Hochreiter and Schmidhuber, "Long short-term memory", 1997; the forget gate: Gers et al., 2000.
    """
    c, h = step("lstm_cell", LSTM_GATES, params, carry, x)
    return c, h


def init_gru_cell(
    key: Key,
    n_in: int,
    features: int,
    *,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal(),
    bias_init: Initializer = zeros,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """`{"input": {"kernel": [n_in, 3 features], "bias"}, "hidden": {"kernel", "bias"}}`: r, z, n.

    The bias on the hidden side, `[features]`, is n's; those of r and z would add to the others.

    Raises:
      ValueError: if a size is not positive.
    """
    params = _init_cell(key, n_in, features, 3, kernel_init, recurrent_init, bias_init, dtype)
    params["hidden"]["bias"] = bias_init(jax.random.fold_in(key, 1), (features,), dtype)
    return params


def _gru_sums(u: Array, v: Array) -> tuple[Array, ...]:
    """Of r and z together; of n apart, since r comes between."""
    both = u.shape[-1] // 3 * 2
    return u[..., :both] + v[..., :both], u[..., both:], v[..., both:]


def _gru_gates(sums: tuple[Array, ...]) -> tuple[Array, ...]:
    rz, u, v = map(_wide, sums)
    r, z = jnp.split(jax.nn.sigmoid(rz), 2, -1)
    return r, z, jnp.tanh(u + r * v), v


def _gru_update(sums: tuple[Array, ...], h: Array) -> Array:
    _, z, n, _ = _gru_gates(sums)
    return ((1 - z) * n + z * h).astype(sums[0].dtype)


def _gru_slopes(sums: tuple[Array, ...], h: Array) -> tuple[Array, tuple[Array, ...]]:
    r, z, n, v = _gru_gates(sums)
    by_n = (1 - z) * (1 - jnp.square(n))
    slopes = by_n * v * r * (1 - r), (h - n) * z * (1 - z), by_n, by_n * r, z
    return ((1 - z) * n + z * h).astype(sums[0].dtype), slopes


def _gru_along(slopes: tuple[Array, ...], dsums: tuple[Array, ...], dh: Array) -> Array:
    by_r, by_z, by_u, by_v, by_h = slopes
    drz, du, dv = map(_wide, dsums)
    dr, dz = jnp.split(drz, 2, -1)
    return (by_r * dr + by_z * dz + by_u * du + by_v * dv + by_h * dh).astype(dsums[0].dtype)


GRU_GATES = Gates(_gru_sums, _gru_update, _gru_slopes, _gru_along)


def gru_cell(params: Params, carry: Array, x: Array) -> Array:
    """Gated recurrent unit: the state moves towards a candidate as far as a gate lets it.

        r, z = σ(x W + b + h U), each with its own block
        n = tanh(x W + b + r (h U + b'))
        h ← (1 - z) n + z h

    Args:
      params: from `init_gru_cell`.
      carry: `h [..., features]`.
      x: `[..., n_in]`.

    Returns:
      The new `h`, in x's dtype.

    Raises:
      ValueError: if shapes do not fit.
      TypeError: if x is not real and floating.

    Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, with r behind the
    product, as in cuDNN, Flax and PyTorch.
    """
    h: Array = step("gru_cell", GRU_GATES, params, carry, x)
    return h
