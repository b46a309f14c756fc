"""Transformations one after the other, by name."""

from collections import OrderedDict
from typing import Any

from jaxnets.optim.calls import by_value, combines
from jaxnets.optim.transform import GradientTransformation, State, Updates, with_extra_args_support
from jaxnets.types import Params


@by_value
@combines(lambda call, state: {name: (each, state[name]) for name, each in call["named"]})
def named_chain(*named: tuple[str, GradientTransformation]) -> GradientTransformation:
    """`chain`, whose state is an ordered dict: that of each transformation by its name.

    Args:
      named: pairs `(name, transformation)`.

    Raises:
      ValueError: if two have the same name.

    Example:
      >>> optimizer = named_chain(("clip", clip_by_global_norm(1.0)), ("adam", adam(1e-3)))
      >>> optimizer.init(params)["adam"]
    """
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ValueError(f"named_chain: names must differ, got {names}")
    steps = [(name, with_extra_args_support(each)) for name, each in named]

    def init(params: Params) -> State:
        return OrderedDict((name, init(params)) for name, (init, _) in steps)

    def update(
        updates: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        if set(state) != set(names):
            raise ValueError(
                f"named_chain: got states for {list(state)}, but the names are {names}; "
                "the state must come from this chain's init"
            )
        states = OrderedDict()
        for name, (_, step) in steps:
            updates, states[name] = step(updates, state[name], params, **extra)
        return updates, states

    return GradientTransformation(init, update)
