"""The idx format of MNIST and its kin: four magic bytes, big-endian dimensions, values.

The magic bytes are 0, 0, the type of the values and the number of dimensions; each dimension is an
unsigned 32-bit integer. Files may be gzipped.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.errors import UsageError

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_GZIP_MAGIC = b"\x1f\x8b"


def read_content(path: Path) -> bytes:
    """The bytes of `path`, decompressed if they are gzipped.

    Raises:
      UsageError: if the file cannot be read, or its compressed stream is cut or corrupt.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except EOFError:
        raise UsageError(f"{path} is cut short: its gzip stream does not end") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path} is a corrupt gzip file: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


def parse_idx(content: bytes, source: str) -> NDArray[Any]:
    """The array in the idx file `content`, in native byte order.

    Args:
      content: the whole file, decompressed.
      source: what to call it in errors.

    Raises:
      UsageError: if `content` is not exactly one idx array.
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise UsageError(
            f"{source} is not an idx file: it starts with {content[:4].hex(' ') or 'nothing'}, "
            "not with 00 00, a type and a number of dimensions"
        )
    code, rank = content[2], content[3]
    if code not in DTYPES:
        known = ", ".join(f"{known:#04x}" for known in DTYPES)
        raise UsageError(f"{source}: unknown idx type {code:#04x}; accepted are {known}")
    if rank == 0:
        raise UsageError(f"{source}: an idx array has at least one dimension, this one has none")
    start = 4 + 4 * rank
    if len(content) < start:
        raise UsageError(
            f"{source} is cut short: {rank} dimensions need {start} bytes, it has {len(content)}"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=rank, offset=4))
    dtype = np.dtype(DTYPES[code])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) < expected:
        raise UsageError(
            f"{source} is cut short: shape {shape} of {dtype.name} needs {expected} bytes, "
            f"it has {len(content)}"
        )
    if len(content) > expected:
        raise UsageError(
            f"{source} has {len(content) - expected} bytes too many after its "
            f"{shape} values of {dtype.name}"
        )
    try:
        values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    except ValueError as error:  # more dimensions than NumPy's arrays have
        raise UsageError(f"{source}: an array of shape {shape} cannot be had: {error}") from None
    return values.astype(dtype.newbyteorder("="))
