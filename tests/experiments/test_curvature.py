"""K-FAC against Adam, and sharpness: end to end, and the parts that judge."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.benchmarks import timing
from experiments.curvature import autoencoder, pictures, stability
from experiments.curvature.autoencoder import Curve, first_below, lowest, steps_to
from experiments.curvature.cost import Cost
from experiments.curvature.experiment import Amounts, Config, settle
from experiments.curvature.report import Results, headline, race, times_fewer
from jaxnets import gradients, models


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The quick form, shortened."""
    folder = tmp_path_factory.mktemp("curvature") / "run"
    flags = f"--quick --steps 320 --descent-steps 400 --seeds 3 --folder {folder}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "TURN", 0.0)
        assert cli.main(["curvature", *flags.split()]) == 0
    return folder


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(run):
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["steps"], config["batch_size"], config["descent_steps"]) == (320, 1437, 400)
    pictures = {path.stem for path in run.glob("*.png")}
    assert pictures == {"losses", "steps", "reconstructions", "sharpness", "spectra"}
    html = (run / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def curves_of(run, name):
    found = [r for r in records(run) if r.get("optimizer") == name]
    return [curve(r["seed"], [float(loss) for loss in r["losses"]], **r["settings"]) for r in found]


@pytest.mark.thorough
def test_kfac_needs_at_most_half_of_tuned_adams_steps(run):
    """To whatever loss Adam can reach, each time with the rate that is the fastest there."""
    adam, kfac = (curves_of(run, name) for name in ("Adam", "K-FAC"))
    reached = [t for t in autoencoder.TARGETS if np.isfinite(steps_to(adam, t)[0])]
    assert min(reached) <= 18
    assert len({curve.seed for curve in kfac}) == 3
    for target in reached:
        assert steps_to(kfac, target)[0] <= 0.5 * steps_to(adam, target)[0]


@pytest.mark.thorough
def test_sharpness_comes_to_its_limit_and_stays(run):
    by_rate = {}
    for r in records(run):
        if "sharpness" in r and r["batch_size"] == 512:
            by_rate.setdefault(r["learning_rate"], []).append(r["sharpness"])
    for rate in (0.12, 0.16):
        last = np.array(by_rate[rate][-10:]) * rate / 2
        assert 0.9 < np.median(last) < 1.15
    # still on its way up, and below
    assert 0.2 < by_rate[0.04][-1] * 0.04 / 2 < 0.8
    assert by_rate[0.04][-1] > min(by_rate[0.04])


def curve(seed, losses, **settings):
    values = np.array(losses)
    return Curve(settings, seed, 5 * np.arange(len(losses)), values, values, [])


def test_steps_are_the_mean_of_the_fastest_settings_at_each_target():
    found = [
        curve(0, [30.0, 21, 19, 19], rate=0.1),
        curve(1, [30.0, 30, 19, 19], rate=0.1),
        curve(0, [30.0, 25, 21, 17], rate=0.2),
        curve(1, [30.0, 25, 21, 17], rate=0.2),
        curve(0, [30.0, 10, np.nan, np.nan], rate=0.3),
        curve(1, [30.0, np.nan, np.nan, np.nan], rate=0.3),
    ]
    assert first_below(found[0], 21) == 5
    assert first_below(found[0], 18) == np.inf
    assert steps_to(found, 22) == (7.5, {"rate": 0.1})
    assert steps_to(found, 18) == (15, {"rate": 0.2})
    assert steps_to(found, 9)[0] == np.inf
    assert [c.settings["rate"] for c in lowest(found)] == [0.2, 0.2]
    results = Results({"Adam": found, "K-FAC": found[2:4]}, 22, {}, [], {})
    to_22 = race(results, 22)
    assert to_22.steps == {"Adam": 7.5, "K-FAC": 10}
    assert autoencoder.steps_of_each(found, to_22.settings["Adam"], 22) == [5, 10]
    # of 1/2 and 1, by Student's t of one degree of freedom
    assert times_fewer(results, to_22) == "×0.707 (0.00865 to 57.8)"


def test_the_target_is_set_by_runs_that_are_not_compared():
    # 10 of 20 steps: what is reached later does not count, nor what the compared runs reach
    tuning = [
        curve(0, [30.0, 21, 20.5, 15, 15], rate=0.1),
        curve(0, [30.0, 25, 19.5, 19, 17], rate=0.2),
    ]
    assert autoencoder.target_of(tuning) == 20
    assert autoencoder.target_of([curve(0, [30.0, 29, 28, np.nan, 15], rate=0.1)]) == 24
    compared = [curve(seed, [30.0, 16, 15, 15, 15], rate=0.1) for seed in (1, 2)]
    results = Results({"Adam": compared, "K-FAC": compared}, 20, {}, [], {})
    assert headline(results).target == 20


def test_losses_of_a_run_that_diverged_are_no_limit_of_the_picture():
    curves = {"Adam": [curve(0, [30.0, 20.0, np.nan], rate=0.1)]}
    figure = pictures.losses(curves, {"Adam": Cost(1.0, 1.0)})
    assert figure.axes[0].get_ylim() == pytest.approx((19.6, 32))


def test_the_loss_is_the_cross_entropy_of_the_pixels():
    params = autoencoder.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 64)), jnp.float32)
    h = np.asarray(x, np.float64)
    for i, layer in enumerate(params):
        h = h @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
        if i not in (3, 7):
            h = np.tanh(h)
    assert [layer["kernel"].shape[1] for layer in params][3] == 6
    p = 1 / (1 + np.exp(-h))
    wanted = -np.mean(np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), 1))
    assert abs(float(autoencoder.mean_loss(params, (x, x))) - wanted) < 1e-4


@pytest.mark.thorough
def test_the_sharpness_of_a_run_is_that_of_its_hessian():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(32, 64)), jnp.float32)
    y = jax.nn.one_hot(rng.integers(0, 10, 32), 10)
    descent = stability.runner(x, y, steps=200, batch_size=32)(0.05, 0)
    start, _ = jax.random.split(jax.random.key(0))
    params = models.init_mlp(start, stability.NET)
    assert abs(descent.losses[0] - float(stability.half_square(params, (x, y)))) < 1e-5
    after = params
    gradient = jax.jit(jax.grad(stability.half_square))
    for _ in range(10):
        after = jax.tree.map(lambda p, g: p - 0.05 * g, after, gradient(after, (x, y)))
    assert abs(descent.losses[1] - float(stability.half_square(after, (x, y)))) < 1e-4
    at = jax.jit(gradients.sharpness(stability.half_square, steps=40))
    assert abs(descent.sharpness[1] / float(at(after, (x, y)).value) - 1) < 0.02


def test_quick_leaves_other_flags_alone():
    assert settle(Config(), 1437) == Amounts(2000, 1437, 3000)
    assert settle(Config(quick=True), 1437) == Amounts(500, 1437, 1000)
    assert settle(Config(quick=True, steps=40, batch_size=9), 1437) == Amounts(40, 9, 1000)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--steps 19", "--steps must be at least 20, got 19"),
        ("--descent-steps 79", "--descent-steps must be at least 80, got 79"),
        ("--batch-size 1438", "--batch-size must be at most the 1437 training images, got 1438"),
        ("--learning-rates 0.1", "--learning-rates must be at least two, got 1"),
        ("--learning-rates 0.1 0", "--learning-rates must be positive, got 0"),
        ("--small-batch 513", "--small-batch must be at most 512, got 513"),
        ("--seeds 0", "--seeds must be positive, got 0"),
        ("--seed -1", "--seed must be from 0 to 2147483644"),
        ("--seed 0", "--seed must be above 0, whose runs set"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(tmp_path, capsys, flags, message):
    folder = tmp_path / "run"
    assert cli.main(["curvature", "--folder", str(folder), *flags.split()]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "report.html").exists()
