"""Pictures and tables of results: what they show, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.train import selection
from jaxnets.train.selection import pictures

CONFIGS = [{"seed": 0, "rate": 10.0**-i, "units": 8 * i, "kind": "ab"[i % 2]} for i in range(4)]
ROWS = selection.rank(CONFIGS, [[0.5, 0.7], [0.1, 0.3], [np.nan, 1.0], [0.2, 0.6]])


def ticks(axis):
    return [label.get_text() for label in axis.get_xticklabels()]


def test_a_ranking_has_a_mean_with_its_error_downwards(tmp_path):
    figure = pictures.plot_ranking(ROWS)
    (axis,) = figure.axes
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert shown == [selection.described(row.config) for row in ROWS[:3]]
    assert shown[0] == "rate 0.1, units 8, kind b"
    for place, (bar, row) in enumerate(zip(axis.containers, ROWS, strict=False)):
        assert (bar.lines[0].get_xdata()[0], bar.lines[0].get_ydata()[0]) == (row.mean, place)
        ends = bar.lines[2][0].get_segments()[0][:, 0]
        np.testing.assert_allclose(np.ptp(ends) / 2, row.standard_error)
    assert axis.yaxis_inverted()
    assert len(pictures.plot_ranking(ROWS, most=2).axes[0].containers) == 2
    figure.savefig(tmp_path / "picture.png")


def test_a_search_is_drawn_against_each_hyper_parameter(tmp_path):
    space = {
        "rate": selection.LogUniform(1e-4, 1.0),
        "units": selection.Uniform(0, 30),
        "kind": selection.Choice(["b", "a", "c"]),
    }
    figure = pictures.plot_search(ROWS, space, score="loss")
    rate, units, kind = figure.axes
    assert [axis.get_xscale() for axis in figure.axes] == ["log", "linear", "linear"]
    assert [axis.get_xlabel() for axis in figure.axes] == list(space)
    assert rate.get_ylabel() == "loss"
    assert ticks(kind) == ["b", "a", "c"]
    points, best, crosses = units.lines
    assert points.get_xdata().tolist() == [8, 24, 0]
    np.testing.assert_allclose(points.get_ydata(), [0.2, 0.4, 0.6])
    assert best.get_xdata().tolist() == [8]
    assert crosses.get_xdata().tolist() == [16]
    assert kind.lines[0].get_xdata().tolist() == [0, 0, 1]
    figure.savefig(tmp_path / "picture.png")


def test_without_a_space_axes_go_by_the_values(tmp_path):
    figure = pictures.plot_search(ROWS)
    assert [axis.get_xlabel() for axis in figure.axes] == ["rate", "units", "kind"]
    assert [axis.get_xscale() for axis in figure.axes] == ["log", "linear", "linear"]
    assert ticks(figure.axes[2]) == ["a", "b"]
    pictures.plot_search(ROWS[:3]).savefig(tmp_path / "none_failed.png")
    failed = selection.rank(CONFIGS, [np.nan] * 4)
    pictures.plot_search(failed).savefig(tmp_path / "picture.png")


def halving(n, most):
    plan = selection.rungs(n, 1, most)
    quality = np.random.default_rng(n).uniform(size=n)
    quality[0] = np.nan

    def advance(stacked, budget):
        stacked = {"quality": stacked["quality"], "done": stacked["done"] + budget}
        return stacked, stacked["quality"] / stacked["done"]

    start = {"quality": jnp.asarray(quality), "done": jnp.zeros(n)}
    return selection.halve(start, plan, advance), plan


def test_halving_is_a_line_for_each_as_far_as_it_went(tmp_path):
    found, plans = zip(halving(9, 9), halving(4, 3), strict=True)
    figure = pictures.plot_halving(found, plans)
    left, right = figure.axes
    *lines, crosses = left.lines
    assert sorted(len(line.get_xdata()) for line in lines) == [1] * 6 + [2, 2, 3]
    (longest,) = (line for line in lines if len(line.get_xdata()) == 3)
    assert longest.get_xdata().tolist() == [1, 3, 9]
    np.testing.assert_allclose(
        longest.get_ydata(), [np.nanmin(scores) for scores in found[0].scores], rtol=1e-6
    )
    assert longest.get_linewidth() == 2
    assert crosses.get_xdata().tolist() == [1]
    assert (left.get_xscale(), ticks(left), ticks(right)) == ("log", ["1", "3", "9"], ["1", "3"])
    figure.savefig(tmp_path / "picture.png")
    done = found[0]._replace(scores=tuple((0.5,) * len(tried) for tried in found[0].tried))
    pictures.plot_halving([done], plans[:1]).savefig(tmp_path / "none_failed.png")


def test_a_table_has_as_many_digits_as_its_errors_bear():
    assert selection.markdown(ROWS).splitlines() == [
        "| number | seed | rate | units | kind | mean | standard error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | 0 | 0.1 | 8 | b | 0.20 | 0.10 |",
        "| 3 | 0 | 0.001 | 24 | b | 0.40 | 0.20 |",
        "| 0 | 0 | 1 | 0 | a | 0.60 | 0.10 |",
        "| 2 | 0 | 0.01 | 16 | a | nan |  |",
    ]
    assert len(selection.markdown(ROWS, most=1).splitlines()) == 3
    single = selection.rank([{"a|b": (8, 8)}], [1 / 3])
    assert selection.markdown(single).splitlines()[2] == "| 0 | (8, 8) | 0.3333 |  |"
    assert "a\\|b" in selection.markdown(single)
    small = selection.rank([{}], [[0.01230, 0.01234]])
    assert selection.markdown(small).splitlines()[2] == "| 0 | 0.012320 | 0.000020 |"


def test_bad_input():
    with pytest.raises(ValueError, match="plot_ranking: wants at least one row with a finite mean"):
        pictures.plot_ranking(ROWS[3:])
    with pytest.raises(ValueError, match="plot_search: wants at least one row"):
        pictures.plot_search([])
    with pytest.raises(ValueError, match="plot_search: wants at least one hyper-parameter"):
        pictures.plot_search(selection.rank([{"seed": 0}], [1.0]))
    with pytest.raises(ValueError, match="plot_halving: wants at least one search"):
        pictures.plot_halving([], [])
    found, plan = halving(9, 9)
    with pytest.raises(ValueError, match="got 0 plans for 1 searches"):
        pictures.plot_halving([found], [])
    with pytest.raises(ValueError, match="plans must be those of the searches"):
        pictures.plot_halving([found], [plan[1:]])
    with pytest.raises(ValueError, match="plans must be those of the searches"):
        pictures.plot_halving([selection.begin({"x": jnp.zeros(9)})], [plan])
