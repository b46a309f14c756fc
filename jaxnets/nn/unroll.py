"""A recurrent cell over time, by `lax.scan`, in one direction or both.

Automatic differentiation of the loop adds a product `hᵀ δ`, of the size of the recurrent kernel,
to its gradient at every step. The derivative below has the products of all steps in one: along a
change of the kernel, `h dU` does not depend on the loop and stands before it, and reverse mode
transposes that into a single product after its own loop. Both modes and derivatives of any order
exist.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import concrete, require_real
from jaxnets.equations import enterable
from jaxnets.nn.dense import dense
from jaxnets.nn.recurrent import (
    GRU_GATES,
    LSTM_GATES,
    RNN_GATES,
    Carry,
    Cell,
    Gates,
    gru_cell,
    hidden,
    lstm_cell,
    output,
    rnn_cell,
)
from jaxnets.types import Array, DTypeLike, Params, Shape

_GATES = {rnn_cell: RNN_GATES, lstm_cell: LSTM_GATES, gru_cell: GRU_GATES}

When: TypeAlias = tuple[Array | None, Array | None]
"""For each step, which examples it is for, `[T, ..., 1]`, and whether a window starts: `[T]`."""


def zero_carry(
    cell: Cell, params: Params, shape: Shape = (), dtype: DTypeLike = jnp.float32
) -> Carry:
    """The state before the first step: zeros `[*shape, features]`, for inputs of `dtype`.

    Raises:
      ValueError: if the cell is none of `rnn_cell`, `lstm_cell` and `gru_cell`.
    """
    if cell not in _GATES:
        raise ValueError(
            f"zero_carry: only rnn_cell, lstm_cell and gru_cell have a known carry, got {cell}"
        )
    h = jnp.zeros((*shape, params["hidden"]["kernel"].shape[0]), dtype)
    return (h.astype(jnp.promote_types(dtype, jnp.float32)), h) if cell is lstm_cell else h


def _at_once(layer: Callable[[Params, Array], Array], params: Params, x: Array) -> Array:
    """A layer of all rows of `x [T, ..., n]` in one matrix product.

    Its derivative by the kernel sums over one axis then: over several, XLA's CPU backend takes
    twice as long. So it does where the batch is a `vmap`.
    """
    y = layer(params, x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _detached(fresh: Array | None, carry: Carry) -> Carry:
    if fresh is None:
        return carry
    return jax.tree.map(lambda x: jnp.where(fresh, lax.stop_gradient(x), x), carry)


def _kept(valid: Array | None, new: Carry, old: Carry) -> Carry:
    if valid is None:
        return new
    return jax.tree.map(lambda x, y: jnp.where(valid, x, y), new, old)


def _loop(
    advance: Any, reverse: bool, carry: Carry, inputs: Any, when: When
) -> tuple[Carry, tuple[Array, Any]]:
    """`carry, aux ← advance(carry, input)`; the last carry, the outputs and aux of all steps."""

    def turn(carry: Carry, now: Any) -> Any:
        given, (valid, fresh) = now
        new, aux = advance(_detached(fresh, carry), given)
        new = _kept(valid, new, carry)
        return new, (output(new), aux)

    last, ys = lax.scan(turn, carry, (inputs, when), reverse=reverse)
    return last, ys


@partial(enterable, static_argnums=(0, 1))
def _steps(
    gates: Gates, reverse: bool, params: Params, u: Array, carry: Carry, when: When
) -> tuple[Carry, Array]:
    """`v = h U`, and the gates of u and v, step by step."""

    def advance(carry: Carry, u: Array) -> tuple[Carry, None]:
        return gates.update(gates.sums(u, hidden(params, output(carry))), carry), None

    last, (h, _) = _loop(advance, reverse, carry, u, when)
    return last, h


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _recurrence(
    gates: Gates, reverse: bool, params: Params, u: Array, carry: Carry, when: When
) -> tuple[Carry, Array]:
    """The last carry, and the outputs `[T, ..., features]`, from `u [T, ..., n]`."""
    result: tuple[Carry, Array] = _steps(gates, reverse, params, u, carry, when)
    return result


@_recurrence.defjvp
def _recurrence_jvp(
    gates: Gates, reverse: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Carry, Array], tuple[Carry, Array]]:
    params, u, carry, when = primals
    dparams, du, dcarry, _ = tangents

    def advance(carry: Carry, u: Array) -> tuple[Carry, tuple[Array, ...]]:
        return gates.slopes(gates.sums(u, hidden(params, output(carry))), carry)

    last, (h, slopes) = _loop(advance, reverse, carry, u, when)
    first = output(carry)[None]
    before = jnp.concatenate([h[1:], first] if reverse else [first, h[:-1]])[: len(h)]
    # what changes by the parameters, of all steps at once
    dsums = gates.sums(du, _at_once(hidden, dparams, before))

    def along(dcarry: Carry, now: Any) -> Any:
        (slopes, dsums), (valid, fresh) = now
        dbefore = dcarry
        if fresh is not None:
            dbefore = jax.tree.map(lambda x: jnp.where(fresh, 0, x), dcarry)
        dv = hidden({"kernel": params["kernel"]}, output(dbefore))
        through = gates.sums(jnp.zeros_like(dv), dv)
        total = tuple(x + y for x, y in zip(dsums, through, strict=True))
        dnew = _kept(valid, gates.along(slopes, total, dbefore), dcarry)
        return dnew, output(dnew)

    dlast, dh = lax.scan(along, dcarry, ((slopes, dsums), when), reverse=reverse)
    return (last, h), (dlast, dh)


def within_lengths(function: str, lengths: Array, shape: Shape) -> Array:
    """Whether each step of `shape`, `[..., T]`, is below its sequence's length.

    Raises:
      ValueError: if `lengths` are not integers `[...]`, or concrete and outside `[0, T]`.
    """
    values = concrete(lengths)
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != shape[:-1]:
        raise ValueError(
            f"{function}: lengths must be integers {list(shape[:-1])} for steps {list(shape)}, got "
            f"{lengths.dtype}{list(lengths.shape)}"
        )
    if values is not None and values.size and not 0 <= values.min() <= values.max() <= shape[-1]:
        raise ValueError(
            f"{function}: lengths must be in [0, {shape[-1]}], got {values.min()} to {values.max()}"
        )
    # in a dtype of lengths alone the count of steps may overflow
    steps = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    return steps < lengths.astype(jnp.int32)[..., None]


def unroll(
    cell: Cell,
    params: Params,
    x: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    reverse: bool = False,
    window: int | None = None,
) -> tuple[Array, Carry]:
    """A cell over time: `carry ← cell(params, carry, x_t)` for `t = 0, 1, …`.

    Args:
      cell: `rnn_cell`, `lstm_cell` or `gru_cell`, which have a derivative of their own here, or any
        other `cell(params, carry, x) -> carry` whose output is its carry or the last of a tuple.
      params: the cell's.
      x: `[..., T, n_in]`.
      carry: before the first step, `[..., features]` each; `None` is zeros.
      lengths: integers `[...]` in `[0, T]`, how many steps each sequence has; the rest is padding,
        which changes nothing, whatever it holds: the carry stays, and outputs are 0. `None` is T.
      reverse: whether to go from the last step to the first. y stays in the order of x.
      window: truncated backpropagation: derivatives end at every `window`-th step, counted from
        each sequence's first one in the direction of the loop, as if the carry had been handed on
        through `stop_gradient`. The first carry keeps its derivative. `None` is backpropagation
        through all of time.

    Returns:
      `y [..., T, features]`, the outputs, and the carry after the last step.

    Raises:
      ValueError: if shapes do not fit, `lengths` are concrete and outside `[0, T]`, `window` is not
        positive, or a cell that is not of jaxnets comes without carry.
      TypeError: if x is not real and floating.
    """
    x = jnp.asarray(x)
    require_real("unroll", x=x)
    if x.ndim < 2:
        raise ValueError(f"unroll: x must be [..., T, n_in], got {list(x.shape)}")
    if window is not None and window < 1:
        raise ValueError(f"unroll: window must be positive, got {window}")
    valid, fresh = None, None
    if lengths is not None:
        valid = within_lengths("unroll", lengths, x.shape[:-1])[..., None]
        # what padding holds would reach the gradients as 0 · nan
        x = jnp.where(valid, x, 0)
        valid = jnp.moveaxis(valid, -2, 0)
    if window is not None:
        before = _steps_before(x.shape[-2], lengths, reverse)
        fresh = (before % window == 0) & (before > 0)
    if carry is None:
        carry = zero_carry(cell, params, x.shape[:-2], x.dtype)
    x = jnp.moveaxis(x, -2, 0)
    when = valid, fresh
    if cell in _GATES:
        carry = _typed(carry, zero_carry(cell, params, x.shape[1:-1], x.dtype))
        u = _at_once(dense, params["input"], x)
        last, h = _recurrence(_GATES[cell], reverse, params["hidden"], u, carry, when)
    else:

        def advance(carry: Carry, x: Array) -> tuple[Carry, None]:
            return cell(params, carry, x), None

        last, (h, _) = _loop(advance, reverse, carry, x, when)
    if valid is not None:
        h = jnp.where(valid, h, 0)
    return jnp.moveaxis(h, 0, -2), last


def _steps_before(n: int, lengths: Array | None, reverse: bool) -> Array:
    """`[T]`, or `[T, ..., 1]`: how many steps of its sequence the loop takes before each one."""
    if not reverse:
        return jnp.arange(n)
    if lengths is None:
        return jnp.arange(n)[::-1]
    ends = jnp.asarray(lengths).astype(jnp.int32)[None, ..., None]
    return ends - 1 - lax.broadcasted_iota(jnp.int32, (n, *ends.shape[1:]), 0)


def _typed(carry: Carry, like: Carry) -> Carry:
    """A carry of the shapes and in the dtypes that the loop keeps."""
    shapes, wanted = (jax.tree.map(jnp.shape, tree) for tree in (carry, like))
    if shapes != wanted:
        raise ValueError(f"unroll: carry must be of shapes {wanted}, got {shapes}")
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), carry, like)


def bidirectional(
    cell: Cell,
    params: Params,
    x: Array,
    *,
    lengths: Array | None = None,
    window: int | None = None,
) -> tuple[Array, tuple[Carry, Carry]]:
    """Two cells over time, one in each direction, side by side (Schuster and Paliwal, 1997).

    Args:
      cell: as for `unroll`, of jaxnets.
      params: `{"forward", "backward"}`, a cell's each.
      x: `[..., T, n_in]`.
      lengths: as for `unroll`; the backward cell starts at each sequence's own last step.
      window: as for `unroll`.

    Returns:
      `y [..., T, 2 features]`, forward first, and both carries after their last steps.

    Raises:
      ValueError, TypeError: as `unroll`.
    """
    run = partial(unroll, cell, lengths=lengths, window=window)
    there, last = run(params["forward"], x)
    back, first = run(params["backward"], x, reverse=True)
    return jnp.concatenate([there, back], -1), (last, first)
