"""Tokenizers of pretrained language models, run by the package `tokenizers`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTROL = 3
"""A token's type in GGUF: it stands for no text."""
_DIGITS_ALONE = {"smollm": True, "gpt-2": False}
"""By GGUF's name of how text is cut before pairs are merged, whether digits are cut apart."""


class Tokens(NamedTuple):
    """A batch of texts, padded at the end."""

    ids: NDArray[np.int32]
    """`[n, T]`, 0 where there is padding."""
    mask: NDArray[np.bool_]
    """`[n, T]`, true where there is a token."""


def load_tokenizer(path: str | os.PathLike[str], *, max_length: int | None = None) -> "Tokenizer":
    """A `tokenizer.json`, without its own padding and truncation.

    Args:
      path: of the file.
      max_length: how many tokens of a text remain, those that mark its ends among them; `None` is
        all.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is no tokenizer.
    """
    from tokenizers import Tokenizer

    text = Path(path).read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(text)
    # what it raises has no class of its own
    except Exception as error:
        raise ValueError(f"load_tokenizer: {path} is no tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_length is not None:
        tokenizer.enable_truncation(max_length)
    return tokenizer


def tokenize(tokenizer: "Tokenizer", texts: Sequence[str]) -> Tokens:
    """Ids of texts, as long as the longest.

    Raises:
      ValueError: if there are no texts.
    """
    if not texts:
        raise ValueError("tokenize: texts must not be empty")
    found = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    lengths = np.array([len(ids) for ids in found])
    mask = np.arange(max(1, lengths.max()))[None] < lengths[:, None]
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = np.concatenate([np.asarray(row, np.int32) for row in found])
    return Tokens(ids, mask)


def gguf_tokenizer(metadata: Mapping[str, Any]) -> "Tokenizer":
    """The byte-level BPE that a GGUF file's metadata hold.

    Args:
      metadata: from `load_gguf`.

    Raises:
      ValueError: if they hold none, or one of another kind.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    model, pre = (str(metadata.get(f"tokenizer.ggml.{name}")) for name in ("model", "pre"))
    if model != "gpt2" or pre not in _DIGITS_ALONE:
        raise ValueError(
            "gguf_tokenizer: model and pre must be 'gpt2' and one of "
            f"{', '.join(_DIGITS_ALONE)}, got {model!r} and {pre!r}"
        )
    tokens, merges = _strings(metadata, "tokens"), _strings(metadata, "merges")
    kinds = np.asarray(metadata.get("tokenizer.ggml.token_type"))
    if len(set(tokens)) != len(tokens) or kinds.shape != (len(tokens),):
        raise ValueError("gguf_tokenizer: tokens must be different, and each have a type")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs)
    except Exception as error:
        raise ValueError(f"gguf_tokenizer: its merges are not of its tokens: {error}") from None
    tokenizer = Tokenizer(bpe)
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    apart = [pre_tokenizers.Digits(individual_digits=True)] if _DIGITS_ALONE[pre] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*apart, bytewise])
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def _strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise ValueError(f"gguf_tokenizer: {name} must be strings")
    return found
