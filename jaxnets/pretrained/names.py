"""Other libraries' names and layouts of the same parameters: PyTorch's state dicts, Flax's trees.

PyTorch's kernels are `[out, in, *window]` and its norms' scales are called `weight`; attention's
kernels are matrices of all heads together. Flax has our layouts. A model's names are rules: regular
expression -> text, of which the first that matches a whole path (params' or state's) renames it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets import tree as trees
from jaxnets.pretrained.safetensors import fill
from jaxnets.types import PyTree, Shape

Rules = Mapping[str, str]


def _renamed(path: str, rules: Rules) -> str:
    for pattern, name in rules.items():
        if found := re.fullmatch(pattern, path):
            return found.expand(name)
    raise ValueError(f"no rule renames leaf {path!r}; the rules are {list(rules)}")


def _paths_by_name(function: str, tree: PyTree, rules: Rules) -> dict[str, str]:
    paths: dict[str, str] = {}
    for path in trees.flatten_with_paths(tree):
        name = _renamed(path, rules)
        if name in paths:
            raise ValueError(f"{function}: two leaves get the name {name!r}")
        paths[name] = path
    return paths


def _of_attention(path: str) -> str | None:
    found = re.search(r"attention/(query|key|value|out)/(kernel|bias)$", path)
    return found and found[1] + "/" + found[2]


def _to_torch(path: str, x: np.ndarray, image: Shape | None) -> np.ndarray:
    match _of_attention(path):
        case "out/kernel":
            return x.reshape(-1, x.shape[-1]).T
        case "query/kernel" | "key/kernel" | "value/kernel":
            return x.reshape(len(x), -1).T
        case "query/bias" | "key/bias" | "value/bias":
            return x.reshape(-1)
    if image is not None:
        x = np.moveaxis(x.reshape(*image, -1), -2, 0).reshape(x.shape)
    return np.moveaxis(x, (-1, -2), (0, 1)) if path.endswith("kernel") else x


def _from_torch(
    path: str, x: np.ndarray, shape: tuple[int, ...], image: Shape | None
) -> np.ndarray:
    if _of_attention(path):
        return x.T.reshape(shape) if x.size == math.prod(shape) else x.T
    x = np.moveaxis(x, (0, 1), (-1, -2)) if path.endswith("kernel") and x.ndim > 1 else x
    if image is not None and x.shape == shape:
        *sides, channels = image
        x = np.moveaxis(x.reshape(channels, *sides, -1), 0, -2).reshape(shape)
    return x


def to_state_dict(
    tree: PyTree, rules: Rules, *, flattened: Mapping[str, Shape] | None = None
) -> dict[str, np.ndarray]:
    """The leaves as a PyTorch state dict: its names, its layouts, NumPy arrays.

    Args:
      tree: params, or `(params, state)`; then paths start with `0/` or `1/`.
      rules: regular expression over paths -> name there, as `{r"layers/(\\d+)/kernel":
        r"layers.\\1.weight"}`.
      flattened: path -> `(height, width, channels)`, for the kernel of each dense layer whose input
        is a flattened image: PyTorch flattens channels first.

    Raises:
      ValueError: if no rule renames a leaf, or two get one name.
    """
    paths = _paths_by_name("to_state_dict", tree, rules)
    leaves, images = trees.flatten_with_paths(tree), flattened or {}
    return {
        name: np.ascontiguousarray(_to_torch(path, np.asarray(leaves[path]), images.get(path)))
        for name, path in paths.items()
    }


def from_state_dict(
    state_dict: Mapping[str, Any],
    like: PyTree,
    rules: Rules,
    *,
    ignore: str | None = None,
    flattened: Mapping[str, Shape] | None = None,
) -> PyTree:
    """A PyTorch state dict as params, the inverse of `to_state_dict`.

    Args:
      state_dict: arrays by name (of tensors, `tensor.numpy()`).
      like: what is wanted: a pytree of arrays or of `jax.ShapeDtypeStruct`.
      rules: as for `to_state_dict`.
      ignore: a regular expression for names that have no counterpart.
      flattened: as for `to_state_dict`.

    Raises:
      ValueError: naming what is missing, left over, or of another shape or dtype.
    """
    paths = _paths_by_name("from_state_dict", like, rules)
    extra = [
        name
        for name in sorted(state_dict.keys() - paths.keys())
        if ignore is None or not re.search(ignore, name)
    ]
    missing = [name for name in paths if name not in state_dict]
    if missing or extra:
        raise ValueError(f"from_state_dict: {trees.missing_and_added(missing, extra)}")
    shapes = {path: x.shape for path, x in trees.flatten_with_paths(like).items()}
    images = flattened or {}
    arrays = {
        path: _from_torch(path, np.asarray(state_dict[name]), shapes[path], images.get(path))
        for name, path in paths.items()
    }
    return fill("from_state_dict", like, arrays)


def to_flax(tree: PyTree, like: PyTree, rules: Rules) -> PyTree:
    """The leaves as Flax's variables.

    Args:
      tree: params, or `(params, state)`; then paths start with `0/` or `1/`.
      like: what is wanted: Linen's variables as from `module.init`, or NNX's as from
        `nnx.to_pure_dict(nnx.state(model))`; arrays or `jax.ShapeDtypeStruct`.
      rules: regular expression over our paths -> path there, as
        `{r"layers/(\\d+)/(.*)": r"params/Dense_\\1/\\2"}`.

    Raises:
      ValueError: if no rule renames a leaf, two get one name, or they differ from `like`, naming
        the paths.
    """
    leaves = trees.flatten_with_paths(tree)
    paths = _paths_by_name("to_flax", tree, rules)
    return fill("to_flax", like, {name: leaves[path] for name, path in paths.items()})


def from_flax(variables: PyTree, like: PyTree, rules: Rules) -> PyTree:
    """Flax's variables as params, or `(params, state)`: the inverse of `to_flax`.

    Args:
      variables: Linen's, or NNX's as a pure dict.
      like: what is wanted of ours: arrays or `jax.ShapeDtypeStruct`.
      rules: as for `to_flax`.

    Raises:
      ValueError: as `to_flax`; what is missing or left over has our name where it has one.
    """
    ours = _paths_by_name("from_flax", like, rules)
    leaves = trees.flatten_with_paths(variables)
    return fill("from_flax", like, {ours.get(name, name): x for name, x in leaves.items()})
