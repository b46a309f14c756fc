"""Backpropagation written out: a forward pass that records, a backward pass by the chain rule.

    forward     every operation computes its result from its operands, and is written down
    backward    from the last to the first, each turns the error signal δ = ∂loss/∂result of its
                result into those of its operands; what several operations used adds up
    update      θ ← θ - η ∂loss/∂θ

This is the reference for what `jax.grad` and the rest of this package compute, made to be read and
to be looked into: every value and every error signal is kept, and loops are written out turn by
turn (backpropagation through time). It is not the fast path.

Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", 1986.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.gradients.local_rules import OF_SEVERAL, RULES
from jaxnets.gradients.rule import Rule
from jaxnets.gradients.tape import Tape, record
from jaxnets.types import Array, ArrayLike, Params, PyTree


def backward(
    tape: Tape, error: ArrayLike = 1.0, *, rules: Mapping[str, Rule] = RULES
) -> list[Array | None]:
    """The backward pass: `∂loss/∂value` of every value that depends on a floating argument.

    Args:
      tape: of a function with one result (or whose first is the loss), from `record`.
      error: the derivative of the loss by that result, of its shape.
      rules: local derivatives, by the operation's name; to have more of them,
        `rules={**RULES, "name": rule}`.

    Returns:
      for each of `tape.values` its error signal, of the same shape and dtype; None where it does
      not reach the loss, hangs on no floating argument, or has no derivative.

    Raises:
      TypeError: if the result is not floating.
      NotImplementedError: if an operation on the way has no rule, or complex values.
    """
    (last, *_) = tape.outputs
    loss = tape.values[last]
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(f"backward: the first result must be floating, got {jax.typeof(loss)}")
    depends = _dependent(tape)
    signals: list[Array | None] = [None] * len(tape.values)
    signals[last] = jnp.broadcast_to(jnp.asarray(error, loss.dtype), loss.shape)
    for operation in reversed(tape.operations):
        found = [signals[place] for place in operation.results]
        if all(signal is None for signal in found) or depends.isdisjoint(operation.operands):
            continue
        if operation.name not in rules:
            raise NotImplementedError(
                f"backprop: no rule for {operation.name!r}; pass rules={{**RULES, "
                f"{operation.name!r}: rule}}, with rule(x, y, error, /, **params) -> error signals"
            )
        x = [tape.values[place] for place in operation.operands]
        y = [tape.values[place] for place in operation.results]
        errors = [
            jnp.zeros_like(value) if signal is None else signal
            for value, signal in zip(y, found, strict=True)
        ]
        one = len(y) == 1 and operation.name not in OF_SEVERAL
        parts = rules[operation.name](
            x, y[0] if one else tuple(y), errors[0] if one else tuple(errors), **operation.params
        )
        for place, part in zip(operation.operands, parts, strict=True):
            if part is not None and place in depends:
                known = signals[place]
                signals[place] = part if known is None else known + part
    return signals


def backprop(
    loss: Callable[..., Any], *, has_aux: bool = False, rules: Mapping[str, Rule] = RULES
) -> Callable[..., tuple[Any, Params]]:
    """`(params, *args) -> (value, gradient)`: what `jax.value_and_grad(loss)` returns.

    Args:
      loss: `loss(params, *args) -> scalar`, or `(scalar, aux)` with `has_aux`.
      has_aux: whether it returns something beside the loss.
      rules: as in `backward`.

    Raises:
      TypeError: if a parameter is not floating, or the loss is not one floating number.
      ValueError: as `record`.
      NotImplementedError: as `backward`.

    Example:
      >>> value, gradient = backprop(loss)(params, x, y)
      >>> params = descend(params, gradient, 0.1)
    """

    def gradient(params: Params, *args: PyTree) -> tuple[Any, Params]:
        leaves, structure = jax.tree.flatten(params)
        for leaf in leaves:
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"backprop: parameters must be floating, got {jnp.result_type(leaf)}"
                )
        # what is not a parameter may be any object, as for `jax.grad`
        value, tape = record(lambda params: loss(params, *args), params)
        scalar = value[0] if has_aux else value
        if not isinstance(scalar, jax.Array):
            raise TypeError(f"backprop: loss must return one number, got {scalar!r:.60}")
        if jnp.shape(scalar) or not jnp.issubdtype(jnp.result_type(scalar), jnp.floating):
            raise TypeError(f"backprop: loss must return one number, got {jax.typeof(scalar)}")
        signals = backward(tape, rules=rules)
        places = tape.arguments[: len(leaves)]
        found = [
            jnp.zeros_like(leaf) if signals[place] is None else signals[place]
            for leaf, place in zip(leaves, places, strict=True)
        ]
        return value, jax.tree.unflatten(structure, found)

    return gradient


def descend(params: Params, gradient: Params, learning_rate: ArrayLike) -> Params:
    """The weight update `θ ← θ - η g`."""

    def step(p: Any, g: Array) -> Array:
        p = jnp.asarray(p)
        moved: Array = p - jnp.asarray(learning_rate, p.dtype) * g
        return moved

    return jax.tree.map(step, params, gradient)


def describe(tape: Tape, signals: Sequence[Array | None]) -> str:
    """A line for each operation: where it stands, its result, and the size of its error signal.

    Sizes are root mean squares. Values must be known: not for use inside `jit`.
    """
    lines = [f"{'operation':<22} {'result':<20} {'value':>10} {'error':>10}  inside"]
    for operation in tape.operations:
        for place in operation.results:
            value, signal = tape.values[place], signals[place]
            shape = f"{jnp.result_type(value)}{list(jnp.shape(value))}"
            sizes = [_rms(value) if _has_derivative(value) else "", _rms(signal)]
            cells = " ".join(f"{size:>10}" for size in sizes)
            where = " / ".join(operation.inside)
            lines.append(f"{operation.name:<22} {shape:<20} {cells}  {where}".rstrip())
    return "\n".join(lines)


def _rms(x: Array | None) -> str:
    return "" if x is None else f"{float(jnp.sqrt(jnp.mean(jnp.square(jnp.abs(x))))):.3g}"


def _has_derivative(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def _dependent(tape: Tape) -> set[int]:
    """The places of what has a derivative by an argument."""
    found = {place for place in tape.arguments if _has_derivative(tape.values[place])}
    for operation in tape.operations:
        if not found.isdisjoint(operation.operands):
            results = [place for place in operation.results if _has_derivative(tape.values[place])]
            if any(jnp.iscomplexobj(tape.values[place]) for place in results):
                raise NotImplementedError(
                    f"backward: {operation.name!r} makes complex values, which have no rules here"
                )
            found.update(results)
    return found
