"""Activations by name: tags that the user sets, and nonlinearities that a program shows.

A tag is the identity. It is JAX's own `checkpoint_name`, so that it passes through `jit`, `scan`,
`vmap` and `checkpoint`, and costs nothing where nobody looks.
"""

from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from jaxnets.equations import programs_inside
from jaxnets.gradients.graph import body_of
from jaxnets.types import PyTree

TAG = "tag"
_TAGS = {"name", "checkpoint_name"}
_SAME_NAME = {"tanh": "tanh", "logistic": "sigmoid"}
_CALLS = {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call"}


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


def name_of_activation(equation: Any) -> str | None:
    """`tag`, `tanh`, `sigmoid` or `relu`; None for what is neither a tag nor one of these.

    A call that holds one such equation and nothing else is what that is; so `silu` and `gelu`,
    which compute a `sigmoid` or `tanh` on their way, are none.
    """
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
            return name_of_activation(body.jaxpr.eqns[0])
    return None


def tag_of(equation: Any) -> str:
    """The name that a tag gives."""
    if equation.primitive.name in _TAGS:
        return str(equation.params["name"])
    body = body_of(equation)
    assert body is not None
    return tag_of(body.jaxpr.eqns[0])


def has_tag(equation: Any) -> bool:
    """Whether there is one in it, or in a program inside of it."""
    if equation.primitive.name in _TAGS:
        return True
    return any(has_tag(e) for inner in programs_inside(equation) for e in inner.eqns)


def _is_zero(variable: Any) -> bool:
    return isinstance(variable, Literal) and bool(np.all(np.asarray(variable.val) == 0))
