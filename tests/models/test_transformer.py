import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import gradients, losses, models, nn, tree
from tests.catalogue import BERT, GPT, LLAMA, thorough_beyond
from tests.numerics import assert_trees_close, integers, relative_error

KEY = jax.random.key(0)
IDS = integers(0, 11, (2, 5))


def small(**changes):
    return models.TransformerConfig(11, depth=2, features=8, heads=2, **changes)


def test_paths_are_those_of_the_design():
    paths = set(tree.flatten_with_paths(jax.jit(models.init_transformer)(KEY, LLAMA)))
    block = {f"attention/{name}/kernel" for name in ("query", "key", "value", "out")}
    block |= {f"mlp/{name}/kernel" for name in ("up", "gate", "down")}
    block |= {"attention_norm/scale", "mlp_norm/scale"}
    assert paths == {"embedding/embedding", "norm/scale", "head/kernel"} | {
        f"blocks/{i}/{path}" for i in range(2) for path in block
    }


FORMS = {
    "gpt": GPT,
    "llama": LLAMA,
    "sinusoidal": small(positions="sinusoidal", embedding_scale=3.0, window=3),
    "alibi": small(positions="alibi"),
    "rotary": small(positions="rotary", head_dim=6, bias=False),
    "scanned": small(scan=True),
}


@pytest.mark.parametrize("name", thorough_beyond({"scanned"}, {name: (name,) for name in FORMS}))
def test_prefill_and_cached_steps_are_the_full_pass(name):
    config = FORMS[name]
    params = jax.jit(models.init_transformer)(KEY, config)
    want = jax.jit(models.transformer)(params, config, IDS)
    caches = models.transformer_caches(config, 6, lead=(2,))
    prefill, caches = models.continue_transformer(params, config, IDS[:, :2], caches, 0)

    def step(caches, ids_and_position):
        ids, position = ids_and_position
        ids = ids[:, None]
        logits, caches = models.continue_transformer(params, config, ids, caches, position)
        return caches, logits[:, 0]

    _, rest = jax.lax.scan(step, caches, (IDS[:, 2:].T, jnp.arange(2, 5)))
    got = jnp.concatenate([prefill, jnp.moveaxis(rest, 0, 1)], 1)
    assert relative_error(got, want) < 2e-6


@pytest.mark.thorough
def test_stacked_blocks_and_remat_are_the_listed_ones():
    """With dropout: the same randomness too."""
    # with rotations a key's bias has a derivative that is not 0
    options = {"dropout_rate": 0.3, "positions": "rotary"}
    listed, config = small(**options), small(scan=True, remat=True, **options)
    params = jax.jit(models.init_transformer)(KEY, listed)
    stacked = params | {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *params["blocks"])}

    def value_and_gradient(params, config):
        def loss(params):
            return jnp.sum(jnp.sin(models.transformer(params, config, IDS, key=KEY)))

        return jax.jit(jax.value_and_grad(loss))(params)

    want, gradient = value_and_gradient(params, listed)
    got, stacked_gradient = value_and_gradient(stacked, config)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    blocks = jax.tree.map(lambda *x: jnp.stack(x), *gradient["blocks"])
    assert_trees_close(stacked_gradient, gradient | {"blocks": blocks}, 5e-6)
    remat = models.TransformerConfig(11, 2, 8, 2, remat=True, **options)
    assert_trees_close(value_and_gradient(params, remat)[1], gradient, 5e-6)


def test_padding_is_not_seen_by_the_encoder():
    params = jax.jit(models.init_encoder)(KEY, BERT)
    mask = jnp.arange(5) < 3
    spoiled = jnp.where(mask, IDS, 7)
    kinds = IDS % 2
    one, two = (
        models.encoder(params, BERT, ids, mask=jnp.stack([mask] * 2), token_types=kinds)
        for ids in (IDS, spoiled)
    )
    alone = models.encoder(params, BERT, IDS[:, :3], token_types=kinds[:, :3])
    assert relative_error(one[:, :3], two[:, :3]) < 1e-6
    assert relative_error(one[:, :3], alone) < 1e-6


def test_half_precision_and_dropout():
    config = small(dtype=jnp.bfloat16, dropout_rate=0.5)
    params = jax.jit(models.init_transformer)(KEY, config)
    y = models.transformer(params, config, IDS)
    assert y.dtype == jnp.bfloat16
    assert relative_error(y, models.transformer(params, small(), IDS)) < 0.05
    assert jnp.any(models.transformer(params, config, IDS, key=KEY) != y)
    caches = models.transformer_caches(config, 5)
    assert {leaf.dtype for leaf in jax.tree.leaves(caches)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("scan", [False, True], ids=["listed", "stacked"])
def test_the_engine_needs_no_fallback_for_next_tokens(scan):
    """With a vocabulary at which a tied table's products are what is cheap."""
    config = models.TransformerConfig(300, depth=2, features=16, heads=2, max_length=8, scan=scan)
    params = jax.jit(models.init_transformer)(KEY, config)

    def loss(params, ids):
        logits = models.transformer(params, config, ids[:-1])
        return losses.softmax_cross_entropy_with_integer_labels(logits, ids[1:]).mean()

    ids = integers(0, 300, (3, 9))
    ways = {row.path: (row.way, row.fallback) for row in gradients.plan(loss, params, ids)}
    assert {way for way, _ in ways.values()} <= {"tied", "gram", "folded", "direct", "sum"}
    assert ways["embedding/embedding"] == ("tied", "")


@pytest.mark.thorough
def test_long_sequences_take_the_tiles_and_keep_the_engine():
    config = models.TransformerConfig(5, 1, 4, 1, positions="rotary", activation=nn.relu, hidden=4)
    params = jax.jit(models.init_transformer)(KEY, config)
    ids = integers(0, 5, (2, 513))

    def loss(params, ids):
        logits = models.transformer(params, config, ids[:-1])
        return losses.softmax_cross_entropy_with_integer_labels(logits, ids[1:]).mean()

    got = gradients.materialize(gradients.per_example_grad(loss)(params, ids)[1])
    want = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, ids)
    assert_trees_close(got, want, 1e-5)


def test_errors_say_what_is_wanted():
    with pytest.raises(ValueError, match="kv_heads must divide 4 heads, got 3"):
        models.TransformerConfig(11, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="positions must be one of"):
        models.TransformerConfig(11, positions="absolute")
    params = jax.jit(models.init_transformer)(KEY, GPT)
    with pytest.raises(ValueError, match="6 positions are more than max_length 5"):
        models.transformer(params, GPT, jnp.zeros(6, int))
    with pytest.raises(ValueError, match=r"config\.token_types is 0"):
        models.encoder(params, GPT, jnp.zeros(3, int), token_types=jnp.zeros(3, int))
    params = jax.jit(models.init_encoder)(KEY, BERT)
    with pytest.raises(ValueError, match=r"shapes must match exactly, got ids \(2, 3\)"):
        models.encoder(params, BERT, jnp.zeros((2, 3), int), token_types=jnp.zeros(3, int))
