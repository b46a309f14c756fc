"""The language models: end to end on a small text, and the parts that measure and look."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.language import looks, nets, report, training
from experiments.language.experiment import Config, settle
from experiments.language.sizes import FULL, QUICK
from experiments.progress import Handle
from jaxnets import losses, optim, tree
from tests.numerics import relative_error

TINY = QUICK._replace(
    context=16, batch_size=4, steps=20, depth=2, features=16, heads=2, hidden=16, embedding=8
)
FLAGS = (
    "--context 16 --batch-size 4 --steps 20 --depth 1 --features 16 --heads 2 --hidden 16 "
    "--embedding 8 --layers 1 --dropout 0 --dtype float32 --samples 2 --sample-length 12"
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text in which much can be foreseen."""
    path = tmp_path_factory.mktemp("text") / "chorus.txt"
    path.write_text("the quick brown fox jumps over the lazy dog.\n" * 60)
    return path


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(text, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["language", "--data", str(text), "--folder", str(folder), *FLAGS.split()]) == 0
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["context"], config["steps"], config["hidden"]) == (16, 20, 16)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name in nets.MAKE:
        found = [r for r in records if r["model"] == name]
        assert [r["step"] for r in found] == [*range(2, 21, 2), 20]
        # the text has 28 different bytes, and the nets have begun to learn which are frequent
        assert found[-1]["final_bits"] < found[0]["held_out_bits"] < 8.5
    assert {path.stem for path in folder.glob("*.png")} == {"curves", "surprise", "attention"}
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "on the 270 bytes at the end of the text" in html
    assert "it writes:" in capsys.readouterr().out


@pytest.mark.thorough
def test_training_lowers_the_bits_and_records_what_it_measures():
    net, sizes = nets.lstm(TINY), TINY._replace(steps=4, learning_rate=0.1, adam_learning_rate=0.1)
    content = np.frombuffer(b"abcd" * 100, np.uint8)
    records = []
    trained = training.run(net, sizes, content, content, 0, records.append)
    assert trained.train_bits.shape == (4,)
    assert trained.measured_at.tolist() == [1, 2, 3, 4]
    assert [r["step"] for r in records] == [1, 2, 3, 4, 4]
    assert trained.train_bits[0] == pytest.approx(8, abs=1)
    # windows of the same four bytes over and over
    assert trained.bits < 5
    assert records[-1]["final_bits"] == trained.bits


def test_bits_per_byte_count_the_late_half_of_each_window_once():
    net = nets.lstm(TINY)
    params = jax.jit(net.init)(jax.random.key(0))
    content = np.random.default_rng(0).integers(0, 256, 50).astype(np.uint8)
    windows = training.overlapping(content, 16)
    assert windows.shape == (5, 17)
    np.testing.assert_array_equal(windows[1], content[8:25])
    state = training.train.init_state(params, optim.sgd(0.1), jax.random.key(0))
    got = training.make_measure(net, TINY)(state, jnp.asarray(windows))
    want = []
    for window in windows.astype(np.int32):
        p = np.asarray(jax.nn.softmax(jax.jit(net.logits)(params, window[:-1])))
        want += [-np.log2(p[t, window[t + 1]]) for t in range(8, 16)]
    assert relative_error(got, np.mean(want)) < 1e-6


@pytest.mark.parametrize("name", nets.MAKE)
def test_the_full_forms_steps_have_the_shapes_they_should(name):
    """Traced only: it is made for an accelerator."""
    net = nets.MAKE[name](FULL)
    state = jax.eval_shape(lambda: training.initial(net, FULL, jnp.asarray(0)))
    text = jax.ShapeDtypeStruct((10_000,), np.uint8)
    chunk = training.make_chunk(net, FULL, 3)
    after, metrics = jax.eval_shape(chunk, state, text, Handle(np.int32(1), np.int32(3)))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics["loss"].shape == (3,)
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", nets.MAKE)
def test_nothing_is_foreseen_from_what_comes_later(name):
    net = nets.MAKE[name](TINY)
    params = jax.jit(net.init)(jax.random.key(0))
    ids, logits = jnp.arange(12) * 5, jax.jit(net.logits)
    changed = logits(params, ids.at[7:].add(1))
    np.testing.assert_allclose(changed[:7], logits(params, ids)[:7], atol=1e-6)
    assert jnp.any(changed[7:] != logits(params, ids)[7:])


@pytest.mark.thorough
@pytest.mark.parametrize("name", nets.MAKE)
def test_samples_are_drawn_from_the_nets_own_probabilities(name):
    """At a low temperature the likeliest byte comes, of the full pass on all before it."""
    net = nets.MAKE[name](TINY)
    params = jax.jit(net.init)(jax.random.key(0))
    prompt, keys = jnp.arange(5) + 60, jax.random.split(jax.random.key(1), 2)
    got = nets.write(net, params, prompt, 6, keys, temperature=1e-4, p=1.0)
    assert got.shape == (2, 6)
    whole = jnp.concatenate([prompt, got[0]])
    want = jnp.argmax(net.logits(params, whole), -1)[4:-1]
    np.testing.assert_array_equal(got[0], want)
    np.testing.assert_array_equal(got[1], want)


@pytest.mark.parametrize("name", nets.MAKE)
def test_muon_trains_the_matrices_between_embeddings_and_readout(name):
    net = nets.MAKE[name](TINY)
    params = jax.eval_shape(net.init, jax.random.key(0))
    state = jax.eval_shape(training.make_optimizer(net, TINY).init, params)
    momenta = {p for p in tree.flatten_with_paths(state) if "/mu/" in p or "nu/" in p}
    by_muon = {p for p in momenta if "muon" in p}
    assert {p.rpartition("/")[2] for p in by_muon} == {"kernel"}
    assert not any("head" in p or "embedding" in p for p in by_muon)
    kernels = [
        p for p in tree.flatten_with_paths(params) if p.endswith("kernel") and "head" not in p
    ]
    assert len(by_muon) == len(kernels)


@pytest.mark.thorough
def test_attention_maps_are_the_weights_that_the_net_uses():
    """Each row sums to one and looks back only; with the values they give the block's output."""
    net = nets.transformer(TINY)
    params = net.init(jax.random.key(0))
    ids = jnp.arange(10) * 3
    maps = looks.attention_maps(params, net.config, ids)
    assert maps.shape == (2, 2, 10, 10)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    assert not np.triu(maps, 1).any()
    block = params["blocks"][0]
    x = params["embedding"]["embedding"][ids]
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
    values = jnp.einsum("tf,fhd->htd", x, block["attention"]["value"]["kernel"])
    want = jnp.einsum("htd,hdf->tf", maps[0] @ values, block["attention"]["out"]["kernel"])
    alone = {**params, "blocks": [{**block, "mlp": jax.tree.map(jnp.zeros_like, block["mlp"])}]}
    x = params["embedding"]["embedding"][ids] + want
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
    logits = net.logits(alone, ids)
    assert relative_error(x @ params["embedding"]["embedding"].T, logits) < 1e-5


def test_the_head_that_looks_farthest_back_is_found():
    near, far = np.eye(8), np.zeros((8, 8))
    far[:, 0] = 1
    maps = np.stack([np.stack([near, near]), np.stack([near, far])])
    assert looks.farthest_looking(maps) == (1, 1)


@pytest.mark.thorough
def test_passages_come_by_the_norm_of_their_own_gradient():
    net = nets.lstm(TINY)
    params = net.init(jax.random.key(0))
    windows = np.random.default_rng(0).integers(0, 256, (20, 17)).astype(np.uint8)
    found = looks.passages(net, params, windows)
    assert len(found) == 20
    norms = [p.norm for p in found]
    assert norms == sorted(norms, reverse=True)
    ids = jnp.asarray(np.frombuffer(found[0].content, np.uint8), jnp.int32)

    def loss(params):
        logits = net.logits(params, ids[:-1])
        nats = losses.softmax_cross_entropy_with_integer_labels(logits, ids[1:])
        return jnp.mean(nats) / np.log(2)

    value, gradient = jax.value_and_grad(loss)(params)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
    assert relative_error(found[0].bits, value) < 1e-5
    assert relative_error(found[0].norm, norm) < 1e-5


def test_frequencies_are_those_of_what_was_trained_on():
    def bytes_of(text):
        return np.frombuffer(text, np.uint8)

    # three a's in four: log2(4/3) each, and 2 bits for the b
    got = report.by_frequencies(bytes_of(b"aaab"), bytes_of(b"ab"))
    assert got == pytest.approx((np.log2(4 / 3) + 2) / 2)
    # a c was never seen: 256 counts more
    got = report.by_frequencies(bytes_of(b"aaab"), bytes_of(b"ac"))
    assert got == pytest.approx((np.log2(260 / 4) + np.log2(260)) / 2)


def test_what_is_no_text_is_marked():
    assert looks.text_of(b"caf\xc3\xa9 \xff") == "café �"


def test_the_two_forms_and_flags_over_them():
    assert settle(Config()) == FULL
    assert settle(Config(quick=True)) == QUICK
    assert settle(Config(quick=True, steps=7, dropout=0.5)) == QUICK._replace(steps=7, dropout=0.5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--steps 0", "--steps must be positive, got 0"),
        ("--learning-rate nan", "--learning-rate must be positive, got nan"),
        ("--dropout 1", "--dropout must be from 0 to below 1, got 1.0"),
        ("--held-out 0", "--held-out must be above 0 and below 1, got 0.0"),
        ("--top-p 1.5", "--top-p must be above 0 and at most 1, got 1.5"),
        ("--heads 3", "--heads must divide --features into even parts, got 3 and 16"),
        ("--seed -1", "--seed must be from 0 to 2147483647"),
        ("--context 200", "chorus: 270 bytes held out are too few for windows of --context 200"),
        pytest.param(
            "--learning-rate 1e38 --adam-learning-rate 1e38 --model lstm",
            "training diverged: the lstm has nan bits per byte at step",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(text, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    flags = [*FLAGS.split(), *more.split()]
    assert cli.main(["language", "--data", str(text), "--folder", str(folder), *flags]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "report.html").exists()
