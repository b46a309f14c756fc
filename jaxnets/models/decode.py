"""Decoding: from a prompt, one token after the other, as one compiled scan.

For any model with caches: `advance(ids [n], caches, start) -> (logits [n, vocabulary], caches)`
gives the logits behind each of n ids at positions from `start` on, as

    advance = lambda ids, caches, start: continue_transformer(params, config, ids, caches, start)

Each function decodes one prompt; `jax.vmap` over prompts (and keys) is the batch. A prompt may be
padded at its end: with its true `length`, what comes next is written over the padding. For an
encoder-decoder, `advance` closes over the memory of its source, which no beam then copies, and the
prompt is the token that begins a target. States of recurrent nets are caches too, without
positions; their prompts must not be padded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxnets.checks import concrete
from jaxnets.types import Array, ArrayLike, Key, PyTree

Advance: TypeAlias = Callable[[Array, PyTree, Any], tuple[Array, PyTree]]
Choose: TypeAlias = Callable[[Key | None, Array], Array]
"""`choose(key, logits [vocabulary]) -> id`."""


def greedy(key: Key | None, logits: Array) -> Array:
    """The id of the largest logit, the first of equal ones; needs no key."""
    return jnp.argmax(logits, -1)


def top_k(logits: Array, k: int) -> Array:
    """The k largest logits of the last axis, and those equal to the k-th; the others are -∞.

    Raises:
      ValueError: if there are not as many.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"top_k: k must be in [1, {logits.shape[-1]}], got {k}")
    least = lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= jnp.broadcast_to(least, logits.shape), logits, -jnp.inf)


def top_p(logits: Array, p: ArrayLike) -> Array:
    """The fewest largest logits whose probabilities sum to p at least; the others are -∞.

    Nucleus sampling (Holtzman et al., 2020). The largest always stays; logits equal to the last one
    that stays do too.

    Raises:
      ValueError: for a concrete p outside (0, 1].
    """
    known = concrete(p)
    if known is not None and not 0 < known <= 1:
        raise ValueError(f"top_p: p must be in (0, 1], got {known}")
    largest = jnp.sort(logits, -1, descending=True)
    probabilities = jax.nn.softmax(largest.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    before = jnp.cumsum(probabilities, -1) - probabilities
    kept = jnp.sum(before < p, -1, keepdims=True)
    least = jnp.take_along_axis(largest, jnp.maximum(kept, 1) - 1, -1)
    return jnp.where(logits >= jnp.broadcast_to(least, logits.shape), logits, -jnp.inf)


def sampler(
    temperature: ArrayLike = 1.0, *, k: int | None = None, p: ArrayLike | None = None
) -> Choose:
    """`id ~ softmax(logits / temperature)`, of the `top_k` and then the `top_p` of them.

    Raises:
      ValueError: for a concrete temperature that is not positive; `greedy` is its limit at 0.
    """
    known = concrete(temperature)
    if known is not None and not known > 0:
        raise ValueError(f"sampler: temperature must be positive, got {known}; 0 is `greedy`")

    def choose(key: Key | None, logits: Array) -> Array:
        if key is None:
            raise ValueError("sampler: generate needs a key to sample")
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
        logits = logits if k is None else top_k(logits, k)
        logits = logits if p is None else top_p(logits, p)
        return jax.random.categorical(key, logits)

    return choose


def _prefill(
    function: str,
    advance: Advance,
    caches: PyTree,
    prompt: Array,
    steps: int,
    length: ArrayLike | None,
) -> tuple[Array, PyTree, Array]:
    """Logits behind the prompt, the caches, and the prompt's true length."""
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 1 or prompt.size < 1 or steps < 1:
        raise ValueError(
            f"{function}: prompt must be [T] with T ≥ 1, and steps positive, got "
            f"{list(prompt.shape)} and {steps}; vmap over prompts"
        )
    known = None if length is None else concrete(length)
    if known is not None and not 1 <= known <= prompt.size:
        raise ValueError(f"{function}: length must be in [1, {prompt.size}], got {known}")
    logits, caches = advance(prompt, caches, 0)
    n = jnp.asarray(prompt.size if length is None else length, jnp.int32)
    return lax.dynamic_index_in_dim(logits, n - 1, 0, keepdims=False), caches, n


def generate(
    advance: Advance,
    caches: PyTree,
    prompt: Array,
    steps: int,
    *,
    choose: Choose = greedy,
    key: Key | None = None,
    length: ArrayLike | None = None,
    stop: int | None = None,
) -> Array:
    """`id_t = choose(logits(prompt, id_0 … id_{t-1}))` for `t < steps`.

    Args:
      advance: the model.
      caches: empty, with room for the prompt and `steps` positions.
      prompt: integers `[T]`.
      steps: how many ids to generate.
      choose: `greedy`, or a `sampler`.
      key: randomness for it.
      length: of the prompt without padding at its end, in `[1, T]`; may be traced.
      stop: an id after which all are `stop`.

    Returns:
      `[steps]` ids.

    Raises:
      ValueError: if the prompt is not `[T]`, `steps` not positive, or `length` known and not in
        `[1, T]`.
    """
    logits, caches, n = _prefill("generate", advance, caches, prompt, steps, length)

    def pick(logits: Array, step: ArrayLike, stopped: Array) -> tuple[Array, Array]:
        chosen = choose(None if key is None else jax.random.fold_in(key, step), logits)
        chosen = chosen.astype(jnp.int32)
        if stop is None:
            return chosen, stopped
        chosen = jnp.where(stopped, stop, chosen)
        return chosen, chosen == stop

    def step(carry: Any, t: Array) -> tuple[Any, Array]:
        last, stopped, caches = carry
        logits, caches = advance(last[None], caches, n + t - 1)
        chosen, stopped = pick(logits[0], t, stopped)
        return (chosen, stopped, caches), chosen

    first, stopped = pick(logits, 0, jnp.zeros((), bool))
    _, rest = lax.scan(step, (first, stopped, caches), jnp.arange(1, steps))
    return jnp.concatenate([first[None], rest])


class Beams(NamedTuple):
    """The continuations that a beam search found, the best first."""

    ids: Array
    """`[beams, steps]`; after a stop all are `stop`."""
    log_probabilities: Array
    """`[beams]`, of the whole continuation."""
    scores: Array
    """`[beams]`: what they are ordered by."""


def beam_search(
    advance: Advance,
    caches: PyTree,
    prompt: Array,
    steps: int,
    *,
    beams: int,
    length: ArrayLike | None = None,
    stop: int | None = None,
    length_penalty: float = 0.0,
) -> Beams:
    """The likeliest continuations, of those that stay among the `beams` likeliest at each step.

    Args:
      advance: the model.
      caches: empty, with room for the prompt and `steps` positions.
      prompt: integers `[T]`.
      steps: how many ids to generate.
      beams: how many continuations to keep. With as many as there are, the search is exact.
      length: of the prompt without padding at its end, in `[1, T]`; may be traced.
      stop: an id that ends a continuation.
      length_penalty: α of the scores `log p / length^α` that order the result; the stop counts.

    Returns:
      `Beams`. Where there are fewer continuations than beams, the rest has `-∞`.

    Raises:
      ValueError: if the prompt is not `[T]`, or `steps` or `beams` not positive.
    """
    if beams < 1:
        raise ValueError(f"beam_search: beams must be positive, got {beams}")
    logits, caches, n = _prefill("beam_search", advance, caches, prompt, steps, length)
    vocabulary = logits.shape[-1]

    def extend(
        total: Array, logits: Array, ids: Array, t: ArrayLike, stopped: Array
    ) -> tuple[Array, Array, Array, Array]:
        """The best of all continuations by one id; and which beam each comes from."""
        wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        added = jax.nn.log_softmax(wide)
        if stop is not None:
            # what has ended goes on in one way only, at no cost
            ended = jnp.where(jnp.arange(vocabulary) == stop, 0, -jnp.inf)
            ended = jnp.broadcast_to(ended, added.shape)
            added = jnp.where(jnp.broadcast_to(stopped[:, None], added.shape), ended, added)
        every = jnp.broadcast_to(total[:, None], added.shape) + added
        total, best = lax.top_k(every.ravel(), beams)
        parent, chosen = best // vocabulary, (best % vocabulary).astype(jnp.int32)
        ids = lax.dynamic_update_index_in_dim(ids[parent], chosen, t, 1)
        stopped = stopped[parent] if stop is None else chosen == stop
        return total, ids, stopped, parent

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        total, ids, stopped, caches = carry
        last = lax.dynamic_index_in_dim(ids, t - 1, 1)
        logits, caches = jax.vmap(advance, (0, 0, None))(last, caches, n + t - 1)
        total, ids, stopped, parent = extend(total, logits[:, 0], ids, t, stopped)
        return (total, ids, stopped, jax.tree.map(lambda x: x[parent], caches)), None

    # all beams begin alike: only the first may be continued
    alone = jnp.where(jnp.arange(beams) == 0, 0, -jnp.inf)
    logits = jnp.broadcast_to(logits, (beams, vocabulary))
    empty = jnp.zeros((beams, steps), jnp.int32), jnp.zeros(beams, bool)
    total, ids, stopped, _ = extend(alone, logits, empty[0], 0, empty[1])
    caches = jax.tree.map(lambda x: jnp.broadcast_to(x, (beams, *x.shape)), caches)
    carry = total, ids, stopped, caches
    (total, ids, _, _), _ = lax.scan(step, carry, jnp.arange(1, steps))
    lengths = jnp.full(beams, steps) if stop is None else _lengths(ids, stop)
    scores = total / lengths.astype(total.dtype) ** length_penalty
    order = jnp.argsort(scores, descending=True)
    return Beams(ids[order], total[order], scores[order])


def _lengths(ids: Array, stop: int) -> Array:
    """Ids up to the first stop, with it."""
    stops = ids == stop
    return jnp.where(stops.any(-1), jnp.argmax(stops, -1) + 1, ids.shape[-1])
