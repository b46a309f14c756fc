"""State dicts as PyTorch writes them, and files that it would never write."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from jaxnets.pretrained import load_pth

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
        ({"a": tensor((0, 10**12), (1, 1))}, "not within its storage"),
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
