"""GGUF files: metadata and tensors of a language model, as llama.cpp reads them.

The format is a header of typed values, a table of tensors, and their bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Lengths are checked against what is
left of the file before anything is made of them, and tensors are views of its bytes.
"""

import math
import os
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnets.pretrained.quantized import Quantized, n_bytes

_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_KINDS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 28: "F64", 30: "BF16",
}  # fmt: skip
_MOST_AXES = 4


class GGUF(NamedTuple):
    """What a file holds."""

    metadata: dict[str, Any]
    """Numbers, strings, lists of strings, and NumPy arrays of numbers."""
    tensors: dict[str, Quantized]
    """Their values are `dequantize(tensor)`."""


def _take(stream: BytesIO, n: int) -> bytes:
    found = stream.read(min(n, 2**62))
    if len(found) != n:
        raise ValueError(f"it claims {n:,} bytes where {len(found):,} are left")
    return found


def _integer(stream: BytesIO, width: int) -> int:
    return int.from_bytes(_take(stream, width), "little")


def _string(stream: BytesIO) -> str:
    return _take(stream, _integer(stream, 8)).decode()


def _numbers(stream: BytesIO, kind: int, n: int) -> np.ndarray:
    if kind not in _NUMBERS:
        raise ValueError(f"it has a value of type {kind}, which is not known here")
    dtype = np.dtype(_NUMBERS[kind])
    return np.frombuffer(_take(stream, n * dtype.itemsize), dtype)


def _value(stream: BytesIO) -> Any:
    kind = _integer(stream, 4)
    if kind == _STRING:
        return _string(stream)
    if kind == _ARRAY:
        kind, n = _integer(stream, 4), _integer(stream, 8)
        # a claim of too many strings ends where the file does
        return [_string(stream) for _ in range(n)] if kind == _STRING else _numbers(stream, kind, n)
    return _numbers(stream, kind, 1)[0].item()


def load_gguf(path: str | os.PathLike[str]) -> GGUF:
    """The metadata and the tensors of a GGUF file, without dequantizing any.

    Args:
      path: of the file, of version 2 or 3, little-endian.

    Returns:
      `GGUF`; shapes are as NumPy has them, `[out, in]` (the file has the last axis first).

    Raises:
      FileNotFoundError: if there is none.
      ValueError: saying what is wrong with it: it is cut short or damaged, claims more than it
        holds, or has a type or a quantization not known here.
    """
    content = Path(path).read_bytes()
    try:
        return _parse(content)
    except ValueError as error:
        raise ValueError(f"load_gguf: {path} is no GGUF file that can be read: {error}") from None


def _parse(content: bytes) -> GGUF:
    stream = BytesIO(content)
    if _take(stream, 4) != b"GGUF":
        raise ValueError("it does not start with GGUF")
    if (version := _integer(stream, 4)) not in (2, 3):
        raise ValueError(f"it is of version {version}, or big-endian")
    n_tensors, n_values = _integer(stream, 8), _integer(stream, 8)
    metadata: dict[str, Any] = {}
    for _ in range(n_values):
        name = _string(stream)
        if name in metadata:
            raise ValueError(f"it has {name!r} twice")
        metadata[name] = _value(stream)
    table = [_entry(stream) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"its alignment is {alignment!r}")
    start = -(-stream.tell() // alignment) * alignment
    tensors: dict[str, Quantized] = {}
    for name, kind, shape, offset in table:
        if name in tensors:
            raise ValueError(f"it has the tensor {name!r} twice")
        begin, size = start + offset, n_bytes(kind, shape)
        if begin + size > len(content):
            raise ValueError(
                f"{name!r}, {kind} of shape {shape}, should be {size:,} bytes at {begin:,} of "
                f"{len(content):,}"
            )
        tensors[name] = Quantized(kind, shape, memoryview(content)[begin : begin + size])
    if sum(len(tensor.data) for tensor in tensors.values()) > len(content):
        raise ValueError("its tensors overlap")
    return GGUF(metadata, tensors)


def _entry(stream: BytesIO) -> tuple[str, str, tuple[int, ...], int]:
    name, axes = _string(stream), _integer(stream, 4)
    if axes > _MOST_AXES:
        raise ValueError(f"{name!r} has {axes} axes")
    shape = tuple(_integer(stream, 8) for _ in range(axes))[::-1]
    kind, offset = _integer(stream, 4), _integer(stream, 8)
    if kind not in _KINDS:
        raise ValueError(f"{name!r} is of quantization {kind}, which is not known here")
    if math.prod(shape) == 0:
        raise ValueError(f"{name!r} has the shape {shape}")
    return name, _KINDS[kind], shape, offset
