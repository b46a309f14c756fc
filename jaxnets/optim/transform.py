"""What a gradient transformation is, and how several make one.

An optimizer is two pure functions: `init(params)` makes its state, and
`update(gradients, state, params)` turns gradients into updates that are *added* to the parameters.
The interface is Optax's, so that transformations of either library work inside the other's `chain`.
"""

import inspect
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.optim.calls import by_value, combines
from jaxnets.types import Params, PyTree

Updates: TypeAlias = PyTree
"""A pytree like the parameters: gradients on the way in, steps to add on the way out."""
State: TypeAlias = PyTree


class Init(Protocol):
    """`init(params) -> state`."""

    def __call__(self, params: Params) -> State:
        """The state before the first step."""


class Update(Protocol):
    """`update(updates, state, params=None, **extra) -> (updates, state)`."""

    def __call__(
        self, updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        """One step; `extra` is for transformations that need more, such as the loss."""


class GradientTransformation(NamedTuple):
    """Two pure functions: `init(params)`, `update(updates, state, params=None, **extra)`."""

    init: Init
    update: Update


GradientTransformationExtraArgs: TypeAlias = GradientTransformation
"""Optax's name for a transformation whose update takes `**extra`; all of ours do."""
TransformUpdateExtraArgsFn: TypeAlias = Update


class EmptyState(NamedTuple):
    """The state of a transformation that keeps none."""


def empty_state(params: Params) -> EmptyState:
    """The `init` of a transformation without state."""
    del params
    return EmptyState()


@by_value
def identity() -> GradientTransformation:
    """The transformation that hands updates through as they are."""

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return updates, state

    return GradientTransformation(empty_state, update)


@by_value
def _lenient(transformation: GradientTransformation) -> GradientTransformation:
    init, update = transformation
    parameters = inspect.signature(update).parameters

    def lenient(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        taken = {name: value for name, value in extra.items() if name in parameters}
        return update(updates, state, params, **taken)

    return GradientTransformation(init, lenient)


def with_extra_args_support(tx: GradientTransformation) -> GradientTransformation:
    """`tx`, whose update leaves out the extra arguments that it does not take.

    Where Optax goes by the class (its `GradientTransformationExtraArgs` takes all, its
    `GradientTransformation` none), this goes by the function's signature.

    Raises:
      TypeError: if it is no `(init, update)` pair.
    """
    if not _is_transformation(tx):
        raise TypeError(
            f"a transformation, an (init, update) pair, is needed, got {type(tx).__name__}"
        )
    parameters = inspect.signature(tx[1]).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return tx
    return _lenient(tx)


def _is_transformation(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and all(map(callable, x))


@by_value
@combines(lambda call, state: dict(enumerate(zip(call["transformations"], state, strict=True))))
def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Apply transformations one after the other: the updates of one are the gradients of the next.

    Args:
      transformations: ours, Optax's or any other `(init, update)` pairs. Extra keyword arguments of
        `update` reach each one that takes them; plain Optax ones, which take none, get none.

    Returns:
      A transformation whose state is the tuple of theirs.

    Example:
      >>> optimizer = chain(clip_by_global_norm(1.0), adam(1e-3))
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(gradients, state, params)
      >>> params = apply_updates(params, updates)
    """
    for transformation in transformations:
        if not _is_transformation(transformation):
            raise TypeError(
                "chain: every argument must be a transformation, an (init, update) pair, "
                f"got {type(transformation).__name__}"
            )
    inits = [init for init, _ in transformations]
    steps = [with_extra_args_support(each)[1] for each in transformations]

    def init(params: Params) -> State:
        return tuple(init(params) for init in inits)

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        if not isinstance(state, tuple) or len(state) != len(steps):
            got = f"{len(state)} states" if isinstance(state, tuple) else type(state).__name__
            raise ValueError(
                f"chain: got {got} for {len(steps)} transformations; "
                "the state must come from this chain's init"
            )
        states = []
        for step, step_state in zip(steps, state, strict=True):
            updates, new_state = step(updates, step_state, params, **extra)
            states.append(new_state)
        return updates, tuple(states)

    return GradientTransformation(init, update)


def apply_updates(params: Params, updates: Updates) -> Params:
    """`params + updates`, leaf by leaf, in the dtypes of `params`.

    A parameter whose update is None, or an integer's gradient (`float0`), stays as it is. Unlike
    Optax's, nothing broadcasts.

    Raises:
      ValueError: if the two trees or the shapes of two leaves do not match, or the parameter is an
        integer and its update is none.
    """

    def add(path: Any, p: Any, u: Any) -> Any:
        if p is None or u is None:
            return p
        if not jax.tree_util.all_leaves([u]):
            raise ValueError(
                f"apply_updates: a {type(u).__name__} as the update of the parameter at "
                f"{tree.path_string(path)!r}"
            )
        if jnp.result_type(u) == jax.dtypes.float0:
            return p
        if jnp.shape(p) != jnp.shape(u):
            raise ValueError(
                f"apply_updates: an update of shape {jnp.shape(u)} "
                f"for a parameter of shape {jnp.shape(p)} at {tree.path_string(path)!r}"
            )
        dtype = jnp.asarray(p).dtype
        if jnp.issubdtype(jnp.result_type(u), jnp.inexact) and jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(
                f"apply_updates: an update of {jnp.result_type(u)} for a parameter of {dtype} at "
                f"{tree.path_string(path)!r}, which would be cut off; keep what is not trained out "
                "of the tree, see freeze"
            )
        return jnp.asarray(p + u).astype(dtype)

    try:
        summed: Params = jax.tree_util.tree_map_with_path(
            add, params, updates, is_leaf=lambda x: x is None
        )
    except ValueError as error:
        differ = tree.missing_and_added(*tree.unmatched(params, updates, lambda x: x is None))
        if not differ:
            raise
        raise ValueError(
            "apply_updates: params and updates must be trees of the same structure; "
            f"in updates: {differ}"
        ) from error
    return summed
