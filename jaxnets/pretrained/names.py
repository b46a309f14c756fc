"""Other libraries' names and layouts of the same parameters: PyTorch's state dicts, Flax's trees.

PyTorch has kernels `[out, in, *window]` (a transposed convolution's `[in, out, *window]`, with the
window reversed) and its norms' scales are called `weight`; attention's kernels are matrices of all
heads together. Flax has our layouts. A model's names are rules: regular expression -> text, of
which the first that matches a whole path (params' or state's) renames it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnets import tree as trees
from jaxnets.pretrained.matching import fill, require_like
from jaxnets.pretrained.quantized import Quantized, dequantize
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


def _transposed(function: str, tree: PyTree, pattern: str | None) -> set[str]:
    """The paths of the kernels that `nn.conv_transpose` takes."""
    if pattern is None:
        return set()
    paths = {
        path
        for path, x in trees.flatten_with_paths(tree).items()
        if re.search(pattern, path) and path.endswith("kernel") and x.ndim > 2
    }
    if not paths:
        raise ValueError(f"{function}: transposed {pattern!r} is in no convolution's kernel's path")
    return paths


def _to_torch(path: str, x: np.ndarray, image: Shape | None, transposed: bool) -> np.ndarray:
    match _of_attention(path):
        case "out/kernel":
            return x.reshape(-1, x.shape[-1]).T
        case "query/kernel" | "key/kernel" | "value/kernel":
            return x.reshape(len(x), -1).T
        case "query/bias" | "key/bias" | "value/bias":
            return x.reshape(-1)
    if transposed:
        window = tuple(range(2, x.ndim))
        return np.flip(np.moveaxis(x, (-2, -1), (0, 1)), window)
    if image is not None:
        x = np.moveaxis(x.reshape(*image, -1), -2, 0).reshape(x.shape)
    return np.moveaxis(x, (-1, -2), (0, 1)) if path.endswith("kernel") else x


def _from_torch(
    path: str, x: np.ndarray, shape: tuple[int, ...], image: Shape | None, transposed: bool
) -> np.ndarray:
    if part := _of_attention(path):
        n = len(shape) - 1 if part == "out/kernel" else 1
        ends = [shape[n:], shape[:n]] if part.endswith("kernel") else [shape]
        flat = tuple(map(math.prod, ends))
        if x.shape != flat:
            raise ValueError(
                f"from_state_dict: {path!r} must be {list(flat)} in the state dict, got "
                f"{list(x.shape)}"
            )
        return x.T.reshape(shape)
    if transposed and x.ndim > 2:
        window = tuple(range(2, x.ndim))
        return np.moveaxis(np.flip(x, window), (0, 1), (-2, -1))
    x = np.moveaxis(x, (0, 1), (-1, -2)) if path.endswith("kernel") and x.ndim > 1 else x
    if image is not None and x.shape == shape:
        *sides, channels = image
        x = np.moveaxis(x.reshape(channels, *sides, -1), 0, -2).reshape(shape)
    return x


def _outline(x: Any) -> np.ndarray:
    """An array of that shape and dtype; of what is quantized, one that takes no memory."""
    return np.broadcast_to(np.float32(0), x.shape) if isinstance(x, Quantized) else np.asarray(x)


def _values(x: Any) -> np.ndarray:
    return dequantize(x) if isinstance(x, Quantized) else np.asarray(x)


def to_state_dict(
    tree: PyTree,
    rules: Rules,
    *,
    flattened: Mapping[str, Shape] | None = None,
    transposed: str | None = None,
) -> dict[str, np.ndarray]:
    """The leaves as a PyTorch state dict: its names, its layouts, NumPy arrays.

    Args:
      tree: params, or `(params, state)`; then paths start with `0/` or `1/`.
      rules: regular expression over paths -> name there, as `{r"layers/(\\d+)/kernel":
        r"layers.\\1.weight"}`.
      flattened: path -> `(height, width, channels)`, for the kernel of each dense layer whose input
        is a flattened image: PyTorch flattens channels first.
      transposed: a regular expression that is found in the paths of all kernels that
        `nn.conv_transpose` takes, as `"^decoder/convs/"`; no kernel shows it, and without this
        all are taken for those of `nn.conv`.

    Raises:
      ValueError: if no rule renames a leaf, two get one name, or `transposed` is found in no
        convolution's kernel.
    """
    paths = _paths_by_name("to_state_dict", tree, rules)
    leaves, images = trees.flatten_with_paths(tree), flattened or {}
    turned = _transposed("to_state_dict", tree, transposed)

    def theirs(path: str) -> np.ndarray:
        return _to_torch(path, np.asarray(leaves[path]), images.get(path), path in turned)

    return {name: np.ascontiguousarray(theirs(path)) for name, path in paths.items()}


def from_state_dict(
    state_dict: Mapping[str, Any],
    like: PyTree,
    rules: Rules,
    *,
    ignore: str | None = None,
    flattened: Mapping[str, Shape] | None = None,
    transposed: str | None = None,
) -> PyTree:
    """A PyTorch state dict as params, the inverse of `to_state_dict`.

    Args:
      state_dict: arrays by name (of tensors, `tensor.numpy()`), or `Quantized`, each of which is
        dequantized when all names and shapes are known to fit.
      like: what is wanted: a pytree of arrays or of `jax.ShapeDtypeStruct`.
      rules: as for `to_state_dict`.
      ignore: a regular expression for names that have no counterpart.
      flattened: as for `to_state_dict`.
      transposed: as for `to_state_dict`.

    Raises:
      ValueError: naming what is missing, left over, or of another shape or dtype, or if
        `transposed` is found in no convolution's kernel.
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
    leaves, images = trees.flatten_with_paths(like), flattened or {}
    turned = _transposed("from_state_dict", like, transposed)
    stored = {path: state_dict[name] for name, path in paths.items()}

    def ours(path: str, x: np.ndarray) -> np.ndarray:
        return _from_torch(path, x, leaves[path].shape, images.get(path), path in turned)

    require_like("from_state_dict", like, {p: ours(p, _outline(x)) for p, x in stored.items()})
    return trees.map_with_paths(lambda p, _: jnp.asarray(ours(p, _values(stored[p]))), like)


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
