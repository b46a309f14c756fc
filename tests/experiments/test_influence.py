"""Wrong labels, influences and noise: end to end on a small data set, and the parts that judge."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.benchmarks import timing
from experiments.classification import batch_of
from experiments.data import load
from experiments.errors import UsageError
from experiments.influence import scores, training
from experiments.influence.experiment import Amounts, Config, settle
from experiments.influence.labels import flip
from experiments.influence.scores import RANKINGS
from experiments.nets import cnn_config
from jaxnets import gradients, models, optim, train
from tests.numerics import assert_trees_close, relative_error


def records_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def flags(small, folder, *more):
    base = f"--data {small} --folder {folder} --quick --epochs 3 --batch-size 16 --flipped 0.05"
    return ["influence", *base.split(), *more]


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "TURN", 0.0)
    folder = tmp_path / "run"
    assert cli.main(flags(small, folder, "--seeds", "2")) == 0
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["epochs"], config["seeds"], config["batch_size"]) == (3, 2, 16)
    found = records_of(folder)
    assert [r["step"] for r in found if "noise_scale" in r] == [6, 12, 18] * 2
    ends = [r for r in found if "precision" in r]
    assert [r["seed"] for r in ends] == [0, 1]
    assert all(set(r["precision"]) == set(RANKINGS) for r in ends)
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == {"rankings", "mislabelled", "influences", "hardest", "noise"}
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "5 of the 96 training labels of bars were made wrong" in html
    assert "wrong labels among the 5 training images ranked highest" in capsys.readouterr().out


@pytest.mark.thorough
def test_wrong_digits_are_found(tmp_path):
    """Floors well below what is reached: by chance it would be 0.02."""
    folder = tmp_path / "digits"
    assert cli.main(["influence", "--quick", "--seeds", "2", "--folder", str(folder)]) == 0
    ends = [r for r in records_of(folder) if "precision" in r]
    assert min(r["precision"]["self_influence"] for r in ends) > 0.7
    assert min(r["test_accuracy"] for r in ends) > 0.93
    # at first all examples say the same, at the end each says something else
    noise = [r["noise_scale"] for r in records_of(folder) if r["seed"] == 0 and "noise_scale" in r]
    assert float(noise[0]) < 30 < np.median([float(x) for x in noise[5:]])


def test_as_many_labels_are_wrong_as_was_asked_and_wrong_ones_are_any_others():
    data = load("digits")
    labels = flip(data, 0.5, 0)
    assert labels.flipped.sum() == round(0.5 * len(data.train_y))
    np.testing.assert_array_equal(labels.flipped, labels.given != data.train_y)
    shifts = (labels.given - data.train_y)[labels.flipped] % 10
    counts = np.bincount(shifts, minlength=10)
    # nine ways, 80 times each, within four deviations
    assert counts[0] == 0
    assert np.abs(counts[1:] - 80).max() < 4 * np.sqrt(80)
    np.testing.assert_array_equal(labels.given, flip(data, 0.5, 0).given)
    assert not np.array_equal(labels.given, flip(data, 0.5, 1).given)


def test_labels_that_cannot_be_made_wrong_are_refused():
    data = load("digits")
    with pytest.raises(UsageError, match="--flipped must make at least one of the 1437"):
        flip(data, 1e-5, 0)
    with pytest.raises(UsageError, match="digits: with one class, no label can be wrong"):
        flip(data._replace(classes=("0",)), 0.1, 0)


@pytest.fixture(scope="module")
def net(small):
    """A tiny net, its loss, and data."""
    images = load(str(small))
    model = dataclasses.replace(
        cnn_config(images, dropout=0.0, dtype="float32"),
        batch_norm=False, channels=(2, 3), hidden=(4,),
    )  # fmt: skip
    return model, batch_of(images.train_x, images.train_y, np.float32)


@pytest.mark.thorough
def test_seen_or_not_training_is_the_same(net):
    model, data = net
    loss = training.make_loss(model)
    optimizer = optim.sgd(0.1, momentum=0.9)
    params, moments = models.init_cnn(jax.random.key(0), model)
    start = train.init_state(params, optimizer, jax.random.key(1), model_state=moments)
    plain = train.step(train.batched(loss), optimizer)
    ends = [
        jax.jit(train.epoch(step, 16))(start, data)
        for step in (plain, training.make_step(loss, optimizer))
    ]
    assert_trees_close(ends[1][0], ends[0][0], 1e-5)
    assert relative_error(ends[1][1]["loss"], ends[0][1]["loss"]) < 1e-5


def test_an_epochs_statistics_are_ratios_of_averages():
    noise = gradients.NoiseScale(jnp.array([1.0, -0.5]), jnp.array([6.0, 4.0]))
    signal = gradients.SignalToNoise({"w": jnp.array([3.0, 1.0])}, {"w": jnp.array([1.0, 3.0])})
    diversity = gradients.Diversity(jnp.array([0.1, 0.3]), jnp.array([2.0, 6.0]))
    loss = jnp.array([1.0, 2.0])
    seen = training.summarize(
        {"loss": loss, "noise": noise, "signal": signal, "diversity": diversity}
    )
    assert (seen.loss, seen.noise_scale, seen.batch_size) == (1.5, 20, 4)
    assert seen.signal_to_noise == {"w": 1}


@pytest.mark.thorough
def test_scores_are_sums_over_checkpoints_of_each_examples_own(net, monkeypatch):
    model, data = net
    # 96 examples are not a multiple
    monkeypatch.setattr(scores, "CHUNK", 40)
    loss = training.make_loss(model)
    checkpoints = [models.init_cnn(jax.random.key(i), model)[0] for i in range(2)]
    tests = jax.tree.map(lambda leaf: leaf[:3], data)
    found = scores.score(scores.make_pass(loss, 0.1), 0.1, checkpoints, data, tests)

    @jax.jit
    def own(params):
        losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, data)
        last = grads["head"]["layers"][-1]
        rows, lasts = (
            jnp.concatenate([g.reshape(96, -1) for g in jax.tree.leaves(part)], 1)
            for part in (grads, last)
        )
        return losses, rows, lasts

    losses, rows, lasts = zip(*map(own, checkpoints), strict=True)
    want = scores.Scores(
        self_influence=0.1 * sum(jnp.sum(g**2, 1) for g in rows),
        last_layer=0.1 * sum(jnp.sum(g**2, 1) for g in lasts),
        mean_loss=sum(losses) / 2,
        final_loss=losses[1],
        final_norm=jnp.linalg.norm(rows[1], axis=1),
        influence=0.1 * sum(g @ g[:3].T for g in rows),
    )
    assert_trees_close(found, want, 1e-5)


def test_precision_counts_the_wrong_among_as_many_ranked_highest():
    flipped = np.array([False, True, False, True, False])
    assert scores.precision(np.array([1.0, 5, 2, 4, 3]), flipped) == 1
    assert scores.precision(np.array([1.0, 5, 2, 0, 3]), flipped) == 0.5
    assert scores.precision(np.array([5.0, 1, 4, 2, 3]), flipped) == 0
    shares = scores.found_first(np.array([1.0, 5, 2, 4, 3]), flipped)
    np.testing.assert_array_equal(shares, [0, 0.5, 1, 1, 1, 1])


def test_the_most_influential_help_or_harm():
    found = scores.most_influential(np.array([0.5, -3, 2, 0, -1]), 2)
    assert found.helpful.tolist() == [2, 0]
    assert found.harmful.tolist() == [1, 4]


def test_quick_leaves_other_flags_alone():
    assert settle(Config()) == Amounts(64, 30, 5)
    assert settle(Config(quick=True)) == Amounts(64, 10, 1)
    assert settle(Config(quick=True, epochs=4, seeds=2)) == Amounts(64, 4, 2)
    assert settle(Config(data="fashion-mnist")) == Amounts(128, 5, 1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--flipped 0", "--flipped must be above 0 and below 1, got 0"),
        ("--flipped nan", "--flipped must be above 0 and below 1, got nan"),
        ("--flipped 0.001", "--flipped must make at least one of the 96 training labels wrong"),
        ("--learning-rate 0", "--learning-rate must be positive, got 0"),
        pytest.param(
            "--learning-rate 1e30",
            "training diverged: seed 0 has loss",
            marks=pytest.mark.thorough,
        ),
        ("--momentum 1", "--momentum must be from 0 to below 1, got 1"),
        ("--epochs 0", "--epochs must be positive, got 0"),
        ("--checkpoint-every 0", "--checkpoint-every must be positive, got 0"),
        ("--seeds -1", "--seeds must be positive, got -1"),
        ("--seed -1", "--seed must be from 0 to 2147483646 (2³¹ - 1 - seeds), got -1"),
        ("--batch-size 1", "--batch-size must be at least 2: noise is seen between examples"),
        ("--batch-size 97", "--batch-size must be at most the 96 training images, got 97"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(small, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    assert cli.main(flags(small, folder, *more.split())) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "report.html").exists()
