"""Functions that know the call that made them: equal by value, and open to reading.

Two closures are never equal, so that `jit` with an optimizer as a static argument would compile
again for every `adam(1e-3)`; and nobody can ask a closure for its learning rate.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

import jax

from jaxnets.tree import map_with_paths
from jaxnets.types import PyTree

P = ParamSpec("P")
T = TypeVar("T")


class Call(NamedTuple):
    """The call that made a transformation."""

    factory: Callable[..., Any]
    arguments: Mapping[str, Any]
    hyper: Collection[str]
    """Which of the arguments are hyper-parameters."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Named:
    """A function that is equal to another if both were made by the same call."""

    function: Callable[..., Any]
    name: str
    key: Hashable
    call: Call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and (self.name, self.key) == (other.name, other.key)

    def __hash__(self) -> int:
        return hash((self.name, self.key))

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def __name__(self) -> str:
        return self.name


def _key(factory: Callable[..., Any], arguments: dict[str, Any]) -> Hashable:
    # rules are tried in their order, which flattening a dict would lose
    ordered = {
        name: tuple(value.items()) if isinstance(value, Mapping) else value
        for name, value in arguments.items()
    }
    leaves, structure = jax.tree.flatten(ordered)
    # with the types, since 1 == 1.0 == True, and they may not compute the same
    key = (factory, structure, tuple((type(leaf), leaf) for leaf in leaves))
    try:
        hash(key)
    except TypeError:
        # arrays and tracers have no value to compare by: such a function equals only itself
        return object()
    return key


def by_value(factory: Callable[P, T], hyper: Collection[str] = ()) -> Callable[P, T]:
    """Make the functions that `factory` returns equal, and hash alike, when its arguments are.

    Where an argument is an array, the result equals only itself.

    Args:
      factory: makes a function, or a transformation.
      hyper: which of its arguments are hyper-parameters, for `hyperparams` to read.
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        key = _key(factory, bound.arguments)
        call = Call(factory, bound.arguments, hyper)

        def named(path: str, function: Callable[..., Any]) -> _Named:
            name = f"{factory.__name__}.{path}" if path else factory.__name__
            return _Named(function, name, key, call)

        functions: T = map_with_paths(named, factory(*args, **kwargs))
        return functions

    return make


def call_of(function: Callable[..., Any]) -> Call | None:
    """The call that made `function`, if that was one of a `by_value` factory."""
    return function.call if isinstance(function, _Named) else None


Parts: TypeAlias = Callable[[Mapping[str, Any], PyTree], Mapping[Hashable, tuple[Any, PyTree]]]
"""`(arguments, state) -> {key: (transformation, its state)}`."""


def combines(parts: Parts) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """The decorator, innermost, of a function that makes one transformation of others.

    Args:
      parts: says which, by which keys, and where their states are kept.
    """

    def decorate(factory: Callable[P, T]) -> Callable[P, T]:
        factory.parts = parts  # type: ignore[attr-defined]
        return factory

    return decorate


Reads: TypeAlias = Callable[[Mapping[str, Any], PyTree], Mapping[str, Any]]
"""`(arguments, state) -> {name: value}`."""


def reads(own: Reads) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """The decorator, innermost, of a transformation that evaluates hyper-parameters itself.

    Args:
      own: says which, and their values, at the counts that its own state keeps.
    """

    def decorate(factory: Callable[P, T]) -> Callable[P, T]:
        factory.reads = own  # type: ignore[attr-defined]
        return factory

    return decorate


def read_of(call: Call, state: PyTree) -> Mapping[str, Any]:
    """The hyper-parameters that the transformation evaluates itself; see `reads`."""
    own: Reads | None = getattr(inspect.unwrap(call.factory), "reads", None)
    return own(call.arguments, state) if own else {}


def parts_of(call: Call, state: PyTree) -> Mapping[Hashable, tuple[Any, PyTree]]:
    """The transformations within the one that `call` made, with their states; see `combines`."""
    parts: Parts | None = getattr(inspect.unwrap(call.factory), "parts", None)
    return parts(call.arguments, state) if parts else {}
