"""Data sets as plain arrays.

    data = load("digits")                                   # needs no network
    data = load("fashion-mnist", folder="/my/idx/files")    # from a folder
    data = load("my-own.npz")                               # train_x, train_y, test_x, test_y

Images are float32 NHWC as stored (in [0, 1], but for floats of one's own, which are taken as they
are): they can be looked at, and nothing was estimated from them yet. `standardizer` moves images to
mean 0 and deviation 1 by the moments of those that are trained on.
"""

import os
from pathlib import Path

from experiments.data.dataset import Dataset, fingerprint, standardizer, validate
from experiments.data.digits import load_digits
from experiments.data.own import load_npz
from experiments.data.sources import SOURCES, load_source
from experiments.errors import UsageError, did_you_mean

NAMES = ("digits", *SOURCES)

__all__ = ["NAMES", "Dataset", "fingerprint", "load", "standardizer", "validate"]


def load(name: str, folder: Path | str | None = None) -> Dataset:
    """The data set called `name`, or the arrays in the file `name` if that ends in `.npz`.

    - `digits`: 1797 handwritten digits of 8x8, from scikit-learn; 1437 to train, 360 to test.
    - `fashion-mnist`, `mnist`: 60,000 + 10,000 images of 28x28, from their four idx files (gzipped
      or not), each checked by SHA-256. They are looked for in `folder` if given and nowhere else;
      otherwise in `$JAXNETS_DATA`, where the system's package puts them, and in the user's cache,
      which is filled through the package's own client if need be.

    Raises:
      UsageError: if the name is unknown, files are missing or corrupt, values are not finite, or
        `folder` is given where nothing is read from one.
    """
    if name.endswith(".npz"):
        return load_npz(Path(name) if folder is None else Path(folder) / name)
    if name == "digits":
        if folder is not None:
            raise UsageError(f"digits come with scikit-learn: no data folder is read, got {folder}")
        return load_digits()
    if name in SOURCES:
        return load_source(SOURCES[name], None if folder is None else Path(folder), os.environ)
    raise UsageError(
        f"unknown data set {name!r}{did_you_mean(name, NAMES)}; there are {', '.join(NAMES)}, "
        "or an .npz file's path"
    )
