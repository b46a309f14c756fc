"""Recurrent cells whose error signals are looked at: vanilla ones and an LSTM, in one form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxnets import nn
from jaxnets.types import Array, Key, Params


class Cell(NamedTuple):
    """A recurrent cell; what is added to its carry by `add` is carried on."""

    params: Params
    step: Callable[[Params, Any, Array], Any]
    add: Callable[[Any, Array], Any]
    start: Callable[[int], Any]


def default_cell(features: int, key: Key) -> Cell:
    """`h ← tanh(x W + b + h U)`, as the library initializes it."""
    params = nn.init_rnn_cell(key, 1, features)
    return Cell(params, nn.rnn_cell, lambda h, tap: h + tap, lambda n: jnp.zeros((n, features)))


def cell_of_radius(features: int, key: Key, radius: float) -> Cell:
    """The same with input weights of deviation `1/√features`, and all eigenvalues of one size."""
    cell = default_cell(features, key)
    params = {
        "input": cell.params["input"]
        | {"kernel": cell.params["input"]["kernel"] / jnp.sqrt(features)},
        "hidden": {"kernel": radius * cell.params["hidden"]["kernel"]},
    }
    return cell._replace(params=params)


def lstm_cell(features: int, key: Key, forget_bias: float) -> Cell:
    """The library's, with such biases at the forget gate."""
    params = nn.init_lstm_cell(key, 1, features)
    # side by side, the gates i, f, g and o
    bias = params["input"]["bias"].at[features : 2 * features].set(forget_bias)
    params = params | {"input": params["input"] | {"bias": bias}}
    # its cell state is what carries the signal
    return Cell(
        params,
        nn.lstm_cell,
        lambda carry, tap: (carry[0] + tap, carry[1]),
        lambda n: (jnp.zeros((n, features)),) * 2,
    )


def last_output(cell: Cell, x: Array, taps: Array | None = None) -> Array:
    """The last output `[n, features]` for `x [n, 64]`; `taps [64, n, features]` are added."""

    def step(carry: Any, given: tuple[Array, Array | None]) -> tuple[Any, None]:
        pixel, tap = given
        carry = cell.step(cell.params, carry, pixel)
        return (carry if tap is None else cell.add(carry, tap)), None

    carry, _ = lax.scan(step, cell.start(len(x)), (x.T[..., None], taps))
    h: Array = carry[-1] if isinstance(carry, tuple) else carry
    return h
