"""Training some of the parameters of a net that was trained before, the others held fixed.

What is held fixed enters a loss as a constant: no gradient of it is computed, the backward pass
ends where the last trained parameter is, and the optimizer never sees it.

    trained, frozen = split_params(params, {"^classifier/": True, ".*": False})
    state = init_state(trained, optimizer, key)

    @jax.jit
    def one_step(state, frozen, batch):
        return step(with_frozen(loss, frozen), optimizer)(state, batch)

    params = merge_params(state.params, frozen)
"""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import tree
from jaxnets.optim import (
    GradientTransformation,
    conditionally_mask,
    label_by_path,
    partition,
    stateless,
)
from jaxnets.train.step import leading_size
from jaxnets.types import Array, Params, PyTree


def _is_none(x: Any) -> bool:
    return x is None


def split_params(params: Params, rules: Mapping[str, bool]) -> tuple[Params, Params]:
    """`(trained, frozen)`: two trees like `params`, each with `None` where the other has a leaf.

    Args:
      params: any pytree.
      rules: path rule -> whether it is trained, in order of precedence; they must cover every leaf.

    Raises:
      ValueError: if a leaf is matched by no rule, a rule decides no leaf, or nothing is trained.
      TypeError: if a rule's value is not a bool.

    Example:
      >>> trained, frozen = split_params(params, {"^classifier/": True, ".*": False})
    """
    for rule, value in rules.items():
        if not isinstance(value, bool):
            raise TypeError(
                f"split_params: rule {rule!r} must say True (trained) or False (frozen), "
                f"got {value!r}"
            )
    chosen = tree.apply_rules(rules, params)
    if not any(jax.tree.leaves(chosen)):
        raise ValueError(f"split_params: the rules {dict(rules)} leave nothing to be trained")
    trained = jax.tree.map(lambda of, leaf: leaf if of else None, chosen, params)
    frozen = jax.tree.map(lambda of, leaf: None if of else leaf, chosen, params)
    return trained, frozen


def merge_params(trained: Params, frozen: Params) -> Params:
    """The tree that `split_params` split.

    Raises:
      ValueError: if the two are not of one tree, or both have the same leaf.
    """

    def one(path: Any, a: Any, b: Any) -> Any:
        if a is not None and b is not None:
            raise ValueError(f"merge_params: {tree.path_string(path)!r} is trained and frozen")
        return b if a is None else a

    return jax.tree_util.tree_map_with_path(one, trained, frozen, is_leaf=_is_none)


def with_frozen(loss: Callable[..., Any], frozen: Params) -> Callable[..., Any]:
    """`f(trained, ...) = loss(merged, ...)`: the loss as a function of what is trained alone.

    `f` is a loss as any other: for `step`, `evaluate`, `gradients.per_example_grad`. Make it inside
    of `jit`, with `frozen` among the arguments, or else its arrays are copied into the program.

    Args:
      loss: its first argument are all parameters.
      frozen: from `split_params`.
    """

    def of_trained(trained: Params, *args: Any, **kwargs: Any) -> Any:
        return loss(merge_params(trained, frozen), *args, **kwargs)

    return of_trained


def features(
    apply: Callable[[Params, PyTree], PyTree], params: Params, data: PyTree, batch_size: int
) -> PyTree:
    """What a frozen base makes of all of `data`, computed once: to be kept, and trained on.

    Args:
      apply: `apply(params, batch) -> [batch_size, ...]`, or a tree of such; each example's result
        must not depend on the others in its batch. Compiled once a call.
      params: of the base.
      data: leaves with the same first axis, `[n, ...]`; they may be larger than the device, as
        only a batch at a time goes there.
      batch_size: at least 1.

    Returns:
      `[n, ...]`, as NumPy arrays.

    Raises:
      ValueError: for a `batch_size` below 1, or if the leaves differ in their first axis.
    """
    if batch_size < 1:
        raise ValueError(f"features: batch_size must be at least 1, got {batch_size}")
    n = leading_size("features", data)
    size, compiled = min(batch_size, n), jax.jit(apply)

    def part(start: int) -> PyTree:
        # the last batch is filled up with the last example: one shape, compiled once
        indices = np.minimum(np.arange(start, start + size), n - 1)
        made = compiled(params, jax.tree.map(lambda leaf: leaf[indices], data))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: n - start], made)

    parts = [part(start) for start in range(0, n, size)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _from_step(start: int, count: Array) -> Array:
    return count >= start


def gradual_unfreezing(
    optimizer: GradientTransformation, starts: Mapping[str, int]
) -> GradientTransformation:
    """Groups of parameters that begin to be trained one after the other, the last layer first.

    Before its time a group's updates are 0 and its part of the optimizer's state (which is there
    from the start) does not change: Adam's moments begin with the group's first step. As when a
    group begins is only known while running, its gradient is computed all along; to spare that too,
    split anew for each stage (`split_params`).

    Args:
      optimizer: a copy of it trains each group.
      starts: path rule -> the step, from 0, at which the group begins. In order of precedence; they
        must cover every leaf.

    Raises:
      ValueError: for a negative step; (by `init`) if a leaf is matched by no rule, or a rule
        decides none.

    Example:
      >>> gradual_unfreezing(adam(1e-3), {"^classifier/": 0, "^blocks/1/": 100, ".*": 200})

    References:
      Howard and Ruder, [Universal language model fine-tuning for text
      classification](https://arxiv.org/abs/1801.06146), 2018.
    """
    for rule, start in starts.items():
        if start < 0:
            raise ValueError(
                f"gradual_unfreezing: rule {rule!r} must start at a step from 0 on, got {start}"
            )
    transforms: dict[Hashable, GradientTransformation] = {
        start: conditionally_mask(optimizer, partial(_from_step, start))
        for start in starts.values()
    }
    return partition(transforms, label_by_path(dict(starts)))


def layerwise_rates(depths: Mapping[str, int], decay: float) -> GradientTransformation:
    """Updates times `decay^depth`: the lower a layer, the smaller its steps. Goes after an optimizer.

    The end of a chain scales the learning rate, decoupled weight decay included.

    Args:
      depths: path rule -> how many groups below the head it is (the head's is 0), in order of
        precedence; they must cover every leaf.
      decay: above 0, and at most 1 for smaller steps below; Howard and Ruder's is 1 / 2.6.

    Raises:
      ValueError: for a `decay` that is not positive; (by `update`) if a leaf is matched by no rule,
        or a rule decides none.

    Example:
      >>> chain(adamw(1e-3), layerwise_rates({"^classifier/": 0, "^blocks/1/": 1, ".*": 2}, 0.4))

    References:
      Howard and Ruder, [Universal language model fine-tuning for text
      classification](https://arxiv.org/abs/1801.06146), 2018 (discriminative fine-tuning).
    """  # noqa: E501
    if not decay > 0:
        raise ValueError(f"layerwise_rates: decay must be positive, got {decay}")

    def scaled(updates: Params, params: Params | None) -> Params:
        rates = tree.apply_rules({rule: decay**depth for rule, depth in depths.items()}, updates)
        return jax.tree.map(lambda rate, u: jnp.asarray(rate, u.dtype) * u, rates, updates)

    return stateless(scaled)
