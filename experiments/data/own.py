"""Data of one's own: an `.npz` file of images and labels."""

import zipfile
from pathlib import Path

import numpy as np

from experiments.data.dataset import Dataset, validate
from experiments.errors import UsageError

ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def load_npz(path: Path) -> Dataset:
    """The arrays `train_x`, `train_y`, `test_x`, `test_y` (and, if there, `classes`) of a file.

    Images are `[n, height, width]` or `[n, height, width, channels]`, floating or unsigned bytes
    (which are divided by 255); labels are integers from 0. Nothing in the file is executed.

    Raises:
      UsageError: if the file is missing or is no such archive, or its arrays are not sound.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"data file {path} does not exist") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not a readable .npz archive: {error}") from None
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise UsageError(
            f"{path} lacks {', '.join(missing)}; it must hold {', '.join(ARRAYS)}, it holds "
            f"{', '.join(arrays) or 'nothing'}"
        )
    for name in ("train_y", "test_y"):
        if arrays[name].dtype.kind not in "iu":
            raise UsageError(f"{path}: {name} must be integers, got {arrays[name].dtype}")
        if arrays[name].size and np.abs(arrays[name].astype(np.float64)).max() > 2**31 - 1:
            raise UsageError(f"{path}: {name} has labels that do not fit in 32 bits")
    labels = [arrays[name].astype(np.int32) for name in ("train_y", "test_y")]
    if "classes" in arrays:
        classes = tuple(map(str, arrays["classes"]))
    else:
        classes = tuple(map(str, range(1 + max(int(y.max(initial=0)) for y in labels))))
    train_x, test_x = (_images(path, name, arrays[name]) for name in ("train_x", "test_x"))
    return validate(Dataset(path.stem, train_x, labels[0], test_x, labels[1], classes))


def _images(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind != "f" and x.dtype != np.uint8:
        raise UsageError(f"{path}: {name} must be floating or unsigned bytes, got {x.dtype}")
    x = x[..., None] if x.ndim == 3 else x
    return x.astype(np.float32) / np.float32(255 if x.dtype == np.uint8 else 1)
