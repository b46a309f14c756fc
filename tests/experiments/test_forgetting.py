"""Tasks in sequence: end to end on a small data set, and what tasks are made of."""

import json
import re

import numpy as np
import pytest

from experiments import cli
from experiments.data import load
from experiments.errors import UsageError
from experiments.forgetting import report
from experiments.forgetting.experiment import Amounts, Config, settle
from experiments.forgetting.methods import CANDIDATES, Method, at_an_end
from experiments.forgetting.tasks import hold_out, make_tasks, smaller


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = f"--folder {folder} --quick --tasks 2 --steps 80 --seeds 2"
    more = "--protocol class --hidden 16 --learning-rate 0.01"
    assert cli.main(["forgetting", *flags.split(), *more.split()]) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["method"] for r in records] == [n for n in CANDIDATES for _ in range(2)]
    assert {r["seed"] for r in records} == {0, 1}
    for record in records:
        matrix = np.array(record["accuracies"])
        assert matrix.shape == (2, 2)
        assert record["forgetting"] == pytest.approx(matrix[0, 0] - matrix[1, 0], abs=1e-6)
    lost = {
        name: np.mean([r["forgetting"] for r in records if r["method"] == name])
        for name in CANDIDATES
    }
    # of two classes that never come again all is lost; with replay it is not
    assert lost["naive"] > 0.8
    assert lost["replay"] < 0.5 * lost["naive"]
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == {"class-matrices", "class-figures", "class-first"}
    html = (folder / "report.html").read_text()
    assert "backward transfer how far above the diagonal" in html
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "which two is not told; 2 seeds" in capsys.readouterr().out


def test_tasks_are_two_classes_or_the_same_pixels_in_another_order(small):
    data = load(str(small))
    told, untold = (make_tasks(data, p, 2, 1000, 0) for p in ("task", "class"))
    for t, classes in enumerate(((0, 1), (2, 3))):
        assert set(told.train.y[t]) == set(classes) == set(told.test.y[t])
        assert np.flatnonzero(told.train.answers[t, 0]).tolist() == list(classes)
    assert untold.train.answers.all()
    permuted = make_tasks(data, "permuted", 3, 5, 0)
    assert permuted.train.x.shape == (3, 5, 64)
    images = data.train_x.reshape(-1, 64)
    assert all(any(np.array_equal(x, image) for image in images) for x in permuted.train.x[0])
    assert not any(np.array_equal(permuted.train.x[1, 0], image) for image in images)
    values = {tuple(sorted(image.tolist())) for image in images}
    assert all(tuple(sorted(x.tolist())) in values for x in permuted.train.x[1])
    with pytest.raises(UsageError, match="3 tasks of two classes need 6 classes, bars has 4"):
        make_tasks(data, "task", 3, 1000, 0)


def test_strengths_are_chosen_without_the_test_images(small):
    data = load(str(small))
    held = hold_out(data, 3)
    assert len(held.train_y) + len(held.test_y) == len(data.train_y)
    together = np.concatenate([held.train_x, held.test_x])
    assert np.array_equal(np.sort(together, axis=0), np.sort(data.train_x, axis=0))


def test_large_images_are_halved():
    images = np.arange(2 * 16 * 16, dtype=np.float32).reshape(2, 16, 16, 1)
    assert smaller(images).shape == (2, 8, 8, 1)
    assert smaller(images)[0, 0, 0, 0] == np.mean([0, 1, 16, 17])
    assert smaller(images[:, :8, :8]).shape == (2, 8, 8, 1)


def test_the_verdict_says_what_halves_forgetting_and_at_what_price():
    def matrices(*last):
        return np.array([[[0.9, 0.0], [x, 0.91]] for x in last], np.float32)

    by = {
        "naive": matrices(0.1, 0.12),
        "lower rate": matrices(0.2, 0.21),
        "EWC": matrices(0.45, 0.65),
        "replay": matrices(0.55, 0.56),
    }
    chosen = dict.fromkeys(by, Method()) | {"EWC": CANDIDATES["EWC"][-1]}
    found = report.Found("class", ("a", "b"), 0.0, [0, 1], chosen, by)
    judged = {name: one.as_claimed for name, one in report.halving(found).items()}
    # the mean of EWC is below half, but two seeds that far apart do not say so
    assert judged == {"lower rate": False, "EWC": None, "replay": True}
    said = report.verdict(found)
    assert "forgets 79.0 points, and is 51 % right" in said
    assert "less than half as much is forgotten with replay (34.5, and 73 % right)" in said
    assert "2 seeds do not decide of EWC (35.0, and 73 % right)" in said
    assert said.endswith("a better one may lie, was that of EWC.")
    assert [row[1] for row in report.rows_of(found)] == ["–", "–", "λ = 1e+07*", "–"]
    little = found._replace(matrices={name: matrices(0.88, 0.9) for name in by})
    assert report.halving(little) == {}
    assert "too little to ask what halves it" in report.verdict(little)


def test_an_end_of_the_strengths_is_one_where_there_are_several():
    rates = CANDIDATES["lower rate"]
    assert [at_an_end("lower rate", m) for m in rates] == [True, *[False] * 6, True]
    assert not at_an_end("naive", Method())


def test_amounts_and_flags():
    assert settle(Config()) == Amounts(3000, 600, 10)
    assert settle(Config(quick=True, seeds=7)) == Amounts(1000, 200, 7)
    with pytest.raises(UsageError, match="--tasks must be at least 2, got 1"):
        settle(Config(tasks=1))
    with pytest.raises(UsageError, match="--memory must be positive, got 0"):
        settle(Config(memory=0))
    with pytest.raises(UsageError, match="--seed must stay below"):
        settle(Config(seed=9_995))
