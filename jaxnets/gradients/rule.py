"""What a rule is: the chain rule's local step, from a result's error signal to its operands'."""

from collections.abc import Callable
from typing import TypeAlias

from jaxnets.types import Array

Rule: TypeAlias = Callable[..., list[Array | None]]
"""`rule(x, y, error, /, **params) -> [error signal of each operand, or None]`: x are the operands'
values, y the result (or the tuple of results), `error` the derivative of the loss by it. None is
for an operand that no derivative reaches, such as an index."""
