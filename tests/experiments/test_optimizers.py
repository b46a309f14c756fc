"""The comparison of optimizers, quick and end to end, and the parts that judge."""

import dataclasses
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.data import load
from experiments.errors import UsageError
from experiments.optimizers import descent, families, functions, images, ranking, report
from experiments.optimizers.experiment import Amounts, Config, settle
from jaxnets import models, optim

NAMES = ["sgd", "momentum", "lbfgs", "muon", "adamw"]
RUN = ["optimizers", "--quick", "--optimizers", *NAMES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert cli.main([*RUN, "--folder", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def records(finished):
    return [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(finished, records):
    config = json.loads((finished / "config.json").read_text())["config"]
    assert (config["rates"], config["steps"], config["epochs"], config["seeds"]) == (6, 1000, 2, 1)
    rates = sorted({record["rate"] for record in records})
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 10, 6), rtol=1e-5)
    on_functions = [r for r in records if "function" in r]
    # three in the plane; Muon and its four references on the matrix
    assert len(on_functions) == 6 * (3 * 6 + 5)
    on_images = [r for r in records if "seed" in r]
    assert {r["optimizer"] for r in on_images} == set(NAMES) - {"lbfgs"}
    assert len(on_images) == 6 * 4
    pictures = {path.stem for path in finished.glob("*.png")}
    assert pictures == {"arrivals", "accuracies", "descent", "curvature", "matrices"}
    html = (finished / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "6 rates from 0.0001 to 10" in html


def fewest(records, function, optimizer):
    """Steps to the tolerance at the best rate; infinite if it is not reached."""
    rows = [r for r in records if (r.get("function"), r["optimizer"]) == (function, optimizer)]
    return min(np.inf if r["steps_to_tolerance"] is None else r["steps_to_tolerance"] for r in rows)


@pytest.mark.thorough
def test_known_orders_of_convergence_are_seen(records):
    sgd, momentum, lbfgs = (
        fewest(records, "ill-conditioned", name) for name in ("sgd", "momentum", "lbfgs")
    )
    # a quadratic in two dimensions for L-BFGS; momentum ten times as fast along the valley
    assert lbfgs < 10 < momentum < 700 < sgd
    assert fewest(records, "matrix", "momentum") < fewest(records, "matrix", "sgd")
    assert fewest(records, "Rosenbrock", "lbfgs") < 50 < fewest(records, "Rosenbrock", "sgd")
    # steps of a fixed length circle the minimum
    assert fewest(records, "matrix", "muon") == np.inf
    assert fewest(records, "saddle", "momentum") < np.inf
    # with a fixed rate, noise lets none arrive
    assert fewest(records, "noisy", "momentum") == np.inf


@pytest.mark.thorough
def test_images_are_learned_at_a_fitting_rate_and_not_at_another(records):
    accuracy = {
        (r["optimizer"], round(r["rate"], 5)): r["test_accuracy"] for r in records if "seed" in r
    }
    assert accuracy["adamw", 0.01] > 0.85 > 0.5 > accuracy["adamw", 0.0001]
    assert accuracy["momentum", 0.1] > 0.85 > 0.5 > accuracy["momentum", 10.0]


@pytest.mark.parametrize("arena", functions.ARENAS)
def test_every_minimum_is_0_and_flat_and_no_other_point_is_lower(arena, x64):
    rng = np.random.default_rng(0)
    for function in functions.ARENAS[arena]:
        minima = function.minima or [functions._TARGET]
        for minimum in minima:
            point = jnp.asarray(minimum, jnp.float64)
            value, slope = jax.value_and_grad(function.loss)(point)
            np.testing.assert_allclose(value, 0, atol=1e-14)
            np.testing.assert_allclose(slope, 0, atol=1e-7)
        points = np.shape(function.start)
        others = jax.vmap(function.loss)(jnp.asarray(rng.normal(0, 3, (1000, *points))))
        assert np.all(others > 0)
        assert function.loss(jnp.asarray(function.start)) > 100 * ranking.TOLERANCE


@pytest.mark.parametrize("name", ["ill-conditioned", "matrix"])
def test_the_ill_conditioned_have_the_condition_that_is_claimed(name, x64):
    (function,) = (f for fs in functions.ARENAS.values() for f in fs if f.name == name)
    start = jnp.asarray(function.start)
    hessian = jax.hessian(lambda x: function.loss(x.reshape(start.shape)))(start.ravel())
    curvatures = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(curvatures[-1] / curvatures[0], functions.CONDITION, rtol=1e-6)
    # turned: the diagonal is not the spectrum
    assert np.abs(np.sort(np.diag(hessian)) - curvatures).max() > 1


def test_a_sweep_is_each_rate_by_itself(x64):
    """One `vmap` over rates and a `map` over functions, against plain loops."""
    rates = np.array([1e-3, 0.02, 0.3])
    plane = functions.PLANE[2:]
    paths = descent.sweep(families.MOMENTUM, plane, jnp.asarray(rates), 5, jax.random.key(3))
    noise = jax.random.normal(jax.random.key(3), (5, 2))
    for row, function in enumerate(plane):
        for column, rate in enumerate(rates):
            x, velocity = np.array(function.start), np.zeros(2)
            for t in range(6):
                np.testing.assert_allclose(paths.points[row, column, t], x, rtol=1e-9)
                np.testing.assert_allclose(
                    paths.values[row, column, t], function.loss(jnp.asarray(x)), rtol=1e-9
                )
                if t < 5:
                    slope = jax.grad(function.loss)(jnp.asarray(x)) + function.noise * noise[t]
                    velocity = 0.9 * velocity + slope
                    x = x - rate * velocity


def test_averaged_parameters_are_the_ones_judged(x64):
    (contender,) = (
        c for f in families.FAMILIES for c in f.contenders if c.name == "schedule_free_sgd"
    )
    (function,) = functions.PLANE[:1]
    paths = descent.sweep(contender, [function], jnp.array([1e-3, 2e-3]), 4, jax.random.key(0))
    # x is the mean of the iterates z of plain steps, here all of one weight
    x = z = np.array(function.start)
    for t in range(4):
        slope = jax.grad(function.loss)(jnp.asarray(0.1 * z + 0.9 * x))
        z = z - 2e-3 * slope
        x = x + (z - x) / (t + 1)
        np.testing.assert_allclose(paths.points[0, 1, t + 1], x, rtol=1e-9)


def test_arriving_is_staying():
    values = np.ones(20)
    assert ranking.steps_to(values, 0.5) is None
    values[3] = 0.1  # passes through
    assert ranking.steps_to(values, 0.5) is None
    values[10:] = 0.1
    assert ranking.steps_to(values, 0.5) == 10
    values[19] = np.nan
    assert ranking.steps_to(values, 0.5) is None
    values[:18], values[18:] = 1, 0.1  # the last tenth, and no more
    assert ranking.steps_to(values, 0.5) == 18
    values[18] = 1
    assert ranking.steps_to(values, 0.5) is None
    assert ranking.steps_to(np.zeros(20), 0.5) == 0
    assert ranking.late_mean(np.arange(20.0)) == 18.5
    assert ranking.late_mean(np.full(20, np.nan)) == np.inf
    # finite, and their sum is not
    assert ranking.late_mean(np.full(20, 1e308)) == np.inf


def test_the_best_rate_arrives_first_or_else_ends_lowest_and_edges_are_flagged():
    rates = np.array([0.1, 1.0, 10.0])
    never = np.linspace(5, 1, 21)
    early, late = np.zeros(21), np.zeros(21)
    early[:4], late[:9] = 1, 1
    best = ranking.best(np.stack([never, late, early + 1e-5]), rates, noisy=False)
    assert (best.rate, best.steps, best.at_edge) == (10.0, 4, True)
    best = ranking.best(np.stack([never, late, early + 1e-5]), rates, noisy=True)
    assert (best.rate, best.steps, best.at_edge) == (1.0, None, False)
    best = ranking.best(np.stack([never, never + 1, never * np.nan]), rates, noisy=False)
    assert (best.rate, best.steps, best.late) == (0.1, None, pytest.approx(1.1))


def outcome(**rows):
    return images.Outcome(**{name: np.array(value) for name, value in rows.items()})


def test_held_out_images_choose_the_rate_and_test_images_do_not():
    found = outcome(
        loss=[[0.1, 0.2, 9.0], [0.1, np.nan, 0.1]],
        held_out=[[0.5, 0.9, 0.9], [0.5, 0.8, 0.7]],
        test=[[1.0, 0.6, 0.9], [1.0, 0.8, 0.9]],
    )
    choice = images.choose(found, np.array([0.1, 1.0, 10.0]))
    assert (choice.rate, choice.at_edge) == (1.0, False)
    assert (choice.held_out, choice.test) == (pytest.approx(0.85), pytest.approx(0.7))
    assert images.diverged(found, classes=10).tolist() == [False, True, True]


def test_a_fifth_of_the_training_images_is_held_out():
    data = load("digits")
    split = images.split(data)
    assert (len(split.held_out["y"]), len(split.train["y"])) == (287, 1150)
    np.testing.assert_allclose(np.mean(split.train["x"]), 0, atol=1e-6)
    counts = np.bincount(split.train["y"]) + np.bincount(split.held_out["y"])
    np.testing.assert_array_equal(counts, np.bincount(data.train_y))
    with pytest.raises(UsageError, match="there is only 1 training image"):
        images.split(data._replace(train_x=data.train_x[:1], train_y=data.train_y[:1]))


def test_seeds_differ_in_weights_and_batches_and_rates_share_them():
    model = models.MLPConfig(4, 2, hidden=(3,))
    begun = images.begin(model, 20, jnp.arange(2), 5, 3)
    assert begun.batches.shape == (2, 3, 4, 5)
    for order in np.asarray(begun.batches).reshape(6, 20):
        np.testing.assert_array_equal(np.sort(order), np.arange(20))
    assert not np.array_equal(begun.batches[0], begun.batches[1])
    assert not np.array_equal(*begun.params["layers"][0]["kernel"])


def test_the_optimizers_are_the_librarys_and_each_has_one_row():
    """All functions of `optim` that take a learning rate, but for what only scales and wraps."""
    aside = {"optimistic_adam", "schedule_free", "scale_by_learning_rate"}
    aliases = {
        name
        for name in optim.__all__
        if inspect.isfunction(function := getattr(optim, name))
        and {"learning_rate", "max_learning_rate"} & set(inspect.signature(function).parameters)
        and not name.startswith("scale_by")
    }
    assert {"adam", "soap", "polyak_sgd"} < aliases
    assert aliases - aside <= set(families.NAMES)
    assert len(set(families.NAMES)) == len(families.NAMES)


def families_run(*names):
    """What was run on functions, with the references; on images nothing."""
    return report.Results(
        rates=np.array([0.1, 1.0]),
        families=[
            # of tracks, only whether there are any is looked at
            report.FamilyResult(family, ["track"] * 5 * bool(family.arena))
            for family in families.chosen(names)
        ],
        images=[],
    )


def test_the_summary_counts_what_was_asked_for_and_not_its_references():
    data = load("digits")
    for names, said in [
        (["muon"], "Optimizers: 1 on test functions, none on digits."),
        (["muon", "adam", "adamw"], "Optimizers: 2 on test functions, none on digits."),
        (["adamw"], "Optimizers: none on test functions, none on digits."),
    ]:
        assert report._summary(data, families_run(*names)) == said


def test_a_report_says_why_no_optimizer_was_run_on_images(tmp_path):
    config = {"seeds": 1, "epochs": 1, "hidden": 1, "batch_size": 8}
    data = load("digits")
    (section,) = report._image_section(tmp_path, data, families_run("lbfgs", "soap"), config)
    assert section.title == "On digits"
    (paragraph,) = section.blocks
    assert "None of these optimizers was run there" in paragraph.text
    assert "search along a line" in paragraph.text
    assert "Shampoo and SOAP" in paragraph.text


def test_one_is_not_many():
    assert [report.count(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]


def test_quick_leaves_other_flags_alone():
    assert settle(Config(quick=True, rates=4, seeds=2)) == Amounts(4, 1000, 2, 2)
    assert settle(Config()) == Amounts(16, 2000, 20, 3)
    assert settle(Config(data="fashion-mnist")).epochs == 2
    assert dataclasses.replace(Config(), quick=True) == Config(quick=True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--optimizers adm", "unknown optimizer 'adm' (did you mean adam?); there are sgd,"),
        ("--rates 1", "the grid needs --rates of at least 2"),
        ("--rates 0", "--rates must be positive, got 0"),
        ("--lowest-rate 0", "--lowest-rate must be positive, got 0"),
        ("--highest-rate nan", "--highest-rate must be positive, got nan"),
        ("--highest-rate inf", "--highest-rate must be positive, got inf"),
        ("--highest-rate 1e-5", "--lowest-rate below --highest-rate, got 6 from 0.0001 to 1e-05"),
        ("--steps 0", "--steps must be positive, got 0"),
        ("--epochs -1", "--epochs must be positive, got -1"),
        ("--seeds 0", "--seeds must be positive, got 0"),
        ("--hidden 0", "--hidden must be positive, got 0"),
        ("--seed -1", "--seed must be from 0 to 2147483646 (2³¹ - 1 - seeds), got -1"),
        ("--batch-size 1151", "--batch-size must be at most the 1150 training images, got 1151"),
        ("--data imagenet", "unknown data set 'imagenet'"),
        ("--data fashion-mnist --data-folder nowhere", "nowhere"),
        ("--no-such-flag 1", "no-such-flag"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_folder(tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    assert cli.main(["optimizers", "--quick", "--folder", str(folder), *more.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not folder.exists()
