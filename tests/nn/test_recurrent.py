import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnets import gradients, models, nn
from jaxnets.nn.unroll import within_lengths
from tests.catalogue import RECURRENT, linen_unroll, random_biases, thorough_beyond
from tests.numerics import assert_trees_close, integers, normal, relative_error

KEY = jax.random.key(0)
KINDS = pytest.mark.parametrize(
    "kind", thorough_beyond({"lstm"}, {kind: (kind,) for kind in RECURRENT})
)
LENGTHS = np.array([5, 2, 0])


def drawn(kind, dtype=jnp.float32, n_in=3, features=4):
    init = RECURRENT[kind].init
    params = random_biases(jax.jit(lambda: init(KEY, n_in, features, dtype=dtype))())
    carry = jax.tree.map(
        lambda z: z + jnp.cos(jnp.arange(z.size, dtype=z.dtype)).reshape(z.shape),
        nn.zero_carry(RECURRENT[kind].cell, params, (3,), dtype),
    )
    return params, carry, normal(0, (3, 5, n_in), dtype)


def paired(run):
    """A scalar of outputs and last carry, and its gradients by parameters, first carry and x."""

    def loss(params, carry, x):
        y, last = run(params, x, carry)
        return sum(jnp.sum(jnp.sin(3 * z + 1)) for z in jax.tree.leaves((y, last)))

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))


@KINDS
@pytest.mark.parametrize("reverse", [False, True])
def test_agrees_with_linen_in_float64_with_carries_and_lengths(kind, reverse, x64):
    params, carry, x = drawn(kind, jnp.float64)
    lengths = jnp.asarray([5, 2, 1])  # Linen's has no empty sequences
    ours, theirs = (
        paired(partial(f, lengths=lengths, reverse=reverse))(params, carry, x)
        for f in (partial(nn.unroll, RECURRENT[kind].cell), partial(linen_unroll, kind))
    )
    assert_trees_close(ours, theirs, 1e-12)


def of_torch(kind, weights):
    """A net of torch's weights: `[out, in]`, two biases a gate, GRU's gates in our order."""
    layers = []
    for layer in range(2):
        layers.append({})
        for name, suffix in (("forward", ""), ("backward", "_reverse")):
            w, u, b, c = (
                jnp.asarray(weights[f"{part}_l{layer}{suffix}"])
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            params = {"input": {"kernel": w.T, "bias": b + c}, "hidden": {"kernel": u.T}}
            if kind == "GRU":
                n = len(b) // 3
                params["input"]["bias"] = jnp.concatenate([b[: 2 * n] + c[: 2 * n], b[2 * n :]])
                params["hidden"]["bias"] = c[2 * n :]
            layers[-1][name] = params
    return layers


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_agrees_with_pytorch_in_value_and_all_gradients(kind, x64):
    values = json.loads(Path(__file__).with_name("pytorch_recurrent.json").read_text())
    lengths, want = jnp.asarray(values["lengths"]), values[kind]
    cell = nn.lstm_cell if kind == "LSTM" else nn.gru_cell

    def loss(weights, x):
        y, lasts = x, []
        for layer in of_torch(kind, weights):
            y, carries = nn.bidirectional(cell, layer, y, lengths=lengths)
            lasts += carries
        last = lasts if kind == "GRU" else [[h for _, h in lasts], [c for c, _ in lasts]]
        last = [jnp.stack(z) for z in ([last] if kind == "GRU" else last)]
        return jnp.sum(jnp.sin(3 * y)) + sum(jnp.sum(z**2) for z in last), (y, last)

    weights = jax.tree.map(jnp.asarray, want["weights"], is_leaf=lambda z: isinstance(z, list))
    x = jnp.asarray(want["x"])
    (got, dx), (y, last) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(weights, x)
    assert relative_error(y, np.array(want["y"])) <= 1e-12
    for z, known in zip(last, want["last"], strict=True):
        assert relative_error(z, np.array(known)) <= 1e-12
    assert relative_error(dx, np.array(want["x gradient"])) <= 1e-12
    for name, gradient in want["gradients"].items():
        assert relative_error(got[name], np.array(gradient)) <= 1e-12, name


def one_by_one(cell, params, x, carry, window):
    """Truncated backpropagation as it is defined: windows, and a carry that has no past."""
    outputs = []
    for t in range(x.shape[-2]):
        if t % window == 0 and t:
            carry = lax.stop_gradient(carry)
        carry = cell(params, carry, x[:, t])
        outputs.append(carry[-1] if isinstance(carry, tuple) else carry)
    return jnp.stack(outputs, 1), carry


@KINDS
@pytest.mark.parametrize("window", [2, 7])
def test_truncation_is_stop_gradient_from_window_to_window(kind, window, x64):
    params, carry, x = drawn(kind, jnp.float64)
    cell = RECURRENT[kind].cell
    got = paired(partial(nn.unroll, cell, window=window))(params, carry, x)
    want = paired(partial(one_by_one, cell, window=window))(params, carry, x)
    assert_trees_close(got, want, 1e-12)
    whole = paired(partial(nn.unroll, cell))(params, carry, x)
    differs = relative_error(whole[1][0]["hidden"]["kernel"], want[1][0]["hidden"]["kernel"])
    assert (differs > 1e-3) == (window < x.shape[1])


@KINDS
def test_reversed_truncation_counts_from_the_end(kind, x64):
    params, carry, x = drawn(kind, jnp.float64)
    cell = RECURRENT[kind].cell

    def flipped(params, x, carry):
        y, last = one_by_one(cell, params, x[:, ::-1], carry, 2)
        return y[:, ::-1], last

    got = paired(partial(nn.unroll, cell, window=2, reverse=True))(params, carry, x)
    assert_trees_close(got, paired(flipped)(params, carry, x), 1e-12)


@KINDS
def test_reversed_truncation_counts_from_each_sequences_end(kind, x64):
    params, carry, x = drawn(kind, jnp.float64)
    run = partial(nn.unroll, RECURRENT[kind].cell, window=2, reverse=True)

    def gradients(x, lengths, carry):
        def loss(params):
            return jnp.sum(jnp.sin(run(params, x, carry, lengths=lengths)[0]))

        return jax.grad(loss)(params)

    alone = [
        gradients(x[i, :n], None, jax.tree.map(lambda z: z[i], carry))  # noqa: B023
        for i, n in enumerate(LENGTHS)
        if n
    ]
    total = jax.tree.map(lambda *leaves: sum(leaves), *alone)
    assert_trees_close(gradients(x, jnp.asarray(LENGTHS), carry), total, 1e-12)


def test_lengths_of_one_byte_reach_beyond_it():
    lengths = np.array([200, 255], np.uint8)
    want = np.arange(300) < lengths.astype(int)[:, None]
    np.testing.assert_array_equal(within_lengths("f", lengths, (2, 300)), want)


@KINDS
def test_the_derivative_is_that_of_the_cell_in_a_plain_loop(kind, x64):
    params, carry, x = drawn(kind, jnp.float64)
    cell = RECURRENT[kind].cell
    options = {"lengths": jnp.asarray(LENGTHS), "window": 2}

    def plain(params, carry, x):
        return cell(params, carry, x)

    ours, theirs = (paired(partial(nn.unroll, f, **options)) for f in (cell, plain))
    assert_trees_close(ours(params, carry, x), theirs(params, carry, x), 1e-12)


@KINDS
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_changes_nothing_whatever_it_holds(kind, reverse):
    params, carry, x = drawn(kind)
    run = partial(nn.unroll, RECURRENT[kind].cell, lengths=jnp.asarray(LENGTHS), reverse=reverse)
    padding = np.arange(5)[None, :, None] >= LENGTHS[:, None, None]
    spoiled = jnp.where(padding, jnp.nan, x)
    y, last = run(params, spoiled, carry)
    assert not jnp.any(jnp.where(padding, y, 0))
    for z, first in zip(*map(jax.tree.leaves, (last, carry)), strict=True):
        np.testing.assert_array_equal(z[2], first[2])
    short, short_last = nn.unroll(
        RECURRENT[kind].cell, params, x[1, :2], jax.tree.map(lambda z: z[1], carry),
        reverse=reverse,
    )  # fmt: skip
    assert relative_error(y[1, :2], short) <= 1e-6
    assert_trees_close(jax.tree.map(lambda z: z[1], last), short_last, 1e-6)
    value, grads = paired(run)(params, carry, spoiled)
    clean, clean_grads = paired(run)(params, carry, x)
    assert value == clean
    jax.tree.map(np.testing.assert_array_equal, grads, clean_grads)


def test_recurrent_kernels_start_orthogonal_gate_by_gate():
    kernels = jnp.split(nn.init_lstm_cell(KEY, 3, 8)["hidden"]["kernel"], 4, -1)
    for kernel in kernels:
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-5)
    assert not np.allclose(kernels[0], kernels[1])


def test_the_sum_of_an_lstm_is_kept_in_float32():
    params, _, x = drawn("lstm")
    y, (c, h) = nn.unroll(nn.lstm_cell, params, x.astype(jnp.bfloat16))
    assert (y.dtype, c.dtype, h.dtype) == (jnp.bfloat16, jnp.float32, jnp.bfloat16)


def test_no_steps_leave_the_carry():
    params, carry, x = drawn("lstm")
    y, last = nn.unroll(nn.lstm_cell, params, x[:, :0], carry)
    assert y.shape == (3, 0, 4)
    jax.tree.map(np.testing.assert_array_equal, last, carry)


@KINDS
def test_the_rule_hides_nothing_from_the_per_example_engine(kind):
    params, _, x = drawn(kind)
    options = {"window": 2, "reverse": True}

    def loss(params, x):
        return jnp.sum(nn.unroll(RECURRENT[kind].cell, params, x, **options)[0] ** 2)

    rows = {row.path: row for row in gradients.plan(loss, params, x)}
    assert not any(row.way == "local" for row in rows.values())
    assert rows["hidden/kernel"].sites == ("dot_general in scan",)


def test_bad_input_is_named():
    params, carry, x = drawn("lstm")
    run = partial(nn.unroll, nn.lstm_cell, params)
    with pytest.raises(ValueError, match=r"unroll: x must be \[..., T, n_in\], got \[3\]"):
        run(x[0, 0])
    with pytest.raises(ValueError, match=r"lengths must be integers \[3\] for steps \[3, 5\]"):
        run(x, lengths=jnp.ones(3))
    with pytest.raises(ValueError, match=r"lengths must be in \[0, 5\], got 1 to 6"):
        run(x, lengths=jnp.asarray([1, 6, 2]))
    with pytest.raises(ValueError, match="window must be positive, got 0"):
        run(x, window=0)
    with pytest.raises(ValueError, match="unroll: carry must be of shapes"):
        run(x, carry[0])
    with pytest.raises(ValueError, match="only rnn_cell, lstm_cell and gru_cell"):
        nn.unroll(lambda params, carry, x: carry, params, x)
    with pytest.raises(ValueError, match=r"lstm_cell: carry must be \[3, 4\]"):
        nn.lstm_cell(params, (carry[0], carry[1][:2]), x[:, 0])
    with pytest.raises(ValueError, match="n_in and features must be positive, got 0 and 4"):
        nn.init_gru_cell(KEY, 0, 4)
    with pytest.raises(TypeError, match="rnn_cell: x must be of a real floating dtype"):
        nn.rnn_cell(nn.init_rnn_cell(KEY, 3, 4), jnp.zeros(4), jnp.ones(3, int))


@pytest.mark.thorough
def test_a_stream_in_parts_is_the_whole():
    config = models.RNNConfig(3, 7, "gru", (4, 5), readout="each", vocabulary=7)
    params = jax.jit(models.init_rnn)(KEY, config)
    ids = integers(0, 7, (2, 6))
    carry, parts = models.zero_rnn_carry(params, config, (2,)), []
    for part in (ids[:, :4], ids[:, 4:]):
        logits, carry = models.rnn_with_carry(params, config, part, carry)
        parts.append(logits)
    whole = models.rnn(params, config, ids)
    assert relative_error(jnp.concatenate(parts, 1), whole) <= 1e-6


@pytest.mark.parametrize(
    "readout", thorough_beyond(set(), {name: (name,) for name in ("last", "mean", "each")})
)
def test_a_padded_sequence_reads_as_the_short_one(readout):
    config = models.RNNConfig(3, 2, "lstm", (4, 3), bidirectional=True, readout=readout)
    params, x = jax.jit(models.init_rnn)(KEY, config), normal(0, (2, 5, 3))
    got = models.rnn(params, config, x, lengths=jnp.asarray([5, 3]))[1]
    want = models.rnn(params, config, x[1, :3])
    assert relative_error(got[:3] if readout == "each" else got, want) <= 1e-6


def test_a_mean_is_that_of_the_steps_logits():
    configs = [models.RNNConfig(3, 2, "gru", (4,), readout=name) for name in ("each", "mean")]
    params, x = models.init_rnn(KEY, configs[0]), normal(0, (2, 5, 3))
    each, mean = (models.rnn(params, config, x) for config in configs)
    assert relative_error(mean, each.mean(1)) <= 1e-6


def test_dropout_of_a_recurrent_net_acts_with_a_key_only():
    config = models.RNNConfig(3, 2, "vanilla", (16,), dropout_rate=0.5)
    params, x = jax.jit(models.init_rnn)(KEY, config), jnp.ones((5, 3))
    plain = models.rnn(params, config, x)
    one, two = (models.rnn(params, config, x, key=jax.random.key(k)) for k in (1, 2))
    np.testing.assert_array_equal(plain, models.rnn(params, config, x))
    assert jnp.any(one != plain)
    assert jnp.any(one != two)


def test_bad_configs_are_named():
    with pytest.raises(ValueError, match="cell must be one of"):
        models.RNNConfig(3, 2, "elman")
    with pytest.raises(ValueError, match="readout must be 'last', 'mean' or 'each'"):
        models.RNNConfig(3, 2, readout="first")
    with pytest.raises(ValueError, match="RNNConfig: there must be a layer"):
        models.RNNConfig(3, 2, hidden=())
    config = models.RNNConfig(3, 2, bidirectional=True)
    params = jax.jit(models.init_rnn)(KEY, config)
    with pytest.raises(ValueError, match="a bidirectional net has no carry"):
        models.rnn_with_carry(params, config, jnp.ones((5, 3)), None)
