"""A language model with its tokenizer: texts from a prompt, and each token's probability."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from experiments.errors import UsageError
from jaxnets import models, pretrained
from jaxnets.models import decode
from jaxnets.types import Array, Key, Params

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What SmolLM2 is told first, if the user has no system message."""
CHAT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""How it was taught to be asked: what its file's `tokenizer.chat_template` makes of a question."""
LIKELIEST = 3
"""Tokens that are told beside the chosen one."""


class Language(NamedTuple):
    """A model that continues texts."""

    params: Params
    config: models.TransformerConfig
    tokenizer: "Tokenizer"
    stop: int | None
    """The token that ends a text."""


class Generated(NamedTuple):
    """Continuations of a prompt."""

    prompt: NDArray[Any]
    """`[T]`, its tokens."""
    ids: NDArray[Any]
    """`[samples, steps]`; after a stop all are the stop."""
    first_seconds: float
    """Of the first run, with compiling."""
    seconds: float
    """Of a second run."""

    @property
    def tokens_per_second(self) -> float:
        """Of all samples together; reading the prompt is in the time."""
        return float(self.ids.size / self.seconds)


class Scores(NamedTuple):
    """What the model makes of a continuation's tokens, each after all before it."""

    probabilities: NDArray[Any]
    """`[n]`."""
    likeliest: NDArray[Any]
    """`[n, LIKELIEST]`: the tokens that it expected most,"""
    likeliest_probabilities: NDArray[Any]
    """and their probabilities."""
    entropy: NDArray[Any]
    """`[n]`, in bits."""


def load_language(path: Path, dtype: str) -> Language:
    """From a GGUF file of LLaMA's architecture; parameters and computation in `dtype`.

    The blocks are stacked, so that compiling takes seconds.

    Raises:
      UsageError: if the file cannot be read, or is of another kind.
    """
    try:
        file = pretrained.load_gguf(path)
        params, config = pretrained.llama_of(file)
        tokenizer = pretrained.gguf_tokenizer(file.metadata)
    except ValueError as error:
        raise UsageError(str(error)) from None
    params |= {"blocks": jax.tree.map(lambda *p: jnp.stack(p), *params["blocks"])}
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    config = replace(config, scan=True, param_dtype=jnp.dtype(dtype))
    stop = file.metadata.get("tokenizer.ggml.eos_token_id")
    return Language(params, config, tokenizer, stop if isinstance(stop, int) else None)


def encode(language: Language, prompt: str, *, chat: bool) -> NDArray[Any]:
    """The prompt's tokens `[T]`.

    Raises:
      UsageError: if there are none.
    """
    ids = language.tokenizer.encode(CHAT.format(prompt) if chat else prompt).ids
    if not ids:
        raise UsageError("--prompt must not be empty")
    return np.asarray(ids, np.int32)


def generate(
    language: Language,
    prompt: NDArray[Any],
    steps: int,
    *,
    choose: decode.Choose,
    key: Key,
    samples: int = 1,
) -> Generated:
    """`samples` continuations of `steps` tokens, as one compiled program, run twice."""
    config, stop = language.config, language.stop

    @jax.jit
    def run(params: Params, prompt: Array, keys: Array) -> Array:
        def advance(ids: Array, caches: Any, start: Any) -> tuple[Array, Any]:
            return models.continue_transformer(params, config, ids, caches, start)

        def one(key: Key) -> Array:
            caches = models.transformer_caches(config, prompt.size + steps)
            return decode.generate(
                advance, caches, prompt, steps, choose=choose, key=key, stop=stop
            )

        return jax.vmap(one)(keys)

    keys = jax.random.split(key, samples)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        ids = jax.block_until_ready(run(language.params, jnp.asarray(prompt), keys))
        seconds.append(time.perf_counter() - began)
    return Generated(prompt, np.asarray(ids), *seconds)


def until_stop(language: Language, ids: NDArray[Any]) -> NDArray[Any]:
    """The tokens up to the first stop, with it."""
    stops = np.flatnonzero(ids == language.stop)
    return ids[: stops[0] + 1] if stops.size else ids


def score(language: Language, prompt: NDArray[Any], continuation: NDArray[Any]) -> Scores:
    """Each token's probability in one full pass, before temperature and cuts."""
    config, n = language.config, len(continuation)

    @jax.jit
    def run(params: Params, ids: Array) -> tuple[Array, ...]:
        logits = models.transformer(params, config, ids[:-1])[-n:].astype(jnp.float32)
        log_probabilities = jax.nn.log_softmax(logits)
        probabilities = jnp.exp(log_probabilities)
        chosen = jnp.take_along_axis(probabilities, ids[-n:, None], 1)[:, 0]
        largest, which = jax.lax.top_k(probabilities, min(LIKELIEST, config.vocabulary))
        entropy = -jnp.sum(probabilities * log_probabilities, 1) / jnp.log(2.0)
        return chosen, which, largest, entropy

    ids = jnp.asarray(np.concatenate([prompt, continuation]))
    return Scores(*map(np.asarray, run(language.params, ids)))


def pieces(language: Language, ids: Sequence[int] | NDArray[Any]) -> list[str]:
    """Each token's own text, as it would be seen: spaces and line ends are marked."""
    decoded = (language.tokenizer.decode([int(i)], skip_special_tokens=False) for i in ids)
    return [piece.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") for piece in decoded]
