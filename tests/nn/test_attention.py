import functools
import itertools

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import nn
from jaxnets.nn.blocked_attention import Tiling, _tiles, blocked_attention
from tests.numerics import assert_trees_close, relative_error

RNG = np.random.default_rng(0)
T, S, HEADS, D = 7, 9, 4, 6


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def one_by_one(query, key, value, sees, bias):
    """Attention by loops in float64: `sees(h, i, j)`, `bias(h, i, j)`."""
    t, heads, d = query.shape
    s, kv_heads, e = value.shape
    y = np.zeros((t, heads, e))
    for h, i in itertools.product(range(heads), range(t)):
        shared = h * kv_heads // heads
        keys = [j for j in range(s) if sees(h, i, j)]
        weights = [np.exp(query[i, h] @ key[j, shared] / np.sqrt(d) + bias(h, i, j)) for j in keys]
        for j, w in zip(keys, weights, strict=True):
            y[i, h] += w / sum(weights) * value[j, shared]
    return y


PADDING = np.arange(S) % 4 != 1
PAIRS = np.random.default_rng(1).random((T, S)) < 0.5
PAIRS[2] = False
SLOPES = np.asarray([0.5, 0.25, 0.1, 0.9])
MASKS = {
    "all": ({}, lambda h, i, j: True),
    "causal": ({"causal": True}, lambda h, i, j: j <= i),
    "causal from 2": ({"causal": True, "start": 2}, lambda h, i, j: j <= i + 2),
    "window": ({"window": 3}, lambda h, i, j: abs(i - j) < 3),
    "causal window": ({"causal": True, "window": 2}, lambda h, i, j: i - 2 < j <= i),
    "padding": ({"key_mask": PADDING}, lambda h, i, j: PADDING[j]),
    "padding and causal": (
        {"key_mask": PADDING, "causal": True},
        lambda h, i, j: PADDING[j] and j <= i,
    ),
    "pairs": ({"mask": PAIRS}, lambda h, i, j: PAIRS[i, j]),
    "linear biases": ({"slopes": SLOPES}, lambda h, i, j: True),
}
TILED = [name for name in MASKS if name != "pairs"]


def options_of(name, dtype=None):
    return {
        k: jnp.asarray(v, dtype if k == "slopes" else None) if isinstance(v, np.ndarray) else v
        for k, v in MASKS[name][0].items()
    }


def by_tiles(q, k, v, options, rows=2, columns=4):
    defaults = {"causal": False, "window": None, "start": 0, "key_mask": None, "slopes": None}
    scale = q.shape[-1] ** -0.5
    return blocked_attention(q, k, v, **defaults | options, scale=scale, rows=rows, columns=columns)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("name", MASKS)
def test_masks_and_shared_heads_against_loops(name, kv_heads, x64):
    q, k, v = normal(T, HEADS, D), normal(S, kv_heads, D), normal(S, kv_heads, 5)
    sees = MASKS[name][1]

    def bias(h, i, j):
        return -SLOPES[h] * abs(i - j) if name == "linear biases" else 0

    want = one_by_one(q, k, v, sees, bias)
    options = options_of(name)

    @jax.jit
    def ways(*operands):
        tiled = [by_tiles(*operands, options)] if name in TILED else []
        return [nn.attention(*operands, **options), *tiled]

    for got in ways(q, k, v):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def value_and_gradients(function):
    def loss(*operands):
        y = function(*operands)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), y

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["all", "causal window", "padding and causal"])
def test_tiles_are_the_whole_in_value_and_gradients(name, dtype, x64):
    operands = [jnp.asarray(normal(2, *s), dtype) for s in ((T, 4, D), (S, 2, D), (S, 2, 5))]
    options = options_of(name)
    want = value_and_gradients(lambda q, k, v: nn.attention(q, k, v, **options))(*operands)
    got = value_and_gradients(lambda q, k, v: by_tiles(q, k, v, options))(*operands)
    assert_trees_close(got, want, 2e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("window", [None, 1, 3, 8])
@pytest.mark.parametrize(("causal", "start"), [(False, 0), (True, 0), (True, 3)])
def test_tiles_that_are_seen_whole_or_in_part_are_told_apart(causal, start, window):
    rows, columns, n_rows, n_columns, keys = 3, 4, 5, 4, 14
    tiling = Tiling(rows, columns, causal, window, start, keys, 1.0)
    query, key = start + np.arange(rows * n_rows)[:, None], np.arange(columns * n_columns)
    seen = np.broadcast_to(key < keys, (len(query), len(key))).copy()
    if causal:
        seen &= key <= query
    if window is not None:
        seen &= np.abs(query - key) < window
    tiles = seen.reshape(n_rows, rows, n_columns, columns).swapaxes(1, 2)
    whole, some = tiles.all((2, 3)), tiles.any((2, 3))
    got_whole, got_part = _tiles(tiling, n_rows, n_columns)
    np.testing.assert_array_equal(got_whole, np.argwhere(whole))
    np.testing.assert_array_equal(got_part, np.argwhere(some & ~whole))


def test_slopes_have_a_derivative_in_tiles(x64):
    q, k, v = (jnp.asarray(normal(6, 4, D) + i) for i in range(3))

    def gradient(function):
        return jax.grad(lambda s: jnp.sum(jnp.sin(function(q, k, v, {"slopes": s}))))(
            jnp.asarray(SLOPES)
        )

    want = gradient(lambda q, k, v, options: nn.attention(q, k, v, **options))
    np.testing.assert_allclose(gradient(by_tiles), want, rtol=1e-10)


def test_long_sequences_hold_no_square_of_logits():
    """From the length on at which tiles are the default; forward and backward."""
    x = jax.ShapeDtypeStruct((2048, 2, 8), np.float32)

    def temporaries(**options):
        step = value_and_gradients(lambda *o: nn.attention(*o, causal=True, **options))
        return step.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporaries() < 0.1 * temporaries(implementation="plain")


@pytest.mark.parametrize("how", ["key_mask", "mask"])
def test_a_query_that_sees_nothing_gives_0_and_no_nan(how):
    q, v = jnp.ones((3, 2, 4)), jnp.arange(24.0).reshape(3, 2, 4) + 1
    nothing = {"key_mask": jnp.zeros(3, bool)}
    if how == "mask":
        nothing = {"mask": jnp.zeros((3, 3), bool)}
    for implementation in ("plain", "xla", *(["blocked"] if how == "key_mask" else [])):
        function = functools.partial(nn.attention, **nothing, implementation=implementation)
        (_, y), gradients = value_and_gradients(function)(q, q, v)
        assert not jnp.any(y)
        assert all(not jnp.any(g) for g in gradients)


@pytest.mark.parametrize("how", ["plain", "xla"])
@pytest.mark.parametrize("least", [-jnp.inf, jnp.finfo(jnp.float32).min])
def test_what_is_not_seen_stays_so_beside_keys_that_a_bias_forbids(least, how):
    """As of a sequence padded at its beginning: its first queries see nothing but padding."""
    q, v = jnp.asarray(normal(3, 2, 4), np.float32), jnp.asarray([1.0, 100, 100])[:, None, None]
    bias = jnp.zeros((2, 3, 3)).at[:, :, 0].set(least)

    def first(q, k, v):
        v = jnp.broadcast_to(v, q.shape)
        return nn.attention(q, k, v, causal=True, bias=bias, implementation=how)[0]

    (_, y), (_, _, of_values) = value_and_gradients(first)(q, q, v)
    np.testing.assert_array_equal(y, 1)
    assert not jnp.any(of_values[1:])


@pytest.mark.parametrize("name", MASKS)
def test_jaxs_implementation_is_handed_the_same_masks(name):
    q, k, v = (jnp.asarray(normal(2, *s), np.float32) for s in ((T, 4, D), (S, 2, D), (S, 2, D)))
    options = options_of(name, np.float32)
    got = nn.attention(q, k, v, implementation="xla", **options)
    assert relative_error(got, nn.attention(q, k, v, **options)) < 1e-6


def test_jaxs_implementation_is_handed_masks_of_each_example():
    q, k, v = (jnp.asarray(normal(2, T, h, D), np.float32) for h in (4, 2, 2))
    there = jnp.asarray(np.arange(T) % 3 != 1)
    options = {"causal": True, "key_mask": jnp.stack([there, ~there])}
    options |= {"slopes": nn.alibi_slopes(4)}
    got = nn.attention(q, k, v, implementation="xla", **options)
    assert relative_error(got, nn.attention(q, k, v, **options)) < 1e-6


@pytest.mark.parametrize(
    ("options", "causal", "reach", "mask"),
    [
        ({"causal": True}, True, None, None),
        ({"causal": True, "window": 3}, True, (2, 0), None),
        ({"causal": True, "key_mask": np.ones((2, T), bool)}, True, None, (2, 1, T, T)),
        ({"causal": True, "start": 2}, False, None, (1, 1, T, T)),
        ({"window": 3}, False, None, (1, 1, T, T)),  # for which cuDNN has no rule
        (
            {"causal": True, "window": 3, "key_mask": np.ones((2, T), bool)},
            False,
            None,
            (2, 1, T, T),
        ),
        ({"mask": np.ones((T, T), bool)}, False, None, (1, 1, T, T)),
    ],
)
def test_cudnn_reads_no_mask_that_it_has_a_rule_for(options, causal, reach, mask, monkeypatch):
    given = {}

    def spy(query, key, value, bias, mask, **rule):
        given.update(rule, mask=None if mask is None else mask.shape)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    x = jnp.ones((2, T, 4, D), np.float16)
    options = {n: jnp.asarray(o) if isinstance(o, np.ndarray) else o for n, o in options.items()}
    nn.attention(x, x, x, implementation="cudnn", **options)
    assert given["implementation"] == "cudnn"
    assert given.get("is_causal", False) is causal
    assert given.get("local_window_size") == reach
    assert given["mask"] == mask


def test_cudnn_is_given_whole_biases_and_no_window_beyond_the_keys(monkeypatch):
    given = {}

    def spy(query, key, value, bias, mask, **rule):
        given.update(rule, bias=bias)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    q, k = jnp.ones((8, 4, D), np.float16), jnp.ones((4, 4, D), np.float16)
    nn.attention(q, k, k, implementation="cudnn", bias=jnp.ones((4, 8, 1)))
    assert given["bias"].shape == (1, 4, 8, 4)
    nn.attention(q, k, k, implementation="cudnn", causal=True, window=2)
    assert "local_window_size" not in {n for n, value in given.items() if value is not None}


def test_masks_of_all_kinds_together(x64):
    """In a batch of two axes, over shared heads, from a later position on; by each way."""
    q, k, v = (jnp.asarray(normal(2, 3, *shape)) for shape in ((4, 4, D), (6, 2, D), (6, 2, D)))
    there, pairs = RNG.random((3, 6)) < 0.7, RNG.random((2, 3, 4, 6)) < 0.7
    near = np.arange(4)[:, None] + 2 - np.arange(6)
    sees = there[:, None] & pairs & (near >= 0) & (near < 5)
    want = [
        one_by_one(*x, lambda h, i, j, seen=seen: seen[i, j], lambda h, i, j: 0)
        for *x, seen in zip(*(x.reshape(6, *x.shape[2:]) for x in (q, k, v, sees)), strict=True)
    ]
    options = {"key_mask": jnp.asarray(there), "mask": jnp.asarray(pairs), "window": 5}
    for how in ("plain", "xla"):
        got = nn.attention(q, k, v, **options, causal=True, start=2, implementation=how)
        np.testing.assert_allclose(got.reshape(6, 4, 4, D), np.stack(want), rtol=1e-6, atol=1e-7)


def test_linens_parameters_and_cross_attention(x64):
    """All gradients, in float64."""
    x, context = jnp.asarray(normal(2, 3, 8)), jnp.asarray(normal(2, 5, 6))
    params = nn.init_attention(jax.random.key(0), 8, 2, context_features=6, dtype=np.float64)
    params = jax.tree.map(lambda p: p + 0.1, params)
    module = linen.MultiHeadDotProductAttention(2, qkv_features=8, param_dtype=np.float64)
    want = value_and_gradients(lambda p, x, c: module.apply({"params": p}, x, c))
    got = value_and_gradients(nn.multi_head_attention)
    results = got(params, x, context), want(params, x, context)
    for _, (of_params, *_) in results:
        # 0, but for rounding
        assert jnp.max(jnp.abs(of_params["key"].pop("bias"))) < 1e-14
    assert_trees_close(*results, 1e-12)


@pytest.mark.parametrize("start", ["traced", pytest.param("known", marks=pytest.mark.thorough)])
def test_a_cache_filled_piece_by_piece_is_the_full_pass(start):
    params = nn.init_attention(jax.random.key(0), 8, 4, kv_heads=2)
    x = jnp.asarray(normal(2, 6, 8), np.float32)

    def turned(first, n):
        angles = nn.rotary_angles(first + jnp.arange(n), 2)
        return lambda x: nn.rotary(x, angles)

    want = nn.multi_head_attention(params, x, rotate=turned(0, 6), causal=True, window=4)
    cache, pieces = nn.init_cache(7, 2, 2, lead=(2,)), []

    def piece(x, cache, first):
        rotate = turned(first, x.shape[1])
        return nn.cached_attention(params, x, cache, first, rotate=rotate, window=4)

    piece = piece if start == "known" else jax.jit(piece)
    for first, last in ((0, 3), (3, 5), (5, 6)):
        y, cache = piece(x[:, first:last], cache, first)
        pieces.append(y)
    assert relative_error(jnp.concatenate(pieces, 1), want) < 1e-6


@pytest.mark.parametrize("implementation", ["plain", "blocked"])
def test_padding_changes_nothing_whatever_it_holds(implementation):
    q, k, v = (jnp.asarray(normal(4, 2, 3), np.float32) for _ in range(3))
    there = jnp.array([True, True, False, True])
    results = [
        value_and_gradients(
            lambda q, k, v: nn.attention(q, k, v, key_mask=there, implementation=implementation)
        )(q, *(z.at[2].set(held) for z in (k, v)))
        for held in (0.0, jnp.nan)
    ]
    assert_trees_close(*results, 0)


def test_a_position_behind_a_caches_end_is_nan_if_traced():
    params, cache = nn.init_attention(jax.random.key(0), 8, 2), nn.init_cache(3, 2, 4)
    run = jax.jit(lambda start: nn.cached_attention(params, jnp.ones((2, 8)), cache, start)[0])
    assert np.isfinite(run(1)).all()
    assert np.isnan(run(2)).all()


def test_errors_say_what_is_wanted():
    x = jnp.ones((3, 4, 6))
    with pytest.raises(ValueError, match=r"attention: query must be \[..., T, heads, d\]"):
        nn.attention(x, jnp.ones((3, 3, 6)), jnp.ones((3, 3, 6)))
    with pytest.raises(ValueError, match="window must be positive, got 0"):
        nn.attention(x, x, x, window=0)
    with pytest.raises(ValueError, match=r"mask must fit logits \[4, 3, 3\], got \[1, 2, 3\]"):
        nn.attention(x, x, x, mask=jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"mask must be bool \[..., 3\], got float32\[3, 3\]"):
        nn.attention(x, x, x, mask=jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"key_mask must be bool \[..., 3\], got bool\[1\]"):
        nn.attention(x, x, x, key_mask=jnp.ones(1, bool))
    with pytest.raises(ValueError, match="'blocked' takes no mask, bias or traced start"):
        nn.attention(x, x, x, mask=jnp.ones((3, 3), bool), implementation="blocked")
    with pytest.raises(ValueError, match="kv_heads must divide 4 heads, got 3"):
        nn.init_attention(jax.random.key(0), 8, 4, kv_heads=3)
    params = nn.init_attention(jax.random.key(0), 8, 2)
    with pytest.raises(ValueError, match="a cache of length 3 has no positions for 2 from start 2"):
        nn.cached_attention(params, jnp.ones((2, 8)), nn.init_cache(3, 2, 4), 2)
    with pytest.raises(TypeError, match="query must be of a real floating dtype"):
        nn.attention(x.astype(int), x, x)
