"""Folds against scikit-learn's, searches against their papers' tables, estimates against loops."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.model_selection import KFold, StratifiedKFold

from jaxnets import train
from jaxnets.train import selection

LABELS = np.random.default_rng(0).choice([7, 2, 5], 53, p=[0.5, 0.3, 0.2])


def same_folds(ours, theirs):
    theirs = list(theirs)
    assert len(ours) == len(theirs)
    for fold, (train_part, held_out) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(fold.train, train_part)
        np.testing.assert_array_equal(fold.held_out, held_out)


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_folds_are_scikit_learns(k):
    for n in (k, 53, 60):
        same_folds(selection.kfold(n, k), KFold(k).split(np.zeros(n)))
    if np.bincount(LABELS)[[2, 5, 7]].min() >= k:
        same_folds(selection.stratified_kfold(LABELS, k), StratifiedKFold(k).split(LABELS, LABELS))


@pytest.mark.parametrize("seed", [0, 1])
def test_shuffled_folds_hold_each_example_out_once_with_its_classs_share(seed):
    for split in (partial(selection.kfold, 53), partial(selection.stratified_kfold, LABELS)):
        folds = split(4, seed=seed)
        held_out = np.concatenate([fold.held_out for fold in folds])
        np.testing.assert_array_equal(np.sort(held_out), np.arange(53))
        for fold in folds:
            np.testing.assert_array_equal(np.sort(np.r_[fold.train, fold.held_out]), np.arange(53))
    for label in (2, 5, 7):
        counts = [np.sum(LABELS[fold.held_out] == label) for fold in folds]
        assert max(counts) - min(counts) <= 1
    other = split(4, seed=seed + 2)
    assert not np.array_equal(folds[0].held_out, other[0].held_out)


def test_repeated_folds_differ():
    folds = selection.repeated(partial(selection.kfold, 10, 5), 3, seed=1)
    assert len(folds) == 15
    assert len({tuple(fold.held_out) for fold in folds}) > 5


def test_stacked_folds_fill_up_with_weight_0():
    folds = selection.kfold(7, 3)
    found = selection.stacked(folds)
    assert found.train.shape == (3, 4)
    assert found.held_out.tolist() == [[0, 1, 2], [3, 4, 3], [5, 6, 5]]
    assert found.weight.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    for row, fold in zip(found.train, folds, strict=True):
        assert set(row) <= set(fold.train)
        assert len(set(row)) == 4


DATA = {"x": np.random.default_rng(1).normal(size=(23, 2))}
DATA["y"] = DATA["x"].sum(1) + 0.1 * np.arange(23)
GRID = train.members([0], {"ridge": [0.01, 1.0, 100.0]})


def ridge(member, part, held_out):
    """Squared errors of the least squares with a penalty: a fit without randomness."""
    x, y = part["x"], part["y"]
    w = jnp.linalg.solve(x.T @ x + member.hyper["ridge"] * jnp.eye(2), x.T @ y)
    return (held_out["x"] @ w - held_out["y"]) ** 2


def by_hand(value, fold, data=DATA):
    x, y = (data[name][fold.train] for name in "xy")
    w = np.linalg.solve(x.T @ x + value * np.eye(2), x.T @ y)
    return np.mean((data["x"][fold.held_out] @ w - data["y"][fold.held_out]) ** 2)


@pytest.mark.parametrize("k", [4, 23])
def test_cross_validation_is_the_loop_over_members_and_folds(k):
    folds = selection.kfold(23, k)
    with jax.enable_x64(True):
        grid = train.members([0], {"ridge": [0.01, 1.0, 100.0]})
        found = selection.cross_validate(ridge, grid, folds, DATA)
        in_chunks = selection.cross_validate(ridge, grid, folds, DATA, chunk=2)
    parts = selection.stacked(folds)
    # the parts that were trained on, one example fewer where sizes differ
    used = [f._replace(train=t) for f, t in zip(folds, parts.train, strict=True)]
    want = [[by_hand(v, fold) for fold in used] for v in (0.01, 1.0, 100.0)]
    np.testing.assert_allclose(found, want, rtol=1e-10)
    np.testing.assert_allclose(in_chunks, found, rtol=1e-12)


def test_scores_in_half_precision_are_summed_in_single():
    data = np.zeros(2000, np.float16)
    found = selection.cross_validate(
        lambda member, part, held_out: held_out + jnp.float16(100),
        train.members([0]), selection.kfold(2000, 2), data,
    )  # fmt: skip
    np.testing.assert_array_equal(found, [[100, 100]])


def test_nested_cross_validation_is_written_out():
    outer = selection.kfold(23, 3, seed=0)
    found = selection.nested(
        ridge, GRID, outer, lambda indices: selection.kfold(len(indices), len(indices)), DATA
    )
    values = (0.01, 1.0, 100.0)
    for fold, row, score in zip(outer, found.chosen, found.scores, strict=True):
        part = {name: leaf[fold.train] for name, leaf in DATA.items()}
        inner = selection.kfold(len(fold.train), len(fold.train))
        means = [np.mean([by_hand(v, f, part) for f in inner]) for v in values]
        assert row.number == np.argmin(means)
        np.testing.assert_allclose(row.mean, min(means), rtol=1e-5)
        np.testing.assert_allclose(score, by_hand(values[row.number], fold), rtol=1e-5)
    inside = np.mean([row.mean for row in found.chosen])
    np.testing.assert_allclose(found.optimism, np.mean(found.scores) - inside)


def test_a_nested_search_is_compiled_once_for_each_shape():
    traced = []

    def counted(member, part, held_out):
        traced.append(len(part["y"]))
        return ridge(member, part, held_out)

    outer = selection.kfold(20, 5)
    data = {name: leaf[:20] for name, leaf in DATA.items()}
    selection.nested(counted, GRID, outer, lambda indices: selection.kfold(16, 4), data)
    assert traced == [12, 16]


def test_configurations_are_chosen_by_their_means_over_seeds():
    """Seed 0 of rate 1 is the best run, and rate 2 the better rate."""
    grid = train.members([0, 1], {"rate": [1.0, 2.0]})
    scores = np.array([[0.0, 0.2], [1.0, 1.2], [4.0, 4.2], [2.0, 2.2]])
    configs, means = selection.over_seeds(train.table(grid), scores)
    assert configs == [{"rate": 1.0}, {"rate": 2.0}]
    np.testing.assert_allclose(means, [[2.0, 2.2], [1.5, 1.7]])
    assert selection.rank(configs, means)[0].config == {"rate": 2.0}
    assert selection.over_seeds(train.table(grid), scores[:, 0])[1].tolist() == [2.0, 1.5]

    def fit(member, part, held_out):
        table = jnp.array([[0.0, 1.0], [4.0, 2.0]])
        score = table[member.seed, jnp.int32(member.hyper["rate"]) - 1]
        return jnp.full(held_out.shape, score)

    outer = selection.kfold(8, 2)
    found = selection.nested(fit, grid, outer, lambda i: selection.kfold(len(i), 2), np.zeros(8))
    assert [row.config for row in found.chosen] == [{"rate": 2.0}] * 2
    assert [row.number for row in found.chosen] == [1, 1]
    assert found.scores == (1.5, 1.5)


def test_draws_are_of_their_distributions():
    space = {
        "rate": selection.LogUniform(1e-4, 1.0),
        "dropout": selection.Uniform(0.0, 0.5),
        "batch": selection.Choice([16, 32]),
    }
    drawn = selection.draw(space, 4000, seed=0)
    assert np.all((drawn["rate"] >= 1e-4) & (drawn["rate"] <= 1))
    # a uniform's mean within five standard errors
    assert abs(np.mean(np.log10(drawn["rate"])) + 2) < 5 * 4 / math.sqrt(12 * 4000)
    assert abs(np.mean(drawn["dropout"]) - 0.25) < 5 * 0.5 / math.sqrt(12 * 4000)
    assert set(drawn["batch"]) == {16, 32}
    again = selection.draw(space, 4000, seed=0)
    np.testing.assert_array_equal(again["rate"], drawn["rate"])


def test_hyperbands_brackets_are_its_papers_table():
    """R = 81, eta = 3: Li et al., 2018, Table 1."""
    want = [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    assert [[tuple(rung) for rung in plan] for plan in selection.brackets(81)] == want


def test_halving_keeps_the_best_and_goes_on_where_it_was():
    plan = selection.rungs(9, 1, 9)
    assert [tuple(rung) for rung in plan] == [(9, 1), (3, 3), (1, 9)]
    assert selection.cost(plan) == 9 + 3 * 2 + 6
    quality = np.array([5.0, 3, 8, np.nan, 1, 9, 2, 7, 6])
    stacked = {"quality": jnp.asarray(quality), "trained": jnp.zeros(9)}

    def advance(stacked, budget):
        stacked = stacked | {"trained": stacked["trained"] + budget}
        return stacked, stacked["quality"]

    whole = selection.halve(stacked, plan, advance)
    assert whole.tried == (tuple(range(9)), (4, 6, 1), (4,))
    assert whole.left == (4,)
    assert whole.stacked["trained"].tolist() == [9]
    resumed = selection.climb(selection.begin(stacked), plan, advance)
    for _ in range(2):
        resumed = selection.climb(jax.tree.map(lambda leaf: leaf, resumed), plan, advance)
    np.testing.assert_equal(resumed, whole)
    with pytest.raises(ValueError, match="all 3 rungs are done"):
        selection.climb(whole, plan, advance)


def test_halving_ends_with_one():
    def plan(*args):
        return [tuple(rung) for rung in selection.rungs(*args)]

    assert plan(2, 1, 9) == [(2, 1), (1, 3)]
    assert plan(5, 1, 9) == [(5, 1), (1, 3)]
    assert plan(8, 1, 81) == [(8, 1), (2, 3), (1, 9)]
    assert plan(1, 1, 9) == [(1, 1)]
    assert plan(9, 1, 3) == [(9, 1), (3, 3)]


def test_a_search_is_gone_on_with_from_a_checkpoint(tmp_path):
    plan = selection.rungs(9, 1, 9)
    keys = jax.random.split(jax.random.key(0), 9)
    stacked = {"quality": jnp.arange(9.0)[::-1] + 0.1, "key": keys}

    def advance(stacked, budget):
        return stacked, np.asarray(stacked["quality"], np.float64) / 3

    search, whole = selection.begin(stacked), selection.halve(stacked, plan, advance)
    train.save_checkpoint(tmp_path, search.rung, search)
    for _ in plan:
        done = train.latest_checkpoint(tmp_path)
        like = selection.like_after(stacked, plan, done)
        search = selection.climb(train.restore_checkpoint(tmp_path, like), plan, advance)
        train.save_checkpoint(tmp_path, search.rung, search)
    like = selection.like_after(stacked, plan, 3)
    end = train.restore_checkpoint(tmp_path, like)
    np.testing.assert_array_equal(
        *(jax.random.key_data(x.stacked.pop("key")) for x in (end, whole))
    )
    np.testing.assert_equal(end, whole)
    with pytest.raises(ValueError, match="like_after: rungs must be from 0 to 3, got 4"):
        selection.like_after(stacked, plan, 4)


def test_tables_rank_by_mean_and_say_how_sure():
    configs = [{"rate": 1}, {"rate": 2}, {"rate": 3}]
    rows = selection.rank(configs, [[3.0, 5.0], [np.nan, 1.0], [1.0, 2.0]])
    assert [row.number for row in rows] == [2, 0, 1]
    assert selection.best(rows) == selection.Row(2, {"rate": 3}, 1.5, 0.5, (1.0, 2.0))
    assert math.isnan(selection.rank(configs, [1.0, 2.0, 3.0])[0].standard_error)
    diverged = selection.rank(configs, [[np.inf, 1.0], [np.inf, -np.inf], [2.0, 2.0]])
    assert [row.number for row in diverged] == [2, 0, 1]
    with pytest.raises(ValueError, match="best: no configuration has a finite score"):
        selection.best(rows[2:])


def test_a_comparison_is_paired_and_corrected():
    first, second = [1.0, 2.0, 4.0, 3.0], [2.0, 2.5, 4.5, 5.0]
    found = selection.compare(first, second, held_out_share=0.25)
    differences = np.subtract(first, second)
    error = np.sqrt((1 / 4 + 1 / 3) * differences.var(ddof=1))
    np.testing.assert_allclose(found, (-1.0, error, -1.0 / error))
    assert selection.compare(first, first, held_out_share=0.25).t == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selection.kfold(3, 4), "kfold: k must be from 2 to the 3 examples, got 4"),
        (lambda: selection.stratified_kfold([0, 0, 1], 2), "at most the 1 examples of the rarest"),
        (lambda: selection.repeated(selection.kfold, 0), "repeats must be at least 1, got 0"),
        (lambda: selection.stacked([]), "at least one fold"),
        (lambda: selection.draw({"a": selection.LogUniform(0, 1)}, 1, seed=0), "draw: a is no"),
        (
            lambda: selection.draw({"a": selection.Choice([(8,), (8, 8)])}, 1, seed=0),
            "draw: a must be a choice of numbers",
        ),
        (lambda: selection.rungs(9, 4, 3), "least <= most"),
        (lambda: selection.brackets(9, eta=1), "eta >= 2"),
        (lambda: selection.rank([{}], [1.0, 2.0]), r"rank: scores must be \[1\]"),
        (lambda: selection.over_seeds([{}], [1.0, 2.0]), r"over_seeds: scores must be \[1\]"),
        (lambda: selection.compare([1.0], [1.0], held_out_share=0.5), "two at least"),
        (
            lambda: selection.cross_validate(ridge, GRID, selection.kfold(24, 2), DATA),
            "folds have index 23, data 23 examples",
        ),
        (
            lambda: selection.cross_validate(
                lambda m, a, b: jnp.zeros(()), GRID, selection.kfold(23, 2), DATA
            ),
            "fit must return a score for each held-out example",
        ),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
