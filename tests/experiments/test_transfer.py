"""Few labels: how they are drawn, what each method makes of a small base, and the experiment."""

import json
import re
import zipfile
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.data import elpv
from experiments.data.elpv import load_elpv
from experiments.data.weights import fetch_weights
from experiments.errors import UsageError
from experiments.run import open_run
from experiments.transfer import heads, labels, report, results, tuning
from experiments.transfer.base import ALL, LAST, Base, Features
from experiments.transfer.cached import cached, key_of
from experiments.transfer.experiment import Amounts, Config, _results, settle
from experiments.transfer.heads import head_logits, solve
from experiments.transfer.held_out import Learned, learned, make_learn
from experiments.transfer.learner import HeadChoice, Learner, Start, Trial, batches
from experiments.transfer.results import FROZEN, beside, said
from experiments.transfer.scratch import from_scratch
from experiments.transfer.texts import shortened
from experiments.transfer.whole import all_layers
from jaxnets import models, nn, optim, train
from tests.downloads import or_skip


@pytest.fixture(scope="module")
def base():
    """Three classes in eight numbers, which a frozen map shows."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300).astype(np.int32)
    x = (rng.normal(size=(300, 8)) + 3 * np.eye(8)[y]).astype(np.float32)
    params = {"above": nn.init_dense(jax.random.key(1), 16, 16)}
    below = np.asarray(jax.nn.relu(nn.dense(nn.init_dense(jax.random.key(0), 8, 16), x)))

    def features(params, below):
        last = jax.nn.relu(nn.dense(params["above"], below["x"]))
        return {LAST: last, ALL: jnp.concatenate([below["x"], last], -1)}

    def features_of(part):
        seen = {name: np.asarray(z) for name, z in features(params, {"x": below[part]}).items()}
        return Features(seen, {"x": below[part]})

    def apply(params, fixed, moments, x, key):
        return nn.dense(params, x["x"]), moments

    scratch = from_scratch(
        lambda key: (nn.init_dense(key, 16, 3), ()), apply,
        lambda chosen: {"x": below[200:] if chosen is None else below[chosen]}, y[:200],
    )  # fmt: skip
    return Base(
        "blobs", ("a", "b", "c"), features_of(slice(200)), y[:200], features_of(slice(200, None)),
        y[200:], params, features, tuned={".*": True},
        depths={"^classifier": 1, ".*": 0}, adapted={"^above/kernel": -1, ".*": 0},
        stages={"^above/kernel": 0, ".*": 1}, rates=(1e-4, 1e-3),
        scratch=scratch._replace(steps=lambda n: 30), about="A small base.",
    )  # fmt: skip


@pytest.mark.thorough
def test_all_methods_on_a_small_base_and_their_report(base, tmp_path, capsys):
    config = Config(quick=True, labels=(6, 60), most_steps=20, tuned_seeds=1, seeds=2, examples=200)
    amounts = settle(config)
    with open_run(tmp_path, "transfer", config, data="", folder=tmp_path / "run") as folder:
        found = _results(folder, config, amounts, base)
        report.print_results(base, found)
        html = report.write_report(folder, base, found).read_text()
    names = ["fine-tuned", "gradually unfrozen", "LoRA"]
    tuned = {*names, *(f"{name}, all steps" for name in names)}
    assert report.tuned(found) == names
    assert set(found) == tuned | {"scratch", "frozen, last level", "frozen, all levels", "frozen"}
    for name, by_labels in found.items():
        assert set(by_labels) == {6, 60}
        assert {len(each) for each in by_labels.values()} == {1 if name in tuned else 2}
        if name != "scratch":
            assert np.mean([each.accuracy for each in by_labels[60]]) > 0.85
        if name in tuned:
            assert [by_labels[n][0].choice["chosen"] for n in (6, 60)] == [False, True]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4 * 4 + 6 * 2
    common = {"step", "method", "seed", "accuracy", "loss", "seconds"}
    assert set(json.loads(lines[0])) == common | {"kind", "strength", "chosen"}
    assert set(json.loads(lines[-1])) == common | {"rate", "share", "chosen"}
    assert html.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:)', html)
    printed = capsys.readouterr().out
    assert "Frozen less scratch, in points of accuracy: with 6 labels" in printed
    for text in (html, printed):
        assert "fixed, not chosen: rate 0.0001, all of the steps" in text
        assert "fixed, not chosen: all levels, C 0.01 (2)" in text


def test_as_many_labels_of_each_class():
    y = np.repeat(np.arange(3), [50, 50, 4])
    chosen = labels.draw(y, 10, 3, 0)
    assert sorted(np.bincount(y[chosen]).tolist()) == [3, 3, 4]
    assert len(set(chosen.tolist())) == 10
    # where a class has no more, the others go on
    assert np.bincount(y[labels.draw(y, 20, 3, 0)]).tolist() == [8, 8, 4]
    assert not np.array_equal(chosen, labels.draw(y, 10, 3, 1))


def test_how_many_labels_two_seeds_share():
    for y, n in ((np.repeat(np.arange(2), 100), 160), (np.repeat(np.arange(2), [20, 180]), 60)):
        draws = [set(labels.draw(y, n, 2, seed).tolist()) for seed in range(40)]
        mean = np.mean([len(a & b) / n for a, b in pairwise(draws)])
        assert labels.shared(y, n, 2) == pytest.approx(mean, abs=0.02)


def test_the_report_says_where_seeds_draw_nearly_the_same(base):
    one = [Learned(0.5, 1.0, 2.0, {})]
    assert report.warning(base, {FROZEN: {10: one, 90: one}}) == ""
    said = report.warning(base, {FROZEN: {10: one, 160: one}})
    assert re.match(r"Two seeds have 8\d % of 160 labels in common, .* understate", said)


def test_too_few_labels_choose_nothing():
    assert len(labels.folds(np.arange(40) % 8, 0)) == 5
    for y in (np.arange(38) % 2, np.arange(40) % 10):
        assert labels.folds(y, 0) == []


def test_the_refined_loss_knows_no_confidence():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 50)
    logits = (rng.normal(size=(50, 3)) + np.eye(3)[y]).astype(np.float32)
    least = labels.refined_loss(logits, y)
    assert least == pytest.approx(labels.refined_loss(4 * logits, y))
    assert least <= labels.mean_loss(logits, y) < labels.mean_loss(4 * logits, y)


def test_a_heads_logits_do_not_depend_on_units(base):
    x, y = base.train.seen[LAST][:30], base.train_y[:30]
    logits = [
        heads.head_logits(heads.solve(z, y, 3, 0).head, jnp.asarray(z)) for z in (x, x * 7 + 100)
    ]
    np.testing.assert_allclose(*logits, atol=0.02)


def test_a_head_of_few_examples_is_solved_on_as_few_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 40)).astype(np.float32), np.arange(12) % 3
    head = heads.solve(x, y, 3, 0).head
    z = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-4)
    probe = partial(train.linear_probe, n_classes=3, inverse_l2=1e-2, tol=1e-6)
    expected = nn.dense(jax.jit(probe)(z, y).params, jnp.asarray(z))
    np.testing.assert_allclose(heads.head_logits(head, x), expected, atol=5e-3)


@pytest.mark.parametrize("informed", [LAST, ALL])
def test_held_out_labels_choose_the_features(base, informed):
    rng = np.random.default_rng(1)
    seen = {
        kind: x if kind == informed else rng.normal(size=x.shape).astype(np.float32)
        for kind, x in base.train.seen.items()
    }
    other = base._replace(train=base.train._replace(seen=seen))
    solved = heads.solve_all(other, labels.draw(base.train_y, 60, 3, 0), 0)
    assert heads.best_kind(solved) == informed
    logits = heads.tested(base, informed, solved[informed].head)
    assert learned(logits, base.test_y, 0.0).accuracy > 0.85


def test_labels_that_say_whether_to_tune_had_no_part_in_the_head(base):
    chosen = labels.draw(base.train_y, 60, 3, 0)
    trial, of_last = heads.trials(base, chosen, 0)
    assert sorted([*trial.known, *trial.held]) == sorted(chosen)
    assert len(trial.held) == 12
    assert of_last.of_head.kind == LAST
    known = heads.solve_all(base, trial.known, 0, 4)
    assert trial.of_head == heads.choice(known, heads.best_kind(known))
    # whatever the held-out examples are
    features = {kind: x.copy() for kind, x in base.train.seen.items()}
    for x in features.values():
        x[trial.held] = 1e3
    other = base._replace(train=base.train._replace(seen=features))
    assert heads.trials(other, chosen, 0)[0].of_head == trial.of_head
    assert np.isfinite(heads.solve_all(base, trial.known, 0, 4)[LAST].loss)


def test_wherever_a_fifth_is_held_out_the_others_can_choose_a_head(base):
    for y in (np.arange(40) % 2, np.arange(50) % 10, np.repeat(np.arange(3), [9, 5, 26])):
        for seed in range(5):
            known, held = labels.set_apart(y, np.arange(len(y)), seed)
            assert len(labels.folds(y[known], seed, 4)) == 4
            assert not set(known) & set(held)
    assert heads.trials(base, labels.draw(base.train_y, 30, 3, 0), 0) is None


@pytest.mark.parametrize(("method", "kind"), [(tuning.fine_tuning, ALL), (tuning.lora, LAST)])
def test_tuning_starts_from_the_frozen_base_with_its_head_at_rest(base, method, kind):
    # the rank of adapters is of a large net's, and just fits here
    learner = method(base, 20)
    chosen = labels.draw(base.train_y, 30, 3, 0)
    start = learner.start(chosen, 0, HeadChoice(kind, 0.1))
    solved = heads.solve(base.train.seen[kind][chosen], base.train_y[chosen], 3, 0, 0.1)
    np.testing.assert_allclose(
        jax.jit(learner.logits)(start.trained, start.fixed, (), learner.inputs(None)),
        heads.tested(base, kind, solved.head), atol=1e-4,
    )  # fmt: skip
    batch = {"inputs": learner.inputs(chosen), "y": learner.labels[chosen]}
    gradient = jax.jit(jax.grad(learner.loss, has_aux=True))
    grads, _ = gradient(start.trained, start.fixed, (), batch, None)
    at_rest = grads.pop(tuning.HEAD)
    assert all(np.abs(g).max() < 3e-3 for g in jax.tree.leaves(at_rest))
    assert any(np.abs(g).max() > 3e-3 for g in jax.tree.leaves(grads))


def test_no_step_of_gradual_unfreezing_is_spent_on_a_head_at_rest_alone(base):
    learner = tuning.gradual(base, 20)
    chosen = labels.draw(base.train_y, 30, 3, 0)
    start = learner.start(chosen, 0, HeadChoice(LAST, 0.1))
    optimizer = learner.optimizer(1e-3, 20)
    batch = {"inputs": learner.inputs(chosen), "y": learner.labels[chosen]}

    @jax.jit
    def step(trained, state):
        of = jax.grad(learner.loss, has_aux=True)
        updates, state = optimizer.update(of(trained, start.fixed, (), batch, None)[0], state)
        return optim.apply_updates(trained, updates), state

    moved, trained, state = [], start.trained, optimizer.init(start.trained)
    for _ in range(20):
        before = trained
        trained, state = step(trained, state)
        moved.append([
            bool(jnp.any(trained["above"][part] != before["above"][part]))
            for part in ("kernel", "bias")
        ])  # fmt: skip
    # the warm-up's first rate is 0
    assert moved == [[False] * 2, *[[True, False]] * 9, *[[True, True]] * 10]
    assert jnp.any(
        trained[tuning.HEAD][LAST]["kernel"] != start.trained[tuning.HEAD][LAST]["kernel"]
    )


def test_tuning_all_layers_starts_from_the_base_and_moves_everything():
    config = models.EfficientNetConfig(
        stem=4, head=8, stages=(models.Stage(1, 3, 1, 1, 4), models.Stage(1, 3, 2, 2, 6))
    )  # fmt: skip
    init = jax.jit(lambda key: models.init_efficientnet(key, config))
    params, moments = init(jax.random.key(0))
    del params["classifier"]
    rng = np.random.default_rng(0)
    images, y = rng.normal(size=(40, 8, 8, 3)).astype(np.float32), np.arange(40, dtype=np.int32) % 2

    def seen_by(params, moments, x, learns):
        return models.efficientnet_features(params, config, x, state=moments, train=learns)

    seen = np.asarray(jax.jit(partial(seen_by, learns=False))(params, moments, images)[0])
    learner = all_layers(
        params, moments, seen_by, lambda known: images[known], Features({LAST: seen}, ()), y, 2,
        "both", 1000,
    )  # fmt: skip
    known = np.arange(40)
    start = learner.start(known, 0, HeadChoice(LAST, 0.1))
    frozen = head_logits(solve(seen, y, 2, 0, 0.1).head, seen)
    at_first = jax.jit(learner.logits)(start.trained, start.fixed, start.moments, images)
    np.testing.assert_allclose(at_first, frozen, atol=1e-5)

    def loss(trained):
        batch = {"inputs": images, "y": y}
        return learner.loss(trained, start.fixed, start.moments, batch, jax.random.key(1))

    gradient, moved = jax.jit(jax.grad(loss, has_aux=True))(start.trained)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    for now, then in zip(jax.tree.leaves(moved), jax.tree.leaves(moments), strict=True):
        assert jnp.all(now != then)


def test_where_no_seed_is_tuned_methods_are_the_same():
    frozen = [Learned(accuracy, 0.5, 1.0, {}) for accuracy in (0.8, 0.82, 0.79)]
    compared = beside({"LoRA": {10: frozen}, FROZEN: {10: frozen}}, "LoRA", FROZEN)
    assert said(compared[10]) == "the same"


def test_steps_grow_with_labels_and_epochs_show_each_example_once():
    assert [tuning.steps_of(n, 1000) for n in (10, 500, 5000)] == [60, 313, 1000]
    known = np.arange(100, 110)
    order = batches(known, 5, 4, 0)
    assert order.shape == (5, 4)
    for epoch in np.split(order.ravel(), 2):
        assert sorted(epoch) == known.tolist()
    assert batches(known, 3, 64, 0).shape == (3, 10)


@pytest.mark.parametrize("helps", [True, False])
def test_held_out_labels_may_choose_not_to_tune(helps):
    """A net of one number, which grows by its rate: the logit of the right class, or of another."""
    y = (np.arange(60) % 3).astype(np.int32)
    shift = 0 if helps else 1

    def logits(t, fixed, moments, inputs):
        return t * jax.nn.one_hot((inputs + shift) % 3, 3) + jax.nn.one_hot(inputs, 3)

    learner = Learner(
        rates=(0.1, 0.5), shares=(0.0, 0.5, 1.0), steps=lambda n: 4, batch=16,
        start=lambda known, seed, of_head: Start(jnp.zeros(()), ()),
        loss=lambda t, fixed, moments, batch, key: (-t, moments), logits=logits,
        optimizer=lambda rate, steps: optim.sgd(rate),
        inputs=lambda chosen: y if chosen is None else y[chosen], labels=y,
    )  # fmt: skip
    head = HeadChoice(LAST, 1.0)
    trial = Trial(np.arange(48), np.arange(48, 60), head)
    best, end = make_learn(learner, y)(np.arange(60), 0, head, trial)
    assert best.choice["chosen"]
    assert end.choice["share"] == 1
    assert (best.choice["share"] > 0) == helps
    assert best.accuracy == 1
    few, same = make_learn(learner, y)(np.arange(6), 0, head, None)
    assert few is same
    assert few.choice == {"rate": 0.1, "share": 1.0, "chosen": False}


def test_features_are_computed_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.ones(2, np.float16)}

    key = key_of("name", np.arange(4), 2)
    for _ in range(2):
        found = cached(key, compute, ("a", "b"))
        np.testing.assert_array_equal(found["a"], np.arange(3))
        assert found["b"].dtype == np.float16
    assert len(calls) == 1
    (path,) = (tmp_path / "jaxnets" / "features").iterdir()
    path.write_bytes(b"damaged")
    cached(key, compute, ("a", "b"))
    assert len(calls) == 2
    assert len({key_of(1, 23), key_of(12, 3), key_of(123), key_of(np.array(1), 23)}) == 4
    assert len({key, key_of("name", np.arange(5), 2), key_of("name", np.arange(4), 3)}) == 3
    assert "computing features" in capsys.readouterr().err


def test_long_texts_keep_their_beginning_and_their_end():
    ids = np.arange(1, 13, dtype=np.int32)[None].repeat(2, 0)
    mask = np.arange(12)[None] < np.array([[12], [3]])
    short = shortened(ids, mask, 8)
    assert short["ids"].tolist() == [[1, 2, 7, 8, 9, 10, 11, 12], [1, 2, 3, 0, 0, 0, 0, 0]]
    assert short["mask"].sum(1).tolist() == [8, 3]


def test_cells_are_read_from_the_wheel_alone(tmp_path, monkeypatch):
    from matplotlib.image import imsave

    wheel = tmp_path / elpv.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = []
        for i in range(8):
            path = tmp_path / f"{i}.png"
            imsave(path, np.full((300, 300), i / 8), cmap="gray", vmin=0, vmax=1)
            archive.write(path, f"{elpv.INSIDE}/images/{i}.png")
            lines.append(f"images/{i}.png  {i % 2 / 1.0}  mono")
        archive.writestr(f"{elpv.INSIDE}/labels.csv", "\n".join(lines))
    with pytest.raises(UsageError, match="is not elpv's, or is damaged"):
        load_elpv(tmp_path)
    with pytest.raises(UsageError, match="lacks elpv_dataset"):
        load_elpv(tmp_path / "elsewhere")


def test_methods_are_compared_by_seed():
    def of(*accuracies):
        return {10: [Learned(a, 1.0, 2.0, {"share": 0.0, "chosen": True}) for a in accuracies]}

    found = {
        "scratch": of(0.40, 0.55), "frozen": of(0.50, 0.652),
        "LoRA": of(0.52), "LoRA, all steps": of(0.49),
    }  # fmt: skip
    header, ((n, above, lora, end),) = report.comparisons(found)
    assert header[1:] == [
        "frozen less scratch", "LoRA less frozen", "LoRA, all steps less frozen",
    ]  # fmt: skip
    assert (n, lora, end) == ("10", "+2.0 (one seed)", "-1.0 (one seed)")
    assert re.fullmatch(r"\+10\.1 \(\+8\.8 to \+11\.4\): more", above)
    assert "LoRA less frozen, in points of accuracy: with 10 labels +2.0" in report.verdict(found)
    rows = report.table_of(found, report.spread)[1]
    assert rows == [["10", "47.5 (40.0 to 55.0)", "57.6 (50.0 to 65.2)", "52.0", "49.0"]]
    assert results.declined(found["LoRA"][10]) == "1 of 1"


def test_what_was_chosen_and_what_was_fixed():
    def of(*choices):
        return [Learned(0.5, 1.0, 2.0, choice) for choice in choices]

    third = {"rate": 1e-4, "share": 1 / 3, "chosen": True}
    none = {"rate": 3e-5, "share": 0.0, "chosen": True}
    assert results.settled(of(none, third, none)) == (
        "not tuned (2); rate 0.0001, 1/3 of the steps (1)"
    )  # fmt: skip
    fixed = {"rate": 1e-4, "share": 1.0, "chosen": False}
    assert results.settled(of(fixed)) == "fixed, not chosen: rate 0.0001, all of the steps"
    assert results.declined(of(fixed)) == "none could: too few labels"
    head = {"kind": ALL, "strength": 0.01, "chosen": False}
    assert results.settled(of(head, head)) == "fixed, not chosen: all levels, C 0.01 (2)"


def test_amounts_and_flags():
    every = ("fine-tuned", "gradually-unfrozen", "all-layers", "lora")
    labels = (10, 50, 100, 500, 1000, 5000)
    assert settle(Config()) == Amounts(labels, 6000, 2000, 1000, 3, 3, every)
    assert settle(Config(quick=True)).methods == ("fine-tuned", "gradually-unfrozen", "lora")
    with pytest.raises(UsageError, match=r"--methods must be among fine-tuned .* got half"):
        settle(Config(methods=("lora", "half")))
    assert settle(Config(quick=True, task="sentiment")).tests == 500
    assert settle(Config(tuned_seeds=0)).tuned_seeds == 0
    with pytest.raises(UsageError, match="--labels must be from 2 to the 2000 of --examples"):
        settle(Config(quick=True, labels=(5000,)))
    with pytest.raises(UsageError, match="--tuned-seeds must be at most the 3 seeds, got 4"):
        settle(Config(tuned_seeds=4))
    with pytest.raises(UsageError, match="--most-steps must be at least 10, got 5"):
        settle(Config(most_steps=5))
    with pytest.raises(UsageError, match="--frozen-blocks must be from 1 to 13, got 14"):
        settle(Config(frozen_blocks=14))
    with pytest.raises(UsageError, match="--side must be at least 32, got 8"):
        settle(Config(side=8))


@pytest.mark.download
def test_with_500_labels_frozen_features_beat_a_net_from_scratch(tmp_path):
    """By three points at least."""
    or_skip(fetch_weights, "efficientnet-lite0")
    folder = tmp_path / "run"
    flags = (
        "transfer --quick --labels 500 --tuned-seeds 0 --examples 1000 --tests 600 "
        f"--folder {folder}"
    )
    assert cli.main(flags.split()) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    mean = {
        name: np.mean([r["accuracy"] for r in records if r["method"] == name])
        for name in ("scratch", "frozen")
    }
    assert mean["frozen"] - mean["scratch"] >= 0.03
