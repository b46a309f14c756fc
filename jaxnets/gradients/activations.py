"""Activations by name: tags that the user sets, and nonlinearities that a program shows.

A tag is the identity. It is JAX's own `checkpoint_name`, so that it passes through `jit`, `scan`,
`vmap` and `checkpoint`, and costs nothing where nobody looks.
"""

from collections.abc import Mapping, Set
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from jaxnets.equations import programs_inside
from jaxnets.gradients.graph import body_of
from jaxnets.types import PyTree

TAG = "tag"
NONLINEARITIES = ("relu", "sigmoid", "tanh")
_TAGS = {"name", "checkpoint_name"}
_SAME_NAME = {"tanh": "tanh", "logistic": "sigmoid"}
_GROUPS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
_CALLS = _GROUPS | {"custom_jvp_call"}
# nonlinearities of their own, which compute a sigmoid, tanh or relu on their way
_WHOLE = {"celu", "gelu", "log_sigmoid", "mish", "silu", "swish"}


def tag(name: str, x: PyTree) -> PyTree:
    """`x`, named as an activation that `flow` shows.

    Args:
      name: what it is called.
      x: an array, or a pytree of them, which all get the name.

    Example:
      >>> def loss(params, x, y):
      ...     h = gradients.tag("hidden", jax.nn.gelu(x @ params["w"]))
      ...     return jnp.square(h @ params["v"] - y)
    """
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, name), x)


def activations_in(jaxpr: Any) -> dict[int, str]:
    """`tag`, `tanh`, `sigmoid` or `relu`, by the number of the equation in the program.

    Not what is only a step on the way to something else: the `tanh` in `gelu`, the `sigmoid` in
    `silu`, and the `max` that keeps a variance from falling below 0.
    """
    used: dict[Any, list[Any]] = {}
    made = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}
    for equation in jaxpr.eqns:
        for variable in _variables(equation):
            used.setdefault(variable, []).append(equation)
    summed = _statistics(jaxpr)
    found = {}
    for i, equation in enumerate(jaxpr.eqns):
        kind = _name_of(equation)
        if kind is None:
            continue
        behind = used.get(equation.outvars[0], [])
        only_gates = bool(behind) and all(_weighs(e, equation, made) for e in behind)
        if kind in ("tanh", "sigmoid") and only_gates:
            continue
        if kind == "relu" and equation.outvars[0] in summed:
            continue
        found[i] = kind
    return found


def _name_of(equation: Any) -> str | None:
    """A call that holds one such equation and nothing else is what that is."""
    name = equation.primitive.name
    if name in _TAGS:
        return TAG
    if name in _SAME_NAME:
        return _SAME_NAME[name]
    if name == "max" and any(_is_zero(v) for v in equation.invars):
        return "relu"
    if name in _CALLS:
        body = body_of(equation)
        if body is not None and len(body.jaxpr.eqns) == 1 and len(equation.outvars) == 1:
            return _name_of(body.jaxpr.eqns[0])
    return None


def _weighs(equation: Any, activation: Any, made: Mapping[Any, Any]) -> bool:
    """Whether it makes a gate of what is gated: `1 + tanh(…)`, or `x · sigmoid(1.7 x)`."""
    if activation.primitive.name == "tanh":
        return equation.primitive.name == "add" and any(
            isinstance(v, Literal) and bool(np.all(np.asarray(v.val) == 1)) for v in equation.invars
        )
    gated = _variables(activation)
    for variable in list(gated):
        while variable in made and made[variable].primitive.name in ("mul", "neg"):
            arrays = [v for v in _variables(made[variable]) if v.aval.shape]
            if len(arrays) != 1:
                break
            (variable,) = arrays
            gated.add(variable)
    return equation.primitive.name == "mul" and not gated.isdisjoint(_variables(equation))


def _variables(equation: Any) -> set[Any]:
    return {v for v in equation.invars if not isinstance(v, Literal)}


def _statistics(jaxpr: Any, known: Set[Any] = frozenset(), numbers: Set[Any] = frozenset()) -> Any:
    """Variables that are made of sums alone, as moments are, beside numbers that no data enters.

    Args:
      known: of the inputs, which are.
      numbers: of the inputs, which are such numbers.
    """
    found, aside = set(known), set(numbers)
    for equation in jaxpr.eqns:
        given = [v for v in equation.invars if not (isinstance(v, Literal) or v in aside)]
        if not given:
            aside.update(equation.outvars)
        elif all(v in found for v in given) or _sums(equation, found, aside):
            found.update(equation.outvars)
    return found


def _sums(equation: Any, found: Set[Any], aside: Set[Any]) -> bool:
    if equation.primitive.name == "reduce_sum":
        return True
    body = body_of(equation) if equation.primitive.name in _CALLS else None
    if body is None:
        return False
    pairs = list(zip(body.jaxpr.invars, equation.invars, strict=True))
    numbers = {inner for inner, v in pairs if isinstance(v, Literal) or v in aside}
    known = {inner for inner, v in pairs if inner not in numbers and v in found}
    return bool(set(body.jaxpr.outvars) & _statistics(body.jaxpr, known, numbers))


def tag_of(equation: Any) -> str:
    """The name that a tag gives."""
    if equation.primitive.name in _TAGS:
        return str(equation.params["name"])
    body = body_of(equation)
    assert body is not None
    return tag_of(body.jaxpr.eqns[0])


def holds_activation(equation: Any) -> bool:
    """Whether there is a tag in it, or, if it only groups equations, a nonlinearity."""
    name = equation.primitive.name
    inside = list(programs_inside(equation))
    if name in _TAGS or any(_has_tag(inner) for inner in inside):
        return True
    if name not in _GROUPS | {"scan"} or equation.params.get("name") in _WHOLE:
        return False
    return any(activations_in(inner) or any(map(holds_activation, inner.eqns)) for inner in inside)


def _has_tag(jaxpr: Any) -> bool:
    return any(
        e.primitive.name in _TAGS or any(map(_has_tag, programs_inside(e))) for e in jaxpr.eqns
    )


def _is_zero(variable: Any) -> bool:
    return isinstance(variable, Literal) and bool(np.all(np.asarray(variable.val) == 0))
