"""Encoder-decoders beside Linen, in float64; by steps; and over padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, losses, models, tree
from jaxnets.models import decode, transformer_block
from jaxnets.models.transformer import embed
from tests.catalogue import BAHDANAU, LUONG, MODELS, SEQ2SEQ, SHARED_SEQ2SEQ, thorough_beyond
from tests.numerics import assert_trees_close, relative_error

KEY = jax.random.key(0)
SOURCE, TARGET = jax.random.randint(KEY, (2, 3, 5), 0, 11)
LENGTHS = jnp.array([5, 2, 4])
ROWS = {case.name: case for case in MODELS if "seq2seq" in case.name}


def stacked(config):
    """The same net with its blocks in a scan."""
    both = (dataclasses.replace(c, scan=True) for c in (config.encoder, config.decoder))
    return models.Seq2SeqConfig(*both, shared=config.shared)


def rotating(config):
    both = (
        dataclasses.replace(c, positions="rotary", norm="rms_norm", kv_heads=1, head_dim=2)
        for c in (config.encoder, config.decoder)
    )
    return models.Seq2SeqConfig(*both, shared=config.shared)


TRANSFORMERS = {
    "listed": SEQ2SEQ,
    "stacked": stacked(SEQ2SEQ),
    "shared": SHARED_SEQ2SEQ,
    "rotating": rotating(SEQ2SEQ),
}
RECURRENT = {"luong": LUONG, "bahdanau": BAHDANAU}
CONFIGS = TRANSFORMERS | RECURRENT


def net(name):
    """`(params, forward, begin, step, look)` of either family, alike."""
    config = CONFIGS[name]
    if name in TRANSFORMERS:
        params = jax.jit(models.init_seq2seq)(KEY, config)

        def begin(source, lengths):
            memory = models.seq2seq_memory(params, config, source, lengths=lengths)
            caches = models.seq2seq_caches(config, 8, lead=source.shape[:-1])
            return caches, memory

        def step(ids, caches, start, memory):
            return models.continue_seq2seq(params, config, ids, caches, start, memory)

        return params, config, models.seq2seq, begin, step
    params = jax.jit(models.init_recurrent_seq2seq)(KEY, config)

    def begin(source, lengths):
        return models.recurrent_memory(params, config, source, lengths=lengths)[::-1]

    def step(ids, states, start, memory):
        return models.continue_recurrent_seq2seq(params, config, ids, states, memory)

    return params, config, models.recurrent_seq2seq, begin, step


def each(core, names):
    """Those not in `core` are for `make thorough`."""
    return pytest.mark.parametrize("name", thorough_beyond(core, {name: (name,) for name in names}))


@each(set(), ROWS)
def test_float64_outputs_and_all_gradients_are_linens(name, x64):
    case = ROWS[name]
    params = jax.tree.map(lambda p: p.astype(float), case.init(KEY))
    ids = jax.random.randint(KEY, (4, *case.shape), 0, 11)

    def value_and_gradient(apply):
        def loss(params):
            y = apply(params, ids)
            return jnp.sum(jnp.sin(3 * y)), y

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (_, got), gradient = value_and_gradient(case.apply)
    (_, want), theirs = value_and_gradient(case.oracle)
    assert got.dtype == np.float64
    assert relative_error(got, want) <= 1e-12
    assert_trees_close(gradient, theirs, 1e-12)


@each({"bahdanau"}, CONFIGS)
def test_cached_steps_are_the_full_pass(name):
    params, config, forward, begin, step = net(name)
    want = jax.jit(forward)(params, config, SOURCE, TARGET, lengths=LENGTHS)

    @jax.jit
    def by_steps(source, target, lengths):
        caches, memory = begin(source, lengths)
        prefill, caches = step(target[:, :2], caches, 0, memory)

        def one(caches, now):
            ids, position = now
            logits, caches = step(ids[:, None], caches, position, memory)
            return caches, logits[:, 0]

        _, rest = jax.lax.scan(one, caches, (target[:, 2:].T, jnp.arange(2, 5)))
        return jnp.concatenate([prefill, jnp.moveaxis(rest, 0, 1)], 1)

    assert relative_error(by_steps(SOURCE, TARGET, LENGTHS), want) < 2e-6


@each(set(), ["listed", "luong", "bahdanau"])
def test_decoding_in_one_scan_is_that_by_full_passes(name):
    params, config, forward, begin, step = net(name)

    @jax.jit
    @jax.vmap
    def decoded(source, length):
        caches, memory = begin(source, length)

        def advance(ids, caches, start):
            return step(ids, caches, start, memory)

        prompt = jnp.array([1])
        found = decode.beam_search(advance, caches, prompt, 4, beams=3, stop=2)
        return decode.generate(advance, caches, prompt, 4), found

    ids, found = decoded(SOURCE, LENGTHS)
    run = jax.jit(forward)
    target = jnp.ones((3, 5), int)
    for t in range(4):
        logits = run(params, config, SOURCE, target, lengths=LENGTHS)
        target = target.at[:, t + 1].set(jnp.argmax(logits[:, t], -1))
    np.testing.assert_array_equal(ids, target[:, 1:])
    best = jnp.concatenate([jnp.ones((3, 1), int), found.ids[:, 0]], 1)
    logits = run(params, config, SOURCE, best, lengths=LENGTHS)[:, :-1]
    costs = losses.softmax_cross_entropy_with_integer_labels(logits, best[:, 1:])
    past = jnp.cumsum(best[:, 1:] == 2, 1) - (best[:, 1:] == 2) > 0
    want = -jnp.sum(costs, 1, where=~past)
    np.testing.assert_allclose(found.log_probabilities[:, 0], want, rtol=1e-5)


@each(set(), CONFIGS)
def test_padding_changes_nothing(name):
    """Neither results nor gradients, whatever it holds and however much there is of it."""
    params, config, forward, _, _ = net(name)

    @jax.jit
    def value_and_gradient(source, target, lengths):
        def loss(params):
            y = forward(params, config, source, target, lengths=lengths)[:, :3]
            return jnp.sum(jnp.sin(3 * y)), y

        return jax.value_and_grad(loss, has_aux=True)(params)

    there = jnp.arange(5)[None] < LENGTHS[:, None]
    got = value_and_gradient(SOURCE, TARGET, LENGTHS)
    spoiled = jnp.where(there, SOURCE, 7), TARGET.at[:, 3:].set(9)
    assert_trees_close(value_and_gradient(*spoiled, LENGTHS), got, 1e-6)
    alone = forward(params, config, SOURCE[1, :2], TARGET[1, :3])
    assert relative_error(got[0][1][1], alone) < 2e-6


@pytest.mark.thorough
def test_every_attention_is_by_the_configs_implementation(monkeypatch):
    asked = []

    def spy(query, key, value, bias, mask, **rule):
        asked.append((rule["implementation"], rule.get("is_causal", False)))
        return query

    params, config, forward, *_ = net("listed")
    both = (dataclasses.replace(c, implementation="xla") for c in (config.encoder, config.decoder))
    by_jax = models.Seq2SeqConfig(*both, shared=config.shared)
    got = forward(params, by_jax, SOURCE, TARGET, lengths=LENGTHS)
    want = forward(params, config, SOURCE, TARGET, lengths=LENGTHS)
    assert relative_error(got, want) < 2e-6
    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    forward(params, by_jax, SOURCE, TARGET, lengths=LENGTHS)
    layers = [("xla", False)] * config.encoder.depth
    layers += [("xla", True), ("xla", False)] * config.decoder.depth
    assert asked == layers


@each(set(), CONFIGS)
def test_attention_maps_are_distributions_over_what_is_there(name):
    params, config, *_ = net(name)
    look = models.cross_attention if name in TRANSFORMERS else models.recurrent_attention
    weights = look(params, config, SOURCE, TARGET, lengths=LENGTHS)
    want = (3, config.decoder.depth, config.decoder.heads) if name in TRANSFORMERS else (3,)
    assert weights.shape == (*want, 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not np.any(weights[1, ..., 2:])
    assert np.any(weights[1, ..., :2] != 0.5)


@pytest.mark.thorough
def test_a_memory_looked_at_in_one_place_is_what_the_map_says():
    """The context of cross-attention is the map's mean of the values."""
    config = SEQ2SEQ
    params = jax.jit(models.init_seq2seq)(KEY, config)
    weights = models.cross_attention(params, config, SOURCE, TARGET)
    memory = models.seq2seq_memory(params, config, SOURCE)
    # at the first block the query is made of the target alone
    value = memory.contexts[0]["value"]
    mixed = jnp.einsum("bhts,bshd->bthd", weights[:, 0], value)
    decoder, config = params["decoder"], config.decoder
    x = embed(decoder, config, TARGET)
    first = decoder["blocks"][0]
    own = {name: first[name] for name in ("attention", "attention_norm")}
    x, _ = transformer_block.block(own, config, x, causal=True)
    whole = {k: v for k, v in first.items() if not k.startswith("mlp")}
    y, _ = transformer_block.block(
        whole, config, embed(decoder, config, TARGET), causal=True,
        context=memory.contexts[0],
    )  # fmt: skip
    out = first["cross_attention"]["out"]
    want = jnp.einsum("bthd,hdf->btf", mixed, out["kernel"])
    assert relative_error(y - x, want + jnp.broadcast_to(out["bias"], want.shape)) < 5e-6


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["stacked", "bahdanau", "luong"])
def test_the_engines_gradients_are_those_of_vmap(name):
    params, config, forward, _, _ = net(name)

    def loss(params, example):
        source, target, length = example
        logits = forward(params, config, source, target[:-1], lengths=length)
        return losses.softmax_cross_entropy_with_integer_labels(logits, target[1:]).mean()

    batch = SOURCE, TARGET, LENGTHS
    got = gradients.materialize(gradients.per_example_grad(loss)(params, batch)[1])
    want = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, batch)
    # a key's bias has a derivative of 0, of which the rest is noise
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    for (path, a), b in zip(
        tree.flatten_with_paths(got).items(), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-6 * largest, err_msg=path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["listed", "luong", "bahdanau"])
def test_half_precision_and_dropout(name):
    params, config, forward, _, _ = net(name)
    half = {"dtype": jnp.bfloat16, "dropout_rate": 0.5}
    if name in TRANSFORMERS:
        both = (dataclasses.replace(c, **half) for c in (config.encoder, config.decoder))
        halved = models.Seq2SeqConfig(*both, shared=config.shared)
    else:
        halved = dataclasses.replace(config, **half)
    y = forward(params, halved, SOURCE, TARGET)
    assert y.dtype == jnp.bfloat16
    assert relative_error(y, forward(params, config, SOURCE, TARGET)) < 0.05
    assert jnp.any(forward(params, halved, SOURCE, TARGET, key=KEY) != y)


def shapes(init, config):
    return jax.eval_shape(init, KEY, config)


def test_paths_are_those_of_the_design():
    paths = set(tree.flatten_with_paths(shapes(models.init_recurrent_seq2seq, BAHDANAU)))
    cells = ("encoder/0/forward", "encoder/0/backward", "decoder/0")
    cell = {"input/kernel", "input/bias", "hidden/kernel", "hidden/bias"}
    assert paths == {f"{c}/{path}" for c in cells for path in cell} | {
        "source/embedding", "target/embedding", "head/kernel", "combine/kernel", "combine/bias",
        "attention/query/kernel", "attention/query/bias", "attention/key/kernel",
        "attention/score/kernel",
    }  # fmt: skip
    shared = shapes(models.init_seq2seq, SHARED_SEQ2SEQ)
    assert "embedding" not in shared["decoder"]
    parts = ("attention", "cross_attention", "mlp")
    assert set(shared["decoder"]["blocks"][0]) == {*parts, *(f"{part}_norm" for part in parts)}


def test_errors_say_what_is_wanted():
    small = models.TransformerConfig(11, features=8, heads=2)
    with pytest.raises(ValueError, match="the same vocabulary to share a table, got 11 and 12"):
        models.Seq2SeqConfig(small, dataclasses.replace(small, vocabulary=12), shared=True)
    with pytest.raises(ValueError, match="must have the same dtype"):
        models.Seq2SeqConfig(small, dataclasses.replace(small, dtype=jnp.bfloat16))
    with pytest.raises(ValueError, match="hidden even"):
        models.RecurrentSeq2SeqConfig(11, 11, hidden=5)
    with pytest.raises(ValueError, match="attention must be one of"):
        models.RecurrentSeq2SeqConfig(11, 11, attention="none")
    with pytest.raises(ValueError, match="vocabularies must be equal"):
        models.RecurrentSeq2SeqConfig(11, 12, shared=True)
    families = (
        (models.init_seq2seq, models.seq2seq, SEQ2SEQ),
        (models.init_recurrent_seq2seq, models.recurrent_seq2seq, LUONG),
    )
    for init, forward, config in families:

        def run(params, lengths, forward=forward, config=config):
            return forward(params, config, SOURCE, TARGET, lengths=lengths)

        params = shapes(init, config)
        with pytest.raises(ValueError, match=r"lengths must be integers \[3\] for steps \[3, 5\]"):
            jax.eval_shape(lambda p, run=run: run(p, LENGTHS[:2]), params)
        with pytest.raises(ValueError, match=r"lengths must be in \[0, 5\], got 2 to 6"):
            jax.eval_shape(lambda p, run=run: run(p, np.array([6, 2, 4])), params)
