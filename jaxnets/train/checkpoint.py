"""Checkpoints: any pytree of arrays by Orbax, and beside it a SHA-256 manifest of its files.

The manifest is written last, so a save that was cut short is never taken for a checkpoint, and is
in the format of `sha256sum`, so that anyone can check one.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import tree as trees
from jaxnets.types import PyTree


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _manifest(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}.sha256"


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _storable(tree: PyTree) -> dict[str, Any]:
    """The leaves by path, PRNG keys as the integers they are made of."""
    leaves = {
        path: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        for path, leaf in trees.flatten_with_paths(tree).items()
    }
    return {
        path: jax.random.key_data(leaf) if _is_key(leaf) else leaf for path, leaf in leaves.items()
    }


def save_checkpoint(
    folder: str | os.PathLike[str], step: int, tree: PyTree, *, keep: int | None = None
) -> Path:
    """Save `tree` as `folder/<step>` with `folder/<step>.sha256` beside it.

    Args:
      folder: made if it is missing.
      step: names the checkpoint; not negative.
      tree: a pytree of arrays, PRNG keys included.
      keep: how many of the latest checkpoints to keep, besides this one; `None` keeps all.

    Returns:
      The checkpoint's own folder.

    Raises:
      FileExistsError: if this step is saved already.
      ValueError: if `step` is negative, `keep` below 1, or a leaf (or the tree) is empty.
    """
    import orbax.checkpoint as ocp

    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(f"save_checkpoint: got step {step}, keep {keep}; want step ≥ 0, keep ≥ 1")
    stored = _storable(tree)
    empty = [path for path, leaf in stored.items() if leaf.size == 0] if stored else ["the tree"]
    if empty:
        raise ValueError(f"save_checkpoint: there is nothing to save in {', '.join(empty)}")
    folder = Path(folder).resolve()
    target, manifest = folder / f"{step:08d}", _manifest(folder, step)
    if manifest.exists():
        raise FileExistsError(f"save_checkpoint: step {step} is saved already in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # what an interrupted save left
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, stored)
    files = sorted(file for file in target.rglob("*") if file.is_file())
    lines = [f"{_digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    partial = manifest.with_suffix(".partial")
    partial.write_text("".join(lines))
    partial.replace(manifest)
    if keep is not None:
        for old in set(checkpoint_steps(folder)[:-keep]) - {step}:
            _manifest(folder, old).unlink()
            shutil.rmtree(folder / f"{old:08d}")
    return target


def checkpoint_steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps saved completely in `folder`, in order; none if it does not exist."""
    names = [file.stem for file in Path(folder).glob("*.sha256")]
    return sorted(int(name) for name in names if re.fullmatch(r"\d{8,}", name))


def latest_checkpoint(folder: str | os.PathLike[str]) -> int | None:
    """The last step saved completely in `folder`, or `None`."""
    return max(checkpoint_steps(folder), default=None)


def verify_checkpoint(folder: str | os.PathLike[str], step: int) -> Path:
    """Check every file of a checkpoint against its manifest; returns the checkpoint's folder.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: naming the file that is missing, changed, or not in the manifest.
    """
    folder = Path(folder).resolve()
    manifest, target = _manifest(folder, step), folder / f"{step:08d}"
    if not manifest.exists():
        raise FileNotFoundError(
            f"no checkpoint of step {step} in {folder}; there are {checkpoint_steps(folder)}"
        )
    expected = {}
    for line in manifest.read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not name:
            raise ValueError(f"corrupt checkpoint: {manifest} is not a SHA-256 manifest")
        expected[name] = digest
    found = {f.relative_to(folder).as_posix(): f for f in target.rglob("*") if f.is_file()}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"corrupt checkpoint: {folder / name} is missing")
        if name not in expected:
            raise ValueError(f"corrupt checkpoint: {folder / name} is not in its manifest")
        if _digest(found[name]) != expected[name]:
            raise ValueError(f"corrupt checkpoint: {folder / name} does not match its SHA-256")
    return target


def restore_checkpoint(
    folder: str | os.PathLike[str], like: PyTree, *, step: int | None = None
) -> PyTree:
    """The pytree that was saved, after its files were checked.

    Args:
      folder: given to `save_checkpoint`.
      like: a pytree of the same structure, shapes and dtypes (a fresh state, say).
      step: which checkpoint; `None` is the latest.

    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: if a file is corrupt, or what was saved does not match `like`, naming the leaf.
    """
    import orbax.checkpoint as ocp

    step = latest_checkpoint(folder) if step is None else step
    if step is None:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    target = verify_checkpoint(folder, step)
    expected = jax.tree.map(ocp.utils.to_shape_dtype_struct, _storable(like))
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.metadata(target).item_metadata.tree
        _require_same_leaves(expected, saved)
        restored = checkpointer.restore(target, expected)
    return trees.map_with_paths(
        lambda path, leaf: _rewrap(leaf, restored[path]),
        like,
    )


def _rewrap(like: Any, stored: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(like))
    return stored


def _require_same_leaves(expected: dict[str, Any], saved: dict[str, Any]) -> None:
    for path in sorted(expected.keys() | saved.keys()):
        want, got = expected.get(path), saved.get(path)
        described = [
            "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}" for leaf in (got, want)
        ]
        if described[0] != described[1]:
            raise ValueError(
                f"restore_checkpoint: {path!r} is {described[0]} in the checkpoint, "
                f"and {described[1]} is wanted"
            )
