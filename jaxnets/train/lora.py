"""LoRA: a frozen kernel plus a trained product of two thin ones, `W + (α / r) A B`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets import tree
from jaxnets.checks import scalar
from jaxnets.train import low_rank
from jaxnets.train.low_rank import LowRank
from jaxnets.types import Array, Key, Params


@partial(jax.tree_util.register_dataclass, data_fields=["a", "b"], meta_fields=["scale"])
@dataclass(frozen=True)
class Adapter:
    """What is added to one kernel: `scale · A B`, in the kernel's shape."""

    a: Array
    """`[*inputs, r]`"""
    b: Array
    """`[r, *outputs]`"""
    scale: float
    """`α / r`, not trained."""


def _is_adapter(x: Any) -> bool:
    return isinstance(x, Adapter) or x is None


def init_lora(
    key: Key, params: Params, rules: Mapping[str, int], rank: int, alpha: float | None = None
) -> Params:
    """Adapters of the kernels that the rules choose: a tree like `params`, `None` for the others.

    `A ~ N(0, 1 / fan_in)` and `B = 0`, so that the net is at first the one it was.

    Args:
      key: the randomness of `A`.
      params: of the base; shapes are enough (`jax.eval_shape`).
      rules: path rule -> how many of a kernel's first axes are its inputs, as in a slice: 1 for
        `[in, heads, head_dim]`, -1 (all but the last) for `[in, out]`, `[heads, head_dim, out]`
        and convolutions' `[*window, in, out]`; 0 leaves the leaf alone. In order of precedence;
        they must cover every leaf.
      rank: `r`, from 1 to the smaller side of each kernel as a matrix.
      alpha: `α`, a number, not traced, as the scale is static; by default `r`, so that it is 1.

    Raises:
      ValueError: if a leaf is matched by no rule, a rule decides none, nothing or what is not named
        `kernel` is chosen, the rank or the number of axes does not fit a kernel, or `alpha` is
        traced or no number.

    Example:
      >>> rules = {"(query|value)/kernel$": 1, ".*": 0}
      >>> adapters = init_lora(key, params, rules, rank=4, alpha=8)

    References:
      Hu et al., [LoRA: low-rank adaptation of large language
      models](https://arxiv.org/abs/2106.09685), 2021.
    """
    if rank < 1:
        raise ValueError(f"init_lora: rank must be at least 1, got {rank}")
    axes = tree.apply_rules(rules, params)
    if not any(jax.tree.leaves(axes)):
        raise ValueError(f"init_lora: the rules {dict(rules)} choose no kernel")
    scale = 1.0 if alpha is None else _known(alpha) / rank
    keys = iter(jax.random.split(key, len(jax.tree.leaves(params))))

    def one(path: str, n_axes: int, kernel: Any) -> Adapter | None:
        key = next(keys)
        if not n_axes:
            return None
        shape = tuple(kernel.shape)
        if path.split("/")[-1] != "kernel":
            raise ValueError(
                f"init_lora: only kernels have adapters, and a rule chooses {path!r} {list(shape)}"
            )
        inputs, outputs = shape[:n_axes], shape[n_axes:]
        if not inputs or not outputs:
            raise ValueError(
                f"init_lora: {path!r} {list(shape)} needs inputs and outputs, but its rule says "
                f"that {n_axes} axes are inputs"
            )
        fan_in, fan_out = math.prod(inputs), math.prod(outputs)
        if rank > min(fan_in, fan_out):
            raise ValueError(
                f"init_lora: rank {rank} is above the smaller side of {path!r}, "
                f"{fan_in} × {fan_out} as a matrix"
            )
        a = jax.random.normal(key, (*inputs, rank), kernel.dtype) * fan_in**-0.5
        return Adapter(a, jnp.zeros((rank, *outputs), kernel.dtype), scale)

    return tree.map_with_paths(one, axes, params)


def _known(alpha: Any) -> float:
    value = scalar("init_lora", "alpha", alpha)
    if value is None:
        raise ValueError(
            f"init_lora: alpha must be a number that is known, got {alpha}, which is traced; the "
            "scale is static, so try one value after the other, or map over the learning rate"
        )
    return float(value)


def merge_lora(params: Params, adapters: Params) -> Params:
    """`W + scale · A B` where there is an adapter, and the other leaves as they are.

    The net that was trained, as one of the base's shape: what is kept in the end.

    Raises:
      ValueError: if an adapter does not fit its kernel, or the trees differ.
    """
    return jax.tree.map(
        low_rank.added_up, _adapted(params, adapters), is_leaf=lambda x: isinstance(x, LowRank)
    )


def with_lora(loss: Callable[..., Any], params: Params) -> Callable[..., Any]:
    """`f(adapters, ...) = loss(merge_lora(params, adapters), ...)`, without adding anything up.

    `x (W + s A B)` is computed as `x W + s (x A) B`, in the loss of any model: each product and
    convolution with a kernel that has an adapter is followed by two thin ones. So no gradient of
    `W` is computed on the way to those of `A` and `B`, and these are sums of outer products, as
    the per-example engine wants them. Inside loops (`scan`), `checkpoint`, grouped convolutions
    and transposed kernels, what is computed is `merge_lora`'s sum.

    Make it inside of `jit`, with `params` among the arguments, or else they are copied into the
    program.

    Args:
      loss: its first argument are all parameters, the others pytrees of arrays; what is given by
        keyword is handed on as it is.
      params: of the base, held fixed.

    Raises:
      ValueError: (when called) if an adapter does not fit its kernel, or the trees differ.
    """

    def of_adapters(adapters: Params, *args: Any, **kwargs: Any) -> Any:
        program, structure = low_rank.trace(partial(loss, **kwargs), params, *args)
        inputs = jax.tree.leaves(
            (_adapted(params, adapters), args), is_leaf=lambda x: isinstance(x, LowRank)
        )
        results = low_rank.run(program.jaxpr, program.consts, inputs)
        return structure.unflatten(map(low_rank.added_up, results))

    return of_adapters


def _adapted(params: Params, adapters: Params) -> Params:
    def one(path: Any, adapter: Adapter | None, kernel: Any) -> Any:
        if adapter is None:
            return kernel
        shape = (*adapter.a.shape[:-1], *adapter.b.shape[1:])
        if shape != jnp.shape(kernel):
            raise ValueError(
                f"merge_lora: the adapter of {tree.path_string(path)!r} is for a kernel "
                f"{list(shape)}, got {list(jnp.shape(kernel))}"
            )
        return LowRank(kernel, adapter.a, adapter.b, adapter.scale)

    return jax.tree_util.tree_map_with_path(one, adapters, params, is_leaf=_is_adapter)
