"""Selection: end to end, what each search spends, and what is said of the differences."""

import json
import re

import numpy as np
import pytest

from experiments import cli
from experiments.benchmarks import timing
from experiments.data import load
from experiments.selection import judging, searches, task
from experiments.selection.experiment import Amounts, Config, settle
from experiments.selection.searches import Chosen, Result
from jaxnets import models
from jaxnets.train import selection

GRID = task.grid(3, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The quick form, shortened."""
    folder = tmp_path_factory.mktemp("selection") / "run"
    flags = "--quick --epochs 3 --rates 2 --decays 2 --seeds 2 --examples 150 --hidden 8"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "TURN", 0.0)
        assert cli.main(["selection", *flags.split(), "--folder", str(folder)]) == 0
    return folder


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(run):
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["epochs"], config["rates"], config["decays"], config["seeds"]) == (3, 2, 2, 2)
    pictures = {path.stem for path in run.glob("*.png")}
    assert pictures == {
        "ranking", "grid", "estimates", "searches", "halving", "hyperband", "optuna",
    }  # fmt: skip
    html = (run / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "undecided" in html or "better" in html


@pytest.mark.thorough
def test_what_was_measured_is_recorded_and_costs_no_more_than_allowed(run):
    found = records(run)
    searched = [r for r in found if "test_loss" in r]
    assert {r["search"] for r in searched} == set(searches.SEARCHES)
    assert len(searched) == 2 * len(searches.SEARCHES)
    for r in searched:
        assert 11 <= r["step"] <= 12
        assert np.isfinite(r["test_loss"])
        assert 0 <= r["test_error"] <= 1
    estimates = [r for r in found if "truth" in r]
    assert [r["seed"] for r in estimates] == [0, 1]
    for r in estimates:
        assert len(r["rows"]) == len(r["true_losses"]) == 4
        assert r["truth"] == r["true_losses"][r["rows"][0]["number"]]
        assert all(len(row["scores"]) == 5 for row in r["rows"])
    costs = [r for r in found if "nets" in r]
    assert [r["nets"] for r in costs] == [4, 20]


def test_plans_spend_what_they_may():
    for most, budget in ((27, 378), (81, 1620), (9, 100)):
        plan = searches.halving_plan(budget, most)
        assert 0.95 * budget <= selection.cost(plan) <= budget
        assert plan[-1].budget == most
        plans = searches.hyperband_plans(budget, most)
        spent = sum(map(selection.cost, plans))
        assert spent == searches.hyperband_epochs(most) <= budget
        assert {p[-1].budget for p in plans} == {most}
    assert len(searches.hyperband_plans(3 * 69, 9)) == 9
    with pytest.raises(ValueError, match="too few for all brackets once"):
        searches.hyperband_plans(68, 9)


def test_examples_are_drawn_with_their_classes_and_the_others_judge():
    data = load("digits")
    drawn = task.draw_examples(data, 300, seed=1)
    inside, outside = drawn
    assert inside["x"].shape == (300, 64)
    assert outside["x"].shape == (1497, 64)
    assert np.bincount(inside["y"]).min() >= 28
    np.testing.assert_allclose(inside["x"].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(inside["x"].std(), 1, atol=1e-5)
    together = np.concatenate([inside["y"], outside["y"]])
    np.testing.assert_array_equal(
        np.bincount(together), np.bincount(np.r_[data.train_y, data.test_y])
    )
    assert not np.array_equal(task.draw_examples(data, 300, seed=2).development["y"], inside["y"])


def test_a_grid_is_the_middles_of_equal_parts():
    np.testing.assert_allclose(
        task.mids(selection.LogUniform(1e-4, 1.0), 4), 10 ** np.array([-3.5, -2.5, -1.5, -0.5])
    )


@pytest.mark.thorough
def test_the_choice_is_by_held_out_data_alone():
    """Of a search that trains all to the end: as good on held-out data as its score says."""
    data = load("digits")
    drawn = task.draw_examples(data, 200, seed=0)
    job = task.Task(models.MLPConfig(64, 10, hidden=(8,)), 32)
    parts = [
        {name: leaf[rows] for name, leaf in drawn.development.items()}
        for rows in selection.stratified_kfold(drawn.development["y"], 3, seed=0)[0]
    ]
    problem = searches.Problem(job, searches.Amount(GRID, 3), *parts, 0)
    for search in (searches.grid_search, searches.successive_halving):
        chosen = search(problem)
        loss, _ = task.judged(job, chosen.params, parts[1])
        np.testing.assert_allclose(loss, chosen.held_out, rtol=1e-4)
        assert chosen.tried * 1 <= chosen.epochs <= 9


def results(test_losses):
    """As if so measured, a list for each search."""

    def result(value):
        return Result(Chosen(None, {}, 0.0, 1, 1), value, value, 0.0)

    columns = zip(*test_losses.values(), strict=True)
    searched = [dict(zip(test_losses, map(result, row), strict=True)) for row in columns]
    return judging.Results([], [], searched, {})


def test_differences_are_called_better_only_where_the_seeds_decide():
    found = results(
        {
            "random": [0.30, 0.32, 0.28, 0.31],
            "better": [0.20, 0.23, 0.17, 0.21],
            "worse": [0.40, 0.43, 0.37, 0.41],
            "scattered": [0.10, 0.52, 0.18, 0.31],
            "same": [0.301, 0.321, 0.279, 0.31],
        }
    )
    judged = judging.compared(found, "test_loss", 0.01)
    assert {name: judging.said(each) for name, each in judged.items()} == {
        "better": "better",
        "worse": "worse",
        "scattered": "undecided",
        "same": "no different by 0.01 or more",
    }


def test_quick_leaves_other_flags_alone():
    assert settle(Config()) == Amounts(81, 5, 4, 20)
    assert settle(Config(quick=True)) == Amounts(27, 7, 2, 6)
    assert settle(Config(quick=True, epochs=9, seeds=3)) == Amounts(9, 7, 2, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--epochs 10", "--epochs must be a power of 3, 3 at least, got 10"),
        ("--rates 3 --decays 2", "--rates × --decays must be at least 20"),
        ("--seeds 1", "--seeds must be at least 2, got 1"),
        ("--seed -1", "--seed must be from 0"),
        ("--hidden 0", "--hidden must be positive, got 0"),
        ("--examples 90", "--examples must be from 104"),
        ("--examples 1500", "to 1198, two thirds of all, got 1500"),
        ("--batch-size 300", "--batch-size must be at most the 254"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(tmp_path, capsys, flags, message):
    folder = tmp_path / "run"
    assert cli.main(["selection", "--folder", str(folder), *flags.split()]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not folder.exists()
