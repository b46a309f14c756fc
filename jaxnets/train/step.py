"""One training step as a pure function: forward, loss, backward, update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnets.optim import GradientTransformation, apply_updates
from jaxnets.types import Array, Key, Params, PyTree

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """All that training knows, so that continuing from a copy of it is continuing."""

    params: Params
    model_state: PyTree
    """Batch norm's running moments and the like; `()` where a model has none."""
    opt_state: PyTree
    key: Key
    """The run's randomness: never changes; each step derives its own from it."""
    step: Array
    """Steps taken so far (int32)."""


def init_state(
    params: Params, optimizer: GradientTransformation, key: Key, *, model_state: PyTree = ()
) -> TrainState:
    """The state before the first step.

    Args:
      params: initial parameters.
      optimizer: ours or Optax's.
      key: a typed key (`jax.random.key(seed)`): the seed of batches and dropout.
      model_state: what the model carries beside its parameters.

    Raises:
      TypeError: if `key` is not a typed PRNG key.
    """
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        raise TypeError(
            f"init_state: key must be a typed key, as jax.random.key(0), got {jax.typeof(key)}"
        )
    return TrainState(params, model_state, optimizer.init(params), key, jnp.zeros((), jnp.int32))


def data_key(state: TrainState) -> Key:
    """The key that orders the data."""
    return jax.random.fold_in(state.key, 0)


def model_key(state: TrainState) -> Key:
    """The key of the model's own randomness at this step."""
    return jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)


def batched(loss: Callable[..., Any], *, has_key: bool = False) -> Callable[..., Any]:
    """A batch's loss from one example's: `vmap` and the mean.

    Not for a model with batch norm in training, which needs the batch as a whole.

    Args:
      loss: `loss(params, example)`, or `loss(params, example, key)` with `has_key`; a scalar, or a
        scalar and a dict of further metrics.
      has_key: gives each example a key of its own.

    Returns:
      `f(params, batch)`, or `f(params, batch, key)`: the mean over the batch of all that `loss`
      returns.
    """

    def mean_loss(params: Params, batch: PyTree, *key: Key) -> Any:
        size = leading_size("batched", batch)
        keys = [jax.random.split(key[0], size)] if has_key else []
        losses = jax.vmap(loss, (None, 0, *(0 for _ in keys)))(params, batch, *keys)
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), losses)

    return mean_loss


def leading_size(function: str, data: PyTree) -> int:
    """The number of examples: the first axis that all leaves share.

    Raises:
      ValueError: if there is none, or it is 0.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(data)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or not all(size and size[0] for size in sizes):
        raise ValueError(
            f"{function}: every leaf of data needs the same, non-zero first axis, got {shapes}"
        )
    return int(shapes[0][0])


def _pair(out: Any, wants: str) -> Any:
    if not isinstance(out, tuple) or len(out) != 2:
        raise ValueError(f"step: by its flags, loss must return {wants}, got {type(out).__name__}")
    return out


def step(
    loss: Callable[..., Any],
    optimizer: GradientTransformation,
    *,
    has_aux: bool = False,
    has_state: bool = False,
    has_key: bool = False,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """`(state, batch) -> (state, metrics)`: the gradient of `loss` through `optimizer`.

    Args:
      loss: a batch's loss. It takes `(params, batch)`, and returns a scalar;
        with `has_state` it takes `(params, model_state, batch)` and also returns the new state;
        with `has_key` it takes a key last;
        with `has_aux` it also returns a dict of further metrics, last.
        So with all three: `loss(params, model_state, batch, key) -> (scalar, (state, metrics))`,
        and with one of the two, `(scalar, state)` or `(scalar, metrics)`.
      optimizer: ours or Optax's.
      has_aux, has_state, has_key: as above.

    Returns:
      The step, to be jitted or scanned by the caller. Its metrics are `{"loss": …}` and `loss`'s.

    Raises:
      ValueError: (when traced) if `loss` does not return what the flags say.
    """

    def full(params: Params, state: TrainState, batch: PyTree) -> tuple[Array, tuple[PyTree, Any]]:
        args = (params, state.model_state, batch) if has_state else (params, batch)
        out = loss(*args, model_key(state)) if has_key else loss(*args)
        value: Any
        model_state, metrics = state.model_state, {}
        if has_state and has_aux:
            value, (model_state, metrics) = _pair(out, "(scalar, (state, metrics))")
        elif has_state:
            value, model_state = _pair(out, "(scalar, state)")
        elif has_aux:
            value, metrics = _pair(out, "(scalar, metrics)")
        else:
            value = out
        if isinstance(value, tuple):
            raise ValueError(
                "step: loss must return a scalar, got a tuple; pass has_aux=True or has_state=True"
            )
        if jnp.shape(value) != ():
            raise ValueError(f"step: loss must return a scalar, got shape {jnp.shape(value)}")
        if not isinstance(metrics, dict) or "loss" in metrics:
            raise ValueError(
                "step: metrics must be a dict without the name 'loss', which is the step's own, "
                f"got {list(metrics) if isinstance(metrics, dict) else type(metrics).__name__}"
            )
        return value, (model_state, metrics)

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(full, has_aux=True)
        (value, (model_state, metrics)), grads = gradient(state.params, state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = apply_updates(state.params, updates)
        after = TrainState(params, model_state, opt_state, state.key, state.step + 1)
        return after, {"loss": value, **metrics}

    return train_step
