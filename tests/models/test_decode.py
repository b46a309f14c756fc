import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models
from jaxnets.models import decode

CONFIG = models.TransformerConfig(5, depth=1, features=8, heads=2, positions="rotary", tied=False)
PARAMS = jax.tree.map(lambda p: 2 * p, jax.jit(models.init_transformer)(jax.random.key(1), CONFIG))
PROMPT = np.array([3, 0, 4, 1])


def advance(ids, caches, start):
    return models.continue_transformer(PARAMS, CONFIG, ids, caches, start)


def caches(length=12):
    return models.transformer_caches(CONFIG, length)


@jax.jit
def full_pass(ids):
    return models.transformer(PARAMS, CONFIG, ids)


def one_by_one(prompt, steps):
    """Greedy decoding by full passes."""
    ids = list(prompt)
    for _ in range(steps):
        # padding at the end changes nothing before it
        padded = jnp.array([*ids, *[0] * (12 - len(ids))])
        ids.append(int(jnp.argmax(full_pass(padded)[len(ids) - 1])))
    return ids[len(prompt) :]


def test_greedy_decoding_is_that_by_full_passes_over_padded_prompts_in_a_vmap():
    prompts = np.array([PROMPT, [2, 4, 0, 0], [1, 1, 2, 0]])
    lengths = np.array([4, 2, 3])

    @jax.jit
    def decoded(prompts, lengths):
        def one(prompt, n):
            return decode.generate(advance, caches(), prompt, 6, length=n)

        return jax.vmap(one)(prompts, lengths)

    got = decoded(prompts, lengths)
    want = [one_by_one(p[:n], 6) for p, n in zip(prompts, lengths, strict=True)]
    np.testing.assert_array_equal(got, want)
    assert len({tuple(row) for row in want}) > 1


@pytest.mark.thorough
def test_after_a_stop_all_is_stop():
    free = one_by_one(PROMPT, 6)
    stop = free[2]
    first = free.index(stop)
    got = decode.generate(advance, caches(), PROMPT, 6, stop=stop)
    np.testing.assert_array_equal(got, free[: first + 1] + [stop] * (5 - first))


@pytest.mark.thorough
def test_samples_follow_the_models_distribution():
    """The second id's share given the first, over many keys, beside the full pass."""
    keys = jax.random.split(jax.random.key(0), 4000)
    choose = decode.sampler(0.7, k=3)
    ids = jax.jit(
        jax.vmap(lambda key: decode.generate(advance, caches(), PROMPT, 2, choose=choose, key=key))
    )(keys)
    first = int(jnp.argmax(jnp.bincount(ids[:, 0])))
    second = ids[ids[:, 0] == first, 1]
    logits = full_pass(jnp.array([*PROMPT, first]))[-1] / 0.7
    want = jax.nn.softmax(jnp.where(logits >= jnp.sort(logits)[-3], logits, -jnp.inf))
    got = jnp.bincount(second, length=5) / second.size
    assert second.size > 500
    # five standard deviations
    np.testing.assert_allclose(got, want, atol=5 * 0.5 / np.sqrt(second.size))
    assert not np.any(got[want == 0])


def test_top_k_and_top_p():
    logits = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))
    np.testing.assert_array_equal(jnp.isfinite(decode.top_k(logits, 2)), [0, 1, 0, 1])
    for p, kept in ((0.05, [0, 1, 0, 0]), (0.41, [0, 1, 0, 1]), (0.95, [1, 1, 1, 1])):
        np.testing.assert_array_equal(jnp.isfinite(decode.top_p(logits, p)), kept)
    np.testing.assert_array_equal(decode.top_p(logits, 1.0), logits)


def log_probability(continuation):
    ids = jnp.array([*PROMPT, *continuation])
    logp = jax.nn.log_softmax(full_pass(ids))
    before = len(PROMPT) - 1
    return sum(logp[before + i, c] for i, c in enumerate(continuation))


@pytest.mark.thorough
def test_beams_as_many_as_continuations_are_the_exact_order():
    exact = {c: float(log_probability(c)) for c in itertools.product(range(5), repeat=2)}
    found = decode.beam_search(advance, caches(), PROMPT, 2, beams=25)
    want = sorted(exact, key=exact.__getitem__, reverse=True)
    np.testing.assert_array_equal(found.ids, want)
    for ids, got in zip(want, found.log_probabilities, strict=True):
        np.testing.assert_allclose(got, exact[ids], rtol=1e-4)


def test_one_beam_is_greedy():
    found = decode.beam_search(advance, caches(), PROMPT, 5, beams=1)
    np.testing.assert_array_equal(found.ids[0], one_by_one(PROMPT, 5))


@pytest.mark.thorough
def test_ended_beams_cost_nothing_more_and_short_ones_may_be_penalized():
    stop = one_by_one(PROMPT, 1)[0]
    found, longer = (
        decode.beam_search(advance, caches(), PROMPT, 3, beams=4, stop=stop, length_penalty=penalty)
        for penalty in (0.0, 1.0)
    )
    np.testing.assert_array_equal(found.ids[0], [stop] * 3)
    want = log_probability([stop])
    np.testing.assert_allclose(found.log_probabilities[0], want, rtol=1e-5)
    for ids, total, score in zip(*longer, strict=True):
        ids = list(map(int, ids))
        n = ids.index(stop) + 1 if stop in ids else 3
        np.testing.assert_allclose(score, total / n, rtol=1e-5)
        assert ids[n:] == [stop] * (3 - n)


def test_errors_say_what_is_wanted():
    with pytest.raises(ValueError, match=r"generate: prompt must be \[T\]"):
        decode.generate(advance, caches(), PROMPT[None], 2)
    for length in (0, len(PROMPT) + 1):
        with pytest.raises(ValueError, match=rf"length must be in \[1, .\], got {length}"):
            decode.generate(advance, caches(), PROMPT, 2, length=length)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        decode.sampler(0.0)
    with pytest.raises(ValueError, match="generate needs a key"):
        decode.generate(advance, caches(), PROMPT, 2, choose=decode.sampler())
    with pytest.raises(ValueError, match=r"p must be in \(0, 1\], got 0"):
        decode.top_p(jnp.ones(3), 0)
    with pytest.raises(ValueError, match=r"k must be in \[1, 3\], got 4"):
        decode.top_k(jnp.ones(3), 4)
