"""Features of a frozen base, computed once and kept in the user's cache."""

import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Callable, Sequence

import jax
import numpy as np

from experiments import files
from experiments.data.fetching import cache
from jaxnets.types import PyTree


def key_of(*parts: object) -> str:
    """A name for what is a function of these: names, numbers, hashes, arrays."""
    digest = hashlib.sha256()
    for part in parts:
        # each with its length before it, or else (1, 23) would be (12, 3)
        if isinstance(part, np.ndarray):
            kind, content = f"{part.dtype.str}{part.shape}", np.ascontiguousarray(part).tobytes()
        else:
            kind, content = "", repr(part).encode()
        digest.update(f"{kind}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def cached(key: str, compute: Callable[[], PyTree], structure: Sequence[str]) -> dict[str, PyTree]:
    """`compute()`, a dict of these names, or what it was the last time for this key.

    A file that cannot be read is written anew.
    """
    path = cache(os.environ) / "features" / f"{key}.npz"
    try:
        with np.load(path) as kept:
            return {name: kept[name] for name in structure}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        pass
    print("computing features of the frozen base, which are kept for the next run", file=sys.stderr)
    found = jax.tree.map(np.asarray, compute())
    stream = io.BytesIO()
    np.savez(stream, **found)
    files.write_bytes(path, stream.getvalue())
    return dict(found)
