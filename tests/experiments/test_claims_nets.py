"""What the claims on nets and their data are made of: the helpers, each against what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims import (
    arms,
    batch_size,
    claim,
    critical_batch,
    deep_nets,
    dying_relu,
    few_digits,
    initial_weights,
    initialization,
    learning_in_depth,
    overfitting,
    rates,
    recurrent_cells,
    report,
    strengths,
    vanishing,
)
from experiments.claims.deep_nets import LEAST, MOST, Shape
from experiments.claims.training import digits, rates_around
from experiments.claims.verdict import Arm, judge, verdict
from jaxnets import nn


def test_comparisons_by_name():
    values = {"with": np.array([1.0, 2.0]), "without": np.array([3.0, 4.0])}
    found = arms.between(
        values, "with", "without", where="here", quantity="error", expected="less", margin=1.0
    )
    assert found.treated == Arm("with", values["with"])
    assert judge(found).effect == -2
    known = arms.beside(
        1.0, "one", Arm("with", values["with"]), where="here", quantity="error",
        expected="same", margin=3.0, ratio=True,
    )  # fmt: skip
    np.testing.assert_allclose(judge(known).effect, np.sqrt(2))


def test_the_best_setting_is_the_least_that_is_finite():
    best = arms.least([[3.0, 1.0, np.nan], [np.inf, np.nan, 2.0]])
    np.testing.assert_array_equal(best, [1, 2])
    np.testing.assert_array_equal(arms.taken([[1, 2, 3], [4, 5, 6]], best), [2, 6])


def test_shifted_images_are_moved_by_a_pixel_at_most():
    image = jnp.arange(64.0)
    padded = np.pad(np.asarray(image).reshape(8, 8), 1, mode="edge")
    wanted = {padded[i : i + 8, j : j + 8].tobytes() for i in range(3) for j in range(3)}
    moved = few_digits.shifted(jax.random.key(0), jnp.tile(image, (200, 1)))
    assert {np.asarray(one).tobytes() for one in moved} == wanted


def test_wrong_labels_are_wrong_in_the_share_asked_for():
    y = jnp.arange(5000) % 10
    given = few_digits.with_wrong_labels(jax.random.key(0), y, 0.2)
    assert float(jnp.mean(given != y)) == pytest.approx(0.2, abs=0.02)
    assert int(given.min()) == 0
    assert int(given.max()) == 9
    np.testing.assert_array_equal(few_digits.with_wrong_labels(jax.random.key(0), y, 0.0), y)


def test_calibration_error_is_the_gap_of_each_bin():
    # two of confidence 0.8, of which one is right; two of 0.6, both right
    logits = jnp.log(jnp.array([[0.8, 0.2], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]]))
    found = few_digits.calibration_error(logits, jnp.array([0, 0, 0, 1]))
    np.testing.assert_allclose(found, (0.6 + 0.8) / 4, rtol=1e-5)


def test_a_normalized_net_sees_no_scale_of_its_hidden_kernel():
    x = digits().train["x"][:20]
    params = {
        "hidden": {"kernel": jax.random.normal(jax.random.key(0), (64, 5)), "bias": jnp.ones(5)},
        "out": {"kernel": jnp.ones((5, 10)), "bias": jnp.zeros(10)},
    }
    larger = jax.tree.map(lambda leaf: leaf, params)
    larger["hidden"] = jax.tree.map(lambda leaf: 100 * leaf, params["hidden"])
    outs = [few_digits._net(p, 1.0, x, x, 1.0) for p in (params, larger)]
    np.testing.assert_allclose(*outs, rtol=1e-3, atol=1e-3)
    assert not np.allclose(*(few_digits._net(p, 0.0, x, x, 1.0) for p in (params, larger)))


def test_stopping_takes_the_record_of_the_least_validation_loss():
    losses = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    trained = few_digits.Trained(*[losses] * len(few_digits.Trained._fields))
    found = overfitting._stopped(trained, np.array([[10, 20, 30], [40, 50, 60]]))
    np.testing.assert_array_equal(found["stopped"], [20, 40])
    np.testing.assert_array_equal(found["in the end"], [30, 60])


def test_a_remedy_whose_best_strength_ends_its_grid_is_untested():
    def told(*errors):
        values = np.array([errors, errors])
        trained = few_digits.Trained(*[values] * len(few_digits.Trained._fields))
        return strengths.at_end((0.1, 0.2, 0.4), trained, "dropout")

    assert told(0.3, 0.2, 0.3) == told(0.2, 0.2, 0.2) == ""
    end = "dropout: the highest strength of the grid, 0.4, is its best one: widen the grid"
    assert told(0.3, 0.2, 0.1) == end
    values = dict.fromkeys(("dropout", "L1", "nothing"), np.ones(2))

    def of(name):
        return claim.Tested("It helps.", [
            arms.between(
                values, name, "nothing", where="", quantity="", expected="less", margin=0.0
            )
        ])  # fmt: skip

    ends = {"dropout": strengths.Tried((), end), "L1": strengths.Tried((), "")}
    assert strengths.inside(of("dropout"), ends) == claim.Tested("It helps.", [], end)
    assert strengths.inside(of("L1"), ends).why == ""


def test_the_noise_scale_is_of_the_way_to_the_target_only():
    sq_norm, trace = jnp.array([4.0, 2.0, 1.0, 1.0]), jnp.array([40.0, 20.0, 900.0, 900.0])
    # a loss that rises above the target again is not on the way to it
    losses = jnp.array([2.0, 1.0, 0.1, 1.0])
    assert critical_batch.on_the_way(sq_norm, trace, losses, 0.2) == 10
    assert jnp.isnan(critical_batch.on_the_way(sq_norm, trace, losses, 2.0))


def test_noise_that_cannot_be_measured_is_an_error():
    config = batch_size.Config(target=10.0)
    with pytest.raises(rates.GridEndError, match="reached within 2 steps"):
        critical_batch.noise_scales(
            config, batch_size._net(config), jax.random.split(jax.random.key(0)), jnp.ones(2), 2
        )


def test_where_no_net_fails_its_cures_are_untested():
    tested = vanishing._learning({}, [])
    assert [t.why for t in tested] == ["every plain net learns"] * 2
    outcome = claim.Outcome("", tested, [])
    examined = report.Examined("vanishing", "", None, None, outcome, 0.0, 0.0)
    words = [str(found) for _, found in report.verdicts(examined)]
    assert words == ["untested: every plain net learns"] * 2
    assert [r["verdict"] for r in report.records(examined)] == ["untested"] * 2


def test_what_is_left_of_a_signal():
    profiles = jnp.array([[2.0, 1.0, 4.0], [0.0, 1.0, 1.0], [jnp.nan, 1.0, 1.0], [1.0, jnp.inf, 1]])
    left = np.asarray(jax.vmap(deep_nets.first_by_last)(profiles))
    # what is not finite has exploded, though it is not a number
    np.testing.assert_allclose(left, [0.5, 0.99 * LEAST, 1.01 * MOST, 1.01 * MOST], rtol=1e-6)
    # and what lies beyond is known to do so, whatever was rounded
    assert left[1].astype(float) < LEAST
    assert (deep_nets.off(left[1:]).astype(float) > MOST).all()
    np.testing.assert_allclose(deep_nets.off(np.array([0.25, 4.0, 1.0])), [4, 4, 1])


def test_the_root_mean_square_of_what_has_no_square():
    errors = jnp.array([1e-25, 0.0, 1.0, 1e25])[:, None, None] * jnp.array([[[3.0, 4.0]]])
    found = deep_nets.root_mean_square(errors)
    np.testing.assert_allclose(found, np.sqrt(12.5) * np.array([1e-25, 0, 1, 1e25]), rtol=1e-5)


def test_an_overflow_forward_is_an_explosion():
    shape = Shape(100, 32, jax.nn.relu)
    data = {name: leaf[:4] for name, leaf in digits().train.items()}
    profile = deep_nets.error_profile(
        deep_nets.init_deep(jax.random.key(0), shape, 100.0), shape, data
    )
    assert deep_nets.first_by_last(profile) > MOST


def test_norms_are_over_units_or_examples_and_can_be_given():
    x = digits().train["x"][:30]
    params = deep_nets.init_deep(jax.random.key(0), Shape(2, 8, jnp.tanh), 0.4)

    def by_hand(mean_of):
        y = x @ params["first"]
        for kernel in params["kernel"]:
            mean, variance = mean_of(y, jnp.mean), mean_of(y, jnp.var)
            y = y + 0.5 * jnp.tanh((y - mean) / jnp.sqrt(variance + 1e-5) @ kernel)
        return y @ params["last"]

    over = {"batch": lambda y, f: f(y, 0)[None], "layer": lambda y, f: f(y, 1)[:, None]}
    for norm, mean_of in over.items():
        shape = Shape(2, 8, jnp.tanh, residual=0.5, norm=norm)
        logits, moments = deep_nets.deep(params, shape, x)
        np.testing.assert_allclose(logits, by_hand(mean_of), rtol=1e-4, atol=1e-5)
        # by given moments, an example does not depend on the others
        alone, _ = deep_nets.deep(params, shape, x[:1], None, moments)
        np.testing.assert_allclose(alone, logits[:1], rtol=1e-4, atol=1e-5)


def test_rates_lie_at_equal_factors_from_end_to_end():
    np.testing.assert_allclose(
        rates_around(0.01, 10.0, 2), 10 ** np.arange(-2, 1.5, 0.5), rtol=1e-5
    )


def test_units_that_are_the_same_for_all_are_dead():
    kernel = jnp.array([[1.0, -1.0, 0.0, jnp.nan]])
    params = {"layers": [{"kernel": kernel, "bias": jnp.array([0.0, -9.0, 1.0, 0.0])}, {}]}
    x = jnp.arange(4.0)[:, None]
    dead = dying_relu.dead_units(params, jax.nn.relu, x)
    np.testing.assert_array_equal(dead, [False, True, True, True])


def test_a_forget_bias_opens_the_forget_gate_only():
    plain, biased = (recurrent_cells.lstm_cell(4, jax.random.key(0), bias) for bias in (0.0, 1.0))
    difference = biased.params["input"]["bias"] - plain.params["input"]["bias"]
    np.testing.assert_array_equal(difference.reshape(4, 4), np.outer([0, 1, 0, 0], np.ones(4)))
    carry = jnp.ones((1, 4)), jnp.zeros((1, 4))
    kept = [nn.lstm_cell(cell.params, carry, jnp.zeros((1, 1)))[0] for cell in (plain, biased)]
    np.testing.assert_allclose(kept[0], jax.nn.sigmoid(0.0), rtol=1e-6)
    np.testing.assert_allclose(kept[1], jax.nn.sigmoid(1.0), rtol=1e-6)


def test_a_recurrent_matrix_of_a_radius_has_it():
    cell = recurrent_cells.cell_of_radius(6, jax.random.key(0), 0.8)
    sizes = np.abs(np.linalg.eigvals(cell.params["hidden"]["kernel"]))
    np.testing.assert_allclose(sizes, 0.8, rtol=1e-5)


def test_taps_are_added_to_what_is_carried():
    cell = recurrent_cells.default_cell(3, jax.random.key(0))
    x, taps = jnp.zeros((2, 64)), jnp.zeros((64, 2, 3)).at[-1].set(5.0)
    added, plain = (recurrent_cells.last_output(cell, x, given) for given in (taps, None))
    np.testing.assert_allclose(added - plain, 5.0, rtol=1e-6)


def test_what_is_said_of_deep_nets_is_not_of_shallow_ones():
    config = initial_weights.Config()
    ways = list(initial_weights.ways(config))

    def by_depth(*depths):
        return {
            depth: {way: np.array([0.1, 0.12]) + 0.3 * i for i, way in enumerate(ways)}
            for depth in depths
        }

    errors = dict.fromkeys(initial_weights.ACTIVATIONS, by_depth(2, 5, 100))
    found = learning_in_depth.sentences(config, errors)
    assert len(found) == 8
    for sentence, comparisons, _ in found:
        depths = {c.condition.split()[1] for c in comparisons}
        # a sentence that says "they" goes on from one that says "deep"
        assert depths == ({"2"} if sentence.startswith("Shallow") else {"5", "100"}), sentence
    # He is worse than Xavier here, and naive weights are far worse than He
    words = [verdict(tested.comparisons).word for tested in found]
    assert words[:4] == ["holds", "holds", "holds", "does not hold"]
    assert words[5:7] == ["does not hold", "holds"]
    shallow = dict.fromkeys(initial_weights.ACTIVATIONS, by_depth(2))
    untested = learning_in_depth.sentences(config, shallow)[0]
    assert untested == claim.Tested(
        found[0].sentence, [], "no such net is trained, or its grid is too narrow"
    )


def test_a_net_of_too_narrow_a_grid_is_left_out_alone(monkeypatch):
    config = initial_weights.Config(depths=(2,), trained_depths=(5, 20), rates=(0.1, 0.2, 0.4))
    ways = list(initial_weights.ways(config))

    def learnt(shape, keys, stds, rates, **amounts):
        loss = np.ones((2, len(ways), 3)) + np.array([0.2, 0.0, 0.2])
        if shape.depth == 20:
            loss[:, ways.index("Xavier"), 0] = 0.1
        return deep_nets.Learnt(loss, np.array([0.3, 0.4])[:, None, None] + 0 * loss)

    monkeypatch.setattr(learning_in_depth, "learnt", learnt)
    outcome = initialization.examine(config, jax.random.split(jax.random.key(0), 2))
    said = {t.sentence: [c.condition for c in t.comparisons] for t in outcome.tested}
    of_he = said["Deep relu nets learn better from He's than from naive ones."]
    assert sum("20 layers" in condition for condition in of_he) == 2
    beside_xavier = said["They learn better from He's than from Xavier's."]
    assert beside_xavier == ["with 5 layers, beside Xavier"]
    assert "tanh, 20 layers, Xavier: the least rate of the grid, 0.1, is its best" in outcome.notes
    assert outcome.notes.count("Left out") == 3


def test_many_layers_are_as_many_as_make_a_net_deep():
    config = initial_weights.Config()
    ways = dict.fromkeys(initial_weights.ways(config), np.array([1.0, 1.1]))
    kept = dict.fromkeys(initial_weights.ACTIVATIONS, dict.fromkeys((2, 5, 10), ways))
    for sentence, comparisons, _ in initialization._signals(config, kept):
        depths = {c.condition.split(" layers")[0].split()[-1] for c in comparisons}
        assert depths == ({"5", "10"} if "many" in sentence else {"2", "5", "10"}), sentence
