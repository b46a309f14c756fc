"""PyTorch's `.pth` files, read with NumPy alone: an archive of storages, or the older stream.

A file runs no code (`pickles`). It is read into memory once, and its tensors are views of that,
whatever they claim; besides there are its names and shapes, in proportion to the pickle.
"""

import os
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnets.pretrained.pickles import Name, Storage, Tensor, read_pickle

_DTYPES: dict[str, Any] = {
    "torch FloatStorage": np.float32,
    "torch DoubleStorage": np.float64,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": jnp.bfloat16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
}
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def load_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a state dict, by name, as `torch.save(module.state_dict(), path)` wrote them.

    Args:
      path: of the file.

    Returns:
      read-only arrays, which share the memory of the file's content.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: saying what is wrong with it: it is cut short or damaged, mentions anything but
        tensors, is encrypted or compressed, or a tensor is not within its storage, overlaps itself,
        or is of a dtype not known here.
    """
    content = Path(path).read_bytes()
    try:
        archive = zipfile.is_zipfile(BytesIO(content))
        value, storages = _archive(content) if archive else _stream(content)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not a state dict")
        return {_name(name): _view(name, x, storages) for name, x in value.items()}
    except (ValueError, zipfile.BadZipFile, RuntimeError, OverflowError, EOFError) as error:
        raise ValueError(f"load_pth: {path} is no state dict that can be read: {error}") from None


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"an entry's name is the number {name}")
    return name


def _archive(content: bytes) -> tuple[Any, Mapping[str, memoryview]]:
    """What `data.pkl` holds, and the files `data/<key>` beside it."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        members = archive.infolist()
    # stored as they are, each once: so that no member unpacks to more than the file holds
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or (
        sum(m.file_size for m in members) > len(content)
    ):
        raise ValueError("its members are compressed or overlap")
    pickles = [m.filename for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    files = {m.filename: _member(content, m) for m in members}
    if bytes(files.get(f"{folder}byteorder", b"little")).strip() != b"little":
        raise ValueError("it was written on a big-endian machine")
    prefix = f"{folder}data/"
    storages = {n.removeprefix(prefix): f for n, f in files.items() if n.startswith(prefix)}
    return read_pickle(BytesIO(files[pickles[0]])), storages


def _member(content: bytes, member: zipfile.ZipInfo) -> memoryview:
    """The bytes of a member that is stored as it is; `ZipFile.read` would copy them."""
    name, start = member.filename, member.header_offset
    if member.flag_bits & 1:
        raise ValueError(f"its member {name!r} is encrypted")
    # 30 bytes, of which the last four are the lengths of what stands between them and the data
    header = content[start : start + 30] if start >= 0 else b""
    if len(header) != 30 or not header.startswith(b"PK\3\4"):
        raise ValueError(f"its member {name!r} is not where the directory has it")
    start += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
    data = memoryview(content)[start : start + member.file_size]
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise ValueError(f"its member {name!r} is cut short or damaged")
    return data


def _stream(content: bytes) -> tuple[Any, Mapping[str, memoryview]]:
    """Pickles of a magic number, version, machine, value and keys; then each key's storage."""
    stream = BytesIO(content)
    if read_pickle(stream) != _MAGIC:
        raise ValueError("it does not start as PyTorch's files do")
    if read_pickle(stream) != _LEGACY_PROTOCOL:
        raise ValueError("it is of an unknown version")
    match read_pickle(stream):
        case {"little_endian": True}:
            pass
        case _:
            raise ValueError("it was written on a big-endian machine")
    value, keys = read_pickle(stream), read_pickle(stream)
    if not isinstance(value, dict) or not isinstance(keys, list):
        raise ValueError("it holds no state dict")
    widths = {
        x.storage.key: np.dtype(_dtype(x.storage)).itemsize
        for x in value.values()
        if isinstance(x, Tensor)
    }
    storages, position = {}, stream.tell()
    for key in keys:
        if not isinstance(key, str) or key not in widths:
            raise ValueError("it has a storage that no tensor views")
        start = position + 8
        size = int.from_bytes(content[position:start], "little", signed=True)
        position = start + size * widths[key]
        if size < 0 or not start <= position <= len(content):
            raise ValueError(
                f"storage {key} claims {size:,} values, more than there are left in the file"
            )
        storages[key] = memoryview(content)[start:position]
    return value, storages


def _dtype(storage: Storage) -> Any:
    if storage.kind not in _DTYPES:
        raise ValueError(f"a storage is {storage.kind.replace(' ', '.')}, which is not known here")
    return _DTYPES[storage.kind]


def _view(name: str, tensor: Any, storages: Mapping[str, memoryview]) -> np.ndarray:
    if not isinstance(tensor, Tensor):
        what = tensor.name if isinstance(tensor, Name) else type(tensor).__name__
        raise ValueError(f"{name!r} is a {what}, not a tensor")
    storage, offset, shape, strides = tensor
    dtype = np.dtype(_dtype(storage))
    if storage.key not in storages:
        raise ValueError(f"{name!r} is in storage {storage.key!r}, which is missing")
    data = storages[storage.key]
    if len(data) != storage.size * dtype.itemsize:
        raise ValueError(
            f"{name!r} is in storage {storage.key!r}, which should hold {storage.size:,} values "
            f"of {dtype} and has {len(data):,} bytes"
        )
    if len(shape) != len(strides):
        raise ValueError(f"{name!r} has {len(shape)} axes and {len(strides)} strides")
    values = np.frombuffer(data, dtype)
    if 0 in shape:
        return values[:0].reshape(shape)
    reach = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride < reach:
                raise ValueError(f"{name!r} overlaps itself: shape {shape}, strides {strides}")
            reach = stride * (size - 1) + reach
    if offset + reach > storage.size:
        raise ValueError(
            f"{name!r} is not within its storage of {storage.size:,} values: shape {shape}, "
            f"strides {strides}, offset {offset}"
        )
    return np.lib.stride_tricks.as_strided(
        values[offset:], shape, [s * dtype.itemsize for s in strides], writeable=False
    )
