"""Models that make images: end to end on a small data set, and the parts that judge."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from experiments import cli
from experiments.data import load
from experiments.errors import UsageError
from experiments.images import adversarial, autoencoders, denoisers, frechet, report, task
from experiments.images.experiment import Amounts, Config, epochs_of, in_unit_range, settle
from experiments.run import open_run
from jaxnets import models


def flags(small, folder, *more):
    base = f"--data {small} --folder {folder} --epochs 1 --judge-epochs 1 --width 8".split()
    return ["images", *base, "--batch-size", "48", *more]


def ends_of(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return records, {r["model"]: r for r in records if "frechet" in r}


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(small, tmp_path, capsys):
    folder = tmp_path / "run"
    named = ("--models", "denoising", "vae", "gan", "--game", "wasserstein", "--samples", "12")
    assert cli.main(flags(small, folder, *named)) == 0
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["width"], config["samples"], config["judge_epochs"]) == (8, 12, 1)
    records, ends = ends_of(folder)
    assert [r["step"] for r in records if "loss" in r] == [1, 2] * 2
    assert [r["step"] for r in records if "generator_loss" in r] == [1, 2]
    made = {name: set(end["frechet"]) for name, end in ends.items()}
    assert made == {"denoising": {"reconstructions"}, "vae": {"samples"}, "gan": {"samples"}}
    assert np.isfinite([d for end in ends.values() for d in end["frechet"].values()]).all()
    pictures = {path.stem for path in folder.glob("*.png")}
    of_vae = {f"vae_{name}" for name in ("reconstructions", "interpolation", "traversal")}
    assert pictures == {"samples", "losses", "denoising_reconstructions", *of_vae}
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "The Fréchet distance to the 96 training images of bars" in html
    assert "Denoising autoencoder, reconstructions" in capsys.readouterr().out


def test_the_report_shows_every_model_beside_the_floor(small, tmp_path):
    data, rng = load(str(small)), np.random.default_rng(0)
    labels = np.arange(32) % 4

    def outcome(**samples):
        images = data.test_x[:20].reshape(2, 10, 8, 8, 1)
        rows = task.Grid(images, ("one", ""), "Some rows.", "0" * 10)
        losses = {"loss": rng.uniform(1, 2, 300)}
        return task.Outcome(losses, samples, {"rows": rows}, {"squared error": 0.25}, 1.5, 7)

    made, asked = task.Samples(data.train_x[:32]), task.Samples(data.train_x[32:64], labels)
    outcomes = {
        "vae": outcome(reconstructions=made, samples=made),
        "flow": outcome(**{"Heun, 10 steps": asked}),
    }
    floor = [report.Score("", name, d, None) for name, d in (("test", 2.0), ("pixels", 90.0))]
    found = [
        report.Score("vae", "reconstructions", 1.0, None),
        report.Score("vae", "samples", 8.0, None),
        report.Score("flow", "Heun, 10 steps", 5.0, 0.75),
    ]
    results = report.Results(0.9, data.test_x, [*floor, *found], outcomes)
    with open_run(tmp_path, "images", Config(), folder=tmp_path / "run") as run:
        html = report.write_report(run, data, results).read_text()
    names = {path.stem for path in (tmp_path / "run").glob("*.png")}
    assert names == {"samples", "losses", "vae_rows", "flow_rows"}
    assert html.count("data:image/png;base64,") == 4
    assert "is 2 for 32 test images and 90 for independent normal pixels" in html
    # reconstructions are nearer, but made by looking
    assert "The nearest samples have 5 (Flow matching, Heun, 10 steps), the least of 2:" in html
    assert "75.0 %" in html


LEVELS = jnp.array([-0.6, -0.2, 0.2, 0.6, 0.0])
"""What images of each class are in the tests below, all pixels alike; 0 for no class."""


@pytest.fixture
def given(small, monkeypatch):
    """A task of 8 samples, and a net with nothing to learn in the U-Net's place, to be set."""
    data = load(str(small))
    monkeypatch.setattr(models, "init_unet", lambda key, config: {"w": jnp.zeros(())})
    train = {"x": jnp.asarray(data.train_x), "y": jnp.asarray(data.train_y)}
    return task.Task(train, jnp.asarray(data.test_x[:8]), data.classes, 8, 1, 48, 0)


@pytest.mark.thorough
def test_the_gan_plays_the_game_that_is_asked_for(given, monkeypatch):
    def asked(config, game):
        raise LookupError(game)

    monkeypatch.setattr(models, "gan_losses", asked)
    with pytest.raises(LookupError, match="hinge"):
        adversarial.gan(given._replace(game="hinge"))


def test_divergence_is_told_with_the_flag_that_mends_it(given):
    """By one step of Adam, as long as its rate, of a loss that has no bound."""

    def loss(params, example, key):
        return jnp.mean(example["x"]) * 0 + params["w"] ** 2

    def run(factor):
        made = given._replace(learning_rate_factor=factor)
        return task.fit_mean("net", made, loss, {"w": jnp.ones(())}, 1e-3)

    assert np.isfinite(run(1.0).losses["loss"]).all()
    message = r"the net's loss is inf at step 2; try a lower --learning-rate-factor$"
    with pytest.raises(UsageError, match=message):
        run(1e30)


def test_no_random_key_is_taken_twice(given):
    """Nor one of those that the samples' is split into."""
    asked, _ = denoisers._asked(given)
    found = jax.random.key_data(jnp.stack([*given.keys, *asked])).tolist()
    assert len(set(map(tuple, found))) == 3 + 8


def level_of(sample):
    """Of signed images."""
    return 2 * sample.images.mean(axis=(1, 2, 3)) - 1


@pytest.mark.thorough
def test_diffusion_makes_the_class_that_is_asked_for(given, monkeypatch):
    noise = models.cosine_noise(denoisers.STEPS)

    def exact(params, config, x, t, label):
        signal, sigma = models.signal_and_noise(noise, jnp.round(t / 5).astype(int))
        epsilon = (x - signal * LEVELS[label]) / sigma
        return signal * epsilon - sigma * LEVELS[label] + params["w"]

    monkeypatch.setattr(models, "unet", exact)
    outcome = denoisers.diffusion(given)
    of_class = LEVELS[jnp.arange(8) % 4]
    ancestral, *guided = outcome.samples.values()
    np.testing.assert_allclose(level_of(ancestral), of_class, atol=1e-3)
    for weight, sample in zip(denoisers.GUIDANCE, guided, strict=True):
        want = np.clip(weight * of_class, -1, 1)
        np.testing.assert_allclose(level_of(sample), want, atol=1e-3)
        assert (sample.asked is None) == (weight == 0)
    np.testing.assert_array_equal(ancestral.asked, np.arange(8) % 4)
    path = outcome.grids["denoising"]
    assert path.images.shape == (4, len(path.columns), 8, 8, 1)
    assert (path.columns[0], path.columns[-1]) == ("t = 200", "t = 0")
    np.testing.assert_allclose(path.images[:, -1], ancestral.images[:4], atol=1e-6)
    assert path.images[:, 0].std() > 0.2


@pytest.mark.thorough
def test_flow_carries_noise_by_the_velocity_of_the_class(given, monkeypatch):
    def shift(params, config, x, t, label):
        return jnp.full_like(x, LEVELS[label] + params["w"])

    monkeypatch.setattr(models, "unet", shift)
    outcome = denoisers.flow(given)
    keys, labels = denoisers._asked(given)
    noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys)
    # the average has followed the two steps of training hardly at all
    for weight, sample in zip(denoisers.GUIDANCE, outcome.samples.values(), strict=True):
        signed = noise + weight * LEVELS[labels][:, None, None, None]
        np.testing.assert_allclose(sample.images, np.clip((signed + 1) / 2, 0, 1), atol=1e-3)


def test_frechet_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4))
    y = rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)) + 1
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b)
    want = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * root.real)
    assert frechet.frechet_distance(x, y) == pytest.approx(want, rel=1e-10)
    assert frechet.frechet_distance(y, x) == pytest.approx(want, rel=1e-10)
    assert abs(frechet.frechet_distance(x, x)) < 1e-10
    # a feature that never varies has no covariance with the others
    constant = np.concatenate([x, np.full((50, 1), 3.0)], axis=1)
    assert frechet.frechet_distance(constant, constant + 2) == pytest.approx(20.0)


def test_baselines_have_the_moments_that_they_claim():
    rng = np.random.default_rng(0)
    mixed = 0.02 * rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12))
    x = (0.5 + mixed).reshape(500, 2, 6, 1).astype(np.float32)
    flat = x.reshape(500, -1)
    correlated = frechet.correlated_pixels(x, 20_000, 0).reshape(-1, 12)
    independent = frechet.independent_pixels(x, 20_000, 0).reshape(-1, 12)
    variance = flat.var(0)
    for made in (correlated, independent):
        np.testing.assert_allclose(made.mean(0), flat.mean(0), atol=4 * variance.max() ** 0.5 / 140)
        np.testing.assert_allclose(made.var(0), variance, rtol=0.05)
    want = np.cov(flat, rowvar=False)
    found = np.cov(correlated, rowvar=False)
    np.testing.assert_allclose(found, want, atol=0.04 * variance.max())
    off = np.cov(independent, rowvar=False)[~np.eye(12, dtype=bool)]
    assert np.abs(off).max() < 0.04 * variance.max() < np.abs(want[~np.eye(12, dtype=bool)]).max()


@pytest.mark.thorough
def test_the_judge_learns_and_its_features_give_its_readings(small):
    data = load(str(small))
    judge = frechet.train_judge(data, 40, 0)
    features, read = judge.look(data.test_x)
    assert features.shape == (32, 128)
    assert features.min() == 0 < features.max()
    assert np.mean(read == data.test_y) == pytest.approx(judge.accuracy)
    assert judge.accuracy > 0.9


def test_epochs_by_data_and_quickness():
    assert epochs_of(Config(), "vae") == 200
    assert epochs_of(Config(quick=True), "vae") == 100
    assert epochs_of(Config(data="fashion-mnist"), "vae") == 40
    assert epochs_of(Config(data="fashion-mnist", quick=True), "vae") == 2
    assert epochs_of(Config(epochs=3, quick=True), "vae") == 3
    assert settle(Config()) == Amounts(16, 30, 64, 2000)
    assert settle(Config(data="mnist")) == Amounts(64, 30, 128, 2000)
    assert settle(Config(quick=True, samples=7)) == Amounts(16, 6, 64, 7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "--epochs must be positive, got 0"),
        ({"judge_epochs": -1}, "--judge-epochs must be positive, got -1"),
        ({"width": 12}, "--width must be a multiple of 8, got 12"),
        ({"samples": 1}, "--samples must be at least 2, got 1"),
        ({"models": ()}, "--models must name some of autoencoder, "),
        ({"learning_rate_factor": 0.0}, "--learning-rate-factor must be positive, got 0"),
        ({"seed": -1}, "--seed must be from 0 to"),
    ],
)
def test_flags_out_of_range_are_named(changed, message):
    with pytest.raises(UsageError, match=message):
        settle(Config(**changed))


def test_images_are_moved_to_the_unit_range(small):
    data = load(str(small))
    moved = in_unit_range(data._replace(train_x=4 * data.train_x - 1))
    assert (moved.train_x.min(), moved.train_x.max()) == (0, 1)
    # by the training images' range
    low, high = 4 * data.train_x.min() - 1, 4 * data.train_x.max() - 1
    want = np.clip((data.test_x - low) / (high - low), 0, 1)
    np.testing.assert_allclose(moved.test_x, want, atol=1e-6)
    with pytest.raises(UsageError, match=r"all training images are one value, 0\.5"):
        in_unit_range(data._replace(train_x=np.full_like(data.train_x, 0.5)))


def test_lines_between_and_along_latents():
    mean = jnp.arange(24.0).reshape(8, 3)
    between = autoencoders._between(mean)
    np.testing.assert_allclose(between[:, 0], mean[::2])
    np.testing.assert_allclose(between[:, -1], mean[1::2], rtol=1e-6)
    assert autoencoders._between(mean[:3]).shape == (1, task.SHOWN, 3)
    kl = jnp.tile(jnp.array([0.1, 3.0, 2.0]), (8, 1))
    along, order = autoencoders._along(mean, kl, rows=2)
    assert order == [1, 2]
    assert along.shape == (2, task.SHOWN, 3)
    np.testing.assert_allclose(along[0, :, 1], np.linspace(-2.5, 2.5, task.SHOWN), rtol=1e-5)
    np.testing.assert_allclose(along[1, :, :2], np.tile([0.0, 1.0], (task.SHOWN, 1)))
