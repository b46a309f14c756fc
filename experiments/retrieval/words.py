"""Captions as token ids, by a vocabulary of those that are trained on."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.data.caption_origins import words_of

UNKNOWN = 0
"""The id of a word that no training caption has."""


class Vocabulary(NamedTuple):
    """Tokens and their ids, from 1."""

    ids: dict[str, int]
    pieces: bool
    """Whether words also have their parts, of which an unknown word may be made."""

    def __len__(self) -> int:
        return len(self.ids) + 1


class Texts(NamedTuple):
    """Token ids and where they are: `[n, T]`, or `[n, ways, T]`."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]


def tokens(caption: str, pieces: bool) -> list[str]:
    """Its words; with pieces, also each one's three neighbouring letters, its ends marked."""
    found = words_of(caption)
    if not pieces:
        return found
    marked = [f"<{word}>" for word in found]
    return found + [w[i : i + 3] for w in marked for i in range(len(w) - 2) if len(w) > 4]


def make_vocabulary(captions: Iterable[Sequence[str]], *, pieces: bool) -> Vocabulary:
    """Of all words, and of the pieces that are in two words or more."""
    words = {word for names in captions for name in names for word in words_of(name)}
    known = sorted(words)
    if pieces:
        counts = Counter(piece for word in known for piece in set(tokens(word, True)[1:]))
        known += sorted(piece for piece, count in counts.items() if count > 1)
    # a piece may be a word
    return Vocabulary({token: i for i, token in enumerate(dict.fromkeys(known), 1)}, pieces)


def encode(captions: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Texts:
    """`[n, ways, T]`: as many captions of each as the richest has, repeated in turn.

    Pieces that are not known are left out; words are `UNKNOWN`.
    """
    ways = max(map(len, captions))
    rows = [[_ids(names[i % len(names)], vocabulary) for i in range(ways)] for names in captions]
    length = max(len(row) for names in rows for row in names)
    ids = np.zeros((len(rows), ways, length), np.int32)
    mask = np.zeros(ids.shape, bool)
    for i, names in enumerate(rows):
        for j, row in enumerate(names):
            ids[i, j, : len(row)] = row
            mask[i, j, : len(row)] = True
    return Texts(ids, mask)


def _ids(caption: str, vocabulary: Vocabulary) -> list[int]:
    words = len(words_of(caption))
    found = [vocabulary.ids.get(token, UNKNOWN) for token in tokens(caption, vocabulary.pieces)]
    return found[:words] + [i for i in found[words:] if i != UNKNOWN]
