"""Texts as numbers of words: a vocabulary from the texts trained on, and padded ids."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PADDING, UNKNOWN = 0, 1

HEAD = 0.25
"""The share of a long text's words that is taken from its beginning; the others are its last."""

_MARKUP = re.compile(r"<[^>]*>")
_WORD = re.compile(r"[^\W\d_]+|'[^\W\d_]+|\d+|[!?]")


class Ids(NamedTuple):
    """Texts of at most T words."""

    x: NDArray[np.int32]
    """`[n, T]`, filled up with `PADDING`."""
    lengths: NDArray[np.int32]
    """`[n]`"""


def words_of(text: str) -> list[str]:
    """In lower case, without markup: words, what follows an apostrophe (`'t`), numbers, `!`, `?`.

    >>> words_of("It isn't <br />GREAT, 7/10!")
    ['it', 'isn', "'t", 'great', '7', '10', '!']
    """
    return _WORD.findall(_MARKUP.sub(" ", text).lower())


def make_vocabulary(texts: Iterable[Sequence[str]], size: int) -> dict[str, int]:
    """Ids of the most frequent words, `PADDING` and `UNKNOWN` among the `size`."""
    counts = Counter(word for words in texts for word in words)
    # by the alphabet where they are as frequent, so that no order of texts matters
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: 2 + rank for rank, word in enumerate(ranked[: size - 2])}


def shortened(words: Sequence[str], most: int) -> list[str]:
    """At most so many words: the first quarter from the beginning, the others from the end.

    Sun et al., "How to fine-tune BERT for text classification?" (2019): reviews begin with what
    they are about and end with a verdict.
    """
    if len(words) <= most:
        return list(words)
    head = int(HEAD * most)
    return [*words[:head], *words[len(words) - (most - head) :]]


def encode(texts: Sequence[Sequence[str]], vocabulary: Mapping[str, int], most: int) -> Ids:
    """The ids of texts of words, those unknown as `UNKNOWN`."""
    x = np.full((len(texts), most), PADDING, np.int32)
    lengths = np.zeros(len(texts), np.int32)
    for index, words in enumerate(texts):
        ids = [vocabulary.get(word, UNKNOWN) for word in shortened(words, most)]
        x[index, : len(ids)] = ids
        lengths[index] = len(ids)
    return Ids(x, lengths)
