"""Byte-pair encoding of both languages together, and sentences as rows of ids."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.translation.pairs import Pair
from jaxnets.types import Array

PADDING, BEGIN, END, UNKNOWN = range(4)
_SPECIAL = ["[padding]", "[begin]", "[end]", "[unknown]"]

Rows = dict[str, Any]
"""`source [n, S]`, its `length [n]`, and `target [n, T]` from `BEGIN` to `END`, then padding."""
Ids = NDArray[np.int32] | Array


class Vocabulary(NamedTuple):
    """An encoding that was learned."""

    tokenizer: Any

    @property
    def size(self) -> int:
        """How many ids there are."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts))]

    def decode(self, ids: Ids) -> str:
        """The text of ids up to the first `END`."""
        return str(self.tokenizer.decode(until_end(ids)))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """How each id is written, a word's beginning marked by a space."""
        return [self.tokenizer.id_to_token(int(i)).replace("▁", " ") for i in ids]


def until_end(ids: Ids) -> list[int]:
    """Those before the first `END`."""
    listed = [int(i) for i in ids]
    return listed[: listed.index(END)] if END in listed else listed


def learn(pairs: Sequence[Pair], size: int) -> Vocabulary:
    """Merge the pairs of symbols that are most frequent in both languages (Sennrich et al., 2016).

    Punctuation stands alone; a word's beginning has its space, so that texts are what their parts
    say side by side.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator([text for pair in pairs for text in pair], trainer)
    return Vocabulary(tokenizer)


def rows(vocabulary: Vocabulary, pairs: Sequence[Pair]) -> Rows:
    """Pairs as ids, padded to the longest of each side."""
    sources = vocabulary.encode([pair.source for pair in pairs])
    targets = vocabulary.encode([pair.target for pair in pairs])
    return {
        "source": _padded(sources),
        "length": np.array([len(ids) for ids in sources], np.int32),
        "target": _padded([[BEGIN, *ids, END] for ids in targets]),
    }


def _padded(lists: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    padded = np.full((len(lists), max(map(len, lists))), PADDING, np.int32)
    for row, ids in zip(padded, lists, strict=True):
        row[: len(ids)] = ids
    return padded


def buckets(data: Rows, count: int) -> list[Rows]:
    """As many parts of the rows, from the shortest to the longest, each cut to its own length."""
    target_lengths = np.sum(data["target"] != PADDING, -1)
    order = np.argsort(np.maximum(data["length"], target_lengths), kind="stable")
    found = []
    for part in np.array_split(order, count):
        cut = {name: leaf[part] for name, leaf in data.items()}
        cut["source"] = cut["source"][:, : cut["length"].max()]
        cut["target"] = cut["target"][:, : target_lengths[part].max()]
        found.append(cut)
    return found
