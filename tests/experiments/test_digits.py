"""The digits experiment, end to end, mostly on a small data set of its own."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, curves, digits, named_optimizers
from experiments.classification import examine, example_loss
from experiments.data import load
from experiments.digits_report import compare
from experiments.errors import UsageError
from experiments.nets import cnn_config
from experiments.run import Run, open_run
from jaxnets import models, optim, train
from tests.numerics import assert_trees_equal


def flags(small, folder, *more):
    base = f"--data {small} --folder {folder} --epochs 4 --seeds 1 --batch-size 16".split()
    return ["digits", *base, "--checkpoint-every", "2", *more]


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
    labels = {"jaxnets-adam-seed-0", "optax-adam-seed-0"}
    assert {folder.name for folder in (finished / "checkpoints").iterdir()} == labels


def untimed(folder):
    """The metrics, but for the seconds that they took."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def fresh(small, name):
    """What a checkpoint of the optimizer `name` holds, before the first step."""
    images = load(str(small))
    model = cnn_config(images, dropout=0.25, dtype="float32")
    data = curves.split(images, None, model.dtype)
    training = curves.Training(1e-3, "cosine", 16, 4, None, 2, resume=False)
    program = curves._program(training, model, name, 96)
    return curves._start(None, training, program, data, seed=9)


def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def bits(leaf):
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if key else leaf)


@pytest.mark.thorough
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
    assert untimed(folder) == untimed(finished)
    for name in ("jaxnets:adam", "optax:adam"):
        # parameters, optimizer state, key, step, and the history
        one, two = (
            train.restore_checkpoint(curves._folder(Run(whole), f"{name}, seed 0"), like)
            for like in [fresh(small, name)]
            for whole in (finished, folder)
        )
        assert int(one.state.step) == 24
        assert_trees_equal(*(jax.tree.map(bits, each) for each in (one, two)))
    (note,) = json.loads((folder / "config.json").read_text())["resumed"]
    assert note["steps"] == {"jaxnets:adam, seed 0": 12, "optax:adam, seed 0": 0}
    assert f"resumed {note['at']} · " in (folder / "report.html").read_text()


@pytest.mark.thorough
def test_the_seconds_of_a_resumed_run_are_those_of_all_its_parts(small, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    timed = [record for record in records if "seconds" in record]
    assert [record["step"] for record in timed] == [12, 24, 12, 24]
    for record in timed:
        record["seconds"] = 1000.25
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    # nothing is left to train
    assert cli.main(flags(small, folder, "--resume")) == 0
    assert "4001.0" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "damage", ["cut", pytest.param("manifest lost", marks=pytest.mark.thorough)]
)
def test_a_corrupt_checkpoint_is_refused_and_every_file_left_alone(
    small, finished, tmp_path, capsys, damage
):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    # the second curve's: the first is found sound before
    second = folder / "checkpoints" / "optax-adam-seed-0"
    if damage == "cut":
        data = [f for f in second.rglob("*") if f.is_file() and f.suffix != ".sha256"]
        largest = max(data, key=lambda f: f.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-1])
    else:
        (second / "00000024.sha256").unlink()
    before = contents(folder)
    assert cli.main(flags(small, folder, "--resume")) == 2
    assert "error: corrupt checkpoint: " in one_line(capsys)
    assert contents(folder) == before


def test_resuming_with_other_settings_or_data_is_refused(small, finished, tmp_path, capsys):
    before = contents(finished)
    assert cli.main(flags(small, finished, "--resume", "--learning-rate", "0.1")) != 0
    assert "learning_rate was 0.001 and is now 0.1" in one_line(capsys)
    arrays = dict(np.load(small))
    kept = small.read_bytes()
    try:
        arrays["train_x"][0, 0, 0] += 0.125
        np.savez(small, **arrays)
        assert cli.main(flags(small, finished, "--resume")) != 0
    finally:
        small.write_bytes(kept)
    assert "the data are not the same: their SHA-256 was" in one_line(capsys)
    assert contents(finished) == before


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
        (["--quick", "--epochs", "0"], "--epochs must be positive, got 0"),
        (["--seed", str(2**31)], "--seed must be from 0 to 2147483646 (2³¹ - 1 - seeds), got 2147"),
        (["--batch-size", "97"], "--batch-size must be at most the 96 training images"),
        (["--batch-size", "90", "--patience", "2"], "at most the 87 training images, got 90"),
        (["--resume"], "is not a run folder"),
        (["--dropout", "1.5"], "--dropout must be from 0 to 1"),
        (["--l2", "-0.1"], "--l2 must not be negative, got -0.1"),
        (["--label-smoothing", "-0.1"], "--label-smoothing must be from 0 to 1, got -0.1"),
        (["--model", "resnet", "--width", "0"], "--width must be positive, got 0"),
        (["--model", "resnet", "--depth", "9"], "--depth must be 8, 14, 20, … (6n + 2), got 9"),
        (["--data", "digits", "--data-folder", "x"], "digits come with scikit-learn"),
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


def test_images_too_small_for_the_net_are_refused_before_a_folder_is_made(small, tmp_path, capsys):
    arrays = {k: v[:, :3, :3] if k.endswith("x") else v for k, v in np.load(small).items()}
    np.savez(tmp_path / "tiny.npz", **arrays)
    assert cli.main(flags(tmp_path / "tiny.npz", tmp_path / "run")) == 2
    assert "tiny: the net takes images of 4×4 or larger, got 3×3" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_quick_leaves_other_flags_alone():
    assert digits.settle(digits.Config(quick=True)) == digits.Amounts(32, 3, 1)
    assert digits.settle(digits.Config(quick=True, epochs=7, seeds=2)) == digits.Amounts(32, 7, 2)
    assert digits.settle(digits.Config()) == digits.Amounts(32, 30, 5)
    assert digits.settle(digits.Config(data="fashion-mnist")) == digits.Amounts(128, 10, 5)


def test_a_resnet_is_shown_shifted_images_and_on_fashion_mnist_mirrored_ones():
    assert digits.settle(digits.Config(data="fashion-mnist")).augment == "none"
    resnet = digits.Config(model="resnet")
    assert digits.settle(resnet).augment == "shift"
    assert digits.settle(dataclasses.replace(resnet, data="fashion-mnist")).augment == "flip"
    assert digits.settle(dataclasses.replace(resnet, augment="both")).augment == "both"


@pytest.mark.exhaustive
def test_a_resnet_trains_on_augmented_images_and_is_examined(small, tmp_path, capsys):
    more = "--model resnet --width 4 --augment both --label-smoothing 0.1 --no-compare --epochs 24"
    folder = tmp_path / "run"
    assert cli.main(flags(small, folder, *more.split())) == 0
    html = (folder / "report.html").read_text()
    assert "A residual net on bars" in html
    assert html.count("data:image/png;base64,") == 5
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [r["loss"] for r in records if "loss" in r]
    assert np.mean(found[-6:]) < 0.7 * np.mean(found[:6])
    assert "ResNet with 1,224,900 parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--learning-rate", "1e30"], r"has loss (nan|inf) at step \d+"),
        # one step, whose own loss is measured before it
        pytest.param(
            ["--learning-rate", "1e38", "--epochs", "1", "--batch-size", "96"],
            "has held-out loss (nan|inf) at step 1",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_divergence_is_said_and_not_saved(small, tmp_path, capsys, more, message):
    more = ["--optimizer", "jaxnets:sgd", "--no-compare", *more]
    assert cli.main(flags(small, tmp_path / "run", *more)) == 2
    assert re.search(f"training diverged: .* {message}; try a lower", one_line(capsys))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_patience_holds_out_training_data_that_nothing_is_learned_from(small):
    images = load(str(small))
    data = curves.split(images, 1, jnp.float32)
    assert len(data.train["y"]) == 87
    assert len(data.held_out["y"]) == 9
    np.testing.assert_allclose(np.mean(data.train["x"]), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(data.train["x"]), 1, rtol=1e-5)
    # the same images, moved
    both = np.concatenate([data.train["x"], data.held_out["x"]])
    order = np.argsort(both.sum((1, 2, 3)))
    want = images.train_x[np.argsort(images.train_x.sum((1, 2, 3)))]
    scale = want.std() / both.std()
    moved = both[order] * scale
    np.testing.assert_allclose(moved - moved.mean(), want - want.mean(), atol=1e-5)
    with pytest.raises(UsageError, match="there is only 1"):
        curves.split(images._replace(train_x=want[:1], train_y=images.train_y[:1]), 1, jnp.float32)


@pytest.mark.thorough
def test_patience_keeps_the_best(small, tmp_path):
    images = load(str(small))
    model = cnn_config(images, dropout=0.25, dtype="float32")
    data = curves.split(images, 1, model.dtype)
    training = curves.Training(0.05, "constant", 16, 12, 1, 12, resume=False)
    with open_run(tmp_path, "digits", digits.Config()) as run:
        (curve,) = curves.train_curves(run, None, training, data, model, [("jaxnets:adam", 0)])
    watched = curve.held_out["loss"]
    assert len(watched) < 12
    assert np.argmin(watched) == len(watched) - 2
    program = curves._program(training, model, "jaxnets:adam", 87)
    measured = program.evaluate(curve.state, data.held_out)["loss"]
    np.testing.assert_allclose(measured, watched.min(), rtol=1e-6)
    like = curves._start(tmp_path, training, program, data, 0)
    last = train.restore_checkpoint(curves._folder(run, curve.label), like)
    assert_trees_equal(curve.state.params, last.stopping.best_params)
    assert_trees_equal(curve.state.model_state, last.stopping.best_model_state)
    for best, final in zip(
        *map(jax.tree.leaves, (curve.state.params, last.state.params)), strict=True
    ):
        assert not np.array_equal(best, final)


@pytest.mark.thorough
def test_curves_that_stop_at_different_epochs_make_a_report(small, tmp_path, capsys):
    longer = ["--epochs", "12", "--seeds", "3", "--patience", "1", "--learning-rate", "0.03"]
    assert cli.main(flags(small, tmp_path / "run", *longer, "--no-compare")) == 0
    metrics = untimed(tmp_path / "run")
    steps = {}
    for record in metrics:
        steps[record["curve"]] = record["step"]
    assert len(set(steps.values())) > 1
    html = (tmp_path / "run" / "report.html").read_text()
    assert f"{min(steps.values())} to {max(steps.values())}" in html


@pytest.mark.thorough
def test_our_adam_is_optaxs_over_the_whole_digits_run_in_float64(tmp_path, x64):
    """308 steps of the demo's net: parameters to 1e-9."""
    images = load("digits")
    training = curves.Training(1e-3, "cosine", 32, 7, None, 7, resume=False)
    model = cnn_config(images, dropout=0.5, dtype="float64")
    data = curves.split(images, None, model.dtype)
    wanted = [("jaxnets:adam", 0), ("optax:adam", 0)]
    with open_run(tmp_path, "digits", digits.Config()) as run:
        ours, theirs = curves.train_curves(run, None, training, data, model, wanted)
    assert ours.train_loss.dtype == np.float64
    assert len(ours.train_loss) == 308
    assert ours.train_loss[-44:].mean() < 0.2 * ours.train_loss[:10].mean()
    difference = compare(ours, theirs)
    assert difference.params <= 1e-9
    assert difference.loss <= 1e-9


@pytest.mark.thorough
def test_the_default_config_names_98_percent_of_the_test_digits_rightly(tmp_path, capsys):
    assert cli.main(["digits", "--no-compare", "--folder", str(tmp_path / "run")]) == 0
    line = re.search(r"adam: ([\d.]+) % \(mean of seeds 0 to 4; from", capsys.readouterr().out)
    assert float(line[1]) >= 98


def test_every_optimizer_name_makes_an_optimizer():
    for choice in named_optimizers.CHOICES:
        made = named_optimizers.make(choice, 0.1)
        updates, _ = made.update(jnp.ones(2), made.init(jnp.ones(2)), jnp.ones(2))
        assert jnp.all(updates < 0)
    pairs = {named_optimizers.counterpart(choice) for choice in named_optimizers.CHOICES}
    assert pairs == set(named_optimizers.CHOICES)


@pytest.mark.parametrize("library", named_optimizers.LIBRARIES)
def test_the_penalty_is_of_kernels_alone(library):
    """Its gradient is `l2 θ`, before whatever the optimizer makes of it."""
    params = {"kernel": jnp.array([2.0, -4.0]), "bias": jnp.array([3.0])}
    gradient = jax.tree.map(jnp.ones_like, params)
    made = named_optimizers.make(f"{library}:momentum", 0.1, l2=0.5)
    state = made.init(params)
    for velocity in ([2.0, -1.0], [3.8, -1.9]):
        updates, state = made.update(gradient, state, params)
        np.testing.assert_allclose(updates["kernel"], -0.1 * np.array(velocity), rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [-0.19], rtol=1e-6)


@pytest.mark.thorough
def test_the_same_seed_is_the_same_run(small, tmp_path):
    images = load(str(small))
    training = curves.Training(1e-3, "constant", 16, 2, None, 2, resume=False)
    model = cnn_config(images, dropout=0.5, dtype="float32")
    data = curves.split(images, None, model.dtype)

    def trained(*seeds):
        wanted = [("jaxnets:adam", seed) for seed in seeds]
        with open_run(tmp_path, "digits", digits.Config()) as run:
            return curves.train_curves(run, None, training, data, model, wanted)

    (one,), (two, other) = trained(3), trained(3, 4)
    assert_trees_equal(one.state.params, two.state.params)
    assert not np.array_equal(one.train_loss, other.train_loss)


@pytest.mark.thorough
def test_examining_in_chunks_is_examining_each_example(small):
    images = load(str(small))
    model = cnn_config(images, dropout=0.5, dtype="float32")
    test = curves.split(images, None, model.dtype).test
    params, moments = models.init_cnn(jax.random.key(0), model)
    state = train.init_state(params, optim.sgd(0.1), jax.random.key(0), model_state=moments)
    whole = examine(state, model, test, chunk=32)
    parts = examine(state, model, test, chunk=12)
    np.testing.assert_array_equal(parts.predictions, whole.predictions)
    np.testing.assert_allclose(parts.norms, whole.norms, rtol=1e-5)

    def loss(params):
        logits, _ = models.cnn(params, model, test["x"][31], state=moments)
        return example_loss(logits, test["y"][31])

    last = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(params))))
    np.testing.assert_allclose(parts.norms[31], last, rtol=1e-5)
