"""The verdicts of claims, their training, and the experiment end to end."""

import dataclasses
import importlib
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.claims import (
    batch_size,
    claim,
    critical_batch,
    deep_nets,
    double_descent,
    dying_relu,
    experiment,
    few_digits,
    modes,
    momentum,
    rates,
    registry,
)
from experiments.claims.experiment import Config, settle
from experiments.claims.pictures import draw_lines, draw_seeds, panels
from experiments.claims.report import strongest
from experiments.claims.training import (
    WORST,
    bounded,
    cross_entropy,
    digits,
    error_rate,
    fit,
    steps_to,
    sweep,
)
from experiments.claims.verdict import Arm, Comparison, effect_text, judge, verdict
from experiments.errors import UsageError
from jaxnets import models, optim


def comparison(treated, control, expected="less", margin=0.0, ratio=False, where="here"):
    arms = Arm("with", np.asarray(treated, float)), Arm("without", np.asarray(control, float))
    return Comparison(where, "error", *arms, expected, margin, ratio)


def test_the_interval_is_students_of_paired_differences():
    treated, control = [1.0, 2.5, 3.0, 4.5, 5.5], [2.0, 3.0, 4.5, 5.0, 7.0]
    judged = judge(comparison(treated, control))
    d = np.subtract(treated, control)
    half = 2.7764451 * d.std(ddof=1) / math.sqrt(5)  # t of 4 degrees of freedom at 97.5 %
    np.testing.assert_allclose(judged[1:4], [d.mean(), d.mean() - half, d.mean() + half], rtol=1e-6)
    assert judged.as_claimed is True


def test_a_ratio_is_of_geometric_means():
    judged = judge(comparison([1, 4], [10, 40], ratio=True, margin=5.0))
    np.testing.assert_allclose(judged[1:4], [0.1, 0.1, 0.1], rtol=1e-12)
    assert judged.as_claimed is True
    assert effect_text(judged) == "×0.1 (0.1 to 0.1)"


CASES = {
    # differences (treated - control), expected, margin -> as claimed
    "less, and more than the margin": ([-2, -2.1, -1.9], "less", 1.0, True),
    "less, but under the margin": ([-0.5, -0.6, -0.4], "less", 1.0, False),
    "the other way": ([2, 2.1, 1.9], "less", 1.0, False),
    "too spread to tell": ([-3, 1, -2], "less", 1.0, None),
    "more": ([2, 2.1, 1.9], "more", 1.0, True),
    "same": ([0.1, -0.1, 0.0], "same", 1.0, True),
    "same, too spread to tell": ([2, -2, 0.0], "same", 1.0, None),
    "same, but is not": ([2, 2.1, 1.9], "same", 1.0, False),
    "not more, though a little": ([0.1, 0.2, 0.15], "not more", 1.0, True),
    "not more, but far less": ([-5, -5.1, -4.9], "not more", 1.0, True),
    "not more, but is": ([2, 2.1, 1.9], "not more", 1.0, False),
    "not more, too spread to tell": ([2, -2, 0.0], "not more", 1.0, None),
    "not more, the interval across the margin": ([1, 1.2, 0.8], "not more", 1.0, None),
    "not less, but far more": ([5, 5.1, 4.9], "not less", 1.0, True),
    "not less, but is": ([-2, -2.1, -1.9], "not less", 1.0, False),
    "not finite": ([np.inf, 1, 1], "more", 1.0, None),
    "not more, not finite": ([-np.inf, 1, 1], "not more", 1.0, None),
}


@pytest.mark.parametrize(("differences", "expected", "margin", "answer"), CASES.values(), ids=CASES)
def test_judgement(differences, expected, margin, answer):
    judged = judge(comparison(np.array(differences), np.zeros(3), expected, margin))
    assert judged.as_claimed is answer


def test_a_sure_effect_below_the_margin_is_weakly_as_claimed():
    def weakly(differences, expected="less", margin=1.0, **arm):
        few = comparison(np.array(differences), np.zeros(3), expected, margin)
        return judge(few._replace(treated=few.treated._replace(**arm))).weakly

    assert weakly([-0.5, -0.6, -0.4])
    assert weakly([0.5, 0.6, 0.4], "more")
    # the interval reaches the margin, the mean does not
    assert weakly([-0.9, -1.1, -0.7])
    assert not weakly([-2, -2.1, -1.9])
    assert not weakly([0.5, 0.6, 0.4])
    assert not weakly([-0.5, 0.1, -0.4])
    # of these, less than the margin is all that is said
    for expected in ("same", "not more", "not less"):
        assert not weakly([0.5, 0.6, 0.4], expected)
    # a bound: the true effect may be beyond the margin
    assert not weakly([-0.5, -0.6, -0.4], floor=-0.5)
    assert judge(comparison([0.72, 0.7, 0.74], [1, 1, 1], "less", 1.5, ratio=True)).weakly


def test_a_one_sided_claim_of_a_factor():
    halved = comparison([1, 2], [2, 4], "not more", 1.5, ratio=True)
    assert judge(halved).as_claimed is True
    assert judge(halved._replace(expected="not less")).as_claimed is False


def test_at_a_cap_or_floor_an_effect_is_a_bound():
    capped = comparison([100, 110], [1000, 1000], "less", 2.0, ratio=True)
    capped = capped._replace(control=capped.control._replace(cap=1000))
    assert effect_text(judge(capped)) == "≤ ×0.105 (at most 0.192)"
    assert judge(capped).as_claimed is True
    # what is beyond the cap could be any number of times more
    assert judge(capped._replace(expected="same")).as_claimed is False
    assert judge(capped._replace(margin=20.0)).as_claimed is None
    assert judge(capped._replace(expected="not less")).as_claimed is False
    floored = comparison([5.0, 5.2], [0.0, 1.0], "not more", 9.0)
    floored = floored._replace(control=floored.control._replace(floor=0.0))
    assert effect_text(judge(floored)).startswith("≥ +4.6 (at least -")
    assert judge(floored).as_claimed is None
    both = floored._replace(treated=floored.treated._replace(floor=5.0))
    assert effect_text(judge(both)) == "not measured: out of range"


def test_verdicts():
    yes, no = (
        comparison([1, 1.1], [2, 2.1], where="here"),
        comparison([2, 2.1], [1, 1.1], where="there"),
    )
    unclear = comparison([1, 3], [2, 2], where="elsewhere")
    assert str(verdict([yes, yes])) == "holds"
    assert str(verdict([no, no])) == str(verdict([no, unclear])) == "does not hold"
    assert str(verdict([unclear])) == "undecided"
    assert str(verdict([yes, no])) == "holds only here; not there"
    assert str(verdict([yes, unclear])) == "decided in part: holds here; undecided elsewhere"
    assert str(verdict([yes, no, unclear])) == "holds only here; not there; undecided elsewhere"


def test_verdicts_of_sentences_that_hold_weakly():
    yes, little, factor = (
        comparison([1, 1.1], [9, 9.1], where="here", margin=5.0),
        comparison([1, 1.1], [2, 2.1], where="hardly", margin=5.0),
        comparison([1, 1.1], [1.2, 1.32], where="barely", margin=1.5, ratio=True),
    )
    no, unclear = little._replace(condition="there"), comparison([1, 3], [2, 2], where="elsewhere")
    no = no._replace(treated=little.control, control=little.treated)
    sure = "the effect is in the claimed direction and sure, but smaller than the margin of"
    assert str(verdict([little])) == f"holds weakly: {sure} 5 set beforehand"
    assert str(verdict([little, factor])) == f"holds weakly: {sure} 5 or ×1.5 set beforehand"
    assert str(verdict([yes, little])) == "holds only here; weakly hardly"
    assert str(verdict([yes, little, unclear])) == (
        "holds only here; weakly hardly; undecided elsewhere"
    )
    assert str(verdict([little, no])) == "holds only weakly hardly; not there"
    assert str(verdict([yes, little, no, unclear])) == (
        "holds only here; weakly hardly; not there; undecided elsewhere"
    )
    assert str(verdict([little, unclear])) == (
        "decided in part: holds weakly hardly; undecided elsewhere"
    )
    assert strongest(verdict([little, little])) == "error, hardly: -1 (-1 to -1)"
    assert strongest(verdict([little, no])) == "error, hardly: -1 (-1 to -1)"
    assert strongest(verdict([little, yes, no])) == "error, here: -8 (-8 to -8)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: judge(comparison([1, 2], [1])), "one value for each seed"),
        (lambda: judge(comparison([1, 0], [1, 1], ratio=True, margin=2.0)), "positive values"),
        (lambda: judge(comparison([1], [1], margin=0.5, ratio=True)), "margin is out of range"),
        (lambda: verdict([]), "at least one comparison"),
    ],
)
def test_what_cannot_be_judged(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_fit_is_gradient_descent():
    data = {"x": jnp.arange(8.0), "y": 3 * jnp.arange(8.0)}

    def loss(w, batch, key):
        return jnp.mean((w * batch["x"] - batch["y"]) ** 2) / 2

    seen = fit(
        loss, optim.sgd(0.01), jnp.zeros(()), data,
        key=jax.random.key(0), steps=6, batch_size=8, record=lambda w: w, every=2,
    )  # fmt: skip
    w, losses = 0.0, []
    for _ in range(6):
        losses.append(17.5 * (w - 3) ** 2 / 2)
        w -= 0.01 * 17.5 * (w - 3)
    np.testing.assert_allclose(seen.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(seen.params, w, rtol=1e-6)
    assert seen.records.shape == (3,)
    with pytest.raises(ValueError, match="every must divide the 6 steps, got 4"):
        fit(loss, optim.sgd(0.1), 0.0, data, key=jax.random.key(0), steps=6, batch_size=8, every=4)


def test_each_epoch_sees_each_example_once():
    data = {"x": jnp.arange(6.0), "y": jnp.arange(6)}
    seen = fit(
        lambda w, batch, key: w * jnp.sum(2.0 ** batch["y"]),
        optim.sgd(1.0), jnp.zeros(()), data, key=jax.random.key(1),
        steps=6, batch_size=2, record=lambda w: w, every=3,
    )  # fmt: skip
    np.testing.assert_allclose(seen.records, [-63.0, -126.0])


def test_steps_to():
    values = jnp.array([3.0, 2.0, jnp.nan, 1.0, 0.5])
    assert steps_to(values, 1.0) == 4
    assert steps_to(values, 1.0, every=10) == 40
    assert steps_to(values, 0.1) == 6


def test_errors_count_what_is_not_finite():
    logits = jnp.array([[0.0, 1.0], [2.0, 0.0], [jnp.nan, 0.0], [jnp.inf, 0.0]])
    np.testing.assert_allclose(error_rate(logits, jnp.array([1, 1, 0, 0])), 0.75)
    np.testing.assert_allclose(cross_entropy(jnp.zeros((3, 10)), jnp.arange(3)), np.log(10))


def test_losses_are_bounded_by_guessing():
    losses = jnp.array([0.0, 1.0, 9.0, jnp.inf, jnp.nan])
    np.testing.assert_allclose(bounded(losses), [1e-7, 1.0, WORST, WORST, WORST])


def test_digits_can_be_loaded_inside_jit():
    n = jax.jit(lambda: jnp.sum(digits().train["x"]))()
    np.testing.assert_allclose(n, 0, atol=0.1)
    assert digits().test["x"].shape == (360, 64)


def test_a_sweep_is_seeds_by_settings():
    keys = jax.random.split(jax.random.key(0), 2)
    found = sweep(lambda key, rate: jax.random.normal(key) * rate, keys, jnp.arange(3.0))
    each = [[jax.random.normal(key) * r for r in range(3)] for key in keys]
    np.testing.assert_allclose(found, each, rtol=1e-6)


def test_where_no_unit_died_none_can_come_back():
    none = dying_relu._back(np.array([np.nan, np.nan, 0.0]), "at 1")
    assert (none.comparisons, none.why) == (
        [], "at 1 units died in 1 of 3 runs, and two are needed",
    )  # fmt: skip
    some = dying_relu._back(np.array([np.nan, 0.0, 0.01]), "at 1").comparisons
    assert some[0].condition == "at 1, in the 2 of 3 runs with any"
    assert some[0].treated.values.tolist() == [0.0, 0.01]
    every = dying_relu._back(np.array([0.0, 0.0, 0.0]), "at 1").comparisons
    assert every[0].condition == "at 1"
    assert verdict(every).word == "holds"
    config = dying_relu.Config(hidden=(4,), steps=1)
    # a rate at which nothing dies
    assert np.isnan(dying_relu._train(config, "relu", jax.random.key(0), jnp.array(1e-6)).back)


def test_the_critical_batch_is_that_of_the_law():
    sizes = (4, 16, 64, 256)
    steps = 30 * (1 + 50 / np.asarray(sizes))
    np.testing.assert_allclose(critical_batch.critical(sizes, steps), 50, rtol=1e-4)


def test_a_batch_size_that_misses_its_loss_is_a_bound_or_no_test():
    config = batch_size.Config(sizes=(4, 16, 64))
    assert batch_size._unreached(config, 4) == 6000 + 24
    four = batch_size._times(4, Arm("batch 16", np.array([9.0, 11.0]), cap=11.0))
    assert four.name == "4 × batch 16"
    assert (four.values.tolist(), four.cap) == ([36.0, 44.0], 44.0)
    batches = {"noise scale": np.array([20.0, 21.0]), "critical batch": np.array([22.0, 23.0])}
    fine = Arm("batch 4", np.array([5.0, 6.0]), cap=11.0)
    assert verdict(batch_size._turning(config, [fine], batches).comparisons).word == "holds"
    short = fine._replace(cap=6.0)
    assert batch_size._turning(config, [short], batches).why == (
        "no law can be fitted, since not every run of batch 4 reaches the loss"
    )
    batches["critical batch"][1] = 64
    why = "the critical batch, 22 to 64, is outside of the sizes tried"
    assert batch_size._turning(config, [fine], batches).why == why


def test_test_errors_are_compared_by_seeds_that_reach_the_loss():
    config = batch_size.Config()
    error = {"small": np.array([0.1, 0.2, 0.9]), "large": np.array([0.2, 0.3, 0.1])}
    yes = {"small": np.array([True, True, True]), "large": np.array([True, True, True])}
    whole = batch_size._generalize(config, error, yes).comparisons[0]
    assert whole.condition == "both at a training loss of 0.05"
    some = batch_size._generalize(config, error, yes | {"small": np.array([True, True, False])})
    assert some.comparisons[0].condition == "both at a training loss of 0.05, by 2 of 3 seeds"
    assert some.comparisons[0].treated.values.tolist() == [0.1, 0.2]
    none = batch_size._generalize(config, error, yes | {"large": np.array([True, False, False])})
    assert none.why == "small and large are both at a training loss of 0.05 by 1 of 3 seeds"


def test_seeds_are_points_with_the_mean_that_their_effect_is_of():
    groups = {"with": [1.0, 100.0], "without": [10.0, 1000.0]}
    with panels(["a", "b"], share_y=False) as (_, (plain, logarithmic)):
        draw_seeds(plain, groups, y_label="error")
        draw_seeds(logarithmic, groups, log_y=True, colors=[0, 0])
    for axes, means in ((plain, [50.5, 505.0]), (logarithmic, [10.0, 100.0])):
        points, bars = axes.lines[::2], axes.lines[1::2]
        assert [list(line.get_ydata()) for line in points] == list(groups.values())
        np.testing.assert_allclose([line.get_ydata()[0] for line in bars], means)
    assert [len({line.get_color() for line in axes.lines}) for axes in (plain, logarithmic)] == [
        2, 1,
    ]  # fmt: skip


def test_a_narrow_logarithmic_axis_has_numbers_between_powers_of_ten():
    with panels(["narrow", "wide"], share_y=False) as (_, (narrow, wide)):
        draw_seeds(narrow, {"with": [12.0, 70.0]}, log_y=True)
        draw_seeds(wide, {"with": [1.0, 1e4]}, log_y=True)
    label = narrow.yaxis.get_minor_formatter()
    assert [label(value) for value in (20.0, 40.0, 50.0)] == ["20", "", "50"]
    assert type(wide.yaxis.get_minor_formatter()) is not type(label)


def test_equal_values_have_room_on_a_logarithmic_axis():
    with panels(["a", "b"]) as (_, row):
        for axes in row:
            draw_seeds(axes, {"with": [1e-4, 1e-4], "without": [1e-4, 1e-4]}, log_y=True)
    low, high = row[0].get_ylim()
    assert low < 0.9e-4 < 1.1e-4 < high
    # further values on a shared axis still move it
    draw_seeds(row[1], {"with": [1.0, 10.0]}, log_y=True)
    assert row[0].get_ylim()[1] > 10


class Fake:
    TITLE = "A <claim>"

    @staticmethod
    def examine(settings, keys):
        values = np.asarray(jax.vmap(jax.random.uniform)(keys))
        with panels(["a", "b"], share_y=False) as (figure, (left, right)):
            draw_lines(
                left, [1, 10], {"x": np.stack([values, values + 1], 1)}, x_label="n", log_x=True
            )
            draw_seeds(right, {"with": values, "without": values + 2}, y_label="error")
        low, high = Arm("with", values), Arm("without", values + 2)
        holds = Comparison("always", "error", low, high, "less", 1.0)
        return claim.Outcome(
            "Nothing.",
            [
                claim.Tested("It holds.", [holds]),
                claim.Tested("It does not.", [holds._replace(expected="more")]),
                claim.Tested(
                    "It depends.", [holds, holds._replace(expected="same", condition="never")]
                ),
                claim.Tested("It may.", [], "there is no case"),
                claim.Tested("A little.", [holds._replace(margin=3.0)]),
            ],
            [claim.Seen(figure, "Numbers.")],
            "A note.",
        )

    FULL, QUICK = momentum.Config(width=33), momentum.Config(width=5)


def test_the_report_has_contents_verdicts_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "CLAIMS", {"fake": "fake"})
    monkeypatch.setitem(sys.modules, "fake", Fake)
    assert experiment.main(Config(folder=tmp_path / "run", seeds=3, quick=True)) == 0
    page = (tmp_path / "run/report.html").read_text()
    for part in (
        '<a href="#a-claim">A &lt;claim&gt;</a>', '<h2 id="a-claim">', "A note.", "Nothing.",
        "holds only always; not never", "5 sentences, each by 3 seeds: 1 hold, 1 hold weakly,",
        "“A little.” This holds weakly: the effect is in the claimed direction and sure, but "
        "smaller than the margin of 3 set beforehand.",
        "“It does not.” This does not hold.", "“It may.” This is untested: there is no case.",
        "1 could not be tested.", "error, always: -2 (-2 to -2)",
        "Only the full one has: width 33 instead of 5.",
    ):  # fmt: skip
        assert part in page
    assert (tmp_path / "run/fake_1.png").exists()
    records = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    words = ["holds", "does not hold", "holds only", "holds only", "untested", "holds weakly"]
    assert [r["verdict"] for r in records] == words
    assert "does not hold: It does not." in capsys.readouterr().out


class Narrow(Fake):
    @staticmethod
    def examine(settings, keys):
        rates.require_inside([1, 2, 3], [0.1, 1, 1])


def test_a_claim_with_too_narrow_a_grid_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "CLAIMS", {"narrow": "narrow", "fake": "fake"})
    monkeypatch.setitem(sys.modules, "fake", Fake)
    monkeypatch.setitem(sys.modules, "narrow", Narrow)
    assert experiment.main(Config(folder=tmp_path / "run", seeds=3, quick=True)) == 1
    page = (tmp_path / "run/report.html").read_text()
    told = "the least rate of the grid, 1, is its best one: widen the grid"
    assert f"Not tested, narrow: {told}." in page
    assert "5 sentences, each by 3 seeds" in page
    assert f"narrow: not tested: {told}" in capsys.readouterr().out


def test_the_effect_shown_is_the_strongest_of_those_that_decided():
    weak = comparison([1, 1.1], [2, 2.1], margin=0.5, where="here")
    strong = comparison([1, 1.1], [5, 5.1], margin=0.5, where="there")
    wrong = comparison([9, 9.1], [1, 1.1], margin=0.5, where="nowhere")
    assert strongest(verdict([weak, strong, wrong])) == "error, there: -4 (-4 to -4)"
    assert strongest(verdict([wrong, wrong])) == "error, nowhere: +8 (+8 to +8)"
    assert strongest(verdict([weak])) == "error: -1 (-1 to -1)"


def test_flags():
    assert settle(Config()) == list(registry.CLAIMS)
    assert settle(Config(only=("momentum",))) == ["momentum"]
    with pytest.raises(UsageError, match=r"unknown claim 'momentun'.*momentum"):
        settle(Config(only=("momentun",)))
    with pytest.raises(UsageError, match="--seeds must be at least 2"):
        settle(Config(seeds=1))
    assert cli.main(["claims", "--only", "nothing"]) == 2


FEW = {
    "learning_rate": {
        "steps": 20,
        "per_decade": 1,
        "off": 1,
        "top_per_decade": 1,
        "range_steps": 20,
    },
    "adaptive": {"sparse_steps": 20, "task_steps": 150, "net_steps": 20, "per_decade": 1},
    "initialization": {
        "depths": (2, 10),
        "trained_depths": (2, 5),
        "rates": (0.05, 0.1, 0.2),
        "steps": 10,
    },
    "vanishing": {"depth": 10, "rates": (0.05, 0.1, 0.2), "steps": 10},
    "dying_relu": {"rates": (0.001, 0.1), "steps": 10},
    "exploding": {"steps": 20, "examples": 16, "per_decade": 1},
    "bptt": {"steps": 10},
    "batch_size": {"sizes": (64, 256), "octaves": 2, "least_steps": 20, "most_steps": 20},
    # at a rate at which stopping is not at the end
    "overfitting": {"steps": 200, "records": 8, "rate": 0.5, "l1": (0.001,), "l2": (0.01, 1.0)},
    "batch_norm": {"per_decade": 1, "steps": 20, "records": 4},
    "double_descent": {"examples": 20, "ratios": (0.5, 1.0, 2.0)},
    "plateaus": {"examples": 20, "steps": 400, "products": 8},
    "modes": {"widths": (4, 8), "steps": 20, "curve_steps": 10},
    "selection": {"repetitions": 10, "searches": 4, "fit_steps": 5, "unit": 1},
    "momentum": {"bowl_steps": 20, "bowl_rates": 1, "net_steps": 10, "net_rates": 1},
}


SHORTEST = {"bptt", "double_descent", "modes", "plateaus"}


def test_every_claim_has_a_short_form():
    assert FEW.keys() == registry.CLAIMS.keys()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.thorough if name in SHORTEST else pytest.mark.exhaustive
        )
        for name in FEW
    ],
)
def test_a_claim_has_a_verdict_for_every_sentence(name, monkeypatch):
    # in so few steps, any rate may be the best
    for check in ("require_inside", "require_within"):
        monkeypatch.setattr(rates, check, lambda *of_grid, **kind: None)
    module = importlib.import_module(registry.CLAIMS[name])
    settings = dataclasses.replace(module.QUICK, **FEW[name])
    outcome = module.examine(settings, jax.random.split(jax.random.key(0), 2))
    assert outcome.tested
    assert outcome.seen
    for tested in outcome.tested:
        assert tested.why or verdict(tested.comparisons).word
        for c in tested.comparisons:
            # none is compared with itself; what is constant, such as a cap, or counted in steps may
            # be the same by chance
            values = np.asarray(c.treated.values, float)
            by_chance = np.ptp(values) == 0 or np.all(values == np.round(values))
            same = np.array_equal(values, np.asarray(c.control.values, float))
            assert by_chance or not same, (tested.sentence, c.condition)


def test_matched_units_leave_the_function_as_it_is():
    shape = models.MLPConfig(64, 10, hidden=(12,))
    first = jax.vmap(lambda key: models.init_mlp(key, shape))(jax.random.split(jax.random.key(0)))
    order = np.random.default_rng(0).permutation(12)
    hidden, out = first["layers"]
    shuffled = {
        "layers": [
            {"kernel": hidden["kernel"][..., order], "bias": hidden["bias"][:, order]},
            {"kernel": out["kernel"][:, order], "bias": out["bias"]},
        ]
    }
    jax.tree.map(np.testing.assert_array_equal, modes.match_units(first, shuffled), first)


def test_random_features_are_least_squares_of_least_norm():
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=(6, 9)).astype(np.float32), np.arange(6)
    wanted, *_ = np.linalg.lstsq(phi.astype(float), np.eye(10)[y] - 0.1)
    np.testing.assert_allclose(double_descent.fitted(phi, y), wanted, atol=1e-5)


def test_error_profile_is_the_gradient_of_the_bias_by_example():
    shape = deep_nets.Shape(3, 5, jnp.tanh)
    params = deep_nets.init_deep(jax.random.key(0), shape, 0.5)
    data = {name: leaf[:7] for name, leaf in digits().train.items()}

    def loss(taps):
        logits, _ = deep_nets.deep(params, shape, data["x"], taps)
        return jnp.sum(-jax.nn.log_softmax(logits)[jnp.arange(7), data["y"]])

    errors = np.asarray(jax.jit(jax.grad(loss))(jnp.zeros((3, 7, 5))))
    wanted = np.sqrt(np.mean(errors**2, (1, 2)))
    found = jax.jit(lambda params: deep_nets.error_profile(params, shape, data))(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_soft_threshold_is_the_proximal_step_of_l1():
    optimizer = optim.chain(optim.sgd(0.1), few_digits.soft_threshold(0.05))
    params = {"kernel": jnp.array([0.2, -0.04, 0.12]), "bias": jnp.array([0.01])}
    grads = {"kernel": jnp.array([1.0, 0.0, -1.0]), "bias": jnp.array([0.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = optim.apply_updates(params, updates)
    # 0.1, -0.04 and 0.22 by gradient descent; then 0.05 nearer to 0
    np.testing.assert_allclose(after["kernel"], [0.05, 0.0, 0.17], atol=1e-7)
    assert after["kernel"][1] == 0
    assert after["bias"] == params["bias"]
