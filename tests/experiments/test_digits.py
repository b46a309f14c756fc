"""The digits experiment, end to end, mostly on a small data set of its own."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, curves, digits, optimizers
from experiments.classification import model_config
from experiments.data import load, standardize
from experiments.digits_report import compare
from experiments.run import open_run
from jaxnets import train
from tests.numerics import assert_trees_equal


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Ninety-six training images of four bars, an .npz file."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 128).astype(np.int32)
    x = rng.uniform(0, 0.4, (128, 8, 8, 1)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2] += 0.5
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    np.savez(path, train_x=x[:96], train_y=y[:96], test_x=x[96:], test_y=y[96:])
    return path


def flags(small, folder, *more):
    base = f"--data {small} --folder {folder} --epochs 4 --seeds 1 --batch-size 16".split()
    return ["digits", *base, "--checkpoint-every", "2", *more]


def last_checkpoint(folder, label="jaxnets-adam-seed-0"):
    (found,) = (folder / "checkpoints" / label).glob("*.sha256")
    return found.read_text()


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main(flags(small, folder)) == 0
    return folder


def test_a_run_leaves_its_config_metrics_plots_checkpoints_and_report(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["config"]["learning_rate"] == 1e-3
    assert config["environment"]["jax"] == jax.__version__
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = {}
    for record in records:
        if "loss" in record:
            losses.setdefault(record["curve"], []).append(record["loss"])
    assert {name: len(values) for name, values in losses.items()} == {
        "jaxnets:adam, seed 0": 24,
        "optax:adam, seed 0": 24,
    }
    np.testing.assert_allclose(*losses.values(), rtol=1e-3)
    for name in ("loss", "accuracy", "hardest", "norms", "confusion"):
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    html = (finished / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert last_checkpoint(finished)


def test_an_interrupted_run_resumes_bit_for_bit(small, finished, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "parts"
    save = train.save_checkpoint

    def interrupted(*args, **keywords):
        save(*args, **keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_checkpoint", interrupted)
    assert cli.main(flags(small, folder)) == 130
    monkeypatch.undo()
    assert not (folder / "report.html").exists()
    # what a crash may leave behind: records of steps after the checkpoint, the last one cut short
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 13, "curve": "jaxnets:adam, seed 0", "loss": 9}\n{"step": 14, "cu')

    assert cli.main(flags(small, folder, "--resume")) == 0
    assert (folder / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    like = {}
    for whole in (finished, folder):
        label = whole / "checkpoints" / "jaxnets-adam-seed-0"
        assert train.latest_checkpoint(label) == 24
        like[whole] = {p.name for p in label.iterdir()}
    assert like[finished] == like[folder]
    assert "resumed" in json.loads((folder / "config.json").read_text())


def test_resuming_with_other_settings_or_a_corrupt_checkpoint_is_refused(
    small, tmp_path, finished, capsys
):
    before = (finished / "metrics.jsonl").read_bytes()
    assert cli.main(flags(small, finished, "--resume", "--learning-rate", "0.1")) != 0
    assert "learning_rate was 0.001 and is now 0.1" in one_line(capsys)

    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    data = [f for f in (folder / "checkpoints").rglob("*") if f.is_file() and f.suffix != ".sha256"]
    largest = max(data, key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert cli.main(flags(small, folder, "--resume")) != 0
    assert "corrupt checkpoint" in one_line(capsys)
    assert (folder / "metrics.jsonl").read_bytes() == before


def one_line(capsys):
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert not any("Traceback" in line for line in error)
    return error[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--optimizer", "jaxnets:adm"],
            "unknown optimizer 'jaxnets:adm' (did you mean jaxnets:ad",
        ),
        (["--optimizer", "adam"], "there are jaxnets:sgd"),
        (["--learning-rate", "-1"], "--learning-rate must be positive, got -1"),
        (["--learning-rate", "nan"], "--learning-rate must be positive, got nan"),
        (["--epochs", "0"], "--epochs must be positive, got 0"),
        (["--batch-size", "97"], "--batch-size must be at most the 96 training images"),
        (["--batch-size", "90", "--patience", "2"], "at most the 87 training images, got 90"),
        (["--resume"], "is not a run folder"),
        (["--dropout", "1.5"], "--dropout must be from 0 to 1"),
        (["--data", "imagenet"], "unknown data set 'imagenet'"),
        (["--data", "none.npz"], "none.npz"),
        (["--data", "fashion-mnist", "--data-folder", "nowhere"], "nowhere"),
        (["--schedule", "step"], "schedule"),
        (["--no-such-flag", "1"], "no-such-flag"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_flags_are_one_line_and_leave_no_folder(small, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    assert cli.main(flags(small, folder, *more)) != 0
    assert message in one_line(capsys)
    assert not folder.exists()


def test_a_folder_in_use_is_refused_and_left_alone(small, finished, capsys):
    before = {f: f.stat().st_mtime_ns for f in finished.rglob("*")}
    assert cli.main(flags(small, finished)) != 0
    assert "is not empty" in one_line(capsys)
    assert {f: f.stat().st_mtime_ns for f in finished.rglob("*")} == before


def test_nan_in_the_data_is_refused(small, tmp_path, capsys):
    arrays = dict(np.load(small))
    arrays["train_x"][5, 1, 1] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    assert cli.main(flags(tmp_path / "nan.npz", tmp_path / "run")) != 0
    assert "holds NaN or infinite values in 1 of 96 examples, the first at index 5" in one_line(
        capsys
    )


def test_divergence_is_said(small, tmp_path, capsys):
    more = ["--optimizer", "jaxnets:sgd", "--learning-rate", "1e30", "--no-compare"]
    assert cli.main(flags(small, tmp_path / "run", *more)) != 0
    assert re.search(r"training diverged: .* has loss (nan|inf) at step \d+", one_line(capsys))


def test_patience_holds_out_training_data_and_keeps_the_best(small, tmp_path, capsys):
    more = ["--patience", "1", "--no-compare", "--learning-rate", "0.05"]
    assert cli.main(flags(small, tmp_path / "run", *more)) == 0
    data = standardize(load(str(small)))
    kept, held = curves.split(data, 1, jnp.float32)
    assert len(kept["y"]) == 87
    assert len(held["y"]) == 9
    everything = {image.tobytes() for image in data.train_x}
    assert {np.asarray(i).tobytes() for i in (*kept["x"], *held["x"])} == everything


def test_our_adam_is_optaxs_over_the_whole_digits_run_in_float64(tmp_path, x64):
    """308 steps of the demo's net: parameters to 1e-9."""
    data = standardize(load("digits"))
    training = curves.Training(1e-3, "cosine", 32, 7, None, 7, resume=False)
    model = model_config(data, dropout=0.5, dtype="float64")
    run = open_run(tmp_path, "digits", digits.Config())
    wanted = [("jaxnets:adam", 0), ("optax:adam", 0)]
    ours, theirs = curves.train_curves(run, None, training, data, model, wanted)
    assert ours.train_loss.dtype == np.float64
    assert len(ours.train_loss) == 308
    assert ours.train_loss[-44:].mean() < 0.2 * ours.train_loss[:10].mean()
    difference = compare(ours, theirs)
    assert difference.params <= 1e-9
    assert difference.loss <= 1e-9


def test_every_optimizer_name_makes_an_optimizer():
    for choice in optimizers.CHOICES:
        made = optimizers.make(choice, 0.1)
        updates, _ = made.update(jnp.ones(2), made.init(jnp.ones(2)), jnp.ones(2))
        assert jnp.all(updates < 0)
    pairs = {optimizers.counterpart(choice) for choice in optimizers.CHOICES}
    assert pairs == set(optimizers.CHOICES)


def test_the_same_seed_is_the_same_run(small, tmp_path):
    data = standardize(load(str(small)))
    training = curves.Training(1e-3, "constant", 16, 2, None, 2, resume=False)
    model = model_config(data, dropout=0.5, dtype="float32")
    run = open_run(tmp_path, "digits", digits.Config())
    wanted = [("jaxnets:adam", seed) for seed in (3, 3, 4)]
    one, two, other = curves.train_curves(
        run, None, training, data, model, wanted[:1]
    ) + curves.train_curves(
        open_run(tmp_path / "b", "digits", digits.Config()), None, training, data, model, wanted[1:]
    )
    assert_trees_equal(one.state.params, two.state.params)
    assert not np.array_equal(one.train_loss, other.train_loss)
