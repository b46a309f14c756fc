"""Optuna's search over our spaces: reproducible, gone on with, pruned, and quiet."""

import logging
import math
import subprocess
import sys

import numpy as np
import optuna
import pytest

from jaxnets.train import selection

SPACE = {
    "rate": selection.LogUniform(1e-4, 1.0),
    "dropout": selection.Uniform(0.0, 0.5),
    "hidden": selection.Choice([(8,), (16, 16), (8,) * 3]),
    "optimizer": selection.Choice(["sgd", "adam"]),
}


def bowl(config):
    """Least at a rate of 0.01, two layers and adam."""
    missed = (math.log10(config["rate"]) + 2) ** 2 + config["dropout"]
    return missed + abs(len(config["hidden"]) - 2) + (config["optimizer"] != "adam")


@pytest.fixture
def study():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3))
    optuna.logging.set_verbosity(verbosity)


def test_it_finds_better_than_the_random_start_and_ranks_all():
    rows = selection.optuna_search(bowl, SPACE, 40, seed=0)
    assert sorted(row.number for row in rows) == list(range(40))
    assert all(row.mean == bowl(row.config) == row.scores[0] for row in rows)
    assert [row.mean for row in rows] == sorted(row.mean for row in rows)
    assert rows[0].number >= 10
    assert rows[0].config["hidden"] == (16, 16)
    for row in rows:
        assert 1e-4 <= row.config["rate"] <= 1
        assert 0 <= row.config["dropout"] <= 0.5
        assert row.config["hidden"] in SPACE["hidden"].values


def test_a_seed_is_one_search_and_a_study_is_gone_on_with(study):
    whole = selection.optuna_search(bowl, SPACE, 16, seed=3)
    assert whole == selection.optuna_search(bowl, SPACE, 16, seed=3)
    assert whole != selection.optuna_search(bowl, SPACE, 16, seed=4)
    assert len(selection.optuna_search(bowl, SPACE, 9, study=study)) == 9
    assert selection.optuna_search(bowl, SPACE, 7, study=study) == whole


def test_what_others_tried_in_a_study_counts(study):
    study.enqueue_trial({"rate": 0.01, "dropout": 0.0, "hidden": 1, "optimizer": "adam"})
    study.optimize(lambda trial: trial.suggest_float("other", 0, 1) - 9, n_trials=1)
    rows = selection.optuna_search(bowl, SPACE, 2, study=study)
    assert list(rows[0].config) == ["other"]
    assert rows[0].mean < -7
    assert rows[0].scores == (rows[0].mean,)


def test_folds_are_kept_and_their_mean_made_small(study):
    space = {"offset": selection.Uniform(-1, 1)}
    rows = selection.optuna_search(
        lambda config: config["offset"] ** 2 + np.array([0.0, 1.0, 2.0]), space, 5, study=study
    )
    for row, value in zip(rows, sorted(study.trials, key=lambda t: t.value), strict=True):
        assert row.mean == value.value
        np.testing.assert_allclose(row.scores, row.config["offset"] ** 2 + np.arange(3.0))
        assert row.standard_error == pytest.approx(1 / math.sqrt(3))
    assert rows[0].mean == study.best_value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, [1.0, math.nan]])
def test_what_is_not_finite_is_worst(bad, study):
    space = {"x": selection.Choice([0, 1, 2])}

    def score(config):
        return bad if config["x"] == 1 else float(config["x"])

    rows = selection.optuna_search(score, space, 12, study=study)
    finite = [math.isfinite(row.mean) for row in rows]
    assert finite == sorted(finite, reverse=True)
    assert {row.config["x"] for row, kept in zip(rows, finite, strict=True) if not kept} == {1}
    # told to the sampler as the worst, not left out
    assert max(trial.value for trial in study.trials) == math.inf
    assert rows[0].config == {"x": 0}


def test_a_generator_is_stopped_by_the_pruner_and_where_it_diverges():
    stopped = []

    def score(config):
        try:
            for step in range(10):
                yield math.nan if config["x"] > 0.95 and step == 2 else config["x"] + 1 / (1 + step)
        except GeneratorExit:
            stopped.append(config["x"])
            raise

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.ThresholdPruner(upper=1.0, n_warmup_steps=5),
    )
    optuna.logging.set_verbosity(verbosity)
    rows = selection.optuna_search(score, {"x": selection.Uniform(0, 1)}, 40, study=study)
    assert len(rows) == 40
    done = [row for row in rows if math.isfinite(row.mean)]
    # at step 6 what is above 1 - 1/7 is stopped
    assert {row.config["x"] for row in done} == {x for x in xs(rows) if x + 1 / 7 <= 1}
    assert all(row.scores == (row.config["x"] + 0.1,) for row in done)
    pruned = [t for t in study.trials if t.state.name == "PRUNED"]
    assert pruned
    assert {t.params["x"] for t in pruned} <= set(stopped)
    assert all(row.scores == () for row in rows if row.number in {t.number for t in pruned})
    diverged = [t for t in study.trials if t.params["x"] > 0.95]
    assert {t.params["x"] for t in diverged} <= set(stopped)
    assert diverged
    assert all(t.value == math.inf and len(t.intermediate_values) == 2 for t in diverged)


def test_any_iterator_gives_scores_step_by_step(study):
    space = {"x": selection.Uniform(0, 1)}
    rows = selection.optuna_search(lambda c: map(float, [3, 2, c["x"]]), space, 8, study=study)
    for row in rows:
        assert row.scores in ((), (row.config["x"],))
    assert list(study.trials[0].intermediate_values.values())[:2] == [3.0, 2.0]


def xs(rows):
    return [row.config["x"] for row in rows]


def test_an_error_is_raised_and_its_trial_failed(study):
    def score(config):
        raise ZeroDivisionError("of the score's own")

    with pytest.raises(ZeroDivisionError):
        selection.optuna_search(score, SPACE, 3, study=study)
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    rows = selection.optuna_search(bowl, SPACE, 1, study=study)
    assert [row.number for row in rows] == [1, 0]
    assert math.isnan(rows[1].mean)


def test_values_that_are_equal_to_python_are_told_apart(study):
    space = {"x": selection.Choice([0, False, 1, True])}
    selection.optuna_search(lambda config: 0.0, space, 20, study=study)
    found = {repr(row.config["x"]) for row in selection.optuna_search(
        lambda config: 0.0, space, 20, study=study
    )}  # fmt: skip
    assert found == {"0", "False", "1", "True"}


def test_it_says_nothing_and_leaves_logging_as_it_was(caplog, capfd):
    before = optuna.logging.get_verbosity()
    level = logging.getLogger("optuna").level
    selection.optuna_search(bowl, SPACE, 2, seed=0)
    assert (optuna.logging.get_verbosity(), logging.getLogger("optuna").level) == (before, level)
    out = capfd.readouterr()
    assert (out.out, out.err, caplog.text) == ("", "", "")


def test_optuna_is_imported_only_when_asked_and_missed_by_name():
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from jaxnets.train import selection\n"
        "try: selection.optuna_search(lambda config: 0.0, {}, 1, seed=0)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'jaxnets[selection]'" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "seed": 0}, "n must be at least 1, got 0"),
        ({}, "either seed or study"),
        ({"seed": 0, "study": object()}, "either seed or study"),
        ({"seed": 0, "space": {"a": selection.Uniform(1, 0)}}, "optuna_search: a is no distri"),
        ({"seed": 0, "score": lambda config: iter(())}, "at least one value, got none"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    given = {"score": bowl, "space": SPACE, "n": 1} | arguments
    with pytest.raises(ValueError, match=message):
        selection.optuna_search(**given)


def test_a_study_that_maximizes_is_refused(study):
    other = optuna.create_study(direction="maximize")
    with pytest.raises(ValueError, match="study must minimize one value"):
        selection.optuna_search(bowl, SPACE, 1, study=other)
