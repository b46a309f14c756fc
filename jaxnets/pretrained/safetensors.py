"""Safetensors files: any pytree of arrays by its paths, as other libraries read and write them.

The format is a length, a JSON header of names, dtypes, shapes and places, and the values
(https://github.com/huggingface/safetensors). It is written here without its package, whose NumPy
form knows no bfloat16 and whose JAX form no 64-bit integers unless JAX has these enabled.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnets import tree as trees
from jaxnets.pretrained.matching import fill
from jaxnets.types import PyTree

_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
    "C64": np.complex64,
}  # fmt: skip
_METADATA = "__metadata__"
_MOST_HEADER_BYTES = 100_000_000
"""As the format's own package has it."""
_MOST_AXES = 64
"""As NumPy has them."""
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def save_safetensors(
    path: str | os.PathLike[str], tree: PyTree, *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write the leaves of `tree` under their paths (`"blocks/0/conv/kernel"`).

    The file is there whole or not at all: it is written under another name and renamed.

    Args:
      path: of the file; its folder must exist.
      tree: a pytree of arrays.
      metadata: strings to go with them.

    Returns:
      `path`.

    Raises:
      ValueError: if a leaf's dtype has no place in the format (PRNG keys: save their
        `jax.random.key_data`), two leaves have one path or one has the path `__metadata__`, which
        is the format's own, or `metadata` are not strings.
    """
    path = Path(path)
    if not all(isinstance(x, str) for item in (metadata or {}).items() for x in item):
        raise ValueError(f"save_safetensors: metadata must be strings by name, got {metadata}")
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    arrays, end = [], 0
    for name, leaf in trees.flatten_with_paths(tree).items():
        if name == _METADATA:
            raise ValueError(f"save_safetensors: no leaf can have the path {name!r}")
        dtype = getattr(leaf, "dtype", None) or np.asarray(leaf).dtype
        if dtype not in _NAMES:
            raise ValueError(f"save_safetensors: {name!r} is {dtype}, which the format lacks")
        x = np.asarray(leaf)
        start, end = end, end + x.nbytes
        header[name] = {
            "dtype": _NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [start, end],
        }  # fmt: skip
        arrays.append(x)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # values start at a multiple of 8
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for x in arrays:
                stream.write(x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_safetensors(path: str | os.PathLike[str], like: PyTree | None = None) -> PyTree:
    """What a safetensors file holds.

    Args:
      path: of the file.
      like: a pytree of the structure, shapes and dtypes that are wanted, of arrays or of
        `jax.ShapeDtypeStruct` (as from `jax.eval_shape`).

    Returns:
      JAX arrays in the structure of `like`; without it, NumPy arrays by name, which share the
      memory of the file's content.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if the file is cut short or damaged, or differs from `like`, naming the paths.
    """
    content = Path(path).read_bytes()
    try:
        arrays = _parse(content)
    except ValueError as error:
        raise ValueError(f"load_safetensors: {path} is no safetensors file: {error}") from None
    return arrays if like is None else fill("load_safetensors", like, arrays)


def _parse(content: bytes) -> dict[str, np.ndarray]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError(f"its header should have {length:,} bytes, more than it holds")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, more than {_MOST_HEADER_BYTES:,}")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        raise ValueError("its header is no JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop(_METADATA, None)
    data = memoryview(content)[8 + length :]
    arrays: dict[str, np.ndarray] = {}
    places = []
    for name, entry in header.items():
        dtype, shape, (start, end) = _entry(name, entry)
        if not start <= end <= len(data):
            raise ValueError(f"{name!r} is at {start:,} to {end:,} of {len(data):,} bytes")
        if math.prod(shape) * dtype.itemsize != end - start:
            raise ValueError(f"{name!r} is {dtype}{shape} and has {end - start:,} bytes")
        places.append((start, end))
        arrays[name] = np.frombuffer(data[start:end], dtype.newbyteorder("<")).reshape(shape)
    places.sort()
    if [end for _, end in places] != [start for start, _ in places[1:]] + [len(data)] * bool(
        places
    ) or (places and places[0][0]):
        raise ValueError("its arrays overlap, or leave bytes that belong to none")
    return arrays


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], list[int], list[int]]:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [_, _] as place}:
            if kind not in _DTYPES:
                raise ValueError(f"{name!r} is of dtype {kind}, which is not known here")
            if len(shape) > _MOST_AXES:
                raise ValueError(f"{name!r} has {len(shape)} axes")
            if all(type(n) is int and 0 <= n <= 2**62 for n in [*shape, *place]):
                return np.dtype(_DTYPES[kind]), shape, place
    raise ValueError(f"the header's entry for {name!r} is malformed")
