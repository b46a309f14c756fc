"""Data of one's own: an `.npz` file of images and labels."""

from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from experiments.data.dataset import Dataset, validate
from experiments.errors import UsageError

ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def load_npz(path: Path) -> Dataset:
    """The arrays `train_x`, `train_y`, `test_x`, `test_y` (and, if there, `classes`) of a file.

    Images are `[n, height, width]` or `[n, height, width, channels]`, unsigned bytes (which are
    divided by 255) or floating (taken as they are); labels are integers from 0; classes are a list
    of strings. Nothing in the file is executed.

    Raises:
      UsageError: if the file is missing or is no such archive, or its arrays are not sound.
    """
    arrays = read_npz(path)
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
        classes = _classes(path, arrays["classes"])
    else:
        classes = tuple(map(str, range(1 + max(int(y.max(initial=0)) for y in labels))))
    train_x, test_x = (_images(path, name, arrays[name]) for name in ("train_x", "test_x"))
    return validate(Dataset(path.stem, train_x, labels[0], test_x, labels[1], classes))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive of plain ones, by their names. Nothing in it is executed.

    Raises:
      UsageError: if the file is missing, is no such archive, or is damaged.
    """
    try:
        # opened here: NumPy would leave the file open where it finds no archive in it
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise UsageError(f"{path} is not an .npz archive: it holds a single array")
            return {name: archive[name] for name in archive.files}
    except UsageError:
        raise
    except FileNotFoundError:
        raise UsageError(f"data file {path} does not exist") from None
    # no list of types is complete: damage shows in the archive's frame, its compression (one of
    # four), its encryption, or the arrays' headers, which may ask for any memory
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UsageError(f"{path} is not a readable .npz archive: {reason}") from None


def _classes(path: Path, names: np.ndarray) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UsageError(
            f"{path}: classes must be a list of strings, got {names.dtype}{list(names.shape)}"
        )
    return tuple(map(str, names))


def _images(path: Path, name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind != "f" and x.dtype != np.uint8:
        raise UsageError(f"{path}: {name} must be floating or unsigned bytes, got {x.dtype}")
    x = x[..., None] if x.ndim == 3 else x
    return x.astype(np.float32) / np.float32(255 if x.dtype == np.uint8 else 1)
