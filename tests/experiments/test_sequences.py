"""Training all seeds at once, where each may stop by itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sequences
from experiments.run import open_run
from experiments.sequences import Classifier, Training
from experiments.signals.experiment import Config

SEEDS = (0, 1)
PATIENCE = 3

LINE = Classifier(
    "line",
    init=lambda key: {"w": jax.random.uniform(key, (), minval=-4.0, maxval=1.0)},
    logits=lambda params, x, lengths, key=None: jnp.stack(
        [jnp.zeros(x.shape[:-1]), params["w"] * x[..., 0]], -1
    ),
)
"""`p(1) = σ(w)` of any example below, from a first w that depends on the seed."""


def batch(labels):
    y = jnp.asarray(labels, jnp.int32)
    return {"x": jnp.ones((len(y), 1)), "lengths": jnp.ones(len(y), jnp.int32), "y": y}


DATA = {"train": batch([1] * 8), "held_out": batch([1, 1, 1, 0]), "test": batch([1, 0])}
"""Training takes w up and up; best for those held out is log 3, on the way."""


def held_out_loss(w):
    return (3 * np.logaddexp(0, -w) + np.logaddexp(0, w)) / 4


@pytest.fixture
def seen(monkeypatch):
    """w of each seed after each epoch, as the training goes on."""
    found, make = [], sequences.make_program

    def recording(*arguments):
        program = make(*arguments)

        def epoch(*given):
            after = program.epoch(*given)
            found.append(np.asarray(after[0].params["w"], np.float64))
            return after

        return program._replace(epoch=epoch)

    monkeypatch.setattr(sequences, "make_program", recording)
    return found


def test_each_seed_stops_by_itself_and_keeps_its_best(seen, tmp_path):
    training = Training(0.25, 0.0, 8, 30, PATIENCE)
    with open_run(tmp_path, "signals", Config(), folder=tmp_path / "run") as run:
        trained = sequences.train_seeds(run, LINE, training, DATA, SEEDS)
    w = np.stack(seen, -1)
    losses = held_out_loss(w)
    best = losses.argmin(-1)
    stops = best + PATIENCE
    # at different epochs, one after the other, and before all were done
    assert 0 < best.min() < best.max()
    assert w.shape[-1] == stops.max() + 1 < training.epochs
    np.testing.assert_allclose(trained.params["w"], w[range(2), best], rtol=1e-6)
    for i, stop in enumerate(stops):
        assert np.all(np.diff(w[i, : stop + 1]) > 0)
        np.testing.assert_array_equal(w[i, stop:], w[i, stop])
        for values in trained.history.values():
            assert np.isfinite(values[i, : stop + 1]).all()
            assert np.isnan(values[i, stop + 1 :]).all()
        np.testing.assert_allclose(
            trained.history["held_out_loss"][i, : stop + 1], losses[i, : stop + 1], rtol=1e-5
        )
    np.testing.assert_array_equal(trained.accuracy, 0.5)
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(list(map(json.loads, records))) == 2 * w.shape[-1]


def test_without_patience_the_end_is_kept(seen, tmp_path):
    training = Training(0.5, 0.0, 8, 12)
    with open_run(tmp_path, "signals", Config(), folder=tmp_path / "run") as run:
        trained = sequences.train_seeds(run, LINE, training, DATA, SEEDS)
    assert len(seen) == training.epochs
    np.testing.assert_allclose(trained.params["w"], seen[-1], rtol=1e-6)
    assert all(np.isfinite(values).all() for values in trained.history.values())
