"""The hyper-parameters in force, read from an optimizer and its state."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxnets.optim.calls import Call, call_of, parts_of, read_of
from jaxnets.optim.hyper import ScheduledState
from jaxnets.optim.transform import GradientTransformation, State


def _inner(state: State) -> State:
    return state.inner_state if isinstance(state, ScheduledState) else state


def _own(call: Call, state: State) -> dict[str, Any]:
    """The hyper-parameters of one transformation: schedules at the state's count."""
    given = {name: call.arguments.get(name) for name in call.hyper}
    found = {
        name.removesuffix("_fn"): value(state.count) if callable(value) else value
        for name, value in given.items()
        if value is not None
    }
    return {**found, **read_of(call, _inner(state))}


def _merged(parts: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """One dict of several, where a name that more than one of them has is put after its key."""

    def last(name: str) -> str:
        return name.rpartition("/")[2]

    parts_with = Counter(name for _, part in parts for name in set(map(last, part)))
    return {
        f"{key}/{name}" if key and parts_with[last(name)] > 1 else name: value
        for key, part in parts
        for name, value in part.items()
    }


def hyperparams(optimizer: GradientTransformation, state: State) -> dict[str, Any]:
    """The hyper-parameters that the next step of `optimizer` will use.

    Numbers and arrays are those the optimizer was made with; schedules are evaluated at the steps
    counted in `state`, also inside `jit`. The names are those of the transformations' arguments, so
    that momentum, a `trace`, is `"decay"`. Where several transformations of a chain or partition
    have one of the same name, its key comes first: the position, the name or the label.

    Args:
      optimizer: ours; of other libraries' transformations inside it, only hyper-parameters that
        their own `inject_hyperparams` keeps are found.
      state: its state.

    Example:
      >>> optimizer = chain(clip(1.0), sgd(cosine_decay_schedule(0.1, 100)))
      >>> hyperparams(optimizer, optimizer.init(params))
      {'max_delta': 1.0, 'learning_rate': Array(0.1, dtype=float32)}
      >>> optimizer = partition({"bias$": sgd(0.1), ".*": sgd(0.2)})
      >>> hyperparams(optimizer, optimizer.init(params))
      {'bias$/learning_rate': 0.1, '.*/learning_rate': 0.2}
    """
    injected = getattr(state, "hyperparams", None)
    if isinstance(injected, Mapping):
        return dict(injected)
    call = call_of(optimizer.update)
    if call is None:
        return {}
    own = _own(call, state)
    parts = [
        (str(key), hyperparams(part, part_state))
        for key, (part, part_state) in parts_of(call, _inner(state)).items()
    ]
    return _merged([(call.factory.__name__, own), *parts])
