"""A program in which kernels have thin products added, computed without ever adding them up.

`x (W + s A B)` is `x W + s (x A) B`: two thin products, whose gradients are outer products of
their own, where the sum `W + s A B` would need the whole gradient of `W` first.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from jaxnets.equations import bind, is_enterable, leading_axes_are_kept
from jaxnets.nn.dense import matmul
from jaxnets.types import Array


class LowRank(NamedTuple):
    """The kernel `W + s A B` of a program, kept apart."""

    kernel: Array
    """`W [*inputs, *outputs]`"""
    a: Array
    """`[*inputs, r]`"""
    b: Array
    """`[r, *outputs]`"""
    scale: float


def added_up(x: Any) -> Any:
    """`W + s A B`, and anything else as it is."""
    if not isinstance(x, LowRank):
        return x
    rank = x.b.shape[0]
    product = x.a.reshape(-1, rank) @ x.b.reshape(rank, -1)
    return x.kernel + (x.scale * product).astype(x.kernel.dtype).reshape(x.kernel.shape)


def run(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The results of a program, some of whose inputs are `LowRank`.

    Where one is multiplied or convolved with another value, the thin products are too; where it is
    used in any other way (inside a loop, a rule for derivatives), it is added up before.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in jaxpr.eqns:
        known.update(
            zip(equation.outvars, _results(equation, list(map(read, equation.invars))), strict=True)
        )
    return list(map(read, jaxpr.outvars))


def _results(equation: Any, operands: list[Any]) -> list[Any]:
    name = equation.primitive.name
    if not any(isinstance(x, LowRank) for x in operands):
        return bind(equation, operands)
    match name, operands:
        case "convert_element_type", [LowRank() as w]:
            return [_each(w, lambda x: x.astype(equation.params["new_dtype"]))]
        case "reshape", [LowRank() as w] if (reshaped := _reshaped(w, equation)) is not None:
            return [reshaped]
        case "dot_general", [x, LowRank() as w] if not isinstance(x, LowRank) and _contracts(
            equation, w
        ):
            return [_product(equation, x, w)]
        case _, [x, LowRank() as w] if not isinstance(x, LowRank):
            if leading_axes_are_kept(equation) and w.kernel.ndim == 2:
                thin = matmul(w.scale * matmul(x, w.a), w.b)
                return [bind(equation, [x, w.kernel])[0] + thin]
            convolution = _innermost(equation)
            if convolution.primitive.name == "conv_general_dilated":
                return [_convolved(equation, convolution, x, w)] if _plain(convolution, w) else \
                    bind(equation, [x, added_up(w)])  # fmt: skip
    body = _body(equation)
    entered = name in ("jit", "pjit", "closed_call") or (
        name == "custom_jvp_call" and body is not None and is_enterable(body[0])
    )
    if entered and body is not None:
        return run(*body, operands)
    return bind(equation, list(map(added_up, operands)))


def _each(w: LowRank, f: Any) -> LowRank:
    return LowRank(f(w.kernel), f(w.a), f(w.b), w.scale)


def _reshaped(w: LowRank, equation: Any) -> LowRank | None:
    """Of another shape in which inputs and outputs are still apart, or None."""
    shape, rank = equation.params["new_sizes"], w.b.shape[0]
    fan_in = math.prod(w.a.shape[:-1])
    for n in range(1, len(shape)):
        if math.prod(shape[:n]) == fan_in:
            a, b = w.a.reshape(*shape[:n], rank), w.b.reshape(rank, *shape[n:])
            return LowRank(w.kernel.reshape(shape), a, b, w.scale)
    return None


def _contracts(equation: Any, w: LowRank) -> bool:
    """Whether a product sums over all inputs of a kernel, and over nothing else of it."""
    (_, of_kernel), batch = equation.params["dimension_numbers"]
    return sorted(of_kernel) == list(range(w.a.ndim - 1)) and not any(batch)


def _product(equation: Any, x: Array, w: LowRank) -> Array:
    options = {k: equation.params[k] for k in ("precision", "preferred_element_type")}
    numbers = equation.params["dimension_numbers"]
    inner = w.scale * lax.dot_general(x, w.a, numbers, **options)
    thin = lax.dot_general(
        inner.astype(w.b.dtype), w.b, (((inner.ndim - 1,), (0,)), ((), ())), **options
    )
    base: Array = bind(equation, [x, w.kernel])[0]
    return base + thin.astype(base.dtype)


def _body(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    inside = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    if inside is None:
        return None
    return (inside.jaxpr, inside.consts) if hasattr(inside, "consts") else (inside, ())


def _innermost(equation: Any) -> Any:
    """The equation itself, or that which is all of a call's or a rule's body."""
    body = _body(equation)
    if body is None or len(body[0].eqns) != 1:
        return equation
    (inner,) = body[0].eqns
    if inner.invars != body[0].invars or inner.outvars != body[0].outvars:
        return equation
    return _innermost(inner)


def _plain(convolution: Any, w: LowRank) -> bool:
    """Whether a convolution has one group, and its kernel the layout `[*window, in, out]`."""
    n = w.kernel.ndim
    layout = convolution.params["dimension_numbers"]
    return (
        convolution.params["feature_group_count"] == 1
        and convolution.params["batch_group_count"] == 1
        and tuple(layout.rhs_spec) == (n - 1, n - 2, *range(n - 2))
        and layout.out_spec[1] == n - 1
        and w.b.ndim == 2
    )


def _convolved(equation: Any, convolution: Any, x: Array, w: LowRank) -> Array:
    inner = convolution.primitive.bind(x, w.a, **convolution.params)
    base: Array = bind(equation, [x, w.kernel])[0]
    return base + jnp.matmul(w.scale * inner, w.b)


def trace(function: Any, *args: Any) -> tuple[Any, Any]:
    """`(closed jaxpr, structure of the results)`."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    return closed, jax.tree.structure(shapes)
