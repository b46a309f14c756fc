"""Translations of held-out sentences, and their BLEU."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from experiments.translation.nets import Net
from experiments.translation.vocabulary import BEGIN, END, Rows, Vocabulary
from jaxnets.models import decode
from jaxnets.types import Array, Params

CHUNK = 32
"""Sentences decoded side by side."""


class Score(NamedTuple):
    """What sacrebleu says of translations."""

    bleu: float
    chrf: float
    signature: str
    """Of the BLEU."""


class Translated(NamedTuple):
    """Token ids, and the time that they took."""

    ids: NDArray[np.int32]
    """`[n, steps]`."""
    seconds: float
    """Without compilation."""


def translator(
    net: Net, steps: int, *, beams: int = 1, length_penalty: float = 1.0
) -> Callable[[Params, Rows], Translated]:
    """`translate(params, rows)`, greedy with one beam."""

    def one(params: Params, source: Array, length: Array) -> Array:
        advance, caches = net.start(params, source, length, steps)
        prompt = jnp.array([BEGIN])
        if beams == 1:
            return decode.generate(advance, caches, prompt, steps, stop=END)
        found = decode.beam_search(
            advance, caches, prompt, steps, beams=beams, stop=END, length_penalty=length_penalty
        )
        return found.ids[0]

    @jax.jit
    def every(params: Params, source: Array, length: Array) -> Array:
        ids: Array = lax.map(lambda row: one(params, *row), (source, length), batch_size=CHUNK)
        return ids

    def translate(params: Params, rows: Rows) -> Translated:
        arguments = params, rows["source"], rows["length"]
        program = every.lower(*arguments).compile()
        started = time.perf_counter()
        return Translated(np.asarray(program(*arguments)), time.perf_counter() - started)

    return translate


def texts(vocabulary: Vocabulary, ids: NDArray[np.int32]) -> list[str]:
    """What each row of ids says."""
    return [vocabulary.decode(row) for row in ids]


def score(translations: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus BLEU and chrF, with sacrebleu's own tokenization."""
    from sacrebleu.metrics import BLEU, CHRF

    bleu = BLEU()
    found = bleu.corpus_score(translations, [references])
    chrf = CHRF().corpus_score(translations, [references])
    return Score(float(found.score), float(chrf.score), str(bleu.get_signature()))
