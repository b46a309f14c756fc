"""Signals: their files, their split, and the experiment end to end."""

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, sequences
from experiments.data import signals as data
from experiments.data.signals import Split, fingerprint, load_signals, parse_ts, parse_tsv
from experiments.errors import UsageError
from experiments.run import Run, open_run
from experiments.signals import report
from experiments.signals.experiment import Config, settle, split
from experiments.signals.nets import Recipe, make_classifier
from tests.downloads import or_skip

HEADER = "# about\n@problemName Waves\n@equalLength false\n@classLabel true low high\n@data\n"


def wave(rng, label):
    """Two channels of 6 to 9 steps, of which one says the class."""
    t = np.arange(rng.integers(6, 10))
    return np.stack([np.sin((1 + label) * t + rng.uniform(0, 6)), rng.normal(size=len(t))])


def ts_line(channels, label):
    return ":".join(",".join(f"{v:.4f}" for v in values) for values in channels) + f":{label}\n"


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """Twenty-four training and ten test signals, as `.ts` files."""
    folder, rng = tmp_path_factory.mktemp("waves"), np.random.default_rng(0)
    for part, n in (("TRAIN", 24), ("TEST", 10)):
        lines = [ts_line(wave(rng, i % 2), ("low", "high")[i % 2]) for i in range(n)]
        (folder / f"Waves_{part}.ts").write_text(HEADER + "".join(lines))
    return folder / "Waves_TRAIN.ts"


def test_signals_of_unequal_lengths_are_padded_with_zeros(waves):
    found = load_signals(str(waves))
    assert (found.name, found.classes) == ("Waves", ("low", "high"))
    assert found.train.x.shape[1:] == found.test.x.shape[1:]
    assert found.train.x.shape[1] == max(found.train.lengths.max(), found.test.lengths.max())
    assert found.train.x.dtype == np.float32
    np.testing.assert_array_equal(found.train.y, np.arange(24) % 2)
    signals, _ = parse_ts(waves)
    for row, length, signal in zip(found.train.x, found.train.lengths, signals, strict=True):
        np.testing.assert_array_equal(row[:length], signal.astype(np.float32))
        assert not row[length:].any()


def test_a_file_of_tabs(tmp_path):
    for part, rows in (("TRAIN", "10\t0.5\t-1\n-1\t2\t3\n2\t0\t0\n"), ("TEST", "2\t1\t1e-3\r\n")):
        (tmp_path / f"Two_{part}.tsv").write_bytes(rows.encode())
    found = load_signals(str(tmp_path / "Two_TRAIN.tsv"))
    # the shorter first
    assert found.classes == ("2", "-1", "10")
    np.testing.assert_array_equal(found.test.x[..., 0], np.float32([[1, 1e-3]]))
    assert [found.classes[y] for y in found.train.y] == ["10", "-1", "2"]
    np.testing.assert_array_equal(found.train.lengths, [2, 2, 2])


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".ts", "@problemName x\n1,2:1\n", "is not a .ts file: it has no line @data"),
        (".ts", "@data\n1,2:3:1\n", r"line 2: .* 2 channels of lengths \[2, 1\]"),
        (".ts", "@data\n\n1\n", "line 3: there must be a class after channels"),
        (".ts", "@data\n1,?:1\n", "line 2: could not convert string to float: '\\?'"),
        (".ts", "@data\n1,nan:1\n", "line 2: only finite values are accepted"),
        (".ts", "@data\n", "there are no signals in it"),
        (".tsv", "1\n", "line 1: there is no value after the class"),
        (".tsv", "1\t\t2\n", "line 1: could not convert string to float: ''"),
        (".tsv", "1\t2\n\n1\t2\t\n", "line 3: could not convert string to float: ''"),
        (".tsv", "1\t2\n\t3\n", "line 2: there is no class before the first tab"),
        (".tsv", "1\t2\n\t\n", "line 2: there is no class before the first tab"),
        (".tsv", "", "there are no signals in it"),
    ],
)
def test_damaged_files_are_named(tmp_path, suffix, content, message):
    path = tmp_path / f"x_TRAIN{suffix}"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"x_TRAIN.*{message}"):
        (parse_ts if suffix == ".ts" else parse_tsv)(path)


def test_files_that_do_not_fit_are_named(tmp_path):
    def write(train, test):
        (tmp_path / "x_TRAIN.ts").write_text(f"@data\n{train}\n")
        (tmp_path / "x_TEST.ts").write_text(f"@data\n{test}\n")
        return str(tmp_path / "x_TRAIN.ts")

    with pytest.raises(UsageError, match=r"x_TEST\.ts: there are no training signals of class 'b'"):
        load_signals(write("1,2:a", "1,2:b"))
    with pytest.raises(UsageError, match="x: signals have from 1 to 2 channels"):
        load_signals(write("1,2:a", "1,2:3,4:a"))
    (tmp_path / "binary_TRAIN.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"binary_TRAIN\.tsv is not a text file"):
        parse_tsv(tmp_path / "binary_TRAIN.tsv")
    with pytest.raises(UsageError, match=r"none_TRAIN\.ts cannot be read: No such file"):
        load_signals(str(tmp_path / "none_TRAIN.ts"))


def test_unknown_names_and_needless_folders_are_refused(waves):
    with pytest.raises(UsageError, match=r"unknown signals 'GunPoin' .did you mean GunPoint"):
        load_signals("GunPoin")
    with pytest.raises(UsageError, match="--data-folder is where JapaneseVowels"):
        load_signals(str(waves), waves.parent)


def test_known_data_are_read_from_a_folder_and_checked(waves, tmp_path, monkeypatch):
    hashes = {}
    for part in ("TRAIN", "TEST"):
        content = (waves.parent / f"Waves_{part}.ts").read_bytes()
        (tmp_path / f"GunPoint_{part}.ts").write_bytes(content)
        hashes[f"GunPoint_{part}.ts"] = hashlib.sha256(content).hexdigest()
    known = data.SOURCES["GunPoint"]._replace(sha256=hashes)
    monkeypatch.setitem(data.SOURCES, "GunPoint", known)
    found = load_signals("GunPoint", tmp_path)
    assert fingerprint(found) == fingerprint(load_signals(str(waves)))
    (tmp_path / "GunPoint_TEST.ts").write_text("@data\n1:low\n")
    with pytest.raises(UsageError, match=r"GunPoint_TEST.ts is not GunPoint's, or is damaged"):
        load_signals("GunPoint", tmp_path)
    (tmp_path / "GunPoint_TEST.ts").unlink()
    with pytest.raises(UsageError, match=r"lacks one of GunPoint_TRAIN\.ts, GunPoint_TEST\.ts"):
        load_signals("GunPoint", tmp_path)


def test_standardization_is_by_the_steps_that_are_trained_on(waves):
    found = load_signals(str(waves))
    parts = split(found, validate=False)
    x, lengths = np.asarray(parts.train["x"]), np.asarray(parts.train["lengths"])
    steps = np.concatenate([row[:n] for row, n in zip(x, lengths, strict=True)])
    np.testing.assert_allclose(steps.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(steps.std(0), 1, rtol=1e-5)
    assert not any(row[n:].any() for row, n in zip(x, lengths, strict=True))


def test_validation_takes_a_fifth_of_each_class_and_no_test_signal(waves):
    found = load_signals(str(waves))
    parts = split(found, validate=True)
    assert (len(parts.train["y"]), len(parts.test["y"])) == (20, 4)
    assert np.bincount(parts.test["y"]).tolist() == [2, 2]

    def rows(split):
        return {x.tobytes() for x in np.asarray(split)}

    assert rows(parts.shown.x) < rows(found.train.x)
    kept = np.concatenate([parts.train["y"], parts.test["y"]])
    assert np.bincount(kept).tolist() == [12, 12]


def flags(waves, folder, *more):
    base = f"--data {waves} --folder {folder} --epochs 2 --width 3 --batch-size 8 --seeds 2"
    return ["signals", *base.split(), *more]


def test_the_report_shows_every_net(waves, tmp_path, capsys):
    found = load_signals(str(waves))
    config, recipe = Config(data=str(waves), model=("cnn",)), Recipe(3, 1e-3, 8, 3)
    trained = sequences.Trained(
        sequences.Classifier("1-D CNN", None, None), [0, 1], None,
        {name: np.full((2, 3), 0.5) for name in ("loss", "held_out_loss", "held_out_accuracy")},
        np.array([0.75, 0.5]), 7.0,
    )  # fmt: skip
    examined = report.Examined(1 - found.test.y, np.arange(10, dtype=np.float32))
    results = report.Results(found, found.test, [trained], [examined])
    with open_run(tmp_path, "signals", config) as run:
        report.print_results(results, config)
        html = report.write_report(run, config, {"cnn": recipe}, results).read_text()
    printed = capsys.readouterr().out
    assert "1-D CNN: test accuracy 62.50 % (seeds 0 to 1: 75.00, 50.00)" in printed
    assert "signal 9: class high, read as low, gradient norm 9" in printed
    pictures = {path.stem for path in run.folder.glob("*.png")}
    assert pictures == {"signals", "loss", "accuracy", "confusion-cnn", "hardest-cnn", "norms-cnn"}
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "of the 10 test signals rightly" in html


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(waves, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(flags(waves, folder)) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    nets = ("1-D CNN", "bidirectional GRU")
    assert {r["curve"] for r in records} == {f"{n}, seed {s}" for n in nets for s in (0, 1)}
    assert [r["step"] for r in records if r["curve"] == "1-D CNN, seed 1"] == [1, 2]
    pictures = {path.stem for path in folder.glob("*.png")}
    own = {f"{kind}-{m}" for kind in ("confusion", "hardest", "norms") for m in ("cnn", "gru")}
    assert pictures == {"signals", "loss", "accuracy", *own}
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "of the 10 test signals rightly" in html
    assert "1-D CNN: test accuracy" in capsys.readouterr().out


@pytest.fixture(scope="module")
def net(waves):
    """A tiny recurrent net, trained for two epochs from two seeds, and its data."""
    found = load_signals(str(waves))
    parts = split(found, validate=False)
    batches = {"train": parts.train, "held_out": parts.test, "test": parts.test}
    classifier = make_classifier("gru", found, width=3, dropout=0.1)
    return classifier, sequences.Training(1e-2, 0.01, 8, 2), batches


@pytest.mark.thorough
def test_seeds_trained_at_once_are_those_trained_alone(net, tmp_path):
    classifier, training, batches = net
    both = sequences.train_seeds(Run(tmp_path), classifier, training, batches, [3, 4])
    alone = sequences.train_seeds(Run(tmp_path), classifier, training, batches, [4])
    for got, want in zip(
        jax.tree.leaves(sequences.of_seed(both, 1)),
        jax.tree.leaves(sequences.of_seed(alone, 0)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both.history["loss"][1], alone.history["loss"][0], rtol=1e-4)
    assert both.history["held_out_accuracy"].shape == (2, 2)
    # the first seed's logits and gradients, from the definition
    params = sequences.of_seed(both, 0)
    test = batches["test"]
    logits = sequences.predict(classifier, params, test)
    assert both.accuracy[0] == np.mean(logits.argmax(-1) == test["y"])

    def loss(params, x, length, y):
        return -jax.nn.log_softmax(classifier.logits(params, x, length))[y]

    grads = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(params, test["x"], test["lengths"], test["y"])
    want = jnp.sqrt(sum(jnp.sum(g.reshape(10, -1) ** 2, 1) for g in jax.tree.leaves(grads)))
    got = sequences.gradient_norms(classifier, params, test, chunk=4)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_quick_leaves_other_flags_alone():
    full, quick = (settle(Config(data="ElectricDevices", quick=q), "cnn") for q in (False, True))
    assert full.epochs > quick.epochs
    assert settle(Config(quick=True, epochs=4, width=5), "gru")._replace(
        learning_rate=0, batch_size=0
    ) == Recipe(5, 0, 0, 4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--epochs 0", "--epochs must be positive, got 0"),
        ("--seeds 0", "--seeds must be positive, got 0"),
        ("--learning-rate nan", "--learning-rate must be positive, got nan"),
        ("--dropout 2", "--dropout must be from 0 to 1, got 2"),
        ("--weight-decay -1", "--weight-decay must not be negative, got -1"),
        ("--seed -1", "--seed must be from 0 to 2147483645 (2³¹ - 1 - seeds), got -1"),
        ("--batch-size 25", "--batch-size must be at most the 24 training signals, got 25"),
        ("--model cnn cnn", "--model must name one net or several, each once"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(waves, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    assert cli.main(flags(waves, folder, *more.split())) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "report.html").exists()


@pytest.mark.download
@pytest.mark.parametrize(
    ("name", "train", "test", "classes"),
    [
        ("JapaneseVowels", (270, 29, 12), 370, 9),
        ("ItalyPowerDemand", (67, 24, 1), 1029, 2),
        ("GunPoint", (50, 150, 1), 150, 2),
        ("ElectricDevices", (8926, 96, 1), 7711, 7),
        ("FordA", (3601, 500, 1), 1320, 2),
        ("ECG5000", (500, 140, 1), 4500, 5),
    ],
)
def test_packages_bring_the_signals_that_are_expected(name, train, test, classes):
    found = or_skip(load_signals, name)
    assert isinstance(found.train, Split)
    assert found.train.x.shape == train
    assert (len(found.test.y), len(found.classes)) == (test, classes)
    assert set(found.train.y) == set(found.test.y) == set(range(classes))
