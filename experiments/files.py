"""Files that are either the old ones or the new ones, never half of each; strict JSON."""

import contextlib
import dataclasses
import enum
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UsageError


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` while the `with` block runs, against other processes that ask for it here.

    The lock leaves nothing behind, a crash included. Where folders cannot be locked (Windows, some
    network drives), nothing is held.

    Raises:
      UsageError: if it is held.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ModuleNotFoundError, PermissionError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is writing to {folder}") from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, atomically; missing folders are made. Returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # same folder, so that the rename stays within one file system
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, atomically. Returns `path`."""
    return write_bytes(path, text.encode())


def read_text(path: Path) -> str:
    """The text of a user's file, in UTF-8.

    Raises:
      UsageError: if it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file") from None


def write_json(path: Path, value: Any) -> Path:
    """Write `plain(value)` to `path` as indented JSON, atomically. Returns `path`."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def plain(value: Any) -> Any:
    """`value` in the types JSON has: dataclasses and mappings become dicts, arrays become lists.

    NaN and the infinities, which JSON lacks, become the strings `"nan"`, `"inf"` and `"-inf"`;
    what has no counterpart (paths, dtypes, functions) becomes its name.
    """
    match value:
        case enum.Enum():
            return value.name
        case None | bool() | int() | str():
            return value
        case float():
            # float(): a subclass such as numpy.float64 would keep its own repr
            return float(value) if math.isfinite(value) else str(float(value))
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case tuple() if hasattr(value, "_asdict"):
            return plain(value._asdict())
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
            }
        case _ if hasattr(value, "tolist"):
            return plain(value.tolist())
        case _ if isinstance(value, type) or callable(value):
            return str(getattr(value, "__name__", value))
        case _:
            return str(value)


def revive(value: Any) -> Any:
    """The inverse of `plain` for numbers: `"nan"`, `"inf"` and `"-inf"` become floats again."""
    match value:
        case "nan" | "inf" | "-inf":
            return float(value)
        case dict():
            return {key: revive(item) for key, item in value.items()}
        case list():
            return [revive(item) for item in value]
        case _:
            return value
