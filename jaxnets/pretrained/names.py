"""Other libraries' names and layouts of the same parameters: PyTorch's state dicts, Flax's trees.

PyTorch's kernels are `[out, in, *window]` and its norms' scales are called `weight`; attention's
kernels are matrices of all heads together. A model's names are rules: regular expression -> text,
of which the first that matches a whole path (params' or state's) renames it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets import tree as trees
from jaxnets.pretrained.safetensors import fill
from jaxnets.types import PyTree

Rules = Mapping[str, str]


def _renamed(path: str, rules: Rules) -> str:
    for pattern, name in rules.items():
        if found := re.fullmatch(pattern, path):
            return found.expand(name)
    raise ValueError(f"no rule renames leaf {path!r}; the rules are {list(rules)}")


def _of_attention(path: str) -> str | None:
    found = re.search(r"attention/(query|key|value|out)/(kernel|bias)$", path)
    return found and found[1] + "/" + found[2]


def _to_torch(path: str, x: np.ndarray) -> np.ndarray:
    match _of_attention(path):
        case "out/kernel":
            return x.reshape(-1, x.shape[-1]).T
        case "query/kernel" | "key/kernel" | "value/kernel":
            return x.reshape(len(x), -1).T
        case "query/bias" | "key/bias" | "value/bias":
            return x.reshape(-1)
    return np.moveaxis(x, (-1, -2), (0, 1)) if path.endswith("kernel") else x


def _from_torch(path: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if _of_attention(path):
        return x.T.reshape(shape) if x.size == math.prod(shape) else x.T
    return np.moveaxis(x, (0, 1), (-1, -2)) if path.endswith("kernel") and x.ndim > 1 else x


def to_state_dict(tree: PyTree, rules: Rules) -> dict[str, np.ndarray]:
    """The leaves as a PyTorch state dict: its names, its layouts, NumPy arrays.

    Args:
      tree: params, or `(params, state)`; then paths start with `0/` or `1/`.
      rules: regular expression over paths -> name there, as `{r"layers/(\\d+)/kernel":
        r"layers.\\1.weight"}`.

    Raises:
      ValueError: if no rule renames a leaf, or two get one name.
    """
    state: dict[str, np.ndarray] = {}
    for path, leaf in trees.flatten_with_paths(tree).items():
        name = _renamed(path, rules)
        if name in state:
            raise ValueError(f"to_state_dict: two leaves get the name {name!r}")
        state[name] = np.ascontiguousarray(_to_torch(path, np.asarray(leaf)))
    return state


def from_state_dict(
    state_dict: Mapping[str, Any], like: PyTree, rules: Rules, *, ignore: str | None = None
) -> PyTree:
    """A PyTorch state dict as params, the inverse of `to_state_dict`.

    Args:
      state_dict: arrays by name (of tensors, `tensor.numpy()`).
      like: what is wanted: a pytree of arrays or of `jax.ShapeDtypeStruct`.
      rules: as for `to_state_dict`.
      ignore: a regular expression for names that have no counterpart.

    Raises:
      ValueError: naming what is missing, left over, or of another shape or dtype.
    """
    wanted = {path: _renamed(path, rules) for path in trees.flatten_with_paths(like)}
    extra = [
        name
        for name in sorted(state_dict.keys() - set(wanted.values()))
        if ignore is None or not re.search(ignore, name)
    ]
    missing = [name for name in wanted.values() if name not in state_dict]
    if missing or extra:
        raise ValueError(f"from_state_dict: {trees.missing_and_added(missing, extra)}")
    shapes = {path: x.shape for path, x in trees.flatten_with_paths(like).items()}
    arrays = {
        path: _from_torch(path, np.asarray(state_dict[name]), shapes[path])
        for path, name in wanted.items()
    }
    return fill("from_state_dict", like, arrays)
