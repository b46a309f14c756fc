"""What every data set is: four arrays and the names of the classes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.errors import UsageError


class Dataset(NamedTuple):
    """Images (float32, NHWC, in [0, 1] as loaded) and labels (int32), to train and to test on."""

    name: str
    train_x: NDArray[np.float32]
    train_y: NDArray[np.int32]
    test_x: NDArray[np.float32]
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


def standardize(data: Dataset) -> Dataset:
    """`data` with each channel at mean 0 and deviation 1 over the training images.

    The test images are moved by the same numbers, so that nothing is learned from them.
    """
    mean = data.train_x.mean(axis=(0, 1, 2), dtype=np.float64)
    deviation = data.train_x.std(axis=(0, 1, 2), dtype=np.float64)
    # a channel that never varies carries nothing; it becomes 0, not NaN
    scale = 1 / np.where(deviation > 0, deviation, 1)

    def move(x: NDArray[np.float32]) -> NDArray[np.float32]:
        moved: NDArray[np.float32] = ((x - mean) * scale).astype(np.float32)
        return moved

    return data._replace(train_x=move(data.train_x), test_x=move(data.test_x))
