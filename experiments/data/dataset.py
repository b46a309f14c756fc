"""What every data set is: four arrays and the names of the classes."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from experiments.errors import UsageError

Images: TypeAlias = NDArray[np.float32]
"""`[n, height, width, channels]`"""


class Dataset(NamedTuple):
    """Images (float32, NHWC) and labels (int32), to train and to test on."""

    name: str
    train_x: Images
    train_y: NDArray[np.int32]
    test_x: Images
    test_y: NDArray[np.int32]
    classes: tuple[str, ...]
    """`classes[label]` is the label's name."""


def validate(data: Dataset) -> Dataset:
    """`data` itself, if it is sound.

    Raises:
      UsageError: naming the array that is empty, of the wrong shape or dtype, not finite, or whose
        labels lie outside the classes.
    """
    for split in ("train", "test"):
        x, y = getattr(data, f"{split}_x"), getattr(data, f"{split}_y")
        _require_images(f"{data.name}: {split}_x", x)
        _require_labels(f"{data.name}: {split}_y", y, len(x), len(data.classes))
    if data.train_x.shape[1:] != data.test_x.shape[1:]:
        raise UsageError(
            f"{data.name}: train_x and test_x hold images of different shapes, "
            f"{data.train_x.shape[1:]} and {data.test_x.shape[1:]}"
        )
    return data


def _require_images(name: str, x: NDArray[Any]) -> None:
    if x.ndim != 4 or x.dtype != np.float32:
        raise UsageError(
            f"{name} must be float32 images [n, height, width, channels], "
            f"got {x.dtype}{list(x.shape)}"
        )
    if x.size == 0:
        raise UsageError(f"{name} is empty: {list(x.shape)}")
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise UsageError(
            f"{name} holds NaN or infinite values in {np.sum(~finite)} of {len(x)} examples, "
            f"the first at index {np.argmin(finite)}; only finite values are accepted"
        )


def _require_labels(name: str, y: NDArray[Any], examples: int, classes: int) -> None:
    if y.ndim != 1 or y.dtype != np.int32:
        raise UsageError(f"{name} must be int32 labels [n], got {y.dtype}{list(y.shape)}")
    if len(y) != examples:
        raise UsageError(f"{name} has {len(y)} labels for {examples} images")
    if y.min() < 0 or y.max() >= classes:
        raise UsageError(
            f"{name} has labels from {y.min()} to {y.max()}; accepted are 0 to {classes - 1}"
        )


def fingerprint(data: Dataset) -> str:
    """The SHA-256 of all that `data` holds, its name aside: equal for the same data elsewhere."""
    digest = hashlib.sha256(repr(data.classes).encode())
    for array in (data.train_x, data.train_y, data.test_x, data.test_y):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def standardizer(images: Images) -> Callable[[Images], Images]:
    """`f(x)`: moves each channel by what takes `images` to mean 0 and deviation 1.

    Given the images that are trained on, nothing is learned from the others.
    """
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    deviation = images.std(axis=(0, 1, 2), dtype=np.float64)
    # a channel that never varies carries nothing; it becomes 0, not NaN
    scale = 1 / np.where(deviation > 0, deviation, 1)
    return lambda x: ((x - mean) * scale).astype(np.float32)
