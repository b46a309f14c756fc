"""Retrieval: end to end on small pairs, and the parts that judge it."""

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from experiments.data import caption_origins as origins
from experiments.data import captioned
from experiments.data.captioned import load_captioned, near_duplicates
from experiments.errors import FetchError, UsageError
from experiments.retrieval import images, measure, report, training, words
from experiments.retrieval.experiment import Amounts, Config, settle
from experiments.run import open_run
from jaxnets import models, optim
from tests.downloads import or_skip

COLORS = {"red": (220, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 220), "black": (0, 0, 0)}
SHAPES = ("bar", "post", "square", "corner", "cross", "dot")


def drawn(shape, color):
    image = np.full((128, 128, 3), 255, np.uint8)
    a, b = slice(16, 112), slice(48, 80)
    strokes = {
        "bar": [(b, a)],
        "post": [(a, b)],
        "square": [(a, a)],
        "corner": [(a, slice(16, 48)), (slice(80, 112), a)],
        "cross": [(a, b), (b, a)],
        "dot": [(b, b)],
    }
    for rows, columns in strokes[shape]:
        image[rows, columns] = color
    return image


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Twenty-four drawings, each with two captions, an .npz file."""
    pairs = [(f"{c} {s}", drawn(s, rgb)) for s in SHAPES for c, rgb in COLORS.items()]
    path = tmp_path_factory.mktemp("data") / "drawings.npz"
    captions = np.array([f"a {name}\n{name} on white" for name, _ in pairs])
    np.savez(path, images=np.stack([image for _, image in pairs]), captions=captions)
    return path


def flags(drawings, folder, *more):
    base = f"--data {drawings} --folder {folder} --quick --side 16 --width 4 --features 16"
    return ["retrieval", *f"{base} --batch-size 8 --held-out 0.3 --epochs 2".split(), *more]


@pytest.mark.thorough
def test_a_run_leaves_its_config_metrics_pictures_and_report(drawings, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(flags(drawings, folder)) == 0
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["epochs"], config["seeds"], config["width"]) == (2, 1, 4)
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in found] == [2, 4]
    assert all(0 <= p <= 1 for r in found for p in r["held_out"]["images"])
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == {"curves", "pictures", "captions", "similarities"}
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', html)
    out = capsys.readouterr().out
    assert "17 pairs to train on, 7 held out" in out
    assert re.search(r"^  by chance +14\.3 %   71\.4 %   100\.0 %$", out, re.MULTILINE)


@pytest.mark.exhaustive
@pytest.mark.parametrize("more", ["--text gru --loss siglip", "--text transformer"])
def test_other_towers_run(drawings, tmp_path, more):
    assert cli.main(flags(drawings, tmp_path / "run", *more.split())) == 0


@pytest.mark.thorough
def test_training_finds_pairs_it_was_trained_on_and_reports_it(drawings, tmp_path, capsys):
    """With features in place of pictures, of which each has several views."""
    data = load_captioned(str(drawings))
    everything = np.arange(len(data.captions))
    vocabulary = words.make_vocabulary(data.captions, pieces=True)
    texts = words.encode(data.captions, vocabulary)
    small = images.shrink(data.images, 16).reshape(len(everything), 1, -1) / np.float32(255)
    noisy = small + 0.1 * np.random.default_rng(0).standard_normal((1, 3, 1))
    features = np.concatenate([small, noisy], 1).astype(np.float32)

    model = models.TwoTowerConfig(
        models.MLPConfig(features.shape[-1], 16, (32,)),
        models.BagOfWordsConfig(len(vocabulary), 16),
    )
    how = training.Training(0.01, 0.0, 24, 60, 0.0)
    program = training.make_program(how, model, 24)
    batch = training.batch_of(features, texts, everything)
    trained = training.run(how, program, batch, batch, batch, 0)
    assert min(trained.recalls[-1].images[0], trained.recalls[-1].texts[0]) > 0.9
    assert trained.known == trained.recalls[-1]
    assert trained.losses[-1] < 0.3 * trained.losses[0]
    np.testing.assert_allclose(np.linalg.norm(trained.images, axis=1), 1, rtol=1e-5)
    one = report.OneRun(0, measure.Split(everything, everything, everything[:9]), trained)
    with open_run(tmp_path, "retrieval", Config()) as folder:
        html = report.write_report(folder, data, [one]).read_text()
    assert html.count("data:image/png;base64,") == len(list(folder.folder.glob("*.png"))) == 4
    assert "Of 24 drawings held out, not trained on" in html
    assert "In this run the pairs that are measured are those of the test." in html
    assert "one of a kind drawn by the seed, among 9." in html
    with open_run(tmp_path, "retrieval", Config(validate=True)) as folder:
        html = report.write_report(folder, data, [one]).read_text()
    assert "Of 24 drawings of validation, not trained on" in html
    assert "In this run the pairs that are measured are of validation: 20% of the kinds" in html
    report.print_results(Config(validate=True), data, [one])
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].startswith("  pictures found by their captions, of validation   ")


def test_recall_counts_ties_and_nan_as_misses():
    u = np.eye(12, dtype=np.float32)
    assert measure.recall(u, u) == ((1, 1, 1), (1, 1, 1))
    assert measure.recall(u, np.ones_like(u)) == ((0, 0, 0), (0, 0, 0))
    assert measure.recall(u, np.full_like(u, np.nan)) == ((0, 0, 0), (0, 0, 0))
    # each caption's picture is the second to be found; a picture's own caption the first
    similarities = np.array([[0.5, 0.1, 0.2], [0.6, 0.7, 0.2], [0.1, 0.8, 0.9]])
    np.testing.assert_array_equal(measure.ranks(similarities), [0, 0, 0])
    np.testing.assert_array_equal(measure.ranks(similarities.T), [1, 1, 0])
    assert measure.chance(4) == (0.25, 1, 1)


def test_recall_by_chance_is_chance():
    rng = np.random.default_rng(0)
    found = [measure.recall(*rng.standard_normal((2, 100, 8))) for _ in range(60)]
    means = np.mean([r.images + r.texts for r in found], 0)
    np.testing.assert_allclose(means, measure.chance(100) * 2, rtol=0.3)


def test_families_never_straddle_and_are_asked_once():
    families = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7])
    for seed in range(20):
        found = measure.split(families, 0.4, seed)
        train, held = set(families[found.train]), families[found.held_out].tolist()
        assert len(held) == len(set(held)) == 3
        assert not train & set(held)
        assert train | set(held) == set(families)
        assert set(found.train) == set(np.flatnonzero(np.isin(families, list(train))))
        known = families[found.known].tolist()
        assert len(known) == len(set(known)) == 3
        assert set(found.known) <= set(found.train)
    one, two = (measure.split(families, 0.4, seed).held_out.tolist() for seed in (0, 1))
    assert one != two
    # of a family that is trained on any pair is asked, not always its first in the file
    drawn = {i for seed in range(40) for i in measure.split(families, 0.4, seed).known.tolist()}
    assert {3, 4, 5} <= drawn
    with pytest.raises(UsageError, match=r"--held-out 0\.1 of 8 kinds of pictures leaves less"):
        measure.split(families, 0.1, 0)


def test_validation_takes_of_the_training_families_and_leaves_the_test_alone():
    families = np.repeat(np.arange(20), 2)
    for seed in range(5):
        tested = measure.split(families, 0.25, seed)
        found = measure.split(families, 0.25, seed, validate=True)
        held = set(families[found.held_out])
        assert len(held) == 3
        assert not held & set(families[found.train])
        # a fifth of what was left to train on, and all of the rest is trained on
        assert held | set(families[found.train]) == set(families[tested.train])
        assert not set(families[tested.held_out]) & (held | set(families[found.train]))
    with pytest.raises(UsageError, match="--validate of 6 kinds of pictures leaves less than 2"):
        measure.split(np.arange(8), 0.25, 0, validate=True)


def test_near_duplicates_are_by_name_by_looks_and_in_chains():
    cross, dot = drawn("cross", (0, 0, 0)), drawn("dot", (200, 0, 0))
    almost = cross.copy()
    almost[20:22, 60:70] = 90
    pictures = np.stack([cross, almost, dot, drawn("bar", (9, 9, 9)), drawn("post", (9, 9, 9))])
    found = near_duplicates(pictures, ["a", "b", "c", "b", "d"])
    assert found[0] == found[1] == found[3]
    assert len(set(found.tolist())) == 3
    blank = np.full((2, 128, 128, 3), 255, np.uint8)
    assert len(set(near_duplicates(blank, ["a", "b"]).tolist())) == 2


def test_variants_of_one_drawing_have_one_name():
    drawing = origins._drawing
    assert drawing("woman running") == drawing("person running") == drawing("man running")
    assert drawing("one thirty") == drawing("twelve o’clock") == "clock"
    assert drawing("red heart") != drawing("blue heart")
    assert origins.words_of(":AB_button_(blood_type):") == ["ab", "button", "blood", "type"]
    assert origins.words_of("Grandma’s old T-Rex.") == ["grandma’s", "old", "t", "rex"]


def test_words_and_their_pieces():
    known = [("red cats",), ("cats", "a red hat")]
    vocabulary = words.make_vocabulary(known, pieces=True)
    ids = sorted(vocabulary.ids.values())
    assert ids == list(range(1, len(vocabulary)))
    # of the pieces those of two words
    assert {"red", "cats", "a", "hat", "at"} - set(vocabulary.ids) == {"at"}
    texts = words.encode([*known, ("cat",)], vocabulary)
    assert texts.ids.shape == texts.mask.shape
    assert texts.ids.shape[:2] == (3, 2)
    assert texts.ids.max() < len(vocabulary)
    np.testing.assert_array_equal(texts.ids[0, 0], texts.ids[0, 1])
    assert texts.ids[2, 0, 0] == words.UNKNOWN
    assert texts.mask[2].any(-1).all()
    plain = words.make_vocabulary(known, pieces=False)
    assert set(plain.ids) == {"a", "cats", "hat", "red"}


def test_augmentation_moves_little_and_keeps_white():
    image = jnp.asarray(images.shrink(drawn("dot", (0, 0, 0))[None], 32)[0]) / 255
    many = jax.vmap(images.augment, (0, None))(jax.random.split(jax.random.key(0), 40), image)
    assert many.shape == (40, 32, 32, 3)
    assert many.min() >= 0
    assert many.max() <= 1
    np.testing.assert_allclose(many[:, [0, 0, -1, -1], [0, -1, 0, -1]], 1, atol=1e-6)
    dark = jnp.mean(many < 0.5, (1, 2, 3))
    share = float(jnp.mean(image < 0.5))
    assert 0.6 * share < float(dark.min()) < float(dark.max()) < 1.6 * share
    assert len({round(float(d), 3) for d in dark}) > 10


def test_shrinking_is_the_mean_of_squares():
    x = np.zeros((1, 128, 128, 3), np.uint8)
    x[0, :4, :2] = 200
    small = images.shrink(x, 32)
    assert small.shape == (1, 32, 32, 3)
    assert small[0, 0, 0].tolist() == [100] * 3
    assert small.sum() == 300


def test_no_step_takes_the_scale_beyond_its_limit():
    optimizer = optim.chain(optim.sgd(1.0), training.hold_scale())
    params = {"log_scale": jnp.asarray(4.5), "w": jnp.ones(2)}
    gradient = {"log_scale": jnp.asarray(-1.0), "w": jnp.ones(2)}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    after = optim.apply_updates(params, updates)
    np.testing.assert_allclose(after["log_scale"], np.log(100), rtol=1e-6)
    np.testing.assert_array_equal(after["w"], 0)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Two drawings as a set of their own, read from a folder."""
    from PIL import Image

    def read(folder):
        image = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
        image.paste((255, 0, 0, 255), (0, 0, 100, 100))
        other = image.transpose(Image.Transpose.ROTATE_90)
        name = (folder / "names").read_text()
        return [origins.Pair(image, (f"{name} one",)), origins.Pair(other, (f"{name} two", "b"))]

    def fetch(folder):
        raise FetchError("there is no apt-get here")

    digest = "21e721c35a5823fdb452fa2f9f0a612c74fb952e06927489c6b27a43b817bed4"
    origin = origins.Origin("Debian's shelf", {"names": digest}, fetch, read, origins._drawing)
    monkeypatch.setitem(origins.ORIGINS, "shelf", origin)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "names").write_text("abcde")
    return tmp_path


def test_a_set_is_read_from_a_folder_checked_and_kept(shelf, capsys):
    environ = {"XDG_CACHE_HOME": str(shelf / "cache"), "JAXNETS_DATA": str(shelf / "there")}
    with pytest.raises(UsageError, match="names is not shelf's, or is damaged: its SHA-256 is"):
        load_captioned("shelf", shelf / "there")
    (shelf / "there" / "names").write_text("cd")
    data = load_captioned("shelf", environ=environ)
    assert data.captions == (("cd one",), ("cd two", "b"))
    # scaled to fit, in the middle, on white
    assert data.images.shape == (2, 128, 128, 3)
    assert data.images[0, 64, 10].tolist() == [255, 0, 0]
    assert data.images[0, 64, 120].tolist() == data.images[0, 10, 10].tolist() == [255] * 3
    (shelf / "there" / "names").unlink()
    again = load_captioned("shelf", environ=environ)
    assert again.captions == data.captions
    np.testing.assert_array_equal(again.images, data.images)
    assert again.families.tolist() == data.families.tolist() == [0, 0]
    empty = {"XDG_CACHE_HOME": str(shelf / "none")}
    with pytest.raises(FetchError, match=r"fetching it failed \(there is no apt-get here\); get"):
        load_captioned("shelf", environ=empty)
    with pytest.raises(UsageError, match="lacks one of names"):
        load_captioned("shelf", shelf)


def test_unsound_files_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"unknown data set 'emojis' \(did you mean emoji\?\)"):
        load_captioned("emojis")
    with pytest.raises(UsageError, match=r"none\.npz does not exist"):
        load_captioned(str(tmp_path / "none.npz"))
    path = tmp_path / "some.npz"
    np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="must hold images and captions, it holds images"):
        load_captioned(str(path))
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(UsageError, match=r"is not an \.npz archive: it holds a single array"):
        load_captioned(str(path))


@pytest.mark.parametrize("content", [b"", b"no archive"], ids=["empty", "text"])
def test_what_is_no_archive_is_named(tmp_path, content):
    path = tmp_path / "some.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"some\.npz is not a readable \.npz archive"):
        load_captioned(str(path))


def test_damaged_compression_is_named(tmp_path):
    path = tmp_path / "some.npz"
    images = np.random.default_rng(0).integers(0, 9, (2, 128, 128, 3)).astype(np.uint8)
    np.savez_compressed(path, images=images, captions=np.array(["a", "b"]))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"some\.npz is not a readable \.npz archive"):
        load_captioned(str(path))


WHITE = np.full((2, 128, 128, 3), 255, np.uint8)


@pytest.mark.parametrize(
    ("images", "captions", "got"),
    [
        (WHITE[:, :8, :8], ["a", "b"], r"uint8\[2, 8, 8, 3\] and <U1\[2\]"),
        (WHITE, ["a", "b", "c"], r"uint8\[2, 128, 128, 3\] and <U1\[3\]"),
        (WHITE, [1, 2], r"uint8\[2, 128, 128, 3\] and int64\[2\]"),
        (WHITE, "ab", r"uint8\[2, 128, 128, 3\] and <U2\[\]"),
        (WHITE / 255, ["a", "b"], r"float64\[2, 128, 128, 3\] and <U1\[2\]"),
        (np.uint8(3), ["a"], r"uint8\[\] and <U1\[1\]"),
        (np.uint8(3), "a", r"uint8\[\] and <U1\[\]"),
        (WHITE[:0], np.array([], "U1"), r"uint8\[0, 128, 128, 3\] and <U1\[0\]"),
    ],
)
def test_arrays_that_are_no_captioned_pictures_are_named(tmp_path, images, captions, got):
    path = tmp_path / "some.npz"
    np.savez(path, images=images, captions=np.asarray(captions))
    with pytest.raises(UsageError, match=rf"must be uint8 \[n, 128, .* strings \[n\], got {got}"):
        load_captioned(str(path))


def test_a_caption_without_words_is_named(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, images=WHITE, captions=np.array(["a\nb", "c\n..."]))
    with pytest.raises(UsageError, match=r"a caption of picture 1 has no words: \('c', '\.\.\.'\)"):
        load_captioned(str(path))


def test_families_in_a_file_are_not_believed(tmp_path):
    path = tmp_path / "some.npz"
    captions = np.array(["a", "a"])
    np.savez(path, images=WHITE, captions=captions, families=np.array([0, 1]))
    assert load_captioned(str(path)).families.tolist() == [0, 0]


def test_what_is_kept_is_of_one_making_of_one_content(shelf, monkeypatch):
    environ = {"XDG_CACHE_HOME": str(shelf / "cache"), "JAXNETS_DATA": str(shelf / "there")}
    (shelf / "there" / "names").write_text("cd")
    load_captioned("shelf", environ=environ)
    (kept,) = (shelf / "cache" / "jaxnets").iterdir()
    assert kept.name == captioned.kept_as("shelf")
    (shelf / "there" / "names").write_text("ef")
    origin = origins.ORIGINS["shelf"]
    other = {"names": origins.sha256_of(shelf / "there" / "names")}
    monkeypatch.setitem(origins.ORIGINS, "shelf", origin._replace(wanted=other))
    assert load_captioned("shelf", environ=environ).captions[0] == ("ef one",)
    monkeypatch.setattr(captioned, "MAKING", captioned.MAKING + 1)
    (shelf / "there" / "names").unlink()
    with pytest.raises(FetchError, match="shelf is not on this machine"):
        load_captioned("shelf", environ=environ)
    # what makes two pictures one family is not kept
    monkeypatch.undo()
    monkeypatch.setitem(origins.ORIGINS, "shelf", origin._replace(drawing=str))
    assert len(set(load_captioned("shelf", environ=environ).families.tolist())) == 2


def test_another_making_has_another_number(shelf):
    """Pictures and captions as `MAKING` 1 makes them: if this fails, raise that and renew these."""
    (shelf / "there" / "names").write_text("cd")
    data = load_captioned("shelf", shelf / "there")
    made = hashlib.sha256(data.images.tobytes() + repr(data.captions).encode()).hexdigest()
    assert (captioned.MAKING, made[:16]) == (1, "e0c561243095be8c")
    words = origins.words_of("The king’s 2 O'Clock_T-Rex (old)")
    assert words == ["the", "king’s", "2", "o'clock", "t", "rex", "old"]


def test_stamps_are_known_by_the_paths_and_contents_that_are_read(tmp_path):
    one, two = b"\x89PNG one", b"\x89PNG two"
    for name, content in (("b/x.png", two), ("b/x.txt", b"X."), ("a.png", one), ("a.txt", b"A.")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    read = (("a.png", one), ("a.txt", b"A."), ("b/x.png", two), ("b/x.txt", b"X."))
    want = hashlib.sha256()
    for name, content in read:
        want.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    assert origins.sha256_of(tmp_path) == want.hexdigest()
    # what is not read may be there or not
    (tmp_path / "b" / "sound.ogg").write_bytes(b"Ogg")
    (tmp_path / "uncaptioned.png").write_bytes(one)
    assert origins.sha256_of(tmp_path) == want.hexdigest()
    (tmp_path / "a.txt").write_bytes(b"B.")
    assert origins.sha256_of(tmp_path) != want.hexdigest()


def test_other_stamps_are_refused(tmp_path):
    folder = tmp_path / "stamps"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    (folder / "a.txt").write_text("A dot.")
    with pytest.raises(UsageError, match=r"stamps is not stamps's, or is damaged: its SHA-256 is"):
        load_captioned("stamps", tmp_path)


def test_quick_leaves_other_flags_alone():
    assert settle(Config()) == Amounts(32, 100, 3, 8)
    assert settle(Config(quick=True)) == Amounts(16, 60, 1, 2)
    assert settle(Config(quick=True, epochs=4, seeds=2)) == Amounts(16, 4, 2, 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--learning-rate 0", "--learning-rate must be positive, got 0"),
        ("--epochs 0", "--epochs must be positive, got 0"),
        ("--side 20", "--side must be 16, 32, 64 or 128, got 20"),
        ("--batch-size 1", "--batch-size must be at least 2, got 1"),
        ("--batch-size 18", "--batch-size must be at most the 17 training pairs, got 18"),
        ("--held-out 1", "--held-out must be from 0 to below 1, got 1"),
        ("--held-out 0", "--held-out 0.0 of 24 kinds of pictures leaves less than 2"),
        ("--word-dropout 1.5", "--word-dropout must be from 0 to below 1, got 1.5"),
        ("--weight-decay -1", "--weight-decay must not be negative, got -1"),
        ("--seed -1", "--seed must be from 0 to"),
        ("--tower vgg", "vgg"),
    ],
)
def test_bad_flags_are_one_line_and_leave_no_report(drawings, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    assert cli.main(flags(drawings, folder, *more.split())) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (folder / "report.html").exists()


@pytest.mark.download
@pytest.mark.parametrize(("name", "pairs"), [("emoji", 1377), ("stamps", 785)])
def test_the_packages_bring_what_is_expected(name, pairs, tmp_path):
    data = or_skip(load_captioned, name, environ={"XDG_CACHE_HOME": str(tmp_path)})
    assert data.images.shape == (pairs, 128, 128, 3)
    kinds = len(set(data.families.tolist()))
    assert 0.6 * pairs < kinds < pairs
    again = load_captioned(name, environ={"XDG_CACHE_HOME": str(tmp_path)})
    np.testing.assert_array_equal(again.images, data.images)
    assert again.captions == data.captions
