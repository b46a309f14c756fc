"""State dicts as PyTorch writes them, and files that it would never write."""

import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from io import BytesIO

import numpy as np
import pytest

from jaxnets.pretrained import load_pth
from jaxnets.pretrained.pickles import MOST_BYTES, read_pickle

X = np.arange(12, dtype=np.float32)
VALUES = X.tobytes()


class Named:
    """Pickled as the name of a class or function of another module."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def __reduce__(self):
        return self.name if not self.arguments else (Named(self.name), self.arguments)


class Storage:
    def __init__(self, kind, key, size):
        self.identity = ("storage", Named(kind), key, "cpu", size)


class Pickler(pickle._Pickler):
    """The pure-Python pickler, which writes `Named` as a global whether it exists or not."""

    def save(self, x, save_persistent_id=True):
        if isinstance(x, Named) and not x.arguments:
            self.write(b"c" + x.name.replace(" ", "\n").encode() + b"\n")
        else:
            super().save(x, save_persistent_id)

    def persistent_id(self, x):
        return x.identity if isinstance(x, Storage) else None

    def save_reduce(self, func, args, *rest, obj=None, **others):
        self.save(func)
        self.save(args)
        self.write(pickle.REDUCE)


def pickled(x, path):
    with path.open("wb") as stream:
        Pickler(stream, 2).dump(x)
    return path.read_bytes()


def tensor(shape, strides, *, offset=0, size=12, kind="torch FloatStorage", key="0"):
    storage = Storage(kind, key, size)
    arguments = (storage, offset, shape, strides, False, ())
    return Named("torch._utils _rebuild_tensor_v2", *arguments)


def archive(tmp_path, value, *, data=VALUES, compression=zipfile.ZIP_STORED):
    path = tmp_path / "model.pth"
    content = value if isinstance(value, bytes) else pickled(value, tmp_path / "pickle")
    with zipfile.ZipFile(path, "w", compression) as stream:
        stream.writestr("model/data.pkl", content)
        stream.writestr("model/data/0", data)
    return path


def stream(tmp_path, value, *, size=12, data=VALUES):
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, ["0"]]
    path = tmp_path / "legacy.pth"
    content = b"".join(pickled(part, tmp_path / "pickle") for part in parts)
    path.write_bytes(content + size.to_bytes(8, "little", signed=True) + data)
    return path


@pytest.mark.parametrize("write", [archive, stream])
def test_views_of_a_storage(write, tmp_path):
    path = write(
        tmp_path,
        {
            "plain": tensor((3, 4), (4, 1)),
            "transposed": tensor((4, 3), (1, 4)),
            "part": tensor((2, 2), (4, 1), offset=5),
            "scalar": tensor((), (), offset=7),
            "parameter": Named(
                "torch._utils _rebuild_parameter", tensor((12,), (1,)), True, ()
            ),
        },
    )  # fmt: skip
    got = load_pth(path)
    x = X.reshape(3, 4)
    want = {"plain": x, "transposed": x.T, "part": x[1:, 1:3], "scalar": x[1, 3], "parameter": X}
    assert got.keys() == want.keys()
    for name in ("plain", "transposed", "scalar", "parameter"):
        np.testing.assert_array_equal(got[name], want[name])
    np.testing.assert_array_equal(got["part"], [[5, 6], [9, 10]])
    assert not any(array.flags.writeable for array in got.values())


def test_a_function_that_the_file_names_is_not_called(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = archive(tmp_path, pickle.dumps({"a": Attack()}, 2))
    with pytest.raises(ValueError, match=r"it calls posix\.mkdir, which is not allowed"):
        load_pth(path)
    assert not (tmp_path / "harm").exists()
    # what pickle itself would do
    pickle.loads(pickle.dumps({"a": Attack()}, 2))
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": tensor((10**12,), (1,), size=10**12)}, "should hold 1,000,000,000,000 values"),
        ({"a": tensor((10**12,), (0,))}, "overlaps itself"),
        ({"a": tensor((3, 4), (2, 1))}, "overlaps itself"),
        ({"a": tensor((3, 4), (-4, 1))}, "not allowed"),
        ({"a": tensor((13,), (1,))}, "not within its storage"),
        ({"a": tensor((3,), (1,), offset=10)}, "not within its storage"),
        ({"a": tensor((3,), (10**15,))}, "not within its storage"),
        ({"a": tensor((1,) * 65, (1,) * 65)}, "65 axes"),
        ({"a": tensor((2**62,) * 999, (1,) * 999)}, "999 axes"),
        ({"a": tensor((0, 2**62), (1, 1))}, "too big"),
        ({"a": tensor((1,), (2**62,))}, "too large"),
        ({"a": tensor((3,), (1, 1))}, "1 axes and 2 strides"),
        (
            {"a": tensor((12,), (1,), kind="torch DoubleStorage")},
            "should hold 12 values of float64",
        ),
        ({"a": tensor((3,), (1,), kind="torch QInt8Storage")}, "torch.QInt8Storage"),
        ({"a": tensor((3,), (1,), kind="os system")}, "os.system"),
        ({"a": tensor((3,), (1,), key="7")}, "'7', which is missing"),
        ({"a": Named("collections OrderedDict", [])}, "calls collections.OrderedDict"),
        ({"a": 3}, "'a' is a int, not a tensor"),
        ({3: tensor((3,), (1,))}, "the number 3"),
        ([1], "a list, not a state dict"),
        (b"", "exhausted before seeing STOP"),
        (b"junk", "not enough data"),
        (b"\x80\x02}q\x00.", None),
        (b"\x80\x02r\xff\xff\xff\xff.", "sound pickle"),
        (b"\x80\x02h\x07.", "sound pickle"),
        (b"\x80\x02X\xff\xff\xff\xffab.", "expected 4294967295 bytes"),
        (b"\x80\x02\x8b\x04\x00\x00\x00\x00\x00\x00\x01.", "LONG4"),
        (b"\x80\x02u.", "sound pickle"),
        (b"(((.", "sound pickle|unpack"),
    ],
)
def test_what_is_not_a_sound_state_dict_fails_clearly(value, message, tmp_path):
    path = archive(tmp_path, value)
    if message is None:
        assert load_pth(path) == {}
        return
    with pytest.raises(ValueError, match=f"is no state dict that can be read: .*({message})"):
        load_pth(path)


@pytest.mark.parametrize("write", [archive, stream])
def test_empty_tensors(write, tmp_path):
    value = {
        "empty": tensor((0, 512), (512, 1), size=0),
        "more": tensor((3, 0, 2), (2, 2, 1), size=0),
    }
    options = {"size": 0} if write is stream else {}
    got = load_pth(write(tmp_path, value, data=b"", **options))
    assert [x.shape for x in got.values()] == [(0, 512), (3, 0, 2)]
    assert all(x.dtype == np.float32 and not x.flags.writeable for x in got.values())
    # of a storage that is not empty
    path = archive(tmp_path, {"part": tensor((0, 10**9), (1, 1), offset=5)})
    assert load_pth(path)["part"].shape == (0, 10**9)


@pytest.mark.parametrize("write", [archive, stream])
def test_tensors_share_the_memory_of_the_file(write, tmp_path):
    """The content once, and no member a second time."""
    n = 10**6
    value = {"a": tensor((n,), (1,), size=n)}
    options = {"size": n} if write is stream else {}
    path = write(tmp_path, value, data=bytes(4 * n), **options)
    tracemalloc.start()
    load_pth(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 4 * n < peak < 5 * n


def entry_of(content, name):
    """Where the directory's entry of a member starts."""
    return content.rindex(name) - 46


def test_members_that_are_encrypted_damaged_or_elsewhere(tmp_path):
    path = archive(tmp_path, {"a": tensor((12,), (1,))})
    whole, name = path.read_bytes(), b"model/data/0"
    entry = entry_of(whole, name)

    def changed(place, new):
        path.write_bytes(whole[:place] + new + whole[place + len(new) :])

    changed(entry + 8, b"\1")
    with pytest.raises(ValueError, match="'model/data/0' is encrypted"):
        load_pth(path)
    changed(whole.index(VALUES), b"x")
    with pytest.raises(ValueError, match="'model/data/0' is cut short or damaged"):
        load_pth(path)
    changed(entry + 42, b"\7")
    with pytest.raises(ValueError, match="'model/data/0' is not where the directory has it"):
        load_pth(path)
    # an offset of eight bytes, in an extra field of the entry
    far = b"\1\0\x08\0" + (2**64 - 1).to_bytes(8, "little")
    end = whole.rindex(b"PK\5\6")
    size = int.from_bytes(whole[end + 12 : end + 16], "little") + len(far)
    entries = bytearray(whole[:end] + far + whole[end:])
    entries[entry + 30 : entry + 32] = len(far).to_bytes(2, "little")
    entries[entry + 42 : entry + 46] = b"\xff" * 4
    place = end + len(far) + 12
    entries[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(entries)
    with pytest.raises(ValueError, match="'model/data/0' is not where the directory has it"):
        load_pth(path)


def test_no_damage_does_more(tmp_path):
    """Each a clear error, or a file whose tensors are what they were."""
    whole = archive(tmp_path, {"a": tensor((12,), (1,))}).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.pth"
    failed = 0
    for _ in range(300):
        content = bytearray(whole)
        for position in rng.integers(0, len(content), 2):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            got = load_pth(path)
        except ValueError:
            failed += 1
            continue
        for x in got.values():
            np.testing.assert_array_equal(x, X)
    assert 50 < failed < 300


def test_pickles_have_a_largest_size(tmp_path):
    n = MOST_BYTES - 6
    whole = b"X" + n.to_bytes(4, "little") + b"a" * n + b"."
    assert read_pickle(BytesIO(whole)) == "a" * n
    longer = b"\x80\x02" + whole
    with pytest.raises(ValueError, match=r"load_pth: .* it has a pickle of more than 8,388,608 b"):
        load_pth(archive(tmp_path, longer))
    # of a stream's pickles each
    stream = BytesIO(whole * 2)
    assert read_pickle(stream) == read_pickle(stream)


def test_archives_cut_short_or_packed(tmp_path):
    path = archive(tmp_path, {"a": tensor((12,), (1,))})
    whole = path.read_bytes()
    for end in (0, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"load_pth: .* is no state dict"):
            load_pth(path)
    bomb = archive(
        tmp_path, {"a": tensor((10**6,), (1,), size=10**6)}, data=bytes(4 * 10**6),
        compression=zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    with pytest.raises(ValueError, match="compressed or overlap"):
        load_pth(bomb)


@pytest.mark.parametrize("size", [10**12, 13, -1])
def test_streams_that_claim_more_than_they_hold(size, tmp_path):
    path = stream(tmp_path, {"a": tensor((12,), (1,))}, size=size)
    with pytest.raises(ValueError, match=r"claims .* values, more than there are left"):
        load_pth(path)


def test_attributes_of_the_dict_are_left_out(tmp_path):
    content = b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00vK\x01sb."
    pickle.loads(content)
    assert load_pth(archive(tmp_path, content)) == OrderedDict()
