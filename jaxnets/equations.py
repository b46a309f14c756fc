"""Equations of a traced program (a jaxpr), computed one by one."""

from collections.abc import Sequence
from typing import Any


def bind(equation: Any, values: Sequence[Any]) -> list[Any]:
    """The results of an equation of a jaxpr, from the values of its inputs."""
    primitive = equation.primitive
    results = primitive.bind(*values, **primitive.get_bind_params(equation.params))
    return list(results) if primitive.multiple_results else [results]
