"""Weights of four to eight bits in blocks that share a scale, as GGUF files hold them.

In a block of `n` values stand small integers `q`, a scale `d` and, in some kinds, an offset `m`:
`w = d q` or `w = d q + m`. The K kinds have blocks within blocks, whose scales are small integers
too. Layouts are those of ggml (https://github.com/ggml-org/ggml, `ggml-common.h`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Values: TypeAlias = NDArray[np.float32]


class Quantized(NamedTuple):
    """A tensor as its bytes."""

    kind: str
    """A key of `KINDS`."""
    shape: tuple[int, ...]
    data: memoryview


class Kind(NamedTuple):
    """A way to store values."""

    size: int
    """Values in a block."""
    width: int
    """Bytes of a block."""
    values: Callable[[Bytes], Values]
    """Of blocks `[n, width]`, their values `[n, size]`."""


def n_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """How many bytes a tensor takes.

    Raises:
      ValueError: if its rows are not whole blocks.
    """
    size, width, _ = KINDS[kind]
    if (shape[-1] if shape else 1) % size:
        raise ValueError(f"rows of {kind} are blocks of {size} values, got shape {shape}")
    return math.prod(shape) // size * width


def dequantize(tensor: Quantized) -> Values:
    """A tensor's values in float32; those of wider types are rounded.

    Raises:
      ValueError: if its bytes are not as many as its kind and shape take.
    """
    kind, shape, data = tensor
    if len(data) != n_bytes(kind, shape):
        raise ValueError(f"dequantize: {kind} of shape {shape} has {len(data):,} bytes")
    blocks = np.frombuffer(data, np.uint8).reshape(-1, KINDS[kind].width)
    return KINDS[kind].values(blocks).reshape(shape)


def _plain(dtype: str | type) -> Kind:
    stored = np.dtype(dtype)
    return Kind(1, stored.itemsize, lambda b: b.view(stored).astype(np.float32))


def _half(blocks: Bytes) -> Values:
    return blocks.view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """`[..., n]` to `[..., 2, n]`: the lower halves of all bytes, then the upper ones."""
    return np.stack([packed & 15, packed >> 4], -2)


def _fifth_bits(packed: Bytes) -> Bytes:
    """`[..., n]` to `[..., n, 8]`: each byte's bits, the least first, each worth 16."""
    bits = np.unpackbits(packed, axis=-1, bitorder="little")
    return np.uint8(16) * bits.reshape(*packed.shape, 8)


def _simple(*, offset: bool, fifth: bool) -> Kind:
    """32 values as halves of 16 bytes."""
    scales, high = 4 if offset else 2, 4 if fifth else 0

    def values(b: Bytes) -> Values:
        q = _nibbles(b[:, scales + high :])
        if fifth:
            q = q | _fifth_bits(b[:, scales : scales + high]).reshape(q.shape)
        numbers = q.reshape(-1, 32).astype(np.float32)
        d = _half(b[:, :2])
        if offset:
            return d * numbers + _half(b[:, 2:4])
        return d * (numbers - (16 if fifth else 8))

    return Kind(32, scales + high + 16, values)


def _bytes(b: Bytes) -> Values:
    return _half(b[:, :2]) * b[:, 2:].view(np.int8).astype(np.float32)


def _scales_and_offsets(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Twice eight numbers of six bits in twelve bytes, the last four of each in two parts."""
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], -1)
    offsets = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], -1)
    return scales, offsets


def _nested(*, fifth: bool) -> Kind:
    """Q4_K and Q5_K: eight blocks of 32."""
    high = 32 if fifth else 0

    def values(b: Bytes) -> Values:
        scales, offsets = _scales_and_offsets(b[:, 4:16])
        d = (_half(b[:, :2]) * scales.astype(np.float32))[..., None]
        m = (_half(b[:, 2:4]) * offsets.astype(np.float32))[..., None]
        q = _nibbles(b[:, 16 + high :].reshape(-1, 4, 32)).reshape(-1, 8, 32)
        if fifth:
            q = q | _fifth_bits(b[:, 16:48]).swapaxes(1, 2)
        return (d * q.astype(np.float32) - m).reshape(-1, 256)

    return Kind(256, 144 + high, values)


def _six_bits(b: Bytes) -> Values:
    """Q6_K: sixteen blocks of 16."""
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    q = (low | high << 4).astype(np.float32) - 32
    d = _half(b[:, 208:]) * b[:, 192:208].view(np.int8).astype(np.float32)
    return (d[..., None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


KINDS: dict[str, Kind] = {
    "F32": _plain("<f4"),
    "F16": _plain("<f2"),
    "BF16": _plain(jnp.bfloat16),
    "F64": _plain("<f8"),
    "Q4_0": _simple(offset=False, fifth=False),
    "Q4_1": _simple(offset=True, fifth=False),
    "Q5_0": _simple(offset=False, fifth=True),
    "Q5_1": _simple(offset=True, fifth=True),
    "Q8_0": Kind(32, 34, _bytes),
    "Q4_K": _nested(fifth=False),
    "Q5_K": _nested(fifth=True),
    "Q6_K": Kind(256, 210, _six_bits),
}
"""What `dequantize` knows, by ggml's names."""
