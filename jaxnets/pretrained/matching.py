"""Arrays by path against a pytree of what is wanted."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxnets import tree as trees
from jaxnets.types import PyTree


def require_like(function: str, like: PyTree, arrays: Mapping[str, Any]) -> None:
    """Nothing, if `arrays` are those of `like` by path.

    Raises:
      ValueError: naming the paths that are missing, left over, or of another shape or dtype.
    """
    wanted = trees.flatten_with_paths(like)
    missing, added = [p for p in wanted if p not in arrays], [p for p in arrays if p not in wanted]
    if missing or added:
        raise ValueError(f"{function}: {trees.missing_and_added(missing, added)}")
    described = [
        (path, f"{arrays[path].dtype}{list(arrays[path].shape)}", f"{x.dtype}{list(x.shape)}")
        for path, x in wanted.items()
    ]
    wrong = [f"{path!r} is {got}, not {want}" for path, got, want in described if got != want]
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(f"{function}: {'; '.join(wrong[:10])}{more}")


def fill(function: str, like: PyTree, arrays: Mapping[str, Any]) -> PyTree:
    """`like` with each leaf replaced by the array of its path, as a JAX array.

    Raises:
      ValueError: as `require_like`.
    """
    require_like(function, like, arrays)
    return trees.map_with_paths(lambda path, _: jnp.asarray(arrays[path]), like)
