"""The types that jaxnets' signatures speak in."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jax.typing import ArrayLike, DTypeLike

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""A PRNG key, as from `jax.random.key`."""

PyTree: TypeAlias = Any
Params: TypeAlias = Any
"""A pytree of arrays: dicts, lists and NamedTuples, leaves named as in Flax Linen."""

Shape: TypeAlias = tuple[int, ...]
Initializer: TypeAlias = Callable[[Key, Shape, DTypeLike], Array]
Activation: TypeAlias = Callable[[Array], Array]
Schedule: TypeAlias = Callable[[ArrayLike], ArrayLike]
"""`step -> value`; the first step is 0."""

ScalarOrSchedule: TypeAlias = ArrayLike | Schedule

__all__ = [
    "Activation",
    "Array",
    "ArrayLike",
    "DTypeLike",
    "Initializer",
    "Key",
    "Params",
    "PyTree",
    "ScalarOrSchedule",
    "Schedule",
    "Shape",
]
