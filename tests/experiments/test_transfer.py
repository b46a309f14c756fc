"""Few labels: how they are drawn, what each method makes of a small base, and the experiment."""

import json
import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.data import elpv
from experiments.data.elpv import load_elpv
from experiments.data.weights import fetch_weights
from experiments.errors import UsageError
from experiments.run import open_run
from experiments.transfer import methods, report
from experiments.transfer.base import Base, Features
from experiments.transfer.cached import cached, key_of
from experiments.transfer.experiment import Amounts, Config, _results, settle
from experiments.transfer.texts import shortened
from jaxnets import nn, train
from tests.downloads import or_skip


@pytest.fixture(scope="module")
def base():
    """Three classes in eight numbers, which a frozen map shows; from scratch nothing is learned."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300).astype(np.int32)
    x = (rng.normal(size=(300, 8)) + 3 * np.eye(8)[y]).astype(np.float32)
    params = {
        "below": nn.init_dense(jax.random.key(0), 8, 16),
        "above": nn.init_dense(jax.random.key(1), 16, 16),
        "classifier": nn.init_dense(jax.random.key(2), 16, 5),
    }
    below = np.asarray(jax.nn.relu(nn.dense(params["below"], jnp.asarray(x))))

    def features_of(params, below):
        return jax.nn.relu(nn.dense(params["above"], below))

    def logits(params, below):
        return nn.dense(params["classifier"], features_of(params, below))

    last = np.asarray(features_of(params, jnp.asarray(below)))
    parts = [
        Features(last[part], np.concatenate([below, last], 1)[part], below[part].astype(np.float16))
        for part in (slice(200), slice(200, None))
    ]
    return Base(
        "blobs", ("a", "b", "c"), parts[0], y[:200], parts[1], y[200:], params, logits,
        tuned={"^below": False, ".*": True}, depths={"^classifier": 0, ".*": 1},
        adapted={"^above/kernel": -1, ".*": 0}, from_scratch=lambda seed, chosen, steps: 1 / 3,
        about="A small base.",
    )  # fmt: skip


@pytest.mark.thorough
def test_all_methods_on_a_small_base_and_their_report(base, tmp_path, capsys):
    config = Config(quick=True, labels=(6, 60), steps=20, tuned_seeds=1, seeds=2, examples=200)
    amounts = settle(config)
    # the rank of adapters is of a large net's
    with open_run(tmp_path, "transfer", config, data="", folder=tmp_path / "run") as folder:
        found, seconds = _results(folder, config, amounts, base)
        report.print_results(base, found, seconds)
        html = report.write_report(folder, base, found, seconds).read_text()
    tuned = {"fine-tuned", "LoRA"}
    assert set(found) == tuned | {
        "scratch", "frozen, last level", "frozen, all levels", "frozen, chosen",
    }  # fmt: skip
    for name, by_labels in found.items():
        assert set(by_labels) == {6, 60}
        assert {len(each) for each in by_labels.values()} == {1 if name in tuned else 2}
        if name != "scratch":
            assert np.mean(by_labels[60]) > 0.85
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4 * 4 + 2 * 2
    assert set(json.loads(lines[0])) == {"step", "method", "seed", "accuracy"}
    assert html.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "The frozen base is above the net from scratch by" in capsys.readouterr().out


def test_as_many_labels_of_each_class():
    labels = np.repeat(np.arange(3), [50, 50, 4])
    chosen = methods.draw(labels, 10, 3, 0)
    assert sorted(np.bincount(labels[chosen]).tolist()) == [3, 3, 4]
    assert len(set(chosen.tolist())) == 10
    # where a class has no more, the others go on
    assert np.bincount(labels[methods.draw(labels, 20, 3, 0)]).tolist() == [8, 8, 4]
    assert not np.array_equal(chosen, methods.draw(labels, 10, 3, 1))


def test_a_probes_head_is_for_features_as_they_are(base):
    x, y = base.train.last[:30], base.train_y[:30]
    moved = x * 7 + 100
    heads = [methods.probe(z, y, 3, 0).params for z in (x, moved)]
    logits = [nn.dense(head, z) for head, z in zip(heads, (x, moved), strict=True)]
    np.testing.assert_allclose(*logits, atol=0.02)


def test_a_probe_of_few_examples_is_solved_on_as_few_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 40)).astype(np.float32), np.arange(12) % 3
    head = methods.probe(x, y, 3, 0).params
    mean, deviation = x.mean(0), np.sqrt(x.var(0) + 1e-4)
    wide = train.linear_probe((x - mean) / deviation, jnp.asarray(y), 3, inverse_l2=1e-2, tol=1e-6)
    expected = nn.dense(wide.params, jnp.asarray((x - mean) / deviation))
    np.testing.assert_allclose(nn.dense(head, x), expected, atol=5e-3)


def test_features_are_computed_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.ones(2, np.float16)}

    key = key_of("name", np.arange(4), 2)
    for _ in range(2):
        found = cached(key, compute, ("a", "b"))
        np.testing.assert_array_equal(found["a"], np.arange(3))
        assert found["b"].dtype == np.float16
    assert len(calls) == 1
    (path,) = (tmp_path / "jaxnets" / "features").iterdir()
    path.write_bytes(b"damaged")
    cached(key, compute, ("a", "b"))
    assert len(calls) == 2
    assert len({key_of(1, 23), key_of(12, 3), key_of(123), key_of(np.array(1), 23)}) == 4
    assert len({key, key_of("name", np.arange(5), 2), key_of("name", np.arange(4), 3)}) == 3
    assert "computing features" in capsys.readouterr().err


def test_long_texts_keep_their_beginning_and_their_end():
    ids = np.arange(1, 13, dtype=np.int32)[None].repeat(2, 0)
    mask = np.arange(12)[None] < np.array([[12], [3]])
    short = shortened(ids, mask, 8)
    assert short["ids"].tolist() == [[1, 2, 7, 8, 9, 10, 11, 12], [1, 2, 3, 0, 0, 0, 0, 0]]
    assert short["mask"].sum(1).tolist() == [8, 3]


def test_cells_are_read_from_the_wheel_alone(tmp_path, monkeypatch):
    from matplotlib.image import imsave

    wheel = tmp_path / elpv.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = []
        for i in range(8):
            path = tmp_path / f"{i}.png"
            imsave(path, np.full((300, 300), i / 8), cmap="gray", vmin=0, vmax=1)
            archive.write(path, f"{elpv.INSIDE}/images/{i}.png")
            lines.append(f"images/{i}.png  {i % 2 / 1.0}  mono")
        archive.writestr(f"{elpv.INSIDE}/labels.csv", "\n".join(lines))
    with pytest.raises(UsageError, match="is not elpv's, or is damaged"):
        load_elpv(tmp_path)
    with pytest.raises(UsageError, match="lacks elpv_dataset"):
        load_elpv(tmp_path / "elsewhere")


def test_the_verdict_is_of_the_features_that_were_chosen():
    found = {
        "scratch": {10: [0.4, 0.5]},
        "frozen, last level": {10: [0.5, 0.5]},
        "frozen, chosen": {10: [0.6, 0.5]},
    }
    assert "+10.0 with 10 labels" in report.verdict(found)
    del found["frozen, chosen"]
    assert "+5.0 with 10 labels" in report.verdict(found)
    assert report.table_of(found)[1] == [["10", "45.0 (40.0 to 50.0)", "50.0 (50.0 to 50.0)"]]


@pytest.mark.parametrize("informed", [True, False])
def test_held_out_labels_choose_the_features(base, informed):
    rng = np.random.default_rng(1)

    def with_last(part):
        noise = rng.normal(size=part.last.shape).astype(np.float32)
        return part._replace(**{"last" if informed else "levels": noise})

    other = base._replace(train=with_last(base.train), test=with_last(base.test))
    chosen = methods.draw(base.train_y, 60, 3, 0)
    right = {levels: methods.frozen(other, chosen, 0, levels=levels) for levels in (True, False)}
    assert right[informed] > 0.85 > 0.5 > right[not informed]
    assert methods.frozen(other, chosen, 0, levels=None) == right[informed]


def test_amounts_and_flags():
    assert settle(Config()) == Amounts((10, 50, 100, 500, 1000, 5000), 6000, 2000, 300, 600, 3, 3)
    assert settle(Config(quick=True, task="sentiment")).tests == 300
    with pytest.raises(UsageError, match="--labels must be from 2 to the 1000 of --examples"):
        settle(Config(quick=True, labels=(5000,)))
    with pytest.raises(UsageError, match="--tuned-seeds must be at most the 3 seeds, got 4"):
        settle(Config(tuned_seeds=4))
    with pytest.raises(UsageError, match="--side must be at least 32, got 8"):
        settle(Config(side=8))


@pytest.mark.download
def test_with_500_labels_frozen_features_beat_a_net_from_scratch(tmp_path):
    """By three points at least."""
    or_skip(fetch_weights, "efficientnet-lite0")
    folder = tmp_path / "run"
    flags = f"transfer --quick --labels 500 --steps 1 --folder {folder}"
    assert cli.main(flags.split()) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    mean = {
        name: np.mean([r["accuracy"] for r in records if r["method"] == name])
        for name in ("scratch", "frozen, chosen")
    }
    assert mean["frozen, chosen"] - mean["scratch"] >= 0.03
